"""Options of the pixel decoder: checked at the door, reported, and reaching it from every task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llada_uni import PixelOptions
from llada_uni.errors import ConfigError
from llada_uni.pipeline import EditTask, GenerateTask, InpaintTask, LladaUni
from llada_uni.pipeline.pixels import to_images
from llada_uni.pipeline.settings import decode_settings
from llada_uni.weights.catalog import Presets

GIVEN: dict[str, Any] = {
    "decoder": "normal", "num_steps": 2, "decoder_guidance": 1.5, "guidance_interval": [0, 0.6], "step_cache": 0.25,
}  # fmt: skip
REPORTED = GIVEN | {"guidance_interval": (0.0, 0.6)}


def reported(settings: Any) -> dict[str, Any]:
    return {name: settings[name] for name in GIVEN}


def test_every_task_takes_them(model: LladaUni, photo: Any) -> None:
    tasks = [
        GenerateTask(prompt="a", seed=1, **GIVEN),
        EditTask(image=photo, instruction="b", seed=1, **GIVEN),
        InpaintTask(image=photo, prompt="c", seed=1, box=(0, 0, 9, 9), **GIVEN),
    ]
    assert [reported(result.settings) for result in model.run(tasks)] == [REPORTED] * 3
    encoded = model.encode_image(photo)
    assert reported(model.decode_image(encoded, seed=1, **GIVEN).settings) == REPORTED
    assert reported(model.generate_image("a", seed=1, **GIVEN).settings) == REPORTED
    story = model.generate_interleaved("a", seed=1, max_frames=1, **GIVEN)
    assert reported(story.settings) == REPORTED  # type: ignore[union-attr]


def test_they_are_off_by_default() -> None:
    settings = decode_settings(Presets(), None, None)
    assert (settings.decoder_guidance, settings.guidance_interval, settings.step_cache) == (2.0, None, None)
    assert settings.flow().guides_at(0.0)
    assert settings.flow().guides_at(1.0)
    limited = decode_settings(Presets(), None, None, guidance_interval=(0.1, 0.5)).flow()
    assert [limited.guides_at(time) for time in (0.0, 0.1, 0.5, 0.51)] == [False, True, True, False]
    assert not decode_settings(Presets(), "turbo", None).flow().guides_at(0.3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"step_cache": 0}, "step_cache: expected a number above 0 to 1, got 0"),
        ({"step_cache": 1.5}, "step_cache: expected a number above 0 to 1, got 1.5"),
        ({"step_cache": True}, "step_cache: expected a number"),
        ({"decoder_guidance": -1}, "decoder_guidance: expected a number from 0 to 1000, got -1"),
        ({"guidance_interval": 0.5}, "guidance_interval: expected two times from 0 to 1, got 0.5"),
        ({"guidance_interval": "01"}, "guidance_interval: expected two times"),
        ({"guidance_interval": (0.1,)}, "guidance_interval: expected two times"),
        ({"guidance_interval": (0.1, 1.2)}, "guidance_interval: expected a number from 0 to 1, got 1.2"),
        ({"guidance_interval": (0.6, 0.2)}, "guidance_interval: expected the earlier time first, got 0.6 and 0.2"),
        ({"guidance_interval": (0.1, 0.2), "decoder": "turbo"}, "draws without guidance"),
        ({"guidance_interval": (0.1, 0.2), "decoder_guidance": 1}, "draws without guidance"),
    ],
)
def test_values_out_of_range(model: LladaUni, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^[^\n]*" + message):
        model.generate_image("a", **({"decoder": "normal"} | wrong))


def test_pixel_options_are_checked(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="vae_tile_px: expected a whole number from 64, got 63"):
        PixelOptions(vae_tile_px=63)
    with pytest.raises(ConfigError, match="graph_decoder: expected a CUDA device, got cpu"):
        LladaUni.from_pretrained(checkpoint, device="cpu", pixels=PixelOptions(graph_decoder=True))


def test_pictures_are_tiled_where_asked(checkpoint: Path) -> None:
    vae = LladaUni.from_pretrained(checkpoint, device="cpu").networks.vae
    latents = torch.randn(1, 4, 64, 48, generator=torch.Generator().manual_seed(0))
    (whole,), (off,) = to_images(vae, latents), to_images(vae, latents, tile_px=0)
    (tiled,) = to_images(vae, latents, tile_px=64)
    assert whole.tobytes() == off.tobytes() != tiled.tobytes()
    assert whole.size == tiled.size == (96, 128)
    (covered,) = to_images(vae, latents, tile_px=128)
    assert covered.tobytes() == whole.tobytes()


def test_tiles_reach_the_pictures_of_a_model(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llada_uni.decoder import tiling

    seen: list[Any] = []
    original = tiling.decode

    def noted(vae: Any, latents: Any, how: Any) -> Any:
        seen.append(how)
        return original(vae, latents, how)

    monkeypatch.setattr("llada_uni.pipeline.pixels.decode", noted)
    monkeypatch.setattr("llada_uni.pipeline.pixels._SMALLEST_TILE_PX", 16)
    model = LladaUni.from_pretrained(checkpoint, device="cpu", pixels=PixelOptions(vae_tile_px=24))
    model.generate_image("a", seed=1)
    LladaUni.from_pretrained(checkpoint, device="cpu").generate_image("a", seed=1)
    assert [None if how is None else how.tile_px for how in seen] == [24, None]
