"""State of one request while its ids are being written, and where its blocks lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from llada_uni.diffusion.unmasking import even_quotas, remaining_quota, steps_needed
from llada_uni.errors import ConfigError
from llada_uni.protocols import BranchKey, BranchStep, Prefix, Request, Timings

__all__ = ["Row", "branch_steps", "floats", "integers", "max_calls", "open_row", "prefixes"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """A request under way; never changed, only replaced.

    ``prompts``: ids int64 of each branch with weight. ``ids`` int64 [W]: what follows the prompt up to the end of the
    last block, ``mask_id`` where open. ``block``: the row's own blocks, counted from 0 = the one that holds the first
    output position. ``cached``: number of own blocks in the prefix cache. ``step``: steps done in the active block.
    ``reported``: output ids already announced as text.
    """

    request: Request
    number: int
    prompts: tuple[Tensor, ...]
    ids: Tensor
    block: int = 0
    cached: int = 0
    step: int = 0
    reported: int = 0
    num_steps: int = 0
    num_calls: int = 0
    timings: Timings = field(default_factory=Timings)

    @property
    def prompt_length(self) -> int:
        """Ids in the condition's prompt."""
        return int(self.prompts[0].shape[0])

    @property
    def num_blocks(self) -> int:
        """Own blocks in total."""
        return (self.prompt_length + int(self.ids.shape[0])) // self._length - self.prompt_length // self._length

    @property
    def keys(self) -> tuple[BranchKey, ...]:
        """Names of the branches."""
        return tuple(BranchKey(self.number, branch) for branch in range(len(self.prompts)))

    @property
    def quotas(self) -> tuple[int, ...]:
        """Least number of positions to commit, by step, where the shares are even."""
        return even_quotas(self._length, self.request.sampling.steps_per_block)

    @property
    def quota(self) -> int:
        """Least number of positions to commit in the next step."""
        if self.adaptive:
            return remaining_quota(int(self.open_mask().sum()), len(self.quotas) - self.step)
        return self.quotas[self.step]

    @property
    def adaptive(self) -> bool:
        """Whether quotas follow from what is still open instead of being even shares."""
        rules = self.request.sprint
        return rules is not None and rules.schedule == "adaptive"

    def span(self, block: int) -> tuple[int, int]:
        """Output positions [start, end) of an own block; block 0 is shorter when prompt ids lie in it too."""
        first = self.prompt_length // self._length
        end = (first + block + 1) * self._length - self.prompt_length
        return max(0, end - self._length), end

    def open_mask(self) -> Tensor:
        """Bool [block_length]: open positions of the active block; prompt positions at its left are not open."""
        return self._open

    @cached_property
    def _open(self) -> Tensor:
        start, end = self.span(self.block)
        mask = self.ids[start:end] == self.request.mask_id
        tail = self._length - (end - start)
        return torch.cat((mask.new_zeros(tail), mask)) if tail else mask

    @property
    def _length(self) -> int:
        return self.request.sampling.block_length


def open_row(request: Request, number: int) -> Row:
    """The state before the first step.

    Raises:
        ConfigError: a given position lies outside the row's blocks, or is given as a mask.
    """
    length, prompt_length = request.sampling.block_length, len(request.prompts[0])
    num_blocks = -(-(prompt_length + request.num_tokens) // length)
    ids = torch.full((num_blocks * length - prompt_length,), request.mask_id, dtype=torch.int64)
    for position, value in request.given.items():
        if not 0 <= position < ids.shape[0] or value == request.mask_id:
            raise ConfigError(
                f"given: expected positions 0..{ids.shape[0] - 1} with written ids, got {value} at {position}"
            )
        ids[position] = value
    prompts = tuple(torch.tensor(p) for p in request.prompts[: request.guidance.num_branches])
    return Row(request=request, number=number, prompts=prompts, ids=ids)


def max_calls(row: Row) -> int:
    """Upper bound on the backbone calls of a fresh row: the steps, and one prefill if a prompt fills a block."""
    steps = sum(_most_steps(row, _num_open(row, block)) for block in range(row.num_blocks))
    return steps + (steps > 0 and any(not p.is_empty for p in prefixes(row)))


def _most_steps(row: Row, num_open: int) -> int:
    return min(num_open, len(row.quotas)) if row.adaptive else steps_needed(row.quotas, num_open)


def _num_open(row: Row, block: int) -> int:
    """Open positions of an own block; 0 if only surplus ones are open, because the row ends before it."""
    start, end = row.span(block)
    is_open = row.ids[start:end] == row.request.mask_id
    wanted = is_open[: row.request.num_tokens - start]
    return int(is_open.sum()) if bool(wanted.any()) else 0


def prefixes(row: Row) -> list[Prefix]:
    """Whole prompt blocks of every branch of a fresh row."""
    rules = row.request.sprint
    return [
        Prefix(
            key=key,
            ids=prompt[: _branch_start(row, prompt, 0)],
            shift=_shift(row, prompt),
            block_length=row.request.sampling.block_length,
            scored=rules is not None and rules.needs_confidence,
            pad_ids=_pad_ids(row, prompt),
        )
        for key, prompt in zip(row.keys, row.prompts, strict=True)
    ]


def _pad_ids(row: Row, prompt: Tensor) -> Tensor:
    """Masks that the released code puts into the whole blocks before a shorter branch; otherwise none."""
    rules, length = row.request.sprint, row.request.sampling.block_length
    count = 0
    if rules is not None and rules.variant == "released":
        count = max(0, min(_shift(row, prompt), row.prompt_length // length * length))
    return torch.full((count,), row.request.mask_id, dtype=torch.int64)


def branch_steps(row: Row) -> list[BranchStep]:
    """The next step of every branch."""
    return [_branch_step(row, key, prompt) for key, prompt in zip(row.keys, row.prompts, strict=True)]


def _branch_step(row: Row, key: BranchKey, prompt: Tensor) -> BranchStep:
    start, active = _branch_start(row, prompt, row.cached), _branch_start(row, prompt, row.block)
    end = row.span(row.block)[1] + prompt.shape[0]
    return BranchStep(
        key=key,
        pending_ids=_slice(prompt, row.ids, start, active),
        active_ids=_slice(prompt, row.ids, active, end),
        start=start,
    )


def _branch_start(row: Row, prompt: Tensor, block: int) -> int:
    """Position in the branch at which an own block begins, prompt ids inside that block included."""
    end = row.span(block)[1] + int(prompt.shape[0])
    return max(0, end - row.request.sampling.block_length)


def _shift(row: Row, prompt: Tensor) -> int:
    return row.prompt_length - int(prompt.shape[0])


def _slice(prompt: Tensor, ids: Tensor, start: int, end: int) -> Tensor:
    """Positions [start, end) of the prompt followed by the output ids."""
    length = int(prompt.shape[0])
    if start >= length:
        return ids[start - length : end - length]
    return torch.cat((prompt[start:end], ids[: max(0, end - length)]))


def integers(values: Tensor) -> list[int]:
    """Entries of an integer tensor [N] as a list."""
    plain: Any = values
    return list(plain.tolist())


def floats(values: Tensor) -> list[float]:
    """Entries of a float tensor [N] as a list."""
    plain: Any = values
    return list(plain.tolist())
