"""What a story is handed back as, and the two forms it is saved in: Markdown with PNGs, and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llada_uni.errors import ConfigError, ResourceError
from llada_uni.pipeline.files import write_atomic
from llada_uni.pipeline.results import ImageResult
from llada_uni.pipeline.story_page import html_page, markdown_page

if TYPE_CHECKING:
    from PIL.Image import Image

    from llada_uni.sampling.story_state import StoryState

__all__ = ["FramePreview", "StoryDone", "StoryResult", "StoryTurn", "check_story_directory", "check_story_page"]

STORY_FILE, STATE_FILE = "story.md", "state.json"


@dataclass(frozen=True, kw_only=True)
class StoryTurn:
    """What the user said (None: nothing, the model wrote on), with the pictures as the model saw them, and the answer.

    ``segments``: texts and pictures in the order they were written. A picture's ``prompt`` is the text right before it.
    """

    prompt: str | None
    images: tuple[Image, ...] = ()
    segments: tuple[str | ImageResult, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StoryResult:
    """What one call wrote of a story; ``first + second`` joins a call and the one that went on from it.

    ``finish_reason``: "stop" (the model ended it), "max_frames", "length" (a text block reached ``max_new_tokens``),
    "context" (no room left), or a mistake of the model that ended it: "bad_header", "bad_grid", "bad_ids".
    ``state``: what ``continue_from`` takes. ``usage`` counts this call: tokens, frames, steps, backbone calls.
    """

    turns: tuple[StoryTurn, ...]
    state: StoryState
    seed: int
    model: str
    finish_reason: str
    settings: Mapping[str, Any]
    timings: Mapping[str, float]
    usage: Mapping[str, int] = field(default_factory=dict)

    @property
    def segments(self) -> tuple[str | ImageResult, ...]:
        """Texts and pictures of all turns, in order."""
        return tuple(segment for turn in self.turns for segment in turn.segments)

    @property
    def text(self) -> str:
        """The texts alone, one paragraph each."""
        return "\n\n".join(segment for segment in self.segments if isinstance(segment, str))

    @property
    def images(self) -> tuple[ImageResult, ...]:
        """The pictures alone."""
        return tuple(segment for segment in self.segments if isinstance(segment, ImageResult))

    def __add__(self, later: StoryResult) -> StoryResult:
        """Both calls as one; a turn without a prompt goes on with the turn before it.

        Raises:
            ConfigError: ``later`` does not go on where this one ended.
        """
        if later.state.ids[: len(self.state.ids)] != self.state.ids:
            raise ConfigError("these two results are not one story: the second does not go on where the first ended")
        turns, more = self.turns, later.turns
        if more[0].prompt is None:
            joined = replace(turns[-1], segments=turns[-1].segments + more[0].segments)
            turns, more = (*turns[:-1], joined), more[1:]
        timings = {name: round(value, 4) for name, value in _sum(self.timings, later.timings).items()}
        usage = _sum(self.usage, later.usage)
        usage["total_tokens"] = later.usage["total_tokens"]
        usage["prompt_tokens"] = usage["total_tokens"] - usage["output_tokens"]
        return replace(later, turns=(*turns, *more), timings=timings, usage=usage)

    def save(self, directory: str | Path) -> Path:
        """Write ``story.md``, ``frame-1.png``, ... and ``state.json`` to a directory, completely or not at all.

        A directory is replaced only when it is empty or holds nothing but a story.

        Raises:
            ResourceError: the directory is something else, cannot be written, or the disk is full.
        """
        from llada_uni.weights.files import replacing, write_files

        target = check_story_directory(Path(directory)).resolve()
        with replacing(target) as temporary:
            write_files(temporary, {name: _writer(data) for name, data in self._files().items()})
        return Path(directory)

    def save_html(self, path: str | Path) -> Path:
        """Write one page with everything in it (.html), completely or not at all.

        Raises:
            ConfigError: another ending. ResourceError: the directory is missing, not writable, or full.
        """
        path = check_story_page(Path(path))
        write_atomic(path, self.html().encode("utf-8"))
        return path

    def html(self) -> str:
        """The page of :meth:`save_html`."""
        return html_page(self)

    def markdown(self) -> str:
        """The text of ``story.md``."""
        return markdown_page(self)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pixels, ready for JSON."""
        return {
            "turns": [
                {
                    "prompt": turn.prompt,
                    "images": len(turn.images),
                    "segments": [_segment_dict(segment) for segment in turn.segments],
                }
                for turn in self.turns
            ],
            "finish_reason": self.finish_reason,
            "seed": self.seed,
            "model": self.model,
            "settings": dict(self.settings),
            "timings": dict(self.timings),
            "usage": dict(self.usage),
            "state": self.state.as_dict(),
        }

    def _files(self) -> dict[str, bytes]:
        from io import BytesIO

        files = {STORY_FILE: self.markdown().encode("utf-8")}
        for number, picture in enumerate((image for turn in self.turns for image in turn.images), 1):
            buffer = BytesIO()
            picture.save(buffer, "PNG")
            files[f"input-{number}.png"] = buffer.getvalue()
        for number, frame in enumerate(self.images, 1):
            files[f"frame-{number}.png"] = frame.png_bytes()
        return files | {STATE_FILE: (json.dumps(self.state.as_dict()) + "\n").encode()}


@dataclass(frozen=True)
class FramePreview:
    """Event: how frame ``frame`` (from 0) of story ``row`` would look after ``index + 1`` of ``num_steps`` steps."""

    row: int
    frame: int
    index: int
    num_steps: int
    image: Image


@dataclass(frozen=True)
class StoryDone:
    """Event: story ``row`` of the request has ended."""

    row: int
    result: StoryResult


def check_story_page(path: Path) -> Path:
    """``path`` if it is a name for a page.

    Raises:
        ConfigError: another ending than .html or .htm.
    """
    if path.suffix.lower() not in (".html", ".htm") and not (path.exists() and not path.is_file()):
        raise ConfigError(f"{path}: expected a name ending in .html, got {path.suffix or 'no ending'}")
    return path


def check_story_directory(path: Path) -> Path:
    """``path`` if a story may be written there.

    Raises:
        ResourceError: it is a file, lies in a missing directory, or holds something else than a story.
    """
    if path.exists() and not path.is_dir():
        raise ResourceError(f"{path} is a file; expected a directory for the story, or a name ending in .html")
    if not path.resolve().parent.is_dir():
        raise ResourceError(f"the directory {str(path.parent)!r} does not exist; create it first")
    others = [] if not path.exists() else [found.name for found in path.iterdir() if not _is_ours(found)]
    if others:
        raise ResourceError(f"{path} holds other files ({min(others)}); expected a new or empty directory")
    return path


def _writer(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


def _is_ours(path: Path) -> bool:
    stem, _, number = path.stem.partition("-")
    numbered = path.suffix == ".png" and stem in ("frame", "input") and number.isdigit()
    return path.is_file() and (numbered or path.name in (STORY_FILE, STATE_FILE))


def _segment_dict(segment: str | ImageResult) -> dict[str, Any]:
    if isinstance(segment, str):
        return {"type": "text", "text": segment}
    return {"type": "image"} | segment.as_dict()


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in (*one, *(key for key in other if key not in one))}
