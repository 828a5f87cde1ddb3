"""The optional confidence-aware (CAP) term of the backbone's objectives: right guesses become sure ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from llada_uni.errors import ConfigError

if TYPE_CHECKING:
    from llada_uni.training.objectives.backbone import MaskedTokens

__all__ = ["check_confidence", "confidence_term"]


def check_confidence(weight: float, logit_chunk: int) -> None:
    """Raises ConfigError: a weight below 0, or logits that never exist together."""
    if not weight >= 0:
        raise ConfigError(f"confidence_weight: expected at least 0, got {weight}")
    if weight and logit_chunk:
        raise ConfigError(f"confidence_weight needs all logits at once, got logit_chunk {logit_chunk}; set it to 0")


def confidence_term(found: MaskedTokens, weight: float) -> tuple[Tensor, dict[str, Tensor | float]]:
    """``weight`` times the mean entropy of masked words whose most likely id is right (0 without one), and its metrics.

    On image tokens the term would wear diversity down. Source: LLaDA2.0 report §5.2; the choice of words is ours.
    """
    if not weight:
        return found.losses.new_zeros(()), {}
    right = (found.hits > 0) & ~found.image & ~found.fill
    mean = found.entropy[right].sum() / right.sum().clamp_min(1)
    return weight * mean, {"confidence_entropy": mean.detach()}
