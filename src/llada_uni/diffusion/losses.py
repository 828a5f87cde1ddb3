"""Losses of the masked language model and of the flow decoder, as sums and counts so that they add up over shards."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "confidence_entropy",
    "flow_squared_error",
    "inverse_ratio_weights",
    "masked_cross_entropy",
    "mtrs_loss",
    "mtrs_normaliser",
    "mtrs_token_weights",
    "pseudo_huber",
    "token_cross_entropy",
    "token_entropy",
]


def token_cross_entropy(logits: Tensor, clean_ids: Tensor) -> Tensor:
    """Cross-entropy in nats of every position: logits [..., V], ids [...] -> float32 (float64 kept) [...]."""
    return F.cross_entropy(_wide(logits).flatten(0, -2), clean_ids.flatten(), reduction="none").view(clean_ids.shape)


def masked_cross_entropy(
    logits: Tensor, clean_ids: Tensor, masked: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the cross-entropies of masked positions, and their number.

    Args:
        logits: [..., V].
        clean_ids: ids [...].
        masked: bool [...]; other positions contribute nothing.
        weights: optional factor per position, broadcastable to [...].

    Returns:
        ``(loss_sum, count)``, both scalars; the plain loss is ``loss_sum / count``. Divide by the count of the whole
        global batch. Both are 0 without a masked position.

    Source: LLaDA2.0-Uni paper Eq. 3; dFactory divides by the count and uses no weight.
    """
    losses = token_cross_entropy(logits[masked], clean_ids[masked])
    if weights is not None:
        losses = losses * weights.expand(masked.shape)[masked]
    return losses.sum(), masked.sum()


def inverse_ratio_weights(ratios: Tensor) -> Tensor:
    """Weight 1/t of a position whose mask ratio is t: makes the loss a bound on the likelihood.

    Source: LLaDA2.0-Uni paper Eq. 3, whose printed sign belongs to the derivative of the schedule.
    """
    return 1 / ratios.clamp_min(torch.finfo(torch.float32).eps)


def mtrs_token_weights(sample: Tensor, num_samples: int) -> Tensor:
    """Weight 1/sqrt(n_j) [N] of every masked token; ``sample`` [N] is the index of its sample, n_j that sample's count.

    Divide the weighted sum by :func:`mtrs_normaliser` of the global batch: each sample then weighs sqrt(n_j), half-way
    between token and sample averaging, and the value stays in nats per token.

    Source: LLaDA2.0-Uni paper Eq. 6, reading L^(j) as a sum and normalising by sum(sqrt(n_j)).
    """
    counts = torch.bincount(sample, minlength=num_samples)
    return counts.clamp_min(1).to(torch.float32).rsqrt()[sample]


def mtrs_normaliser(counts: Tensor) -> Tensor:
    """sum(sqrt(n_j)) over samples with n_j masked tokens; sum it over ranks and micro-batches before dividing."""
    return counts.to(torch.float32).sqrt().sum()


def mtrs_loss(token_losses: Tensor, sample: Tensor, num_samples: int) -> Tensor:
    """Reweighted mean of masked-token losses [N] of one whole batch; see :func:`mtrs_token_weights`."""
    weights = mtrs_token_weights(sample, num_samples)
    return (token_losses * weights).sum() / mtrs_normaliser(torch.bincount(sample, minlength=num_samples))


def confidence_entropy(logits: Tensor, clean_ids: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy in nats summed over masked positions whose most likely id is already right, and their number.

    The mean sharpens predictions that parallel decoding will commit. Sum and count are 0 when no position qualifies.

    Source: LLaDA2.0 report §5.2; dFactory ``compute_confidence_loss``.
    """
    right = masked & (logits.argmax(-1) == clean_ids)
    return token_entropy(logits[right]).sum(), right.sum()


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of every position: logits [..., V] -> float32 (float64 kept) [...]."""
    log_probs = F.log_softmax(_wide(logits), dim=-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def flow_squared_error(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean squared error [B] of each sample of velocities [B, ...]. Source: released decoder/transport/transport.py."""
    return (_wide(velocity) - _wide(target)).square().flatten(1).mean(1)


def pseudo_huber(squared_error: Tensor, scale: float) -> Tensor:
    """sqrt(e + scale^2) - scale: quadratic for small mean squared errors e, linear in their root for large ones.

    Source: UCGM methods/unigen.py (robust loss).
    """
    return (squared_error + scale**2).sqrt() - scale


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
