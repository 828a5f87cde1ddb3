"""Load balancing of mixture-of-experts routers by a selection bias instead of an auxiliary loss."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["load_fractions", "max_violation", "updated_bias"]


def load_fractions(counts: Tensor) -> Tensor:
    """Share of the routed tokens that each expert got: counts [..., E] -> float64 [..., E] summing to 1.

    A row without any token is uniform.
    """
    counts = counts.to(torch.float64)
    total = counts.sum(-1, keepdim=True)
    return torch.where(total > 0, counts / total.clamp_min(1), 1 / counts.shape[-1])


def updated_bias(bias: Tensor, counts: Tensor, rate: float) -> Tensor:
    """Router bias [..., E] after one update from the token counts [..., E] of the whole global batch.

    b <- b - rate * (F - Q) / rms(F - Q), then recentred to mean zero, with F the load and Q = 1/E. Overloaded experts
    lose bias. A perfectly balanced or empty layer only recentres. Call it after the optimiser step, with counts summed
    over ranks and micro-batches and without padding tokens. Result in the dtype of ``bias``.

    Source: LLaDA2.0-Uni paper Eq. 4 with the sign of its reference (kexue.fm/archives/10757): the printed plus would
    reinforce imbalance.
    """
    error = load_fractions(counts) - 1 / counts.shape[-1]
    rms = error.square().mean(-1, keepdim=True).sqrt()
    moved = bias.to(torch.float64) - rate * error / rms.clamp_min(1e-12)
    return (moved - moved.mean(-1, keepdim=True)).to(bias.dtype)


def max_violation(counts: Tensor) -> Tensor:
    """Largest load over the mean load, minus 1, of counts [..., E] -> [...]; 0 = balanced (MaxVio)."""
    return load_fractions(counts).amax(-1) * counts.shape[-1] - 1
