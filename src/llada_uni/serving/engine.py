"""The engine: one thread that owns the model and carries out any number of requests together.

Between two backbone steps requests are admitted or dropped, so that text blocks, picture blocks and guidance branches
of different requests share steps through the row contract; no result depends on what else is there. The image tokenizer
and the pixel decoder work in turns of one picture or one evaluation, never holding words up for longer.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llada_uni.backbone.denoiser import CachedDenoiser
from llada_uni.errors import ConfigError
from llada_uni.pipeline.results import ImageResult
from llada_uni.pipeline.stations import Drawing, read
from llada_uni.protocols import BranchKey, Finished, Request, StepDone, TextDelta
from llada_uni.sampling.block_sampler import advance, plan, prefill, start
from llada_uni.sampling.rows import Row
from llada_uni.sampling.sprint import thin
from llada_uni.serving.drawing import Easel, Painter
from llada_uni.serving.faults import Busy, Cancelled, DeadlineError, Draining, EngineFault, as_fault
from llada_uni.serving.lanes import LANES, Balance, EngineSettings, Lane, compose, has_room
from llada_uni.serving.tickets import Done, Failed, Sink, Ticket, Wants
from llada_uni.serving.work import Plot, Work

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["Engine", "EngineStatus"]

_log = logging.getLogger("llada_uni.serving")
_BRANCHES = range(3)
_IDLE_S = 0.5
_EVALUATIONS_IN_A_ROW = 10


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """A look at the engine: requests by what they wait for, branches in use, and totals since it started."""

    alive: bool
    draining: bool
    requests: int
    waiting: int
    reading: int
    rows: int
    drawing: int
    branches: int
    cached_bytes: int
    totals: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class _News:
    """What a painter says about a request's picture."""

    ticket: Ticket
    event: Any


