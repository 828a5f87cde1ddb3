"""Rows of the block sampler as the device state of one block: who sits where, and what stands before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llada_uni.diffusion.unmasking import steps_needed
from llada_uni.protocols import BranchKey, BranchStep, Prefix
from llada_uni.sampling.block_sampler import block_draws
from llada_uni.sampling.block_steps import BlockState, SlotNetwork
from llada_uni.sampling.rows import Row, branch_steps, integers
from llada_uni.sampling.wanted import priority

__all__ = ["Seats"]


class Seats:
    """Up to ``num_seats`` rows with equal rules; row n's branches have the slots from ``n * num_branches`` on.

    An empty seat takes part in every step and changes nothing. ``taken`` are the rows, None = empty.
    """

    def __init__(self, rows: Sequence[Row], num_seats: int, network: SlotNetwork) -> None:
        self._network = network
        self._next: dict[BranchKey, int] = {key: 0 for row in rows for key in row.keys}
        self.num_branches = len(rows[0].prompts)
        self.taken: list[Row | None] = [*rows, *[None] * (num_seats - len(rows))]

    @property
    def rows(self) -> list[Row]:
        """The rows that go on."""
        return [row for row in self.taken if row is not None]

    @property
    def most_steps(self) -> int:
        """Upper bound on the steps of the block."""
        return max(steps_needed(row.quotas, int(row.open_mask().sum())) for row in self.rows)

    def prefill(self, prefixes: Sequence[Prefix]) -> int:
        """Compute whole prompt blocks of the rows in their order; returns the number of backbone calls."""
        longest = max(int(p.ids.shape[0]) for p in prefixes)
        for prefix in prefixes:
            self._next[prefix.key] = self._after(prefix.ids, 0)
        if longest == 0:
            return 0
        device = self._network.device
        lengths = torch.tensor([p.ids.shape[0] for p in prefixes], device=device)
        self._network.hidden(
            _right([p.ids for p in prefixes], longest).to(device),
            _right([self._network.host_positions(p.ids, 0) for p in prefixes], longest).to(device),
            torch.zeros_like(lengths),
            lengths,
            torch.tensor([p.shift for p in prefixes], device=device),
            block_length=prefixes[0].block_length,
            visible=longest,
        )
        return 1

    def narrow(self, num_seats: int) -> None:
        """Move the rows to the first seats of fewer."""
        where = [seat for seat, row in enumerate(self.taken) if row is not None]
        width = range(self.num_branches)
        self._network.reseat([seat * self.num_branches + branch for seat in where for branch in width])
        self.taken = [*self.rows, *[None] * (num_seats - len(where))]

    def block(self, *, least_pending: int) -> tuple[BlockState, int, int]:
        """The state at the start of every row's active block, the longest pending part, and the places it needs.

        ``least_pending``: room for pending ids that there is in any case, so that shapes recur.
        """
        steps = [step for row in self.taken for step in self._steps(row)]
        longest = max(int(s.pending_ids.shape[0]) for s in steps)
        length = self.rows[0].request.sampling.block_length
        width = max(longest, least_pending) + length
        joined = [torch.cat((s.pending_ids, s.active_ids)) for s in steps]
        positions = [self._positions(s, ids) for s, ids in zip(steps, joined, strict=True)]
        table = torch.tensor([self._numbers(s, p) for s, p in zip(steps, positions, strict=True)]).unbind(1)
        names = ("start", "count", "first", "later_start", "later_count", "later_first", "shift")
        state = BlockState(
            ids=_right(joined, width),
            positions=_right(positions, width),
            **dict(zip(names, (one.contiguous() for one in table), strict=True)),
            **self._row_tables(length),
        )
        return state, longest, int((state.start + state.count).max())

    def cached(self, state: BlockState) -> None:
        """The block's pending ids are in the slots now."""
        following = integers(state.later_first)
        for seat, row in enumerate(self.taken):
            for branch, key in enumerate(row.keys if row is not None else ()):
                self._next[key] = following[seat * self.num_branches + branch]

    def _steps(self, row: Row | None) -> list[BranchStep]:
        if row is not None:
            return branch_steps(row)
        nothing = torch.empty(0, dtype=torch.int64)
        return [BranchStep(key=BranchKey(-1, 0), pending_ids=nothing, active_ids=nothing, start=0)] * self.num_branches

    def _positions(self, step: BranchStep, ids: Tensor) -> Tensor:
        return self._network.host_positions(ids, self._next.get(step.key, 0))

    def _numbers(self, step: BranchStep, positions: Tensor) -> tuple[int, ...]:
        """Start, count and first position with and without the pending ids, and the shift of the block grid."""
        pending, active = int(step.pending_ids.shape[0]), int(step.active_ids.shape[0])
        first = self._next.get(step.key, 0)
        after = int(positions[pending - 1]) + 1 if pending else first
        start, length = step.start, pending + active
        return start, length, first, start + pending, active, after, self._shift(step.key)

    def _shift(self, key: BranchKey) -> int:
        row = next((row for row in self.rows if row.number == key.row), None)
        return 0 if row is None else row.prompt_length - int(row.prompts[key.branch].shape[0])

    def _row_tables(self, length: int) -> dict[str, Tensor]:
        model, taken = self.rows[0], self.taken
        sampling, num_steps = model.request.sampling, len(model.quotas)
        unused = torch.zeros(num_steps, length)
        drawn, ordered = sampling.temperature > 0, sampling.commit_order == "random"
        most_stops = max(1, *(len(row.request.stop_ids) for row in self.rows))
        closed = torch.zeros(length, dtype=torch.bool)
        return {
            "open": torch.stack([closed if row is None else row.open_mask() for row in taken]),
            "counted": torch.stack([closed if row is None else _counted(row, length) for row in taken]),
            "step": torch.zeros(len(taken), dtype=torch.int64),
            "draws": torch.stack([block_draws(row) if drawn and row is not None else unused for row in taken]),
            "order": torch.stack([priority(row) if ordered and row is not None else unused[0] for row in taken]),
            "quotas": torch.tensor(model.quotas),
            "threshold": torch.full((len(taken),), sampling.confidence_threshold),
            "stop_ids": torch.tensor([_padded(row, most_stops) for row in taken]),
            "done": torch.tensor([row is None for row in taken]),
            "finite": torch.ones(len(taken), dtype=torch.bool),
        }

    def _after(self, ids: Tensor, first: int) -> int:
        return int(self._network.host_positions(ids, first)[-1]) + 1 if ids.numel() else first


def _right(values: Sequence[Tensor], width: int) -> Tensor:
    """Integers [n] of every branch in one table [R, width], zeros before them."""
    table = torch.zeros(len(values), width, dtype=torch.int64)
    for row, one in zip(table, values, strict=True):
        row[width - one.shape[0] :] = one
    return table


def _counted(row: Row, length: int) -> Tensor:
    """Which positions [length] of the active block are output positions below ``num_tokens``."""
    position = torch.arange(length) + (row.span(row.block)[1] - length)
    return (position >= 0) & (position < row.request.num_tokens)


def _padded(row: Row | None, count: int) -> list[int]:
    stops = [] if row is None else sorted(row.request.stop_ids)
    return stops + [-1] * (count - len(stops))
