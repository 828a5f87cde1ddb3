"""Cross-entropy over a large vocabulary without ever holding all logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import checkpoint

from llada_uni.diffusion.losses import token_cross_entropy

__all__ = ["chunked_cross_entropy"]


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, clean_ids: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Cross-entropies and most likely ids of ``hidden`` [N, H] under the head ``weight`` [V, H].

    The logits of ``chunk`` rows exist at a time, in the forward and in the backward pass, which computes them again.

    Args:
        hidden: final hidden states of the positions to be scored.
        weight: the output projection.
        clean_ids: int64 [N], the ids to be predicted.
        chunk: rows at a time, at least 1.

    Returns:
        ``(losses, best)``: [N] in nats, float32 (float64 kept), and int64 [N]; equal to :func:`token_cross_entropy` and
        the argmax of ``hidden @ weight.T``.
    """
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    recomputed = cast(Callable[..., Any], checkpoint.checkpoint)  # pyright: ignore[reportUnknownMemberType]
    chunks = zip(torch.split(hidden, chunk), torch.split(clean_ids, chunk), strict=True)
    parts: list[tuple[Tensor, Tensor]] = [recomputed(_scored, rows, weight, ids, **options) for rows, ids in chunks]
    return torch.cat([losses for losses, _ in parts]), torch.cat([best for _, best in parts])


def _scored(rows: Tensor, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    logits = F.linear(rows, weight)
    return token_cross_entropy(logits, ids), logits.detach().argmax(-1)