class Engine:
    """Carries out requests; made once per process. Use as a context manager, or :meth:`start` and :meth:`close`.

    A ``painter`` draws the pictures elsewhere; without one they are drawn here.

    :meth:`submit`, :meth:`status` and the tickets may be used from any thread; the networks belong to the engine's.
    """

    def __init__(
        self,
        networks: Networks,
        settings: EngineSettings | None = None,
        *,
        show_errors: bool = False,
        painter: Painter | None = None,
    ) -> None:
        self.networks = networks
        if networks.keeping.staged:
            raise ConfigError("a server needs all networks at any time; open the model with together=True")
        self.settings = EngineSettings.on(networks.device.type) if settings is None else settings
        self._show_errors = show_errors
        self._painter = painter
        self._away: dict[int, Callable[[], None]] = {}
        self._thread = threading.Thread(target=self._run, name="llada-uni-engine", daemon=True)
        self._ready = threading.Event()
        self._broken: BaseException | None = None
        self._lock = threading.RLock()
        self._count, self._next_number = 0, 0
        self._closing: float | None = None
        self._inbox: queue.SimpleQueue[Ticket | _News | None] = queue.SimpleQueue()
        self._live: dict[int, Ticket] = {}
        self._plots: dict[int, Plot] = {}
        self._reading: deque[Ticket] = deque()
        self._waiting: dict[Lane, deque[Ticket]] = {lane: deque() for lane in LANES}
        self._fresh: list[tuple[Ticket, Request]] = []
        self._rows: list[Row] = []
        self._easels: deque[tuple[Ticket, Easel]] = deque()
        self._held: dict[int, tuple[Lane, int]] = {}
        self._balance = Balance(self.settings.words_share)
        self._read_last = False
        self._totals: Counter[str] = Counter()
        self._denoiser: CachedDenoiser | None = None
        self._pace_s, self._last_done = 1.0, time.monotonic()

    # From any thread

    def start(self) -> Engine:
        """Load the networks and begin; returns when requests can be carried out.

        Raises:
            CheckpointError, ResourceError: a network cannot be loaded.
        """
        self._thread.start()
        self._ready.wait()
        if self._broken is not None:
            raise self._broken
        return self

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close(0)

    def submit(
        self,
        works: Sequence[Work],
        *,
        wants: Wants | None = None,
        sinks: Sequence[Sink] | None = None,
        deadline_s: float | None = None,
    ) -> list[Ticket]:
        """Take on requests, all or none; ``sinks[n]`` is told what happens to ``works[n]``.

        Raises:
            Busy: too many requests already. Draining: the engine is closing. EngineFault: it is not alive.
            ConfigError: more at once than the engine ever takes.
        """
        most = self.settings.max_requests
        if len(works) > most:
            raise ConfigError(f"expected at most {most} results of one request, got {len(works)}")
        own = self.settings.deadline_s
        deadline = time.monotonic() + (own if deadline_s is None else min(deadline_s, own))
        with self._lock:
            self._check_open(len(works))
            first, self._next_number = self._next_number, self._next_number + len(works)
            self._count += len(works)
            tickets = [
                Ticket(
                    first + place,
                    work,
                    deadline=deadline,
                    wants=wants or Wants(),
                    sink=None if sinks is None else sinks[place],
                    wake=self._wake,
                )
                for place, work in enumerate(works)
            ]
            for ticket in tickets:
                self._inbox.put(ticket)
        return tickets

    def drain(self) -> None:
        """Take on nothing new from now on; what is under way goes on."""
        self.close_at(math.inf)

    def close_at(self, moment: float) -> None:
        """Take on nothing new, and end what is not done at ``moment`` (of ``time.monotonic``)."""
        with self._lock:
            self._closing = moment
        self._wake()

    def close(self, patience_s: float = 30.0) -> None:
        """Finish what is under way, for at most ``patience_s`` seconds, then end the thread."""
        self.close_at(time.monotonic() + patience_s)
        if self._thread.is_alive():
            self._thread.join(patience_s + 60)

    def status(self) -> EngineStatus:
        """How things are at this moment."""
        return EngineStatus(
            alive=self._thread.is_alive() and self._broken is None,
            draining=self._closing is not None,
            requests=self._count,
            waiting=sum(len(line) for line in self._waiting.values()),
            reading=len(self._reading),
            rows=len(self._rows),
            drawing=len(self._easels) + len(self._away),
            branches=sum(count for _, count in list(self._held.values())),
            cached_bytes=self._totals["cached_bytes"],
            totals=dict(self._totals),
        )

    def _check_open(self, wanted: int) -> None:
        if self._broken is not None or not self._thread.is_alive():
            raise EngineFault("the engine of this server has stopped; restart the server")
        if self._closing is not None:
            raise Draining("the server is shutting down and takes no new requests")
        if self._count + wanted > self.settings.max_requests:
            self._totals["refused"] += wanted
            wait = max(1, min(60, math.ceil(self._pace_s * max(1, self._count // 4))))
            raise Busy(
                f"the server has {self._count} requests, at most {self.settings.max_requests} are taken; "
                f"try again in about {wait} s",
                wait,
            )

    def _wake(self) -> None:
        self._inbox.put(None)

    # The engine's thread

    def _run(self) -> None:
        try:
            self._load()
            self._ready.set()
            while not self._finished():
                if not self._turn():
                    self._collect(_IDLE_S)
        except BaseException as error:  # whatever ends this thread must reach those who wait for it
            self._broken = error
            self._report(error)
        finally:
            self._ready.set()
            self._end()

    def _load(self) -> None:
        """Every network that is used here, so that no request waits for one."""
        networks = self.networks
        self._denoiser = CachedDenoiser(networks.backbone)
        _ = networks.image_tokenizer
        if self._painter is not None:
            return
        _ = networks.semantic_embedder, networks.vae
        networks.decoder(networks.package.presets.decoder)

    def _finished(self) -> bool:
        with self._lock:
            return self._closing is not None and (self._count == 0 or time.monotonic() >= self._closing)

    def _end(self) -> None:
        self._collect(0)
        for ticket in list(self._live.values()):
            lost = Draining("the server was shut down before this request was done")
            self._fail(ticket, lost if self._broken is None else EngineFault("the engine of this server has stopped"))

    def _turn(self) -> bool:
        """One backbone step, or one picture read, or one evaluation of the decoder; False if there is nothing to do."""
        self._collect(0)
        self._drop_lost()
        self._admit()
        self._open_fresh()
        backbone, pixels = bool(self._rows), bool(self._reading or self._easels)
        what = self._balance.pick(backbone=backbone, pixels=pixels)
        if what is None:
            return bool(self._fresh) or any(self._waiting.values())
        words = any(row.request.grid is None for row in self._rows)
        began = time.perf_counter()
        (self._step if what == "backbone" else self._pixels)()
        self._balance.spend(what, time.perf_counter() - began, words=words)
        return True

    def _collect(self, timeout: float) -> None:
        """Take in what has arrived, waiting up to ``timeout`` seconds for the first."""
        try:
            ticket = self._inbox.get(timeout=timeout) if timeout else self._inbox.get_nowait()
            while True:
                if isinstance(ticket, _News):
                    self._painted(ticket)
                elif ticket is not None:
                    self._live[ticket.number] = ticket
                    (self._reading if ticket.work.pictures else self._line(ticket)).append(ticket)
                ticket = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _painted(self, news: _News) -> None:
        """Something is heard of a picture that is drawn elsewhere."""
        ticket, event = news.ticket, news.event
        if ticket.number not in self._live:
            return
        if isinstance(event, BaseException):
            self._fail(ticket, event)
        elif isinstance(event, ImageResult):
            self._away.pop(ticket.number, None)
            self._totals["pictures_drawn"] += 1
            self._go_on(ticket, event)
        else:
            ticket.tell(event)

    def _line(self, ticket: Ticket) -> deque[Ticket]:
        return self._waiting[ticket.work.lane(self.settings.short_tokens)]

    def _drop_lost(self) -> None:
        """Free what belongs to requests whose owner has left or whose time is over."""
        now = time.monotonic()
        for ticket in [one for one in self._live.values() if one.cancelled or one.deadline <= now]:
            lost = Cancelled("the client has left") if ticket.cancelled else _late(ticket)
            self._fail(ticket, lost)

    def _admit(self) -> None:
        """Begin requests for which there is room, a few at a time, each lane in its order of arrival."""
        room = self.settings.admit_at_once - len(self._fresh)
        for lane in LANES:
            line = self._waiting[lane]
            while room > 0 and line and has_room(lane, line[0].work.num_branches, self._used(), self.settings):
                ticket, room = line.popleft(), room - 1
                self._held[ticket.number] = (lane, ticket.work.num_branches)
                self._begin(ticket, ())

    def _used(self) -> Counter[Lane]:
        used: Counter[Lane] = Counter()
        for lane, count in self._held.values():
            used[lane] += count
        return used

    def _begin(self, ticket: Ticket, codes: Any) -> None:
        with self._answering(ticket):
            plot = self._plots.get(ticket.number)
            if plot is None:
                plot = self._plots[ticket.number] = ticket.work.plot(codes)
            self._want(ticket, next(plot))

    def _open_fresh(self) -> None:
        """Rows of new requests; the denoiser reads their prompts."""
        assert self._denoiser is not None
        fresh, self._fresh = self._fresh, []
        rows: list[Row] = []
        for ticket, request in fresh:
            if ticket.number not in self._live:
                continue
            with self._answering(ticket):
                opened, events = start([request], first_number=ticket.number)
                rows += opened
                for event in events:
                    self._happened(event)
        try:
            self._rows = sorted(self._rows + prefill(rows, self._denoiser), key=lambda row: row.number)
        except Exception as error:  # of the model, for all of these prompts
            self._fail_rows(rows, error)

    def _step(self) -> None:
        """One backbone step of the rows whose turn it is."""
        assert self._denoiser is not None
        chosen = compose(self._rows, self.settings)
        stepwise = any(self._live[row.number].wants.steps for row in chosen)
        try:
            began = time.perf_counter()
            thin(chosen, self._denoiser)
            logits = self._denoiser.step(plan(chosen))
            elapsed = time.perf_counter() - began
            alive, events = advance(chosen, logits, elapsed=elapsed, granularity="step" if stepwise else "block")
        except Exception as error:  # of the model, for all rows of the step
            self._fail_rows(chosen, error)
            return
        self._totals["backbone_steps"] += 1
        self._totals["backbone_branches"] += sum(len(row.prompts) for row in chosen)
        going, stepped = {row.number: row for row in alive}, {row.number for row in chosen}
        self._rows = [
            going.get(row.number, row) for row in self._rows if row.number not in stepped or row.number in going
        ]
        for event in events:
            self._happened(event)

    def _happened(self, event: Any) -> None:
        """Report an event of the sampler, and go on with a request that is finished."""
        ticket = self._live.get(event.row)
        if ticket is None:
            return
        fine = isinstance(event, (StepDone, TextDelta))
        if ticket.wants.steps or (ticket.wants.blocks and not fine):
            ticket.tell(event)
        if isinstance(event, Finished):
            self._totals["output_tokens"] += event.usage.output_tokens
            self._totals["prompt_tokens"] += event.usage.prompt_tokens
            self._go_on(ticket, event)

    def _go_on(self, ticket: Ticket, value: Any) -> None:
        with self._answering(ticket):
            try:
                wanted = self._plots[ticket.number].send(value)
            except StopIteration as stop:
                self._finish(ticket, stop.value)
                return
            self._want(ticket, wanted)

    def _want(self, ticket: Ticket, wanted: Request | Drawing) -> None:
        """A plot asks for ids or for pixels; what it cannot need any more is released."""
        story = ticket.work.is_story
        self._release(ticket, first=1 if story else 0)
        if isinstance(wanted, Request):
            self._fresh.append((ticket, wanted))
            return
        if not story:
            self._held.pop(ticket.number, None)
        if self._painter is not None:

            def hear(event: Any) -> None:
                self._inbox.put(_News(ticket=ticket, event=event))

            self._away[ticket.number] = self._painter.paint(wanted, ticket.number, ticket.wants, hear)
            return
        self._easels.append((ticket, Easel(self.networks, wanted, ticket.number, ticket.wants)))

    def _pixels(self) -> None:
        """Read the pictures of one request, or do one evaluation of the decoder for one picture."""
        self._read_last = bool(self._reading) and not (self._read_last and self._easels)
        if self._read_last:
            ticket = self._reading.popleft()
            with self._answering(ticket):
                (codes,) = read(self.networks, [ticket.work.pictures])
                self._totals["pictures_read"] += len(codes)
                self._plots[ticket.number] = ticket.work.plot(codes)
                self._line(ticket).append(ticket)
            return
        ticket, easel = self._easels[0]
        with self._answering(ticket):
            self._totals["decoder_evaluations"] += 1
            for event in easel.work():
                ticket.tell(event)
            if easel.result is None:
                if easel.evaluations % _EVALUATIONS_IN_A_ROW == 0:
                    self._easels.rotate(-1)
            else:
                self._easels.popleft()
                self._totals["pictures_drawn"] += 1
                self._go_on(ticket, easel.result)

    def _finish(self, ticket: Ticket, result: Any) -> None:
        total = time.monotonic() - ticket.arrived
        self._forget(ticket, "finished")
        ticket.tell(Done(row=ticket.number, result=replace(result, timings={"total": round(total, 4)})))

    def _fail(self, ticket: Ticket, error: BaseException) -> None:
        fault = as_fault(error)
        if fault is not error:
            self._report(error)
        self._forget(ticket, type(fault).__name__)
        ticket.tell(Failed(row=ticket.number, error=fault))

    def _fail_rows(self, rows: Sequence[Row], error: BaseException) -> None:
        for row in rows:
            if row.number in self._live:
                self._fail(self._live[row.number], error)

    def _forget(self, ticket: Ticket, outcome: str) -> None:
        """Free everything a request holds."""
        number = ticket.number
        if self._live.pop(number, None) is None:
            return
        plot = self._plots.pop(number, None)
        if plot is not None:
            plot.close()
        self._held.pop(number, None)
        self._away.pop(number, lambda: None)()
        self._rows = [row for row in self._rows if row.number != number]
        self._fresh = [pair for pair in self._fresh if pair[0] is not ticket]
        self._easels = deque(pair for pair in self._easels if pair[0] is not ticket)
        for line in (self._reading, *self._waiting.values()):
            if ticket in line:
                line.remove(ticket)
        self._release(ticket, first=0)
        now = time.monotonic()
        with self._lock:
            self._count -= 1
            self._totals[f"ended_{outcome}"] += 1
            self._pace_s += 0.2 * (min(60.0, now - self._last_done) - self._pace_s)
            self._last_done = now

    def _release(self, ticket: Ticket, *, first: int) -> None:
        if self._denoiser is not None:
            self._denoiser.release([BranchKey(ticket.number, branch) for branch in _BRANCHES if branch >= first])
            self._totals["cached_bytes"] = self._denoiser.num_bytes

    @contextmanager
    def _answering(self, ticket: Ticket) -> Iterator[None]:
        """Whatever goes wrong inside concerns this request alone."""
        try:
            yield
        except Exception as error:  # a request's failure must not end the engine
            self._fail(ticket, error)

    def _report(self, error: BaseException) -> None:
        _log.error("engine: %s", type(error).__name__, exc_info=error if self._show_errors else None)


def _late(ticket: Ticket) -> DeadlineError:
    allowed = ticket.deadline - ticket.arrived
    return DeadlineError(f"not done within {allowed:.0f} s; ask for less, or allow more time")
