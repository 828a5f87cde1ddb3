"""The values a request runs with: what the caller gave, filled up from the checkpoint's presets, checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypedDict

from llada_uni.diffusion.sprint import Sprint
from llada_uni.errors import ConfigError
from llada_uni.grid import Geometry, TokenGrid
from llada_uni.pipeline.checks import check_choice, check_number
from llada_uni.protocols import CommitOrder, Guidance, Sampling
from llada_uni.sampling.flow_sampler import RELEASED_NORMAL, RELEASED_TURBO, FlowSettings
from llada_uni.weights.catalog import Presets, SprintPreset, sprint_preset

__all__ = [
    "CROPS",
    "DECODERS",
    "DECODER_VALUES",
    "AnswerOptions",
    "AnswerSettings",
    "ChatOptions",
    "DecodeOptions",
    "DecodeSettings",
    "EditOptions",
    "EditSettings",
    "ImageOptions",
    "ImageSettings",
    "PictureSettings",
    "ThinkingSettings",
    "answer_settings",
    "decode_settings",
    "edit_settings",
    "image_settings",
    "output_grid",
    "resolve_sprint",
    "thinking_settings",
]

CROPS = ("cover", "released")
DECODERS = ("normal", "turbo")
DECODER_VALUES = ("decoder", "num_steps", "decoder_guidance", "guidance_interval", "step_cache")
"""Names of what a caller may say about the pixel decoder."""
_DEFAULT_SIDE_PX = 1024


class ImageOptions(TypedDict, total=False):
    """Keyword arguments of ``generate_image``; ``stream_image`` documents them."""

    height: int | None
    width: int | None
    seed: int | Sequence[int] | None
    steps_per_block: int | None
    guidance_scale: float | None
    confidence_threshold: float | None
    temperature: float | None
    num_steps: int | None
    decoder: str | None
    decoder_guidance: float | None
    guidance_interval: Sequence[float] | None
    step_cache: float | None
    sprint: str | Sprint | None
    keep_ratio: float | None
    thinking: bool
    thinking_tokens: int | None
    thinking_temperature: float | None
    thinking_top_p: float | None


class EditOptions(TypedDict, total=False):
    """Keyword arguments of ``edit_image``; ``EditTask`` documents them."""

    height: int | None
    width: int | None
    seed: int | Sequence[int] | None
    steps_per_block: int | None
    guidance_text: float | None
    guidance_image: float | None
    confidence_threshold: float | None
    temperature: float | None
    num_steps: int | None
    decoder: str | None
    decoder_guidance: float | None
    guidance_interval: Sequence[float] | None
    step_cache: float | None
    sprint: str | Sprint | None
    keep_ratio: float | None
    crop: Literal["cover", "released"]


class DecodeOptions(TypedDict, total=False):
    """Keyword arguments of ``decode_image``; ``stream_image`` documents them."""

    seed: int | Sequence[int] | None
    num_steps: int | None
    decoder: str | None
    decoder_guidance: float | None
    guidance_interval: Sequence[float] | None
    step_cache: float | None


class AnswerOptions(TypedDict, total=False):
    """Keyword arguments of ``understand_image``; ``stream_answer`` documents them."""

    seed: int | Sequence[int] | None
    steps_per_block: int | None
    confidence_threshold: float | None
    temperature: float
    max_new_tokens: int | None
    sprint: str | Sprint | None
    keep_ratio: float | None
    raw: bool
    system: str | None


class ChatOptions(TypedDict, total=False):
    """Keyword arguments of ``chat``; ``ChatTask`` documents them."""

    seed: int | None
    steps_per_block: int | None
    confidence_threshold: float | None
    temperature: float
    max_new_tokens: int | None
    sprint: str | Sprint | None
    keep_ratio: float | None


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """Codes to a picture."""

    decoder: str
    num_steps: int
    time_shift: float
    decoder_guidance: float
    guidance_interval: tuple[float, float] | None = None
    step_cache: float | None = None

    def flow(self) -> FlowSettings:
        """What the flow sampler is told."""
        return replace(
            RELEASED_TURBO if self.decoder == "turbo" else RELEASED_NORMAL,
            num_steps=self.num_steps,
            time_shift=self.time_shift,
            guidance_scale=self.decoder_guidance,
            guidance_interval=self.guidance_interval,
        )

    def drawn_with(self) -> tuple[str, FlowSettings, float | None]:
        """Everything about them that changes pixels: pictures that agree in it may be drawn together."""
        return self.decoder, self.flow(), self.step_cache

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class PictureSettings(DecodeSettings, ABC):
    """A picture that is written, then drawn."""

    height: int
    width: int
    block_length: int
    steps_per_block: int
    guidance_rescale: float
    commit_order: CommitOrder
    confidence_threshold: float
    temperature: float
    sprint: Sprint | None = None

    def sampling(self) -> Sampling:
        """What the block sampler is told."""
        return _sampling(self)

    @abstractmethod
    def guidance(self) -> Guidance:
        """How the branches of the request are combined."""


@dataclass(frozen=True, kw_only=True)
class ImageSettings(PictureSettings):
    """Words to a picture."""

    guidance_scale: float

    def guidance(self) -> Guidance:
        """Words against no words."""
        return Guidance(kind="simple", scale=self.guidance_scale, rescale=self.guidance_rescale)


@dataclass(frozen=True, kw_only=True)
class EditSettings(PictureSettings):
    """Pictures and an instruction to a picture."""

    guidance_text: float
    guidance_image: float
    crop: Literal["cover", "released"]

    def guidance(self) -> Guidance:
        """Everything, against no instruction, against no picture."""
        return Guidance(
            kind="editing", text=self.guidance_text, image=self.guidance_image, rescale=self.guidance_rescale
        )


@dataclass(frozen=True, kw_only=True)
class ThinkingSettings:
    """Words to the plan of a picture."""

    block_length: int
    steps_per_block: int
    confidence_threshold: float
    temperature: float
    commit_order: CommitOrder
    top_p: float | None
    max_new_tokens: int
    sprint: Sprint | None = None

    def sampling(self) -> Sampling:
        """What the block sampler is told."""
        return replace(_sampling(self), top_p=self.top_p)

    def as_dict(self) -> dict[str, Any]:
        """What stands beside the picture's settings, under the names of the arguments."""
        return {
            "thinking_tokens": self.max_new_tokens,
            "thinking_temperature": self.temperature,
            "thinking_top_p": self.top_p,
        }


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """Pictures and a question to words."""

    block_length: int
    steps_per_block: int
    confidence_threshold: float
    temperature: float
    commit_order: CommitOrder
    max_new_tokens: int
    sprint: Sprint | None = None

    def sampling(self) -> Sampling:
        """What the block sampler is told."""
        return _sampling(self)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def image_settings(presets: Presets, size: tuple[int, int], given: dict[str, Any]) -> ImageSettings:
    """Settings of a picture of ``size`` (height, width); ``given`` has the keyword names, None = the preset.

    Raises:
        ConfigError: a value out of range.
    """
    return ImageSettings(
        guidance_scale=_weight(given, "guidance_scale", presets.guidance_scale),
        **_picture_settings(presets, size, given, presets.steps_per_block),
    )


