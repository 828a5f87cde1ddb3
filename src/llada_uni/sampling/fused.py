"""From hidden states straight to ids and confidences: the logits of all positions and ids never exist at once.

The same choice as :func:`~llada_uni.sampling.choose.choose_ids` makes from logits, with the head's rows of allowed ids
alone. The most likely id is found over slices of the vocabulary, keeping the best id and the running log-sum-exp; draws
and filters need all allowed ids at once and go a few positions at a time. Guidance is linear, so that the spread over
the vocabulary, which rescaling may need, follows from combined hidden states.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from llada_uni.diffusion.guidance import factor_of_spreads
from llada_uni.diffusion.unmasking import choose_tokens, filter_logits
from llada_uni.protocols import Request
from llada_uni.sampling.choose import Choice, allowed_logits, blocked_ids, combined_logits

__all__ = ["LOGITS_AT_ONCE", "Head", "choose_from_hidden"]

LOGITS_AT_ONCE = 2**22
"""Numbers in the largest table of logits (16 MiB in float32): 24 positions of the released vocabulary."""


class Head(Protocol):
    """The output projection of hidden states [..., width], in float32 or float64."""

    def logits(self, hidden: Tensor, id_range: tuple[int, int] | None = None, /) -> Tensor:
        """Logits [..., V'] of a range of ids."""
        ...

    def spread(self, hidden: Tensor, /) -> Tensor:
        """Unbiased standard deviation [..., 1] of the logits of all ids."""
        ...


def choose_from_hidden(
    hidden: Tensor, head: Head, rules: Request, draws: Tensor | None, *, at_once: int = LOGITS_AT_ONCE
) -> Choice:
    """One id per position of rows that share the rules of one request without SPRINT, [B, L].

    Args:
        hidden: final hidden states [B, branches, L, width] of all branches with weight.
        head: the output projection.
        rules: guidance, allowed ids, sampling.
        draws: uniform numbers [B, L], needed when the temperature is positive.
        at_once: numbers in the largest table of logits; no table is smaller than one position of every row, or one id
            of all positions.
    """
    guidance = rules.guidance
    factor = None
    if guidance.needs_vocabulary:
        cond = hidden[:, 0]
        combined = combined_logits(hidden.to(torch.promote_types(hidden.dtype, torch.float32)), guidance)
        factor = factor_of_spreads(head.spread(combined), head.spread(cond), guidance.rescale)
    measured = guidance.num_branches > 1 and guidance.rescale != 0 and factor is None
    if rules.sampling.temperature > 0 or measured:
        return _by_position(hidden, head, rules, draws, factor, at_once)
    return _by_vocabulary(hidden, head, rules, factor, at_once)


def _by_position(
    hidden: Tensor, head: Head, rules: Request, draws: Tensor | None, factor: Tensor | None, at_once: int
) -> Choice:
    rows, branches, length, _ = hidden.shape
    allowed, sampling = rules.allowed, rules.sampling
    few = max(1, at_once // (rows * branches * (allowed.stop - allowed.start)))
    ids: list[Tensor] = []
    confidences: list[Tensor] = []
    for first in range(0, length, few):
        here = slice(first, first + few)
        logits = head.logits(hidden[:, :, here], (allowed.start, allowed.stop))
        scores = allowed_logits(logits, allowed.start, rules, None if factor is None else factor[:, here])
        if sampling.temperature > 0:
            scores = filter_logits(scores, sampling.temperature, sampling.top_k, sampling.top_p)
        chosen, confidence = choose_tokens(scores, None if draws is None else draws[:, here])
        ids.append(chosen + allowed.start)
        confidences.append(confidence)
    return Choice(torch.cat(ids, 1), torch.cat(confidences, 1), None)


def _by_vocabulary(hidden: Tensor, head: Head, rules: Request, factor: Tensor | None, at_once: int) -> Choice:
    """The first of the most likely ids, and its probability, over slices of the allowed ids."""
    allowed, (rows, branches, length, _) = rules.allowed, hidden.shape
    slice_length = max(1, at_once // (rows * branches * length))
    best = total = chosen = None
    for first in range(allowed.start, allowed.stop, slice_length):
        stop = min(first + slice_length, allowed.stop)
        scores = combined_logits(head.logits(hidden, (first, stop)), rules.guidance)
        scores = scores if factor is None else scores * factor
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
