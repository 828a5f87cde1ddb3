"""The prepared velocity field against the decoder itself, and what is computed how often."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from llada_uni.decoder.dit import Decoder
from llada_uni.pipeline import LladaUni
from llada_uni.pipeline.stations import Drawing, draw_all, returned
from llada_uni.pipeline.velocity import OneContext, SharedWork
from llada_uni.protocols import LatentsDone
from llada_uni.sampling.flow_sampler import FlowSettings, sample_latents
from llada_uni.serving.drawing import Easel
from llada_uni.serving.tickets import Wants

GRID, SHAPE = (8, 8), (4, 16, 16)
GUIDED = FlowSettings(num_steps=4, guidance_scale=2.0)
SETTINGS = {
    "guided": GUIDED,
    "limited": FlowSettings(num_steps=6, guidance_scale=2.0, time_shift=1.0, guidance_interval=(0.3, 0.7)),
    "plain": FlowSettings(num_steps=4, guidance_scale=1.0),
    "renoise": FlowSettings(solver="renoise", num_steps=3, guidance_scale=1.0, time_shift=1.0),
}


@pytest.fixture
def decoder(exact: LladaUni) -> Decoder:
    """Not the fresh one, which predicts zero."""
    model = exact.networks.decoder("normal")
    torch.manual_seed(3)
    changed = Decoder(model.config).double().requires_grad_(False)
    for parameter in changed.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return changed


@pytest.fixture
def refined(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes of the conditions that are embedded and refined."""
    found: list[int] = []
    original = Decoder.context

    def counted(self: Decoder, features: Tensor, *args: Any, **kwargs: Any) -> Any:
        found.append(features.shape[0])
        return original(self, features, *args, **kwargs)

    monkeypatch.setattr(Decoder, "context", counted)
    return found


