"""Quick pictures of half-written codes, drawn by the engine like any other request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llada_uni.grid import TokenGrid
from llada_uni.pipeline.preview import PREVIEW_STEPS, nearest_known
from llada_uni.pipeline.settings import decode_settings
from llada_uni.pipeline.stations import Drawing
from llada_uni.serving.engine import Engine
from llada_uni.serving.faults import Busy
from llada_uni.serving.tickets import Done, Failed, Ticket
from llada_uni.serving.work import Plot, Work
from llada_uni.ui.fields import has_decoder

if TYPE_CHECKING:
    from PIL.Image import Image

    from llada_uni.pipeline.networks import Networks

__all__ = ["Sketcher", "sketch_work"]

_PAUSE = 2.0


def sketch_work(networks: Networks, codes: Sequence[int | None], grid: TokenGrid, seed: int) -> Work:
    """A picture of the codes that are known, the nearest one standing in for every open cell.

    At least one must be known. The turbo decoder draws it, where there is one.
    """
    presets = networks.package.presets
    decoder = "turbo" if has_decoder(networks, "turbo") else presets.decoder
    settings = decode_settings(presets, decoder, PREVIEW_STEPS)
    drawing = Drawing(codes=tuple(nearest_known(codes, grid)), grid=grid, seed=seed, settings=settings)

    def plot() -> Plot:
        return (yield drawing)

    return Work(
        pictures=(),
        plot=lambda _: plot(),
        num_branches=1,
        num_tokens=grid.num_tokens,
        prompt_tokens=0,
        picture_tokens=0,
        writes_pictures=True,
    )


class Sketcher:
    """At most one sketch at a time, with a pause twice as long after it, so that the picture itself hardly waits.

    ``take`` gives each that is finished once. Made and used inside an event loop.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._loop = engine, asyncio.get_running_loop()
        self._ticket: Ticket | None = None
        self._step = 0
        self._began = self._next = time.monotonic()
        self._made: tuple[int, Image] | None = None

    def offer(self, codes: Sequence[int | None] | None, grid: Sequence[int] | None, step: int, seed: int) -> None:
        """Begin a sketch of what is known after ``step``, unless one is under way or nothing is known.

        A busy engine makes no sketches.
        """
        nothing = codes is None or grid is None or all(code is None for code in codes)
        if nothing or self._ticket is not None or time.monotonic() < self._next:
            return
        assert codes is not None
        assert grid is not None
        work = sketch_work(self._engine.networks, codes, TokenGrid(grid[0], grid[1]), seed)
        try:
            (self._ticket,) = self._engine.submit([work], sinks=[self._hear])
        except Busy:
            return
        self._step, self._began = step, time.monotonic()

    def take(self) -> tuple[int, Image] | None:
        """The last finished sketch and its step, if it has not been taken yet."""
        made, self._made = self._made, None
        return made

    def stop(self) -> None:
        """Give up what is under way."""
        if self._ticket is not None:
            self._ticket.cancel()

    def _hear(self, event: Any) -> None:
        self._loop.call_soon_threadsafe(self._done, event)

    def _done(self, event: Any) -> None:
        if isinstance(event, Done):
            self._made = (self._step, event.result.image)
        if isinstance(event, (Done, Failed)):
            now = time.monotonic()
            self._ticket, self._next = None, now + _PAUSE * (now - self._began)
