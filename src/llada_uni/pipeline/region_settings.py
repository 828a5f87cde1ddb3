"""The values an edit on the token grid runs with: what the caller gave, filled up from the presets, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from llada_uni.errors import ConfigError
from llada_uni.image_tokenizer.images import ImageSource
from llada_uni.pipeline.checks import check_number
from llada_uni.pipeline.settings import ImageSettings, image_settings
from llada_uni.protocols import Guidance
from llada_uni.sampling.flow_sampler import FlowSettings
from llada_uni.weights.catalog import Presets

__all__ = ["InpaintOptions", "OutpaintOptions", "RegionOptions", "RegionSettings", "VaryOptions", "region_settings"]


class RegionOptions(TypedDict, total=False):
    """Keyword arguments that all edits on the token grid have; ``LladaUni.stream_inpaint`` documents them."""

    seed: int | Sequence[int] | None
    reference: bool
    blend: bool
    block_length: int | None
    steps_per_block: int | None
    guidance_scale: float | None
    guidance_text: float | None
    guidance_image: float | None
    confidence_threshold: float | None
    temperature: float | None
    num_steps: int | None
    decoder: str | None
    decoder_guidance: float | None
    guidance_interval: Sequence[float] | None
    step_cache: float | None


class InpaintOptions(RegionOptions, total=False):
    """Keyword arguments of ``inpaint_image``."""

    mask: ImageSource | None
    box: Sequence[int] | None
    cells: Sequence[tuple[int, int]] | None
    keep_cells: Sequence[tuple[int, int]] | None
    strength: float


class OutpaintOptions(RegionOptions, total=False):
    """Keyword arguments of ``outpaint_image``."""

    height: int | None
    width: int | None
    anchor: str


class VaryOptions(RegionOptions, total=False):
    """Keyword arguments of ``vary_image``."""

    strength: float


@dataclass(frozen=True, kw_only=True)
class RegionSettings:
    """How cells are predicted (``image``), combined (``guidance``) and put back (``blend``)."""

    image: ImageSettings
    guidance: Guidance
    reference: bool
    blend: bool

    @property
    def decoder(self) -> str:
        """Which decoder draws the result."""
        return self.image.decoder

    @property
    def step_cache(self) -> float | None:
        """Threshold below which steps of the decoder are reused."""
        return self.image.step_cache

    def flow(self) -> FlowSettings:
        """How the decoder samples."""
        return self.image.flow()

    def drawn_with(self) -> tuple[str, FlowSettings, float | None]:
        """Everything about them that changes pixels."""
        return self.image.drawn_with()

    def as_dict(self) -> dict[str, Any]:
        """What was used, ready for JSON."""
        values = self.image.as_dict() | {"reference": self.reference, "blend": self.blend}
        if self.reference:
            del values["guidance_scale"]
            values |= {"guidance_text": self.guidance.text, "guidance_image": self.guidance.image}
        return values


def region_settings(presets: Presets, size: tuple[int, int], options: Mapping[str, Any]) -> RegionSettings:
    """Settings of an edit whose result has ``size`` (height, width); ``options`` are :class:`RegionOptions`.

    Raises:
        ConfigError: a value out of range, or guidance that the chosen prompt does not have.
        TypeError: an unknown name.
    """
    _check_names(options)
    given = dict.fromkeys(RegionOptions.__annotations__) | dict(options)
    reference, soft = _flag(given, "reference"), _flag(given, "blend")
    _check_guidance(given, reference)
    used = replace(
        presets,
        block_length=presets.region_block_length,
        steps_per_block=presets.edit_steps_per_block if reference else presets.steps_per_block,
    )
    image = image_settings(used, size, given)
    if given["block_length"] is not None:
        length = check_number(given["block_length"], name="block_length", low=1, whole=True)
        image = replace(image, block_length=length)
    guidance = _editing(presets, given) if reference else _simple(image)
    return RegionSettings(image=image, guidance=guidance, reference=reference, blend=soft)


def _editing(presets: Presets, given: Mapping[str, Any]) -> Guidance:
    scales = {name: getattr(presets, name) if given[name] is None else given[name] for name in _EDITING}
    for name, value in scales.items():
        check_number(value, name=name, low=0)
    text, image = (float(scales[name]) for name in _EDITING)
    return Guidance(kind="editing", text=text, image=image, rescale=presets.guidance_rescale)


_EDITING = ("guidance_text", "guidance_image")


def _simple(image: ImageSettings) -> Guidance:
    return Guidance(kind="simple", scale=image.guidance_scale, rescale=image.guidance_rescale)


def _check_names(options: Mapping[str, Any]) -> None:
    unknown = [name for name in options if name not in RegionOptions.__annotations__]
    if unknown:
        raise TypeError(
            f"unexpected keyword argument {unknown[0]!r}; known: {', '.join(RegionOptions.__annotations__)}"
        )


def _check_guidance(given: Mapping[str, Any], reference: bool) -> None:
    wrong = ("guidance_scale",) if reference else _EDITING
    right = _EDITING if reference else ("guidance_scale",)
    for name in wrong:
        if given[name] is not None:
            raise ConfigError(f"{name} has no meaning with reference={reference}; use {' and '.join(right)}")


def _flag(given: Mapping[str, Any], name: str) -> bool:
    if not isinstance(given[name], bool):
        raise ConfigError(f"{name}: expected True or False, got {given[name]!r}")
    return given[name]
