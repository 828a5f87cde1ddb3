"""From hidden states straight to ids and confidences: the logits of all positions and ids never exist at once.

The same choice as :func:`~llada_uni.sampling.choose.choose_ids` makes from logits. Where the most likely id is wanted
and no spread over the vocabulary is, the head runs over slices of the vocabulary, keeping the best id and the running
log-sum-exp; otherwise (draws, filters, rescaled guidance) it runs over a few positions at a time.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from llada_uni.protocols import Request
from llada_uni.sampling.choose import Choice, blocked_ids, choose_ids, combined_logits

__all__ = ["LOGITS_AT_ONCE", "Head", "choose_from_hidden"]

LOGITS_AT_ONCE = 2**22
"""Numbers in the largest table of logits (16 MiB in float32): 24 positions of the released vocabulary."""


class Head(Protocol):
    """The output projection: hidden states [..., width] to float32 or float64 logits [..., V'] of a range of ids."""

    def __call__(self, hidden: Tensor, id_range: tuple[int, int] | None = None, /) -> Tensor: ...


def choose_from_hidden(
    hidden: Tensor, head: Head, vocab_size: int, rules: Request, draws: Tensor | None, *, at_once: int = LOGITS_AT_ONCE
) -> Choice:
    """One id per position of rows that share the rules of one request, [B, L].

    Args:
        hidden: final hidden states [B, branches, L, width] of all branches with weight.
        head: the output projection.
        vocab_size: ids it knows.
        rules: guidance, allowed ids, sampling.
        draws: uniform numbers [B, L], needed when the temperature is positive.
        at_once: numbers in the largest table of logits; no table is smaller than one position of one row, or one id of
            all positions.
    """
    guidance = rules.guidance
    rescaled = guidance.num_branches > 1 and guidance.rescale != 0
    if rules.sampling.temperature > 0 or rescaled or rules.sprint is not None:
        return _by_position(hidden, head, vocab_size, rules, draws, at_once)
    return _by_vocabulary(hidden, head, rules, at_once)


def _by_position(
    hidden: Tensor, head: Head, vocab_size: int, rules: Request, draws: Tensor | None, at_once: int
) -> Choice:
    rows, branches, length, _ = hidden.shape
    whole = rules.guidance.needs_vocabulary
    id_range = None if whole else (rules.allowed.start, rules.allowed.stop)
    width = vocab_size if whole else rules.allowed.stop - rules.allowed.start
    few = max(1, at_once // (rows * branches * width))
    parts: list[Choice] = []
    for first in range(0, length, few):
        here = slice(first, first + few)
        logits = head(hidden[:, :, here], id_range)
        drawn = None if draws is None else draws[:, here]
        parts.append(choose_ids(logits, 0 if whole else rules.allowed.start, rules, drawn))
    ids, confidence, rank = zip(*parts, strict=True)
    return Choice(torch.cat(ids, 1), torch.cat(confidence, 1), None if rank[0] is None else torch.cat(rank, 1))


def _by_vocabulary(hidden: Tensor, head: Head, rules: Request, at_once: int) -> Choice:
    """The first of the most likely ids, and its probability, over slices of the allowed ids."""
    allowed, (rows, branches, length, _) = rules.allowed, hidden.shape
    slice_length = max(1, at_once // (rows * branches * length))
    best = total = chosen = None
    for first in range(allowed.start, allowed.stop, slice_length):
        stop = min(first + slice_length, allowed.stop)
        scores = combined_logits(head(hidden, (first, stop)), rules.guidance)
        blocked = blocked_ids(allowed, rules.mask_id, first, stop, scores.device)
        if blocked is not None:
            scores = scores.index_fill(-1, blocked, -torch.inf)
        top, here = scores.max(-1)
        here, sums = here + first, scores.logsumexp(-1)
        if best is None or total is None or chosen is None:
            best, chosen, total = top, here, sums
            continue
        chosen = torch.where(top > best, here, chosen)
        best, total = torch.maximum(best, top), torch.logaddexp(total, sums)
    assert best is not None
    assert chosen is not None
    assert total is not None
    return Choice(chosen, (best - total).exp(), None)
