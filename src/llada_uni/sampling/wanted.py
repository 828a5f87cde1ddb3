"""Which positions of a row's active block the next step can commit: only their logits are needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llada_uni.diffusion.unmasking import commit_positions
from llada_uni.sampling.rows import Row
from llada_uni.sampling.seeds import stream

__all__ = ["by_branch", "fills_in_random_order", "priority", "wanted_mask"]


def wanted_mask(row: Row) -> Tensor:
    """Bool [block_length]: the open positions, or the very ones the step commits where no logit has a say in that."""
    open_mask = row.open_mask()
    if not fills_in_random_order(row) or row.request.sampling.confidence_threshold < 1:
        return open_mask
    nothing_sure = torch.zeros(1, open_mask.shape[0])
    quota, threshold = torch.tensor([row.quota]), torch.ones(1)
    return commit_positions(nothing_sure, open_mask[None], quota, threshold, priority(row)[None])[0]


def fills_in_random_order(row: Row) -> bool:
    """Whether a drawn order, and nothing the backbone says, decides which open positions fill a quota."""
    rules = row.request.sprint
    return row.request.sampling.commit_order == "random" and (rules is None or rules.ranking is None)


def priority(row: Row) -> Tensor:
    """Uniform numbers [block_length], the same in every step of a block: a random order of its positions."""
    return torch.rand(row.request.sampling.block_length, generator=stream(row.request.seed, "order", row.block))


def by_branch(rows: Sequence[Row], width: int) -> Tensor:
    """The wanted positions of every branch of ``rows``, bool [branches, width], aligned to the right like logits."""
    wanted = torch.zeros(sum(len(row.prompts) for row in rows), width, dtype=torch.bool)
    first = 0
    for row in rows:
        mask = wanted_mask(row)
        wanted[first : first + len(row.prompts), width - mask.shape[0] :] = mask
        first += len(row.prompts)
    return wanted
