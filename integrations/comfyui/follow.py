"""Progress and previews in ComfyUI's window, from the events of the samplers. Without ComfyUI nothing is shown."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from llada_uni import LladaUni

PREVIEW_PX = 512


def follow(events: Iterable[Any], model: LladaUni, preview: str = "off", *, num_pictures: int = 1) -> Iterator[Any]:
    """The same events, while ComfyUI's bar for the running node moves; its cancel button takes effect between them.

    ``num_pictures``: how many the decoder will draw, if it does.

    ``preview``: "confidence" shows how sure the model was of every code that is committed, "picture" what the codes
    known so far look like (after every block) and the decoder's estimate (after every step), both of the first picture.
    """
    bar = _Bar(model, preview, num_pictures)
    for event in events:
        _stop_if_cancelled()
        bar.feed(event)
        yield event


def _stop_if_cancelled() -> None:
    management = sys.modules.get("comfy.model_management")
    if management is not None:
        management.throw_exception_if_processing_interrupted()


class _Bar:
    """Counts codes while they are written, blocks of a text, then steps of the decoder."""

    def __init__(self, model: LladaUni, preview: str, num_pictures: int) -> None:
        utilities = sys.modules.get("comfy.utils")
        self._make = None if utilities is None else utilities.ProgressBar
        self._bar: Any = None
        self._preview = preview
        self._num_pictures = num_pictures
        self._model = model
        self._canvas = model.canvas(0)
        self._open: dict[int, set[int]] = {}
        self._drawn: dict[int, int] = {}
        self._total = self._value = 0

    def feed(self, event: Any) -> None:
        from llada_uni.protocols import BlockDone, FlowStep, Started, StepDone

        if self._make is None:
            return
        self._canvas.feed(event)
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, StepDone) and event.row in self._open:
            self._value += len(self._open[event.row] & set(event.positions))
            self._show(event, "confidence")
        elif isinstance(event, BlockDone):
            self._value += 0 if event.row in self._open else 1
            self._show(event, "picture")
        elif isinstance(event, FlowStep):
            self._drawn[event.row] = event.index + 1
            self._value, self._total = sum(self._drawn.values()), event.num_steps * self._num_pictures
            self._show(event, "picture")

    def _start(self, event: Any) -> None:
        if event.grid is None:
            self._total += event.num_blocks
            return
        self._open[event.row] = set(range(event.grid.num_tokens)) - set(event.given)
        self._total += len(self._open[event.row])

    def _show(self, event: Any, kind: str) -> None:
        """Move the bar; of the first picture also show a preview where one of this ``kind`` is wanted."""
        assert self._make is not None
        if self._bar is None:
            self._bar = self._make(max(self._total, 1))
        picture = self._picture(event) if event.row == 0 and kind == self._preview else None
        shown = None if picture is None else ("JPEG", picture, PREVIEW_PX)
        self._bar.update_absolute(self._value, max(self._total, 1), shown)

    def _picture(self, event: Any) -> Image | None:
        from llada_uni.pipeline.film import heat_map
        from llada_uni.pipeline.preview import estimate_image
        from llada_uni.protocols import FlowStep

        if isinstance(event, FlowStep):
            return estimate_image(self._model.networks, event)
        if self._preview == "picture":
            return self._canvas.picture(decoder=quickest(self._model))
        snapshot = self._canvas.snapshot()
        return None if snapshot is None else heat_map(snapshot, self._model.geometry.cell_px)


def quickest(model: LladaUni) -> str:
    """The turbo decoder where the checkpoint has one."""
    from llada_uni import CheckpointError

    try:
        model.networks.require_decoder("turbo")
    except CheckpointError:
        return "normal"
    return "turbo"