def edit_settings(presets: Presets, size: tuple[int, int], given: dict[str, Any]) -> EditSettings:
    """Settings of an edit that gives a picture of ``size`` (height, width), like :func:`image_settings`.

    Raises:
        ConfigError: a value out of range.
    """
    return EditSettings(
        guidance_text=_weight(given, "guidance_text", presets.guidance_text),
        guidance_image=_weight(given, "guidance_image", presets.guidance_image),
        crop=given["crop"],
        **_picture_settings(presets, size, given, presets.edit_steps_per_block),
    )


def thinking_settings(presets: Presets, given: dict[str, Any]) -> ThinkingSettings:
    """Settings of the plan before a picture: text presets, and the values whose names begin with ``thinking_``.

    Source: released ``generate_image`` (mode "thinking"): 4096 tokens, greedy, no top-p.

    Raises:
        ConfigError: a value out of range.
    """
    top_p = given["thinking_top_p"]
    if top_p is not None:
        check_number(top_p, name="thinking_top_p", low=0, high=1, above=True)
    check_number(_or(given, "thinking_temperature", 0.0), name="thinking_temperature", low=0)
    longest = _or(given, "thinking_tokens", presets.thinking_tokens)
    own = {
        "steps_per_block": None,
        "confidence_threshold": None,
        "temperature": _or(given, "thinking_temperature", 0.0),
    }
    fast = {name: given[name] for name in ("sprint", "keep_ratio")}
    return ThinkingSettings(
        top_p=top_p,
        max_new_tokens=check_number(longest, name="thinking_tokens", low=1, whole=True),
        commit_order=presets.text_order,
        **_token_settings(presets, own | fast, presets.text_steps_per_block, "text"),
    )


