"""An animated picture of how a picture is made: tokens being committed, their confidences, the decoder's steps.

Needs Pillow only. What a frame shows is collected while the picture is made; frames are drawn when it is finished,
because a token is shown in the mean colour that its cell has in the finished picture.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from llada_uni.errors import ConfigError, ImageError
from llada_uni.grid import TokenGrid
from llada_uni.pipeline.files import write_atomic
from llada_uni.pipeline.preview import Canvas, Snapshot, checker, estimate_image
from llada_uni.pipeline.results import ImageDone
from llada_uni.protocols import FlowStep

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["MAX_FRAMES", "Film", "film_kind", "heat_map"]

T = TypeVar("T")

MAX_FRAMES = 48
"""A film has at most this many frames; of a longer story some are left out, evenly."""

_KINDS = {".gif": "GIF", ".webp": "WEBP"}
_FLOW_SHARE = 3
_PANEL_PX, _GAP_PX, _STRIP_PX = 256, 8, 24
_TOKEN_MS, _FLOW_MS, _LAST_MS = 120, 160, 2500
_PAPER, _INK, _GIVEN = (216, 219, 224), (32, 32, 32), (240, 243, 247)
_RAMP = np.array([(48, 18, 92), (150, 44, 122), (226, 92, 84), (250, 170, 70), (252, 240, 150)], dtype=np.float32)


def film_kind(path: Path) -> str:
    """Pillow's name of the animated format that the ending of ``path`` asks for.

    Raises:
        ImageError: an ending no film is written with.
    """
    kind = _KINDS.get(path.suffix.lower())
    if kind is None and path.exists() and not path.is_file():
        return "GIF"
    if kind is None:
        raise ImageError(
            f"{path}: expected the name of a film ending in {' or '.join(_KINDS)}, got {path.suffix or 'no ending'}"
        )
    return kind


class Film:
    """Follows one row of a stream, then draws it.

    Pass the events through :meth:`watch` (granularity "step"). Of a row with several pictures the last one is shown.
    """

    def __init__(self, networks: Networks, row: int = 0) -> None:
        self._networks = networks
        self._canvas = Canvas(networks, row)
        self._tokens: list[Snapshot] = []
        self._steps: list[FlowStep] = []
        self._result: Image.Image | None = None

    def watch(self, events: Iterable[T]) -> Iterator[T]:
        """The same events, taken note of."""
        for event in events:
            self.feed(event)
            yield event

    def feed(self, event: Any) -> None:
        """Take note of one event."""
        changed = self._canvas.feed(event)
        snapshot = self._canvas.snapshot()
        if not changed or snapshot is None:
            return
        if isinstance(event, FlowStep):
            self._steps.append(replace(event, data_estimate=event.data_estimate.cpu()))
        elif isinstance(event, ImageDone):
            self._result = event.result.image
        else:
            if self._steps or self._result is not None:
                self._tokens, self._steps, self._result = [], [], None
            self._tokens.append(snapshot)

    def frames(self) -> list[tuple[Image.Image, int]]:
        """RGB frames of one size and how long each is shown, in milliseconds.

        Raises:
            ConfigError: the events told of no finished picture.
        """
        if self._result is None or not self._tokens:
            raise ConfigError("a film needs the events of one finished picture, from its start on")
        painter = _Painter(self._tokens[-1].grid, self._result)
        steps = _thinned(self._steps, MAX_FRAMES // _FLOW_SHARE)
        tokens = _thinned(self._tokens, MAX_FRAMES - len(steps) - 1)
        last = tokens[-1]
        shown = [(painter.tokens(snapshot), _TOKEN_MS) for snapshot in tokens]
        for step in steps:
            estimate = estimate_image(self._networks, step)
            caption = f"decoder step  {step.index + 1} of {step.num_steps}"
            shown.append((painter.frame(estimate, last, caption), _FLOW_MS))
        return [*shown, (painter.frame(self._result, last, "finished"), _LAST_MS)]

    def save(self, path: str | Path) -> Path:
        """Write the film to ``path`` (.gif or .webp), completely or not at all.

        Raises:
            ImageError: another ending. ConfigError: there is nothing to show.
            ResourceError: the directory is missing, not writable, or full.
        """
        path = Path(path)
        kind = film_kind(path)
        frames, durations = zip(*self.frames(), strict=True)
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=list(frames[1:]), duration=list(durations), loop=0)
        write_atomic(path, buffer.getvalue())
        return path


class _Painter:
    """Draws frames: the picture on the left, the confidences on the right, a line of text below each."""

    def __init__(self, grid: TokenGrid, result: Image.Image) -> None:
        self._grid = grid
        self._cell = max(1, _PANEL_PX // max(grid.grid_h, grid.grid_w))
        self._panel = self._cell * grid.grid_w, self._cell * grid.grid_h
        self._colours = result.resize((grid.grid_w, grid.grid_h), Image.Resampling.BOX)
        self._font = ImageFont.load_default(12)

    def tokens(self, snapshot: Snapshot) -> Image.Image:
        """A frame of the first part: known cells as flat colours, open ones as a checker."""
        known = [code is not None for code in snapshot.codes]
        mosaic = _covered(self._colours, known, self._grid, self._cell)
        return self.frame(mosaic, snapshot, f"tokens  {snapshot.num_known} of {len(known)}")

    def frame(self, left: Image.Image, snapshot: Snapshot, caption: str) -> Image.Image:
        """One frame; ``left`` is brought to the size of its panel."""
        width, height = self._panel
        image = Image.new("RGB", (2 * width + 3 * _GAP_PX, height + _GAP_PX + _STRIP_PX), _PAPER)
        image.paste(left.resize(self._panel, Image.Resampling.LANCZOS), (_GAP_PX, _GAP_PX))
        image.paste(heat_map(snapshot, self._cell), (width + 2 * _GAP_PX, _GAP_PX))
        pen = ImageDraw.Draw(image)
        base = height + _GAP_PX + 4
        pen.text((_GAP_PX, base), caption, fill=_INK, font=self._font)
        self._legend(image, pen, width + 2 * _GAP_PX, base)
        return image

    def _legend(self, image: Image.Image, pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
        """``confidence  0 [ramp] 1``, as far as there is room."""
        words = "confidence  0"
        start = left + int(pen.textlength(words, font=self._font)) + 4
        room = left + self._panel[0] - start - 12
        pen.text((left, top), words, fill=_INK, font=self._font)
        if room > 8:
            ramp = np.repeat(_heat(np.linspace(0, 1, room))[None], 8, axis=0)
            image.paste(Image.fromarray(ramp), (start, top + 4))
            pen.text((start + room + 4, top), "1", fill=_INK, font=self._font)


def heat_map(snapshot: Snapshot, cell_px: int) -> Image.Image:
    """Confidences as colours, dark = 0 to bright = 1; open cells a checker, given ones and unknown numbers pale."""
    known = [code is not None for code in snapshot.codes]
    numbers = np.array([np.nan if value is None else value for value in snapshot.confidence], dtype=np.float32)
    colours = _heat(np.nan_to_num(numbers))
    colours[np.isnan(numbers)] = _GIVEN
    shape = (snapshot.grid.grid_h, snapshot.grid.grid_w, 3)
    return _covered(Image.fromarray(colours.reshape(shape)), known, snapshot.grid, cell_px)


def _covered(colours: Image.Image, known: Sequence[bool], grid: TokenGrid, cell_px: int) -> Image.Image:
    """One colour per cell, a checker over the cells that are not known."""
    size = cell_px * grid.grid_w, cell_px * grid.grid_h
    mask = Image.fromarray(np.where(known, 255, 0).astype(np.uint8).reshape(grid.grid_h, grid.grid_w))
    image = checker(grid, cell_px)
    image.paste(colours.resize(size, Image.Resampling.NEAREST), (0, 0), mask.resize(size, Image.Resampling.NEAREST))
    return image


def _heat(values: np.ndarray) -> np.ndarray:
    """Numbers [N] from 0 to 1 -> colours uint8 [N, 3]."""
    places = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(values, places, _RAMP[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def _thinned(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of the items, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]
