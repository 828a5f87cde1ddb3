"""Where a story of text and pictures stands: a value that can be stored, read back and continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from llada_uni.errors import ConfigError
from llada_uni.grid import TokenGrid
from llada_uni.vocab import Vocab

__all__ = ["STORY_FORMAT", "Segment", "StoryEnd", "StoryPhase", "StoryState"]

STORY_FORMAT = "llada-uni-story"

StoryPhase = Literal["text", "image", "done"]
"""What comes next: words, the picture whose header ends the ids, or nothing."""

StoryEnd = Literal["stop", "length", "max_frames", "context", "bad_header", "bad_grid", "bad_ids"]
"""Why a story ended.

stop: the model wrote the end of text. length: a text block used up ``max_new_tokens``. max_frames: all pictures are
drawn. context: no room for more text, or for the picture that was announced. What a model does wrong also ends a story
and keeps everything written before it: bad_header: codes announced without a readable header, where the size is left to
the model. bad_grid: a grid that cannot be drawn. bad_ids: an id in the text that text cannot hold.
"""

_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Segment:
    """``ids[start:stop]`` of a story: text, or with ``grid`` the image ids of a picture drawn with ``seed``."""

    start: int
    stop: int
    grid: TokenGrid | None = None
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        span = {"start": self.start, "stop": self.stop}
        return span if self.grid is None else span | {"grid": [self.grid.grid_h, self.grid.grid_w], "seed": self.seed}


@dataclass(frozen=True, kw_only=True)
class StoryState:
    """A story under way or ended; never changed, only replaced.

    Args:
        ids: prompt and everything written so far, without the end of text. In the phase "image" they end with the
            header of the picture to come.
        seed: randomness of the whole story; each phase has its own stream (see ``seeds.phase_seed``).
        phase: what comes next.
        reason: why it ended, None while it goes on.
        segments: the texts and pictures written so far, in order.
        frame_index: finished pictures of the story.
        first_frame: finished pictures when the current call began.
        num_phases: finished text and picture phases.
    """

    ids: tuple[int, ...]
    seed: int
    phase: StoryPhase = "text"
    reason: StoryEnd | None = None
    segments: tuple[Segment, ...] = ()
    frame_index: int = 0
    first_frame: int = 0
    num_phases: int = 0

    @property
    def history(self) -> tuple[int, ...]:
        """The ids a next turn stands behind: without the header of a picture that was not drawn."""
        return self.ids[:-4] if self.phase == "image" else self.ids

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; :meth:`from_dict` gives the same state back."""
        return {
            "format": STORY_FORMAT,
            "seed": self.seed,
            "phase": self.phase,
            "finish_reason": self.reason,
            "frame_index": self.frame_index,
            "first_frame": self.first_frame,
            "num_phases": self.num_phases,
            "segments": [segment.as_dict() for segment in self.segments],
            "ids": list(self.ids),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], *, source: str = "story state") -> StoryState:
        """Build from :meth:`as_dict`; ``source`` names it in messages.

        Raises:
            ConfigError: not the state of a story, or one whose parts contradict each other.
        """
        if value.get("format") != STORY_FORMAT:
            raise ConfigError(f'{source}: expected the state of a story ("format": "{STORY_FORMAT}")')
        counts = {name: _count(value, name, source) for name in ("seed", "frame_index", "first_frame", "num_phases")}
        phase, reason = value.get("phase"), value.get("finish_reason")
        if phase not in get_args(StoryPhase) or reason not in (*get_args(StoryEnd), None):
            raise ConfigError(f"{source}: no such phase or finish_reason: {phase!r}, {reason!r}")
        ids = _whole_numbers(value.get("ids"), f"{source}: ids")
        listed = value.get("segments")
        if not isinstance(listed, list):
            raise ConfigError(f"{source}: segments: expected a list, got {type(listed).__name__}")
        segments = tuple(_segment(entry, source) for entry in cast(list[object], listed))
        state = cls(ids=ids, phase=cast(StoryPhase, phase), reason=reason, segments=segments, **counts)
        _check_shape(state, source)
        return state

    def check(self, vocab: Vocab, *, source: str = "story state") -> None:
        """Does the state belong to this vocabulary, every picture a whole block of image ids?

        Raises:
            ConfigError: it does not; it was made by another model or damaged.
        """
        special = vocab.special
        if not all(0 <= number < vocab.vocab_size and number != special.mask for number in self.ids):
            raise ConfigError(f"{source}: holds ids that this model does not have; was it made by another model?")
        for segment in self.segments:
            part = self.ids[segment.start : segment.stop]
            images = [vocab.image_offset <= number < vocab.vocab_size for number in part]
            framed = segment.grid is None or (
                vocab.header_grid(self.ids[: segment.start]) == segment.grid
                and segment.grid.num_tokens == len(part)
                and self.ids[segment.stop : segment.stop + 1] == (special.eoi,)
            )
            if not framed or any(image != (segment.grid is not None) for image in images):
                what = "text" if segment.grid is None else "picture"
                raise ConfigError(f"{source}: ids {segment.start}..{segment.stop - 1} are not a {what} of this model")
        if self.phase == "image" and vocab.header_grid(self.ids) is None:
            raise ConfigError(f"{source}: a picture is due, but the ids do not end with its header")


def _check_shape(state: StoryState, source: str) -> None:
    bounds = [place for segment in state.segments for place in (segment.start, segment.stop)]
    frames = sum(segment.grid is not None for segment in state.segments)
    if (
        bounds != sorted(bounds)
        or any(segment.start == segment.stop for segment in state.segments)
        or (bounds and not 0 < bounds[0] <= bounds[-1] <= len(state.ids))
        or frames != state.frame_index
        or state.first_frame > state.frame_index
        or (state.phase == "done") != (state.reason is not None)
        or not state.ids
    ):
        raise ConfigError(f"{source}: the parts of the story contradict each other; the file is damaged")


def _segment(entry: object, source: str) -> Segment:
    if not isinstance(entry, dict):
        raise ConfigError(f"{source}: segments: expected objects, got {type(entry).__name__}")
    value = cast(dict[str, Any], entry)
    start, stop = _count(value, "start", source), _count(value, "stop", source)
    if "grid" not in value:
        return Segment(start=start, stop=stop)
    sides = _whole_numbers(value["grid"], f"{source}: grid")
    if len(sides) != 2 or not all(sides):
        raise ConfigError(f"{source}: grid: expected [rows, columns], got {list(sides)}")
    return Segment(start=start, stop=stop, grid=TokenGrid(*sides), seed=_count(value, "seed", source))


def _count(value: Mapping[str, Any], name: str, source: str) -> int:
    number = value.get(name)
    if not _is_count(number):
        raise ConfigError(f"{source}: {name}: expected a whole number from 0, got {number!r}")
    return cast(int, number)


def _whole_numbers(value: object, name: str) -> tuple[int, ...]:
    numbers = cast(Sequence[object], value) if isinstance(value, list) else [None]
    if not all(_is_count(number) for number in numbers):
        raise ConfigError(f"{name}: expected a list of whole numbers from 0")
    return tuple(cast(Sequence[int], numbers))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_SEED
