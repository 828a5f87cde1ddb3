"""SPRINT in the sampler: after the warm-up steps of a block every branch's prefix is thinned out by its own scores.

Which positions stay is a pure rule of ``diffusion.sprint``; the scores and the thinned prefix belong to the denoiser.
The next block begins with the whole prefix again, because its first step commits the finished block.
"""

from __future__ import annotations

from collections.abc import Sequence

from llada_uni.diffusion.sprint import kept_positions
from llada_uni.errors import ConfigError
from llada_uni.protocols import Denoiser, PrunableDenoiser, Request
from llada_uni.sampling.rows import Row

__all__ = ["check_denoiser", "thin"]


def check_denoiser(requests: Sequence[Request], denoiser: Denoiser) -> None:
    """Find out before any work whether ``denoiser`` can do what the requests' rules ask for.

    Raises:
        ConfigError: it cannot thin out a prefix.
    """
    if any(_prunes(r) for r in requests) and not isinstance(denoiser, PrunableDenoiser):
        raise ConfigError(
            f"sprint: expected a denoiser that can thin out its prefix, got {type(denoiser).__name__}; use "
            "CachedDenoiser or keep_ratio 1"
        )


def thin(rows: Sequence[Row], denoiser: Denoiser) -> None:
    """Thin out the prefixes of those rows that have just done their warm-up steps; call it before every step."""
    for row in rows:
        rules = row.request.sprint
        if rules is None or not rules.prunes or row.step != rules.warmup_steps:
            continue
        assert isinstance(denoiser, PrunableDenoiser), "check_denoiser comes first"
        for key in row.keys:
            is_image = denoiser.is_image(key)
            confidence = denoiser.confidence(key) if rules.needs_confidence else None
            keep = kept_positions(rules, denoiser.key_norms(key), confidence, is_image)
            if keep.shape[-1] < is_image.shape[0] or rules.variant == "released":
                denoiser.prune(key, keep)


def _prunes(request: Request) -> bool:
    return request.sprint is not None and request.sprint.prunes
