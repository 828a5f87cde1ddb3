"""One picture on its way from codes to pixels, one evaluation of the decoder at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from llada_uni.pipeline.preview import estimate_image
from llada_uni.pipeline.results import ImageDone, ImageResult
from llada_uni.pipeline.stations import Drawing, draw
from llada_uni.protocols import FlowStep
from llada_uni.serving.tickets import Preview, Wants

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["Easel", "Painter", "preview_steps"]


class Painter(Protocol):
    """Draws pictures somewhere else than in the engine's thread."""

    def paint(self, drawing: Drawing, row: int, wants: Wants, hear: Callable[[Any], None]) -> Callable[[], None]:
        """Begin at once and return; the answer gives the picture up and may be called at any time.

        ``hear`` is told, from any thread, the events that are wanted and then the ``ImageResult``, or the exception
        because of which there is none.
        """
        ...


class Easel:
    """Draws one picture; ``result`` is None until it is done. ``evaluations`` of the decoder so far."""

    def __init__(self, networks: Networks, drawing: Drawing, row: int, wants: Wants) -> None:
        self.result: ImageResult | None = None
        self.evaluations = 0
        self._networks, self._drawing, self._row, self._wants = networks, drawing, row, wants
        self._steps = draw(networks, torch.tensor([drawing.codes]), drawing.grid, [drawing.seed], drawing.settings)

    def work(self) -> list[Any]:
        """Do the next piece of work; returns the events that are wanted."""
        try:
            step = next(self._steps)
        except StopIteration as done:
            (image,) = done.value
            self.result = self._drawing.result(image, self._networks.name, {})
            return [ImageDone(row=self._row, result=self.result)] if self._wants.blocks else []
        self.evaluations += 1
        events: list[Any] = [replace(step, row=self._row)] if self._wants.steps else []
        return events + self._preview(step)

    def _preview(self, step: FlowStep) -> list[Preview]:
        places = preview_steps(step.num_steps, self._wants.previews)
        if step.index + 1 not in places:
            return []
        image = estimate_image(self._networks, step)
        finish = self._drawing.finish
        return [
            Preview(
                row=self._row,
                index=places.index(step.index + 1),
                step=step.index + 1,
                num_steps=step.num_steps,
                image=image if finish is None else finish(image),
            )
        ]


def preview_steps(num_steps: int, count: int) -> list[int]:
    """After how many evaluations previews are made: ``count`` of them, evenly spread, or as many as there are."""
    places = {round(num_steps * (place + 1) / (count + 1)) for place in range(count)}
    return sorted(place for place in places if 0 < place < num_steps)
