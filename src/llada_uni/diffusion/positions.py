"""Rotary positions of ids, where pictures are aligned.

Plainly, the id with index n stands at position n. With an alignment of ``every`` positions the last id of a picture's
header moves up until the first code stands at a multiple of ``every``, and what follows goes on from there. The same
cell of two pictures is then a multiple of ``every`` apart, whatever words lie between them: copying a cell, which
editing and stories are made of, becomes looking back by a fixed distance. Masked ids count one by one, so that
positions tell nothing that the ids do not.

Source: ours, for small models; the released model counts plainly.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["aligned_batch_positions", "aligned_positions", "aligned_row_positions"]


def aligned_positions(ids: Tensor, start_id: int, every: int, *, first: int = 0) -> Tensor:
    """Positions int64 [T] of consecutive ``ids`` [T], the first of which would plainly stand at ``first``.

    ``start_id`` is the last id of a picture's header. ``every`` 0 counts plainly.
    """
    positions = torch.arange(first, first + len(ids))
    if not every:
        return positions
    for index in (ids == start_id).nonzero().flatten():
        positions[index:] += -(positions[index] + 1) % every
    return positions


def aligned_batch_positions(ids: Tensor, valid: Tensor, first: Tensor, start_id: int, every: int) -> Tensor:
    """:func:`aligned_positions` of several sequences at once, without reading a value back to the host.

    Args:
        ids: int64 [B, T], each row's own ids where ``valid`` bool [B, T], anything elsewhere.
        first: int64 [B], where each row's first valid id would plainly stand.
        start_id: the last id of a picture's header.
        every: the alignment, at least 1.

    Returns:
        int64 [B, T]; ids that are not valid stand where the next valid one would plainly.
    """
    following, positions = first, list[Tensor]()
    for is_start, counts in zip((ids == start_id).unbind(1), valid.unbind(1), strict=True):
        here = torch.where(is_start & counts, following + -(following + 1) % every, following)
        following = torch.where(counts, here + 1, following)
        positions.append(here)
    return torch.stack(positions, 1)


def aligned_row_positions(plain: Tensor, is_start: Tensor, allowed: Tensor, every: int) -> Tensor:
    """The same in training rows, where a token's past is what it may see: positions int64 [B, T].

    Args:
        plain: index of every token in its own sequence, int64 [B, T].
        is_start: whether a token is, visibly, the last id of a picture's header, bool [B, T].
        allowed: who sees whom, bool [B, T, T].
        every: the alignment; 0 returns ``plain``.
    """
    most = int(is_start.sum(1).max()) if every and is_start.numel() else 0
    if not most:
        return plain
    order = torch.where(is_start, plain, plain.max() + 1).argsort(dim=1, stable=True)[:, :most]
    counted = is_start.gather(1, order)
    at = torch.where(counted, plain.gather(1, order), -1)
    seen = allowed.gather(2, order[:, None, :].expand(-1, plain.shape[1], -1)) & (at[:, None, :] <= plain[:, :, None])
    seen = seen & counted[:, None, :]
    positions = plain.clone()
    for turn in range(most):
        start = order[:, turn, None]
        gap = -(positions.gather(1, start) + 1) % every
        positions = positions + torch.where(seen[:, :, turn], gap, 0)
    return positions