def features(count: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(count, 64, 16, generator=torch.Generator().manual_seed(seed)).to(dtype)


def latents(velocity: Any, condition: Tensor, settings: FlowSettings) -> Tensor:
    seeds = list(range(condition.shape[0]))
    events = sample_latents(velocity, condition, latent_shape=SHAPE, seeds=seeds, settings=settings)
    return torch.stack([event.latents for event in events if isinstance(event, LatentsDone)])


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-3)])
def test_the_prepared_field_equals_the_decoder(
    decoder: Decoder, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    """Latents are float32, so that the float64 bound is their rounding; the fields themselves are compared below."""
    model, condition = decoder.to(dtype), features(2, dtype)
    found = latents(OneContext(model, GRID, shared=SharedWork()), condition, SETTINGS[name])
    expected = latents(model, condition, SETTINGS[name])
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    if SETTINGS[name].guidance_scale == 1:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("blank", [(), (2, 3), (0, 1, 2, 3), (1,)])
def test_one_evaluation_equals_the_decoders(decoder: Decoder, blank: tuple[int, ...]) -> None:
    condition, time = features(4), torch.full((4,), 0.4)
    condition[list(blank)] = 0.0
    state = torch.randn(4, *SHAPE, dtype=torch.float64)
    expected = decoder(state, time, condition)
    found = OneContext(decoder, GRID)(state, time, condition)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    if not blank:
        assert torch.equal(found, expected)


def test_the_condition_is_refined_once_per_picture_and_the_blank_one_once(decoder: Decoder, refined: list[int]) -> None:
    shared = SharedWork()
    for seed in range(3):
        latents(OneContext(decoder, GRID, shared=shared), features(1, seed=seed), GUIDED)
    assert refined == [1, 1, 1, 1]
    assert shared.blank.computed == 1


def test_evaluations_with_and_without_guidance_share_the_condition(decoder: Decoder, refined: list[int]) -> None:
    latents(OneContext(decoder, GRID), features(2), SETTINGS["limited"])
    assert sorted(refined) == [1, 2]


def test_the_plain_path_refines_in_every_evaluation(decoder: Decoder, refined: list[int]) -> None:
    latents(decoder, features(1), GUIDED)
    assert refined == [2] * GUIDED.num_steps


def test_a_guided_picture_does_not_depend_on_the_others(decoder: Decoder) -> None:
    shared, settings = SharedWork(), GUIDED
    alone = [latents(OneContext(decoder, GRID, shared=SharedWork()), features(1, seed=s), settings) for s in (1, 2)]
    for seed, expected in zip((1, 2), alone, strict=True):
        assert torch.equal(
            latents(OneContext(decoder, GRID, shared=shared), features(1, seed=seed), settings), expected
        )


def test_step_cache_skips_work_and_stays_near(decoder: Decoder) -> None:
    for parameter in decoder.parameters():
        parameter.div_(6)  # large random weights change everything with time
    settings = FlowSettings(num_steps=20, guidance_scale=2.0, time_shift=1.0)
    condition = features(1)
    exact = latents(OneContext(decoder, GRID), condition, settings)
    errors, reused = [], []
    for threshold in (1e-9, 0.35, 0.8):
        field = OneContext(decoder, GRID, step_cache=threshold)
        errors.append(float((latents(field, condition, settings) - exact).abs().mean()))
        assert field.steps is not None
        assert field.steps.full + field.steps.reused == 40
        reused.append(field.steps.reused)
    assert errors[0] == reused[0] == 0
    assert 0 < reused[1] < reused[2]
    assert 0 < errors[1] < errors[2]


# Through the stations


def drawing(model: LladaUni, seed: int, **changes: Any) -> Drawing:
    from dataclasses import replace

    from llada_uni.pipeline.settings import decode_settings

    settings = decode_settings(model.networks.package.presets, "normal", 4, decoder_guidance=2.0)
    grid = model.encode_image(picture(), height=32, width=32).grid
    codes = tuple((seed * 7 + cell) % 24 for cell in range(grid.num_tokens))
    return Drawing(codes=codes, grid=grid, seed=seed, settings=replace(settings, **changes))


def picture() -> Any:
    from PIL import Image

    return Image.new("RGB", (32, 32), (200, 40, 40))


@pytest.fixture
def drawn(checkpoint: Any) -> LladaUni:
    """A model whose decoder draws something."""
    model = LladaUni.from_pretrained(checkpoint, device="cpu")
    torch.manual_seed(3)
    for parameter in model.networks.decoder("normal").parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def test_pictures_of_different_options_are_not_drawn_together(drawn: LladaUni) -> None:
    changes: list[dict[str, Any]] = [{}, {"step_cache": 1.0}, {"guidance_interval": (0.0, 0.1)}, {}]
    drawings = {row: drawing(drawn, 5, **change) for row, change in enumerate(changes)}
    images = returned(draw_all(drawn.networks, drawings, at_once=4))
    pixels = [images[row].tobytes() for row in range(4)]
    assert pixels[0] == pixels[3]
    assert len(set(pixels)) == 3


def test_easels_that_take_turns_draw_what_each_draws_alone(drawn: LladaUni) -> None:
    wants = Wants(blocks=True, steps=False, previews=0)
    kinds: list[dict[str, Any]] = [
        {},
        {"step_cache": 0.3},
        {"guidance_interval": (0.2, 0.6)},
        {"decoder_guidance": 1.0},
    ]

    def easel(row: int) -> Easel:
        return Easel(drawn.networks, drawing(drawn, row + 1, **kinds[row]), row, wants)

    def finish(ones: list[Easel]) -> list[bytes]:
        while any(one.result is None for one in ones):
            for one in ones:
                if one.result is None:
                    one.work()
        return [one.result.image.tobytes() for one in ones if one.result is not None]

    alone = [finish([easel(row)])[0] for row in range(4)]
    assert finish([easel(row) for row in range(4)]) == alone
    assert len(set(alone)) == 4


def test_nothing_is_loaded_again_for_the_second_picture(checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from llada_uni.weights import load

    opened: list[str] = []
    for name in ("load_decoder", "load_vae", "load_semantic_embedder", "load_backbone"):
        original = getattr(load, name)

        def counted(*args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            opened.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(load, name, counted)
    model = LladaUni.from_pretrained(checkpoint, device="cpu")
    model.generate_image("a", seed=1)
    first, seconds = sorted(opened), model.networks.load_s
    model.generate_image(["b", "c"], seed=2)
    assert sorted(opened) == first == ["load_backbone", "load_decoder", "load_semantic_embedder", "load_vae"]
    assert model.networks.load_s == seconds
