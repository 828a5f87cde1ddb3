"""One denoising step of one block of several rows, entirely on the device: what to commit, and which rows are done.

The same rules as ``block_sampler.plan`` and ``advance``, over tensors at fixed addresses. Nothing is read back to the
host, so that a CUDA graph can record the step; on a CPU the same function simply runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from llada_uni.diffusion.unmasking import commit_in_order, commit_positions
from llada_uni.protocols import Request, Sampling
from llada_uni.sampling.fused import choose_from_hidden

__all__ = ["BlockState", "SlotNetwork", "block_step"]


class SlotNetwork(Protocol):
    """The backbone with keys and values at fixed addresses; ``backbone.slots`` says what every method does."""

    device: torch.device

    def reserve(self, num_slots: int, length: int) -> bool: ...
    def reseat(self, slots: Sequence[int]) -> None: ...
    def hidden(
        self,
        ids: Tensor,
        positions: Tensor,
        start: Tensor,
        count: Tensor,
        shift: Tensor,
        *,
        block_length: int,
        visible: int,
    ) -> Tensor: ...
    def logits(self, hidden: Tensor, id_range: tuple[int, int] | None = None, /) -> Tensor: ...
    def spread(self, hidden: Tensor, /) -> Tensor: ...
    def host_positions(self, ids: Tensor, first: int) -> Tensor: ...
    def positions_depend_on(self, start: int, stop: int) -> bool: ...
    def positions(self, ids: Tensor, valid: Tensor, first: Tensor) -> Tensor: ...
    def recordable(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockState:
    """B rows in one block each, R = B x branches; every step changes these tensors in place.

    ``ids`` [R, P + L]: up to P ids that wait to be cached, then the block of L, aligned to the right; ``positions`` the
    rotary ones. ``start``, ``count`` [R]: where the ids begin and how many are valid, ``first`` where the first of them
    would plainly stand; ``later_*`` the same for the block alone, which is what steps after the first compute.
    ``shift`` [R]: of the block grid. ``open`` [B, L]: still masked. ``counted`` [B, L]: output positions below
    ``num_tokens``. ``step`` [B]: steps done. ``draws`` [B, S, L], ``order`` [B, L]: uniform numbers drawn beforehand.
    ``quotas`` [S], ``threshold`` [B]. ``stop_ids`` [B, K], -1 = none. ``done`` [B]: the block, or the row, needs no
    further step. ``finite`` [B]: every committed confidence was a number.
    """

    ids: Tensor
    positions: Tensor
    start: Tensor
    count: Tensor
    first: Tensor
    later_start: Tensor
    later_count: Tensor
    later_first: Tensor
    shift: Tensor
    open: Tensor
    counted: Tensor
    step: Tensor
    draws: Tensor
    order: Tensor
    quotas: Tensor
    threshold: Tensor
    stop_ids: Tensor
    done: Tensor
    finite: Tensor

    def to(self, device: torch.device) -> BlockState:
        """A copy on ``device``."""
        return BlockState(**{f.name: getattr(self, f.name).to(device, copy=True) for f in fields(self)})

    def fill(self, other: BlockState) -> None:
        """Take the values of a state of the same shapes."""
        for f in fields(self):
            getattr(self, f.name).copy_(getattr(other, f.name), non_blocking=True)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Equal for states that can take each other's values."""
        return tuple(tuple(getattr(self, f.name).shape) for f in fields(self))

    def read(self, num_branches: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids of the block [B, L], steps [B] and finiteness [B] on the CPU, in one transfer."""
        length = self.open.shape[1]
        block = self.ids[::num_branches, -length:]
        table = torch.cat((block, self.step[:, None], self.finite[:, None].long()), dim=1).cpu()
        return table[:, :length], table[:, length], table[:, length + 1].bool()


def block_step(
    state: BlockState, network: SlotNetwork, rules: Request, *, pending: bool, moving: bool, visible: int
) -> None:
    """Compute one step of all rows that are not done.

    Args:
        state: changed in place.
        network: whose slots hold what comes before.
        rules: guidance, allowed ids, mask and sampling, which all rows share.
        pending: the first step of a block that also caches the finished one before it.
        moving: positions depend on ids that this step may write.
        visible: how many places of the slots are seen.
    """
    length, num_rows = rules.sampling.block_length, state.open.shape[0]
    ids, positions = (state.ids, state.positions) if pending else (state.ids[:, -length:], state.positions[:, -length:])
    start, count, first = state.later_start, state.later_count, state.later_first
    if pending:
        start, count, first = state.start, state.count, state.first
    if moving:
        column = torch.arange(ids.shape[1], device=ids.device)
        positions = network.positions(ids, column >= ids.shape[1] - count[:, None], first)
    hidden = network.hidden(ids, positions, start, count, state.shift, block_length=length, visible=visible)
    branches = _by_row(hidden[:, -length:], num_rows)
    draws = _draws(state) if rules.sampling.temperature > 0 else None
    choice = choose_from_hidden(branches, network, rules, draws)
    commit = _commit(state, choice.confidence, rules.sampling)
    _write(state, choice.ids, choice.confidence, commit)


def _by_row(values: Tensor, num_rows: int) -> Tensor:
    """A view [B, branches, ...] of [R, ...]."""
    view: Any = values
    return cast(Tensor, view.unflatten(0, (num_rows, -1)))


def _draws(state: BlockState) -> Tensor:
    """Uniform numbers [B, L] of every row's own step."""
    index = _step(state)[:, None, None].expand(-1, 1, state.draws.shape[2])
    return state.draws.gather(1, index).squeeze(1)


def _step(state: BlockState) -> Tensor:
    return state.step.clamp_max(state.quotas.shape[0] - 1)  # rows that are done wait at the last one


def _commit(state: BlockState, confidence: Tensor, sampling: Sampling) -> Tensor:
    quota = state.quotas.index_select(0, _step(state))
    if sampling.commit_order == "sequential":
        commit = commit_in_order(confidence, state.open, quota, state.threshold)
    else:
        order = state.order if sampling.commit_order == "random" else None
        commit = commit_positions(confidence, state.open, quota, state.threshold, order)
    return commit & ~state.done[:, None]


def _write(state: BlockState, chosen: Tensor, confidence: Tensor, commit: Tensor) -> None:
    """Put committed ids into every branch, and find out which rows are done."""
    block = state.ids[:, -state.open.shape[1] :]
    branches = _by_row(block, commit.shape[0])
    branches.copy_(torch.where(commit[:, None], chosen[:, None], branches))
    state.open.logical_and_(~commit)
    state.step.add_((~state.done).long())
    state.finite.logical_and_((confidence.isfinite() | ~commit).all(-1))
    tokens = branches[:, 0]
    stops = (tokens[:, :, None] == state.stop_ids[:, None, :]).any(-1) & state.counted
    settled = (~state.open).long().cumprod(-1).bool()
    state.done.logical_or_((stops & settled).any(-1) | ~(state.open & state.counted).any(-1))
