"""Requests of the engine as coroutines: prepare in a worker thread, submit, listen, and cancel when nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.types import Receive

from llada_uni.serving.engine import Engine
from llada_uni.serving.faults import Cancelled
from llada_uni.serving.limits import ServerSettings
from llada_uni.serving.replies import gone
from llada_uni.serving.tickets import Done, Failed, Sink, Ticket, Wants
from llada_uni.serving.work import Work

__all__ = ["Heard", "Service", "Submitted", "results"]

T = TypeVar("T")
_BEAT_S = 15.0
_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Heard:
    """An event of the request's ``place``-th work; ``event`` is None when nothing has happened for a while."""

    place: int = 0
    event: Any = None


class Service:
    """What the routes share: the engine, the settings, and a few threads for pictures and prompts."""

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self.engine, self.settings = engine, settings
        self._limiter: CapacityLimiter | None = None

    async def aside(self, work: Callable[[], T]) -> T:
        """Do something that takes a while without holding other requests up."""
        if self._limiter is None:
            self._limiter = CapacityLimiter(_THREADS)
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


class Submitted:
    """Works under way together, and what is heard of them.

    Raises:
        Busy, Draining, ConfigError: as ``Engine.submit``.
    """

    def __init__(self, engine: Engine, works: Sequence[Work], wants: Wants, deadline_s: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[Heard] = asyncio.Queue()
        sinks: list[Sink] = [partial(self._hear, place) for place in range(len(works))]
        self._tickets: list[Ticket] = engine.submit(works, wants=wants, sinks=sinks, deadline_s=deadline_s)

    def cancel(self) -> None:
        """Give up what is not done."""
        for ticket in self._tickets:
            ticket.cancel()

    async def events(self) -> AsyncGenerator[Heard, None]:
        """Everything that happens, until every work is done or one has failed.

        Raises:
            LladaUniError: one has failed; the others are given up.
        """
        waiting = len(self._tickets)
        while waiting:
            try:
                heard = await asyncio.wait_for(self._heard.get(), _BEAT_S)
            except TimeoutError:
                yield Heard()
                continue
            if isinstance(heard.event, Failed):
                self.cancel()
                raise heard.event.error
            waiting -= isinstance(heard.event, Done)
            yield heard

    def _hear(self, place: int, event: Any) -> None:
        self._loop.call_soon_threadsafe(self._heard.put_nowait, Heard(place=place, event=event))


async def results(receive: Receive, engine: Engine, works: Sequence[Work], deadline_s: float | None) -> list[Any]:
    """The results of all works.

    Raises:
        Cancelled: the client has left; LladaUniError: as ``Engine.submit`` and of what failed.
    """
    submitted = Submitted(engine, works, Wants(), deadline_s)
    try:
        return await _unless_gone(receive, _collected(submitted, len(works)))
    finally:
        submitted.cancel()


async def _collected(submitted: Submitted, count: int) -> list[Any]:
    done: dict[int, Any] = {}
    async for heard in submitted.events():
        if isinstance(heard.event, Done):
            done[heard.place] = heard.event.result
    return [done[place] for place in range(count)]


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    task, left = asyncio.create_task(work), asyncio.create_task(gone(receive))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Cancelled("the client has left")
    finally:
        for one in (task, left):
            one.cancel()
        await asyncio.gather(task, left, return_exceptions=True)