def answer_settings(presets: Presets, given: dict[str, Any]) -> AnswerSettings:
    """Settings of an answer; ``given`` has the keyword names, None = the preset.

    Raises:
        ConfigError: a value out of range.
    """
    longest = _or(given, "max_new_tokens", presets.max_new_tokens)
    return AnswerSettings(
        max_new_tokens=check_number(longest, name="max_new_tokens", low=1, whole=True),
        commit_order=presets.text_order,
        **_token_settings(presets, given, presets.text_steps_per_block, "text"),
    )


def decode_settings(
    presets: Presets,
    decoder: str | None,
    num_steps: int | None,
    *,
    decoder_guidance: float | None = None,
    guidance_interval: Sequence[float] | None = None,
    step_cache: float | None = None,
) -> DecodeSettings:
    """Settings of the pixel decoder; ``GenerateTask`` documents the values.

    Raises:
        ConfigError: an unknown decoder, fewer than one step, another value out of range, or an interval of guidance
            where there is none.
    """
    decoder = check_choice(presets.decoder if decoder is None else decoder, name="decoder", choices=DECODERS)
    turbo = decoder == "turbo"
    steps = (presets.turbo_steps if turbo else presets.num_steps) if num_steps is None else num_steps
    preset = 1.0 if turbo else presets.decoder_guidance
    guidance = preset if decoder_guidance is None else decoder_guidance
    if step_cache is not None:
        check_number(step_cache, name="step_cache", low=0, high=1, above=True)
    return DecodeSettings(
        decoder=decoder,
        num_steps=check_number(steps, name="num_steps", low=1, high=1000, whole=True),
        time_shift=1.0 if turbo else presets.time_shift,
        decoder_guidance=float(check_number(guidance, name="decoder_guidance", low=0, high=1000)),
        guidance_interval=_interval(guidance_interval, guidance),
        step_cache=None if step_cache is None else float(step_cache),
    )


def output_grid(geometry: Geometry, height: int | None, width: int | None) -> TokenGrid:
    """Token grid of a wished output size; one side alone means a square, none the checkpoint's first trained grid.

    Raises:
        SizeError: no such size; the message names the allowed ones.
    """
    if height is None and width is None:
        if geometry.trained_grids:
            return geometry.trained_grids[0]
        return geometry.nearest_grid(_DEFAULT_SIDE_PX, _DEFAULT_SIDE_PX)
    height = width if height is None else height
    width = height if width is None else width
    assert height is not None
    assert width is not None
    return geometry.grid_from_output_px(height, width)


