"""Which token to put where and when: sampling filters, confidences and the rule that commits positions of a block.

Everything here acts on whole batches of blocks without reading a value back to the host.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "RANKINGS",
    "Ranking",
    "choose_tokens",
    "commit_in_order",
    "commit_positions",
    "even_quotas",
    "filter_logits",
    "neg_entropy",
    "rank_positions",
    "remaining_quota",
    "steps_needed",
    "top_k_margin",
]

Ranking = Literal["low_confidence", "top_k_margin", "neg_entropy"]
RANKINGS: tuple[Ranking, ...] = ("low_confidence", "top_k_margin", "neg_entropy")


def even_quotas(block_length: int, steps_per_block: int) -> tuple[int, ...]:
    """Least number of positions to commit at each step: ``block_length`` split evenly, larger shares first.

    The number of steps is ``min(steps_per_block, block_length)``; the shares sum to ``block_length``, so a block always
    ends without open positions. Source: released ``_get_num_transfer_tokens``.
    """
    if block_length < 1 or steps_per_block < 1:
        raise ValueError(f"expected positive block_length and steps_per_block, got {block_length}, {steps_per_block}")
    steps = min(steps_per_block, block_length)
    share, extra = divmod(block_length, steps)
    return tuple(share + (index < extra) for index in range(steps))


def remaining_quota(num_open: int, steps_left: int) -> int:
    """ceil(num_open / steps_left): the quota that finishes in time whatever was committed before.

    From ``num_open`` positions and S steps on, a block takes at most ``min(num_open, S)`` steps with it.

    Source: LLaDA2.0-Uni paper §2.3 (SPRINT).
    """
    return -(-num_open // max(steps_left, 1))


def steps_needed(quotas: tuple[int, ...], num_open: int) -> int:
    """Upper bound on the steps that ``num_open`` open positions take under ``quotas``."""
    steps = 0
    while num_open > 0:
        num_open -= quotas[steps]
        steps += 1
    return steps


def filter_logits(logits: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """Logits [..., V] divided by ``temperature`` (> 0), with everything outside top-k and then top-p at -inf.

    Top-k keeps ties with the k-th. Top-p keeps a token iff the probability of the tokens before it, in descending
    order, is at most ``top_p``: the one that crosses survives, the best always does.

    Source: released ``_sample_with_temperature_topk_topp``.
    """
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -math.inf)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probs = ordered.softmax(-1)
        dropped = probs.cumsum(-1) - probs > top_p
        logits = logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), -math.inf)
    return logits


def choose_tokens(logits: Tensor, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """Chosen vocabulary index and its probability, both [...], of logits [..., V].

    Without ``uniform`` the most likely index (the first of equal ones). With ``uniform`` [...] in [0, 1) a draw by
    inverting the cumulative distribution: one number per position, so that a draw does not depend on the batch.
    """
    log_total = logits.logsumexp(-1)
    if uniform is None:
        top, chosen = logits.max(-1)
        return chosen, (top - log_total).exp()
    cumulative = (logits - log_total[..., None]).exp().cumsum(-1)
    target = uniform.to(cumulative) * cumulative[..., -1]
    chosen = torch.searchsorted(cumulative, target[..., None], right=True).squeeze(-1)
    chosen = chosen.clamp_max(logits.shape[-1] - 1)
    return chosen, (logits.gather(-1, chosen[..., None]).squeeze(-1) - log_total).exp()


def top_k_margin(logits: Tensor) -> Tensor:
    """Probability of the most likely index minus that of the second, [...] of logits [..., V]; 1 where V is 1."""
    best = logits.topk(min(2, logits.shape[-1]), dim=-1).values
    probs = (best - logits.logsumexp(-1, keepdim=True)).exp()
    return probs[..., 0] - probs[..., 1:].sum(-1)


def neg_entropy(logits: Tensor) -> Tensor:
    """1 - H / ln V of logits [..., V]: 0 for a uniform distribution, 1 for a certain one."""
    probs = logits.softmax(-1)
    return 1 + torch.xlogy(probs, probs).sum(-1) / math.log(max(logits.shape[-1], 2))


def rank_positions(logits: Tensor, confidence: Tensor, ranking: Ranking) -> Tensor:
    """How early each position should be committed, [...] of logits [..., V]; higher goes first.

    "low_confidence": the ``confidence`` [...] itself, the probability of the chosen id (named after the positions that
    wait). "top_k_margin": :func:`top_k_margin`. "neg_entropy": :func:`neg_entropy`. Whichever ranks the positions, the
    threshold is one on the confidence.

    Source: released ``get_transfer_index_bd_adaptive``.
    """
    if ranking == "low_confidence":
        return confidence
    return top_k_margin(logits) if ranking == "top_k_margin" else neg_entropy(logits)


def commit_in_order(confidence: Tensor, open_mask: Tensor, quota: Tensor, threshold: Tensor) -> Tensor:
    """Commit mask bool [B, L] from left to right: the first ``quota`` open positions, and those that follow them
    without a gap as long as they are above the threshold.

    Arguments as in :func:`commit_positions`. Source: ours; where a later word decides an earlier one's room, as the
    header behind a plan does, writing in order keeps the earlier ones free.
    """
    first = open_mask & (open_mask.cumsum(-1) <= quota[:, None])
    ready = ~open_mask | first | (confidence > threshold[:, None])
    return open_mask & ready.long().cumprod(-1).bool()


def commit_positions(
    confidence: Tensor, open_mask: Tensor, quota: Tensor, threshold: Tensor, priority: Tensor | None = None
) -> Tensor:
    """Commit mask bool [B, L]: open positions above the threshold, and at least the ``quota`` most confident ones.

    Args:
        confidence: probability of the chosen id [B, L].
        open_mask: bool [B, L], True = still masked.
        quota: [B], least number to commit (all open ones if fewer are left).
        threshold: [B]; strictly greater counts.
        priority: [B, L], decides instead of the confidence which positions fill the quota. Ours: where ids are drawn,
            taking the most confident draws first favours whatever is common (an empty cell) over what was asked for.

    Of equal confidences the earlier position goes first. Nothing outside ``open_mask`` is ever committed.

    Source: released ``generate_bd`` (its two cases give the same set).
    """
    score = confidence.masked_fill(~open_mask, -math.inf)
    rank = score if priority is None else priority.masked_fill(~open_mask, -math.inf)
    order = rank.argsort(dim=-1, descending=True, stable=True)
    within = torch.arange(score.shape[-1], device=score.device) < quota[:, None]
    chosen = torch.zeros_like(open_mask).scatter(-1, order, within)
    return open_mask & (chosen | (score > threshold[:, None]))
