"""The decoder's driver: numbers of calls, independence of rows, guidance, random streams."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llada_uni.errors import ConfigError
from llada_uni.protocols import FlowStep, LatentsDone
from llada_uni.sampling.flow_sampler import RELEASED_NORMAL, RELEASED_TURBO, FlowSettings, sample_latents
from llada_uni.sampling.seeds import stream

SHAPE = (2, 4, 6)


class Field:
    """Velocity towards a constant picture given by the features' mean; records what it was called with."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.times: list[float] = []
        self.dtypes: set[torch.dtype] = set()

    def __call__(self, latents: Tensor, time: Tensor, semantic_features: Tensor) -> Tensor:
        assert time.shape == (latents.shape[0],)
        assert bool((time == time[0]).all())
        self.batches.append(latents.shape[0])
        self.times.append(float(time[0]))
        self.dtypes |= {latents.dtype, semantic_features.dtype}
        target = semantic_features.mean((1, 2)).view(-1, 1, 1, 1)
        return torch.sin(latents) + target - latents * time.view(-1, 1, 1, 1).to(latents.dtype)


def features(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 5, 3, generator=torch.Generator().manual_seed(0)).to(dtype)


def run(field: Field, condition: Tensor, seeds: list[int], settings: FlowSettings) -> dict[int, Tensor]:
    events = list(sample_latents(field, condition, latent_shape=SHAPE, seeds=seeds, settings=settings))
    steps = [e for e in events if isinstance(e, FlowStep)]
    assert [(e.index, e.row) for e in steps] == [(i, r) for i in range(settings.num_steps) for r in range(len(seeds))]
    assert all(e.num_steps == settings.num_steps and e.data_estimate.shape == SHAPE for e in steps)
    done = {e.row: e.latents for e in events if isinstance(e, LatentsDone)}
    for row in done:
        torch.testing.assert_close(steps[row - len(seeds)].data_estimate, done[row])
    return done


@pytest.mark.parametrize("settings", [FlowSettings(num_steps=n) for n in (1, 7)] + [RELEASED_NORMAL, RELEASED_TURBO])
def test_exactly_num_steps_calls(settings: FlowSettings) -> None:
    field = Field()
    latents = run(field, features(2), [3, 4], settings)
    assert len(field.batches) == settings.num_steps
    assert set(field.batches) == {4 if settings.guidance_scale != 1 else 2}
    assert all(t.dtype == torch.float32 and t.shape == SHAPE for t in latents.values())


def test_released_numbers() -> None:
    field = Field()
    run(field, features(1), [0], RELEASED_NORMAL)
    assert len(field.times) == 49
    assert field.times[1] == pytest.approx(0.003460, abs=1e-6)
    assert field.times[-1] == pytest.approx(0.888889, abs=1e-6)
    field = Field()
    run(field, features(1), [0], RELEASED_TURBO)
    assert field.times == [k / 8 for k in range(8)]


@pytest.mark.parametrize("settings", [FlowSettings(num_steps=5), RELEASED_TURBO])
def test_a_row_does_not_depend_on_its_batch(settings: FlowSettings) -> None:
    condition = features(3)
    together = run(Field(), condition, [10, 11, 12], settings)
    alone = run(Field(), condition[1:2], [11], settings)
    torch.testing.assert_close(alone[0], together[1])
    assert not torch.allclose(together[0], run(Field(), condition[:1], [13], settings)[0])


def test_the_negative_condition_is_zero_and_scale_one_is_off() -> None:
    condition = features(2)
    off = run(Field(), condition, [1, 2], FlowSettings(num_steps=4, guidance_scale=1.0))
    weak = run(Field(), condition, [1, 2], FlowSettings(num_steps=4, guidance_scale=1.0 + 1e-9))
    torch.testing.assert_close(off[0], weak[0])
    guided = run(Field(), condition, [1, 2], FlowSettings(num_steps=4, guidance_scale=3.0))
    assert not torch.allclose(off[0], guided[0])
    nothing = run(Field(), torch.zeros_like(condition), [1, 2], FlowSettings(num_steps=4, guidance_scale=3.0))
    plain = run(Field(), torch.zeros_like(condition), [1, 2], FlowSettings(num_steps=4, guidance_scale=1.0))
    torch.testing.assert_close(nothing[0], plain[0])


def test_outside_the_interval_one_branch_is_computed() -> None:
    condition, settings = features(2), {"num_steps": 10, "time_shift": 1.0, "guidance_scale": 3.0}
    field = Field()
    limited = run(field, condition, [1, 2], FlowSettings(**settings, guidance_interval=(0.3, 0.6)))
    assert field.batches == [2, 2, 2, 4, 4, 4, 4, 2, 2, 2]
    always = run(Field(), condition, [1, 2], FlowSettings(**settings))
    whole = run(Field(), condition, [1, 2], FlowSettings(**settings, guidance_interval=(0.0, 1.0)))
    never = run(Field(), condition, [1, 2], FlowSettings(**settings, guidance_interval=(0.95, 1.0)))
    off = run(Field(), condition, [1, 2], FlowSettings(**settings | {"guidance_scale": 1.0}))
    assert torch.equal(always[0], whole[0])
    assert torch.equal(never[0], off[0])
    assert not torch.allclose(limited[0], always[0])
    assert not torch.allclose(limited[0], off[0])


def test_renoise_ratio_zero_equals_euler() -> None:
    renoised = FlowSettings(solver="renoise", num_steps=6, renoise_ratio=0.0)
    torch.testing.assert_close(
        run(Field(), features(1), [5], renoised)[0], run(Field(), features(1), [5], FlowSettings(num_steps=6))[0]
    )


def test_the_network_computes_in_the_dtype_of_its_condition() -> None:
    field = Field()
    run(field, features(1, torch.bfloat16), [5], FlowSettings(num_steps=2))
    assert field.dtypes == {torch.bfloat16}


def test_streams_are_independent_and_repeatable() -> None:
    def draw(*key: object) -> Tensor:
        return torch.randn(1000, generator=stream(*key))  # type: ignore[arg-type]

    assert torch.equal(draw(1, "tokens", 0), draw(1, "tokens", 0))
    keys = [(1, "tokens", 0), (1, "tokens", 1), (2, "tokens", 0), (1, "decoder_noise", 0), (1, "turbo_renoise", 0)]
    samples = torch.stack([draw(*key) for key in keys])
    correlation = torch.corrcoef(samples) - torch.eye(len(keys))
    assert correlation.abs().max() < 0.12


def test_impossible_settings_are_refused() -> None:
    for bad in ({"num_steps": 0}, {"time_shift": 0.0}, {"renoise_ratio": 1.5}):
        with pytest.raises(ConfigError, match="expected"):
            FlowSettings(**bad)  # type: ignore[arg-type]
    for interval in ((0.5, 0.4), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(ConfigError, match="guidance_interval with 0 <= low <= high <= 1"):
            FlowSettings(guidance_interval=interval)
    with pytest.raises(ConfigError, match="one seed per row"):
        list(sample_latents(Field(), features(2), latent_shape=SHAPE, seeds=[1], settings=RELEASED_TURBO))
