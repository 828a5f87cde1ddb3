"""From the logits of all branches to one id and one confidence per position."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from llada_uni.diffusion.guidance import editing, rescale_factor, simple
from llada_uni.diffusion.unmasking import choose_tokens, filter_logits, rank_positions
from llada_uni.protocols import Guidance, IdSet, Request

__all__ = ["Choice", "allowed_logits", "blocked_ids", "choose_ids", "combined_logits"]


class Choice(NamedTuple):
    """Chosen ids int64, their probabilities, and how early each position should be committed, all [B, L].

    ``rank`` is None where the sampler's ``commit_order`` decides that.
    """

    ids: Tensor
    confidence: Tensor
    rank: Tensor | None


def choose_ids(logits: Tensor, offset: int, rules: Request, draws: Tensor | None) -> Choice:
    """One id per position of B rows that share the rules of one request.

    ``logits`` [B, branches, L, V'] are those of the ids from ``offset`` on; ``draws`` [B, L] are uniform numbers,
    needed when the temperature is positive. Source: released ``generate_bd_image``: guidance, rescaling, then the
    restriction to allowed ids, then the choice.
    """
    scores, sampling = allowed_logits(logits, offset, rules), rules.sampling
    if sampling.temperature > 0:
        scores = filter_logits(scores, sampling.temperature, sampling.top_k, sampling.top_p)
    chosen, confidence = choose_tokens(scores, draws if sampling.temperature > 0 else None)
    ranking = rules.sprint.ranking if rules.sprint else None
    rank = None if ranking is None else rank_positions(scores, confidence, ranking)
    return Choice(chosen + rules.allowed.start, confidence, rank)


def allowed_logits(logits: Tensor, offset: int, rules: Request, factor: Tensor | None = None) -> Tensor:
    """Guided logits [B, L, allowed ids], forbidden ids and the mask at -inf; see :func:`choose_ids`.

    ``factor`` [B, L, 1] rescales where it is known already; then logits of allowed ids are enough.
    """
    guidance, allowed = rules.guidance, rules.allowed
    window = slice(allowed.start - offset, allowed.stop - offset)
    if factor is not None:
        scores = combined_logits(logits[..., window], guidance) * factor
    elif not guidance.needs_vocabulary:
        scores = _guided(logits[..., window], guidance)
    else:
        guided = combined_logits(logits, guidance)
        scores = guided[..., window] * rescale_factor(guided, logits[:, 0], guidance.rescale)
    blocked = blocked_ids(allowed, rules.mask_id, allowed.start, allowed.stop, scores.device)
    return scores if blocked is None else scores.index_fill(-1, blocked, -math.inf)


def _guided(logits: Tensor, guidance: Guidance) -> Tensor:
    guided = combined_logits(logits, guidance)
    if guidance.rescale == 0 or guidance.num_branches == 1:
        return guided
    return guided * rescale_factor(guided, logits[:, 0], guidance.rescale)


def combined_logits(logits: Tensor, guidance: Guidance) -> Tensor:
    """Guided logits [B, L, V'] of all branches' [B, branches, L, V'], not rescaled."""
    branches = logits.unbind(1)
    if guidance.num_branches == 1:
        return branches[0]
    if guidance.kind == "simple":
        return simple(branches[0], branches[1], guidance.scale)
    no_image = branches[2] if guidance.num_branches == 3 else None
    return editing(branches[0], branches[1], no_image, guidance.text, guidance.image)


@cache  # recorded CUDA graphs read these tensors: they must stay
def blocked_ids(allowed: IdSet, mask_id: int, start: int, stop: int, device: torch.device) -> Tensor | None:
    """Forbidden ids and the mask among ``start <= id < stop``, counted from ``start``; None where there are none."""
    ids = sorted({i for i in (*allowed.forbidden, mask_id) if start <= i < stop})
    return torch.tensor([i - start for i in ids], device=device) if ids else None