def resolve_sprint(sprint: Any, keep_ratio: Any, task: Literal["picture", "text"]) -> SprintPreset | None:
    """What ``sprint`` (a preset's name or a :class:`Sprint`) and ``keep_ratio`` ask for; both None = the exact path.

    ``keep_ratio`` takes the place of all ratios; alone it thins out the prefix and leaves everything else as it is.

    Raises:
        ConfigError: an unknown preset, something else, or a ratio out of range.
    """
    if keep_ratio is not None:
        check_number(keep_ratio, name="keep_ratio", low=0, high=1, above=True)
    if sprint is None:
        return None if keep_ratio is None else SprintPreset(sprint=Sprint(keep_ratio=keep_ratio))
    if not isinstance(sprint, (str, Sprint)):
        raise ConfigError(f"sprint: expected the name of a preset or a Sprint, got {type(sprint).__name__}")
    preset = SprintPreset(sprint=sprint) if isinstance(sprint, Sprint) else sprint_preset(sprint, task)
    if keep_ratio is None:
        return preset
    rules = replace(preset.sprint, keep_ratio=keep_ratio, image_keep_ratio=None, text_keep_ratio=None)
    return replace(preset, sprint=rules)


def _picture_settings(
    presets: Presets, size: tuple[int, int], given: dict[str, Any], steps_per_block: int
) -> dict[str, Any]:
    warmth = {"temperature": _or(given, "temperature", presets.image_temperature)}
    return {
        "height": size[0],
        "width": size[1],
        "guidance_rescale": presets.guidance_rescale,
        "commit_order": presets.image_order,
        **decode_settings(presets, **{name: given.get(name) for name in DECODER_VALUES}).as_dict(),
        **_token_settings(presets, given | warmth, steps_per_block, "picture"),
    }


def _token_settings(
    presets: Presets, given: dict[str, Any], steps_per_block: int, task: Literal["picture", "text"]
) -> dict[str, Any]:
    fast = resolve_sprint(given.get("sprint"), given.get("keep_ratio"), task)
    own = presets.image_threshold if task == "picture" else None
    threshold = presets.confidence_threshold if own is None else own
    if fast is not None:
        steps_per_block = steps_per_block if fast.steps_per_block is None else fast.steps_per_block
        threshold = threshold if fast.confidence_threshold is None else fast.confidence_threshold
    steps = _or(given, "steps_per_block", steps_per_block)
    threshold = _or(given, "confidence_threshold", threshold)
    temperature = check_number(given["temperature"], name="temperature", low=0)
    return {
        "block_length": presets.block_length,
        "steps_per_block": check_number(steps, name="steps_per_block", low=1, whole=True),
        "confidence_threshold": float(check_number(threshold, name="confidence_threshold", low=0, high=1)),
        "temperature": float(temperature),
        "sprint": None if fast is None else fast.sprint,
    }


def _sampling(settings: PictureSettings | AnswerSettings | ThinkingSettings) -> Sampling:
    return Sampling(
        block_length=settings.block_length,
        steps_per_block=settings.steps_per_block,
        confidence_threshold=settings.confidence_threshold,
        temperature=settings.temperature,
        commit_order=settings.commit_order,
        sprint=settings.sprint,
    )


def _interval(interval: Any, guidance: float) -> tuple[float, float] | None:
    """Raises ConfigError for anything but two times in order, and where there is no guidance to limit."""
    if interval is None:
        return None
    if isinstance(interval, str) or not isinstance(interval, Sequence) or len(interval) != 2:
        raise ConfigError(f"guidance_interval: expected two times from 0 to 1, got {interval!r}")
    low, high = (float(check_number(end, name="guidance_interval", low=0, high=1)) for end in interval)
    if low > high:
        raise ConfigError(f"guidance_interval: expected the earlier time first, got {low:g} and {high:g}")
    if guidance == 1:
        raise ConfigError(
            "guidance_interval: this decoder draws without guidance (decoder_guidance 1); leave it out, or give both"
        )
    return low, high


def _weight(given: dict[str, Any], name: str, preset: float) -> float:
    return float(check_number(_or(given, name, preset), name=name, low=0, high=1000))


def _or(given: dict[str, Any], name: str, preset: Any) -> Any:
    return preset if given[name] is None else given[name]
