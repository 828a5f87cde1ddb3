"""The block sampler with everything inside a block on the device, recorded as CUDA graphs where there is CUDA.

Rows with equal rules start their blocks together. A block is one step that also caches the block before it, then steps
over the block alone; accepting ids, counting steps and finding out who is done happen on the device, and the block is
read once, when it is over. Between blocks the rows are the very ones of ``block_sampler``, and ``settle`` says what
follows: the same ids, blocks and usage, without the events of single steps.

A step of fixed shape is recorded the first time it is needed and replayed afterwards: one recording per number of rows
(rounded up to a power of two), rules, and range of visible places. Off CUDA the same functions run unrecorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llada_uni.errors import CheckpointError
from llada_uni.protocols import Event, Request, Timings
from llada_uni.sampling.block_sampler import Granularity, alike, prefill, start
from llada_uni.sampling.block_steps import BlockState, SlotNetwork, block_step
from llada_uni.sampling.rows import Row, integers
from llada_uni.sampling.seats import Seats
from llada_uni.sampling.settle import settle

__all__ = ["CapturedSampler", "unsupported"]

_PLACES = 256


def unsupported(requests: Sequence[Request], granularity: Granularity) -> str | None:
    """Why :class:`CapturedSampler` cannot do this and the usual driver has to; None where it can."""
    if granularity == "step":
        return "events of single steps are read back in every step"
    if any(request.sprint is not None for request in requests):
        return "SPRINT thins out prefixes and adapts quotas between steps"
    return None


class CapturedSampler:
    """Writes the ids of requests; keeps slots and recordings for the next ones. One call at a time.

    Args:
        network: the backbone over slots.
        record: record steps as CUDA graphs; None = on CUDA.
        most_rows: rows that share a step; more wait for their turn.
    """

    def __init__(self, network: SlotNetwork, *, record: bool | None = None, most_rows: int = 64) -> None:
        self._network = network
        self._recorder = _Recorder(network, network.device.type == "cuda" if record is None else record)
        self._most_rows = most_rows

    @property
    def num_recordings(self) -> int:
        """CUDA graphs held."""
        return self._recorder.num_graphs

    def generate(self, requests: Sequence[Request]) -> Iterator[Event]:
        """The events of ``block_sampler.generate(requests, ..., granularity="block")``, rows with equal rules together.

        No request may be ``unsupported``.

        Raises:
            ConfigError: a request contradicts itself. CheckpointError: the backbone computes no numbers.
        """
        assert unsupported(requests, "block") is None, "the usual driver does these"
        rows, events = start(requests)
        yield from events
        for group in alike(rows):
            for first in range(0, len(group), self._most_rows):
                yield from self._write([rows[i] for i in group[first : first + self._most_rows]])

    def _write(self, rows: Sequence[Row]) -> Iterator[Event]:
        seats = self._seated(rows)
        while seats.rows:
            if (fewer := self._num_seats(len(seats.rows))) < len(seats.taken):
                seats.narrow(fewer)
            for seat, row in enumerate(self._block(seats)):
                if row is None:
                    continue
                seats.taken[seat], events = settle(row, report_text=False)
                yield from events

    @torch.inference_mode()
    def _seated(self, rows: Sequence[Row]) -> Seats:
        seats = Seats(rows, self._num_seats(len(rows)), self._network)
        longest = max(int(prompt.shape[0] + row.ids.shape[0]) for row in rows for prompt in row.prompts)
        if self._network.reserve(len(seats.taken) * seats.num_branches, self._places(longest)):
            self._recorder.forget()
        seats.taken[: len(rows)] = prefill(rows, seats)  # type: ignore[arg-type]
        return seats

    @torch.inference_mode()
    def _block(self, seats: Seats) -> list[Row | None]:
        """Denoise every row's active block; the rows, not settled yet, by seat."""
        began, rules = time.perf_counter(), seats.rows[0].request
        length = rules.sampling.block_length
        fresh, pending, places = seats.block(least_pending=length if self._recorder.on else 0)
        state = self._recorder.state(fresh) if pending <= length else fresh.to(self._network.device)
        moving = self._network.positions_depend_on(rules.allowed.start, rules.allowed.stop)
        steps = partial(block_step, state, self._network, rules, moving=moving, visible=self._places(places))
        key = (rules.guidance, rules.allowed, rules.sampling, rules.mask_id, moving, self._places(places))
        watch = _Watch(state, may_end_early=rules.sampling.confidence_threshold < 1 or bool(rules.stop_ids))
        for index in range(seats.most_steps):
            caching = index == 0 and pending > 0
            step = partial(steps, pending=caching)
            if pending > length and caching:
                step()
            else:
                self._recorder.run((*key, caching), state, step)
            if watch.over(index):
                break
        ids, counts, finite = state.read(seats.num_branches)
        if not bool(finite.all()):
            raise CheckpointError("the backbone computed non-finite numbers; expected finite logits: check the weights")
        seats.cached(fresh)
        elapsed, taken = time.perf_counter() - began, zip(seats.taken, ids, integers(counts), strict=True)
        return [None if row is None else _after(row, block, count, elapsed) for row, block, count in taken]

    def _num_seats(self, num_rows: int) -> int:
        return 1 << (num_rows - 1).bit_length() if self._recorder.on else num_rows

    def _places(self, needed: int) -> int:
        return -(-needed // _PLACES) * _PLACES if self._recorder.on else needed


def _after(row: Row, block: Tensor, num_steps: int, elapsed: float) -> Row:
    """The row with the ids of its block [block_length], ``num_steps`` steps later."""
    first, last = row.span(row.block)
    ids = row.ids.clone()
    ids[first:last] = block[block.shape[0] - (last - first) :]
    timings = Timings(prefill_s=row.timings.prefill_s, denoise_s=row.timings.denoise_s + elapsed)
    return replace(
        row,
        ids=ids,
        step=num_steps,
        num_steps=row.num_steps + num_steps,
        num_calls=row.num_calls + num_steps,
        cached=row.block,
        timings=timings,
    )


class _Watch:
    """Whether all rows of a block are done, without making the device wait.

    On CUDA the answer is that of the step before the latest one, which still runs while the host asks.
    """

    def __init__(self, state: BlockState, *, may_end_early: bool) -> None:
        self._state, self._asks = state, may_end_early
        self._cuda = state.done.is_cuda
        self._answers: list[tuple[Tensor, Any]] = []

    def over(self, index: int) -> bool:
        """After step ``index``."""
        if not self._asks or not self._cuda:
            return self._asks and bool(self._state.done.all())
        answer = torch.empty((), dtype=torch.bool, pin_memory=True)
        answer.copy_(self._state.done.all(), non_blocking=True)
        written = torch.cuda.Event()
        written.record()
        self._answers.append((answer, written))
        if index == 0:
            return False
        answer, written = self._answers[index - 1]
        written.synchronize()
        return bool(answer)


class _Recorder:
    """Device states by shape, and CUDA graphs of the steps over them; off CUDA steps simply run."""

    def __init__(self, network: SlotNetwork, on: bool) -> None:
        self._network, self.on = network, on
        self._states: dict[Hashable, BlockState] = {}
        self._graphs: dict[Hashable, Any] = {}
        self._pool: Any = None

    @property
    def num_graphs(self) -> int:
        return len(self._graphs)

    def forget(self) -> None:
        """The slots have moved: recordings of steps over the old ones are void."""
        self._graphs.clear()

    def state(self, fresh: BlockState) -> BlockState:
        """A state with the values of ``fresh`` at an address that stays the same."""
        if not self.on:
            return fresh.to(self._network.device)
        state = self._states.setdefault(fresh.shapes, fresh.to(self._network.device))
        state.fill(fresh)
        return state

    def run(self, key: Hashable, state: BlockState, step: Callable[[], None]) -> None:
        """One step over ``state``, which ``key`` and the state's shapes describe completely."""
        if not self.on:
            return step()
        whole = (key, state.shapes)
        if whole not in self._graphs:
            self._graphs[whole] = self._record(state, step)
        self._graphs[whole].replay()
        return None

    def _record(self, state: BlockState, step: Callable[[], None]) -> Any:
        """The step as a graph; afterwards ``state`` is as before. Keys that the warm-up wrote are written again."""
        before, current, side = state.to(self._network.device), torch.cuda.current_stream(), torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle() if self._pool is None else self._pool
        graph = torch.cuda.CUDAGraph()
        with self._network.recordable():
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(2):
                    step()
                    state.fill(before)
            current.wait_stream(side)
            with torch.cuda.graph(graph, pool=self._pool):
                step()
        return graph
