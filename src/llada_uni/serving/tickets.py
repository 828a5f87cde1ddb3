"""A request in the engine as its owner sees it: what is reported on the way, the result, and a way to give up."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llada_uni.errors import LladaUniError
from llada_uni.serving.work import Work

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Done", "Failed", "Preview", "Sink", "Ticket", "Wants"]

Sink = Callable[[Any], None]
"""Takes events, in the engine's thread; it must return at once and must not raise."""


@dataclass(frozen=True, kw_only=True)
class Wants:
    """What is reported beside the result.

    ``blocks``: ``Started``, ``BlockDone``, ``HeaderSeen``, ``Finished`` and ``ImageDone`` of a story. ``steps``: also
    ``StepDone`` and ``FlowStep``. ``previews``: so many :class:`Preview` of each picture.
    """

    blocks: bool = False
    steps: bool = False
    previews: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Preview:
    """Event: how a picture would look after ``step`` of ``num_steps`` evaluations of the decoder; ``index`` from 0."""

    row: int
    index: int
    step: int
    num_steps: int
    image: Image


@dataclass(frozen=True, kw_only=True)
class Done:
    """Event, the last of a request: its result."""

    row: int
    result: Any


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Event, the last of a request: why there is no result."""

    row: int
    error: LladaUniError


class Ticket:
    """One request under way. ``number`` is the row of its events.

    Without a ``sink`` events are kept: read them by :meth:`events`, or wait for :meth:`result`.
    """

    def __init__(
        self,
        number: int,
        work: Work,
        *,
        deadline: float,
        wants: Wants,
        sink: Sink | None,
        wake: Callable[[], None],
    ) -> None:
        self.number, self.work, self.deadline, self.wants = number, work, deadline, wants
        self.arrived = time.monotonic()
        self.cancelled = False
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._sink: Sink = self._events.put if sink is None else sink
        self._wake = wake

    def cancel(self) -> None:
        """Give up; everything it holds is free again before the next step. Harmless when it is done already."""
        self.cancelled = True
        self._wake()

    def tell(self, event: Any) -> None:
        """Report an event (called by the engine); with nobody there to hear it the request is given up."""
        try:
            self._sink(event)
        except RuntimeError:  # the event loop behind the sink has been closed
            self.cancelled = True

    def event(self, timeout: float | None = None) -> Any:
        """The next event, waiting for it up to ``timeout`` seconds (then :class:`queue.Empty` is raised)."""
        return self._events.get(timeout=timeout)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result, dropping other events.

        Raises:
            LladaUniError: the request failed. queue.Empty: nothing happened for ``timeout`` seconds.
        """
        while True:
            event = self.event(timeout)
            if isinstance(event, Done):
                return event.result
            if isinstance(event, Failed):
                raise event.error
