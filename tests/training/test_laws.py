"""Laws of training that no other file holds: order and accumulation change nothing, derivatives and averages are right.

The others stand beside what they are about: training = inference, packed = unpacked and complementary views in
``data/test_block_rows.py``, padded = unpadded branches in ``sampling/test_block_sampler.py``, merged = split experts in
``weights/test_round_trip.py``, exact resume in ``test_train_loop.py``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stages import DECODER, OBJECTIVES, tiny_config
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from llada_uni.decoder.dit import Decoder
from llada_uni.diffusion import flow, solvers
from llada_uni.diffusion.losses import flow_squared_error
from llada_uni.diffusion.masking import MaskRatioLaw
from llada_uni.layers.moe import route
from llada_uni.training.config import OptimConfig
from llada_uni.training.objective import Draw, Resources
from llada_uni.training.objectives.turbo import average_velocity_target
from llada_uni.training.train import train

MEAN, SPREAD = 0.7, 0.3  # the toy's data: normal numbers


def backbone(resources: Resources, **changes: Any) -> Any:
    """The tiny backbone stage in float64, every block wholly masked unless told otherwise."""
    full = MaskRatioLaw(low=1.0, high=1.0, full_share=0.0)
    config = dataclasses.replace(OBJECTIVES["backbone"], **({"image_law": full, "text_law": full} | changes))
    objective = config.build(resources, 0)
    objective.model.double()
    return objective


def test_the_order_of_documents_changes_nothing(tiny_resources: Resources) -> None:
    objective = backbone(tiny_resources)
    draw = Draw(seed=2, step=0, size=6)
    documents = objective.writer.documents(draw.numpy("documents"), objective.pool, 6)
    found = []
    for order in (documents, documents[::-1], documents[3:] + documents[:3]):
        batch = objective.rows(order, torch.Generator().manual_seed(0))
        assert batch["ids"].shape[0] > 1
        loss, _ = objective.loss(batch, torch.Generator())
        found.append((float(loss.detach()), objective.weight(batch)))
        objective.after_step(1, 100)
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-12)
    assert found[2][0] == pytest.approx(found[0][0], rel=1e-12)
    assert len({weight for _, weight in found}) == 1


class InParts:
    """The same four rows in every step, as one batch or divided among the micro-batches of a step."""

    def __init__(self, objective: Any) -> None:
        self.objective, self.model = objective, objective.model
        draw = Draw(seed=0, step=0, size=7)
        documents = objective.writer.documents(draw.numpy("documents"), objective.pool, 7)
        self.whole = objective.rows(documents, torch.Generator().manual_seed(0))
        self.weight, self.loss, self.after_step = objective.weight, objective.loss, objective.after_step

    def batch(self, draw: Draw) -> dict[str, Tensor]:
        places = torch.arange(len(self.whole["ids"])).tensor_split(draw.accumulation)[draw.micro]
        return {name: values[places] for name, values in self.whole.items()}


def test_accumulation_changes_neither_weights_nor_router_bias(tiny_resources: Resources, tmp_path: Path) -> None:
    """Micro-batches of unequal normalisers: the step is that of the whole batch (float64)."""
    ends = []
    for accumulation in (1, 2, 3):
        parts = InParts(backbone(tiny_resources, text_law=MaskRatioLaw(), balance_rate=0.01))
        assert len(parts.whole["ids"]) >= 3
        optim = OptimConfig(lr=1e-2, eps=1e-3, clip_norm=0.5)
        config = tiny_config(
            "backbone", dtype="float64", steps=2, accumulation=accumulation, optim=optim, prefetch=0
        )  # fmt: skip
        before = {name: value.clone() for name, value in parts.model.state_dict().items()}
        train(config, parts, tmp_path / str(accumulation))
        ends.append({name: value.clone() for name, value in parts.model.state_dict().items()})
    weights = [parts.weight(parts.batch(Draw(seed=0, step=0, micro=m, size=1, accumulation=3))) for m in range(3)]
    assert max(weights) > 1.01 * min(weights)
    for name, value in ends[0].items():
        assert not torch.equal(value, before[name]) or "norm" in name, name
        for other in ends[1:]:
            torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize(("groups", "top_groups"), [(1, 1), (4, 2)])
def test_a_constant_added_to_the_router_bias_changes_nothing(groups: int, top_groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, bias = torch.randn(200, 16, generator=generator), torch.randn(16, generator=generator) / 8
    choose = {"top_k": 4, "num_groups": groups, "top_groups": top_groups}
    plain, moved = route(logits, bias, **choose), route(logits, bias + 0.75, **choose)
    assert torch.equal(plain.ids, moved.ids)
    assert torch.equal(plain.weights, moved.weights)
    assert not torch.equal(plain.ids, route(logits, torch.zeros(16), **choose).ids)


def test_the_difference_approaches_the_derivative_of_the_decoder() -> None:
    """On the network itself, against forward-mode differentiation: a quarter of the error for half the epsilon.

    Time enters as a wave of 1000 radians per unit, so a random network needs a small epsilon.
    """
    torch.manual_seed(0)
    decoder = Decoder(DECODER).double().requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1))
    state, along = torch.randn(2, 2, DECODER.in_channels, 8, 8, dtype=torch.float64).unbind(0)
    time, features = torch.tensor([0.3, 0.6], dtype=torch.float64), torch.randn(2, 16, 8, dtype=torch.float64)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return decoder(x, t, features).double()

    with sdpa_kernel(SDPBackend.MATH):
        _, exact = torch.func.jvp(velocity, (state, time), (along, torch.ones_like(time)))
    errors = [
        float((flow.central_difference(velocity, state, time, along, epsilon=e, clip=None) - exact).norm())
        for e in (2e-5, 1e-5)
    ]
    assert float(exact.norm()) > 100 * errors[1] > 0
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def toy_velocity(state: Tensor, time: Tensor) -> Tensor:
    """Velocity of the flow from N(0, 1) at time 0 to N(MEAN, SPREAD) at time 1 along straight paths, closed form."""
    time = flow.expand_time(time, state)
    variance = (time * SPREAD) ** 2 + (1 - time) ** 2
    return MEAN + (time * SPREAD**2 - (1 - time)) / variance * (state - time * MEAN)


def toy_average(state: Tensor, time: Tensor) -> Tensor:
    """Average velocity from ``time`` to 1: the flow keeps (state - mean) / spread of every moment."""
    time = flow.expand_time(time, state)
    spread = ((time * SPREAD) ** 2 + (1 - time) ** 2) ** 0.5
    return (MEAN + SPREAD * (state - time * MEAN) / spread - state) / (1 - time)


def toy_points() -> tuple[Tensor, Tensor]:
    state = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return state, torch.linspace(0.05, 0.9, 6, dtype=torch.float64)


def test_the_true_average_velocity_of_a_gaussian_has_no_loss() -> None:
    state, time = toy_points()
    velocity = toy_velocity(state, time)

    def loss(average: Any) -> float:
        target = average_velocity_target(average, state, time, velocity, epsilon=1e-4, clip=None)
        return float(flow_squared_error(average(state, time), target).max())

    assert loss(toy_average) < 1e-12
    assert loss(toy_velocity) > 1e-3
    assert loss(lambda x, t: 1.01 * toy_average(x, t)) > 1e-6


def test_the_paper_s_time_direction_gives_the_same_target() -> None:
    """With noise at 1: F(x, s) = -u(x, 1 - s) must equal v - s dF/ds along v = noise - data (paper Eq. 8, r = 0)."""
    state, time = toy_points()
    backward, reverse = 1 - time, -toy_velocity(state, time)

    def average(x: Tensor, s: Tensor) -> Tensor:
        return -toy_average(x, 1 - s)

    slope = flow.central_difference(average, state, backward, reverse, epsilon=1e-4, clip=None)
    target = reverse - flow.expand_time(backward, state) * slope
    torch.testing.assert_close(target, average(state, backward), rtol=1e-6, atol=1e-6)
    ours = average_velocity_target(toy_average, state, time, -reverse, epsilon=1e-4, clip=None)
    torch.testing.assert_close(target, -ours, rtol=1e-9, atol=1e-9)


def test_renoising_the_true_average_keeps_the_distribution_of_the_data() -> None:
    """Eight steps with ratio 1 and the average velocity end at N(MEAN, SPREAD); with the plain velocity they do not."""
    generator, count = torch.Generator().manual_seed(0), 40_000
    noise = torch.randn(count, 1, generator=generator, dtype=torch.float64)

    def ended(velocity: Any) -> Tensor:
        run = solvers.renoise(
            lambda x, t: velocity(x, t.double()), noise, flow.time_grid(8), renoise_ratio=1.0,
            draw=lambda _: torch.randn(count, 1, generator=generator, dtype=torch.float64),
        )  # fmt: skip
        return list(run)[-1].state

    data, error = ended(toy_average), SPREAD / count**0.5
    assert float(data.mean()) == pytest.approx(MEAN, abs=4 * error)
    assert float(data.std()) == pytest.approx(SPREAD, abs=4 * error)
    assert abs(float(ended(toy_velocity).std()) - SPREAD) > 20 * error
