"""The settings a form offers: keyword names of the pipeline, explained, with the checkpoint's presets as defaults."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.grid import Geometry, parse_size
from llada_uni.pipeline.settings import DECODERS, output_grid

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["TABS", "Field", "changed", "fields", "has_decoder", "sizes"]

TABS = ("generate", "ask", "edit", "story")
"""Tabs with a form."""

_SHAPES = ((1, 1), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16))
_AREA = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Field:
    """One setting. ``preset``: what the checkpoint recommends, None = drawn or chosen later; such a value is not sent.

    ``bounds``: lowest, highest and step of a slider. What is typed is a whole number ("number"), any number ("decimal")
    or two with a comma between them ("pair").
    """

    name: str
    kind: Literal["slider", "number", "decimal", "pair", "choice", "flag"]
    help: str
    preset: Any = None
    bounds: tuple[float, float, float] = (0, 1, 1)
    choices: tuple[str, ...] = ()


def fields(tab: str, networks: Networks) -> tuple[Field, ...]:
    """What the form of ``tab`` offers, in order.

    Raises:
        ConfigError: no such tab.
    """
    if tab not in TABS:
        raise ConfigError(f"tab: expected one of {', '.join(TABS)}, got {tab!r}")
    presets = networks.package.presets
    seed = Field(name="seed", kind="number", help="The same seed gives the same result. Empty draws one.")
    size = _choice("size", "Width × height in pixels. Sizes this checkpoint was trained on.", sizes(networks.geometry))
    if tab == "generate":
        thinking = Field(name="thinking", kind="flag", preset=False, help="Write a plan in words before the picture.")
        scale = _guidance("guidance_scale", "How strictly the words are followed; 1 is off.", presets.guidance_scale)
        return size, seed, scale, *_tokens(networks, presets.steps_per_block, True), *_decoder(networks), thinking
    if tab == "ask":
        longest = _slider("max_new_tokens", "Longest answer in tokens.", presets.max_new_tokens, 1, 4096)
        return seed, longest, *_tokens(networks, presets.text_steps_per_block, False)
    if tab == "edit":
        strength = _slider("strength", "Share of the marked cells that is written anew.", 1.0, 0, 1, 0.05)
        text = _guidance("guidance_text", "How strictly the instruction is followed; 1 is off.", presets.guidance_text)
        image = _guidance("guidance_image", "How strictly the picture is kept to; 0 is off.", presets.guidance_image)
        steps = _tokens(networks, presets.edit_steps_per_block, True)
        return seed, strength, text, image, *steps, *_decoder(networks)
    frames = _slider("max_frames", "Most pictures of the story.", presets.max_frames, 1, max(12, presets.max_frames))
    text = _guidance("guidance_text", "How strictly the text is followed; 1 is off.", presets.story_guidance_text)
    image = _guidance("guidance_image", "How much earlier pictures count; 0 is off.", presets.story_guidance_image)
    steps = _slider("steps_per_block", _STEPS, presets.story_steps_per_block, 1, _most_steps(networks))
    return seed, frames, text, image, steps, *_decoder(networks)


def changed(tab_fields: Sequence[Field], values: Sequence[Any]) -> dict[str, Any]:
    """The settings that differ from the presets, by keyword name; a size becomes ``height`` and ``width``.

    Raises:
        ConfigError: not as many values as fields, or a number that is none. SizeError: a size that is none.
    """
    if len(values) != len(tab_fields):
        raise ConfigError(f"expected {len(tab_fields)} settings, got {len(values)}; reload the page")
    given = {
        field.name: value
        for field, value in zip(tab_fields, values, strict=True)
        if value is not None and str(value).strip() and not _same(value, field.preset)
    }
    kinds = {field.name: field.kind for field in tab_fields}
    return _sized({name: _number(name, value, kinds[name]) for name, value in given.items()})


def sizes(geometry: Geometry) -> tuple[str, ...]:
    """Sizes to choose from, the usual one first, as "WIDTH × HEIGHT"."""
    usual = output_grid(geometry, None, None)
    if geometry.trained_grids:
        grids = [usual, *geometry.trained_grids]
    else:
        sides = [((_AREA * high / wide) ** 0.5, (_AREA * wide / high) ** 0.5) for wide, high in _SHAPES]
        grids = [usual, *(geometry.nearest_grid(round(height), round(width)) for height, width in sides)]
    pixels = [geometry.output_px(grid) for grid in dict.fromkeys(grids)]
    return tuple(f"{width} × {height}" for height, width in pixels)


_STEPS = "Most denoising steps in one block of tokens; fewer is faster."


def _tokens(networks: Networks, steps: int, picture: bool) -> tuple[Field, ...]:
    presets = networks.package.presets
    own = presets.image_threshold if picture else None
    threshold = presets.confidence_threshold if own is None else own
    warmth = presets.image_temperature if picture else 0.0
    return (
        _slider("steps_per_block", _STEPS, steps, 1, _most_steps(networks)),
        _slider("confidence_threshold", "Tokens more probable than this are final at once.", threshold, 0, 1, 0.01),
        _slider("temperature", "0 takes the likeliest token, more is more varied.", warmth, 0, 2, 0.05),
    )


def _decoder(networks: Networks) -> tuple[Field, ...]:
    presets = networks.package.presets
    have = [name for name in DECODERS if has_decoder(networks, name)]
    first = [presets.decoder, *(name for name in have if name != presets.decoder)]
    help = "turbo draws in few steps, normal in more."
    steps = Field(name="num_steps", kind="number", help="Steps of the decoder. Empty takes the decoder's own number.")
    strength = "How strictly the codes are drawn; 1 is off. Empty takes the decoder's own strength."
    times = "Two times from 0 (noise) to 1 (the picture), as in 0.1, 0.8: the decoder is guided only between them."
    reuse = "Steps that change less than this (0 to 1) are reused, which is faster. Empty computes every step."
    return (
        _choice("decoder", help, tuple(first)),
        steps,
        Field(name="decoder_guidance", kind="decimal", help=strength),
        Field(name="guidance_interval", kind="pair", help=times),
        Field(name="step_cache", kind="decimal", help=reuse),
    )


def has_decoder(networks: Networks, name: str) -> bool:
    """Whether the checkpoint has the decoder of this name."""
    try:
        networks.require_decoder(name)
    except CheckpointError:
        return False
    return True


def _most_steps(networks: Networks) -> int:
    presets = networks.package.presets
    return max(64, presets.block_length, presets.region_block_length)


def _choice(name: str, help: str, choices: tuple[str, ...]) -> Field:
    return Field(name=name, kind="choice", help=help, preset=choices[0], choices=choices)


def _slider(name: str, help: str, preset: float, low: float, high: float, step: float = 1) -> Field:
    return Field(name=name, kind="slider", help=help, preset=preset, bounds=(low, max(high, preset), step))


def _guidance(name: str, help: str, preset: float) -> Field:
    return _slider(name, help, preset, 0, 10, 0.1)


def _same(value: Any, preset: Any) -> bool:
    return isinstance(value, bool) == isinstance(preset, bool) and value == preset


def _number(name: str, value: Any, kind: str) -> Any:
    """A value as the pipeline takes it: typed numbers read, whole ones as such."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if kind not in _TYPED or not isinstance(value, str):
        return value
    pattern, read, expected = _TYPED[kind]
    if not re.fullmatch(pattern, value, re.ASCII):
        raise ConfigError(f"{name}: expected {expected} or nothing, got {value[:40]!r}")
    return read(value)


_DECIMAL = r"\s*[+-]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})\s*"
_TYPED: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "number": (r"\s*[+-]?[0-9]{1,20}\s*", int, "a whole number"),
    "decimal": (_DECIMAL, float, "a number such as 0.5"),
    "pair": (f"{_DECIMAL},{_DECIMAL}", lambda text: [float(part) for part in text.split(",")], "two as in 0.1, 0.8"),
}
"""What may be typed, how it is read, and what to say about anything else."""


def _sized(given: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in given.items() if name != "size"}
    if "size" not in given:
        return rest
    height, width = parse_size(str(given["size"])[:40].replace(" ", "").replace("×", "x"))
    return {"height": height, "width": width} | rest
