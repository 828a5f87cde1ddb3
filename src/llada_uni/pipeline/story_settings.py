"""The values a story runs with: what the caller gave, filled up from the checkpoint's presets, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from llada_uni.grid import Geometry
from llada_uni.pipeline.checks import check_choice, check_number
from llada_uni.pipeline.settings import DECODER_VALUES, DecodeSettings, decode_settings, output_grid
from llada_uni.protocols import CommitOrder, Guidance, Sampling
from llada_uni.sampling.story_state import StoryState
from llada_uni.weights.catalog import Presets

if TYPE_CHECKING:
    from llada_uni.image_tokenizer.images import ImageSource
    from llada_uni.pipeline.story_results import StoryResult

__all__ = ["StoryOptions", "StorySettings", "story_settings"]

_BAD_GRID = ("nearest", "stop")
_Going = StoryState | Mapping[str, Any] | str | Path


class StoryOptions(TypedDict, total=False):
    """Keyword arguments of ``generate_interleaved`` and ``stream_interleaved``; None or absent takes the preset.

    images: pictures that stand before the prompt's words; for a list of prompts a list of such lists.
    continue_from: the state of a story that goes on (``result.state``, its ``as_dict``, or a file of it), or a result;
        the prompt is then the next turn, or None to let the model write on. A list for a list.
    seed: 0 to 2**63 - 1; None draws 32 bits, or keeps the seed of the story that goes on. Always reported.
    max_frames: pictures written in this call. max_new_tokens: longest text block, up to what the context still holds.
    max_image_tokens: most codes of one picture.
    height, width: pixels of every picture, whose headers are then written by us; without them the model chooses by its
        headers.
    guidance_scale: of the story's first picture (``guidance_text`` when not given). guidance_text, guidance_image: of
        the later ones: how much the text since the last picture counts, and the pictures before it.
    steps_per_block: of the pictures; text keeps the checkpoint's preset.
    confidence_threshold: tokens more probable than this are final at once.
    temperature: of text and pictures; None is greedy text and the preset for pictures.
    num_steps, decoder, decoder_guidance, guidance_interval, step_cache: of the pixel decoder.
    on_bad_grid: "nearest" draws the nearest grid the checkpoint knows when a header asks for another, "stop" ends the
        story there.
    """

    images: ImageSource | Sequence[Any]
    continue_from: _Going | StoryResult | Sequence[_Going | StoryResult] | None
    seed: int | Sequence[int] | None
    max_frames: int | None
    max_new_tokens: int | None
    max_image_tokens: int | None
    height: int | None
    width: int | None
    guidance_scale: float | None
    guidance_text: float | None
    guidance_image: float | None
    steps_per_block: int | None
    confidence_threshold: float | None
    temperature: float | None
    num_steps: int | None
    decoder: str | None
    decoder_guidance: float | None
    guidance_interval: Sequence[float] | None
    step_cache: float | None
    on_bad_grid: Literal["nearest", "stop"]


@dataclass(frozen=True, kw_only=True)
class StorySettings(DecodeSettings):
    """A story; ``height`` and ``width`` are None where the model chooses."""

    height: int | None
    width: int | None
    max_frames: int
    max_new_tokens: int
    max_image_tokens: int
    on_bad_grid: Literal["nearest", "stop"]
    block_length: int
    steps_per_block: int
    text_steps_per_block: int
    guidance_scale: float
    guidance_text: float
    guidance_image: float
    guidance_rescale: float
    commit_order: CommitOrder
    confidence_threshold: float
    temperature: float
    text_order: CommitOrder
    text_threshold: float
    text_temperature: float

    def text_sampling(self) -> Sampling:
        """How text is written."""
        return Sampling(
            block_length=self.block_length,
            steps_per_block=self.text_steps_per_block,
            confidence_threshold=self.text_threshold,
            temperature=self.text_temperature,
            commit_order=self.text_order,
        )

    def picture_sampling(self) -> Sampling:
        """How codes are written."""
        return Sampling(
            block_length=self.block_length,
            steps_per_block=self.steps_per_block,
            confidence_threshold=self.confidence_threshold,
            temperature=self.temperature,
            commit_order=self.commit_order,
        )

    def first_guidance(self) -> Guidance:
        """Of the story's first picture."""
        return Guidance(kind="simple", scale=self.guidance_scale, rescale=self.guidance_rescale)

    def later_guidance(self) -> Guidance:
        """Of the other pictures."""
        return Guidance(
            kind="editing", text=self.guidance_text, image=self.guidance_image, rescale=self.guidance_rescale
        )


def story_settings(presets: Presets, geometry: Geometry, options: Mapping[str, Any]) -> StorySettings:
    """Settings of a call with these ``options`` (see :class:`StoryOptions`).

    Raises:
        ConfigError: a value out of range. SizeError: no pictures of that size.
    """

    def number(name: str, preset: float, **bounds: Any) -> Any:
        value = options.get(name)
        return check_number(preset if value is None else value, name=name, **bounds)

    def count(name: str, preset: int) -> int:
        return number(name, preset, low=1, whole=True)

    of_text = presets.confidence_threshold
    of_pictures = of_text if presets.image_threshold is None else presets.image_threshold
    warmth = number("temperature", presets.image_temperature, low=0)
    height, width = _size(geometry, options)
    text = float(number("guidance_text", presets.story_guidance_text, low=0, high=1000))
    on_bad_grid: Any = check_choice(options.get("on_bad_grid", "nearest"), name="on_bad_grid", choices=_BAD_GRID)
    return StorySettings(
        height=height,
        width=width,
        max_frames=count("max_frames", presets.max_frames),
        max_new_tokens=count("max_new_tokens", presets.max_new_tokens),
        max_image_tokens=count("max_image_tokens", presets.max_image_tokens),
        on_bad_grid=on_bad_grid,
        block_length=presets.block_length,
        steps_per_block=count("steps_per_block", presets.story_steps_per_block),
        text_steps_per_block=presets.text_steps_per_block,
        guidance_scale=float(number("guidance_scale", text, low=0, high=1000)),
        guidance_text=text,
        guidance_image=float(number("guidance_image", presets.story_guidance_image, low=0, high=1000)),
        guidance_rescale=presets.guidance_rescale,
        commit_order=presets.image_order,
        confidence_threshold=float(number("confidence_threshold", of_pictures, low=0, high=1)),
        temperature=float(warmth),
        text_order=presets.text_order,
        text_threshold=float(number("confidence_threshold", of_text, low=0, high=1)),
        text_temperature=0.0 if options.get("temperature") is None else float(warmth),
        **decode_settings(presets, **{name: options.get(name) for name in DECODER_VALUES}).as_dict(),
    )


def _size(geometry: Geometry, options: Mapping[str, Any]) -> tuple[int | None, int | None]:
    height, width = options.get("height"), options.get("width")
    if height is None and width is None:
        return None, None
    return geometry.output_px(output_grid(geometry, height, width))
