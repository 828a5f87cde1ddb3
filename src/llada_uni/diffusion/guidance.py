"""Guidance: combinations of predictions with and without the condition. Scale 1 = off, 0 = unconditional."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["editing", "factor_of_spreads", "norm_limited", "rescale_factor", "simple"]


def simple(cond: Tensor, uncond: Tensor, guidance_scale: float) -> Tensor:
    """uncond + guidance_scale * (cond - uncond); tensors of one shape, exact at scales 0 and 1."""
    return torch.lerp(uncond, cond, guidance_scale)


def editing(
    full: Tensor, no_text: Tensor, no_image: Tensor | None, guidance_text: float, guidance_image: float
) -> Tensor:
    """no_text + guidance_text * (full - no_text) + guidance_image * (no_text - no_image); tensors of one shape.

    ``no_text`` lacks the instruction, ``no_image`` the source picture; the latter may be None when ``guidance_image``
    is 0. Source: released ``generate_bd_image`` (mode "editing").
    """
    guided = simple(full, no_text, guidance_text)
    if guidance_image == 0:
        return guided
    if no_image is None:
        raise ValueError(f"guidance_image={guidance_image} needs the prediction without the picture")
    return guided + guidance_image * (no_text - no_image)


def rescale_factor(guided: Tensor, cond: Tensor, rescale: float) -> Tensor:
    """Factor [..., 1] that moves the spread of guided logits [..., V] towards that of ``cond``; 1 where rescale is 0.

    rescale * std(cond) / (std(guided) + 1e-6) + 1 - rescale, over the last axis, unbiased. Being positive for every
    scale it leaves the order of the logits alone and changes only confidences.

    Source: released ``generate_bd_image`` (``cfg_rescale``).
    """
    return factor_of_spreads(_spread(guided), _spread(cond), rescale)


def factor_of_spreads(guided: Tensor, cond: Tensor, rescale: float) -> Tensor:
    """:func:`rescale_factor` from the two standard deviations, of any one shape."""
    return rescale * cond / (guided + 1e-6) + (1 - rescale)


def norm_limited(cond: Tensor, uncond: Tensor, guidance_scale: float) -> Tensor:
    """Guided velocity [B, ...] whose norm over a whole item never exceeds that of ``cond``: it can only shrink.

    The released decoder's "cfg scale 1.0" is ``guidance_scale`` 2 here: it computes cond + 1.0 * (cond - uncond).

    Source: released decoder/decode.py.
    """
    guided = cond + (guidance_scale - 1) * (cond - uncond)
    limit, norm = _item_norm(cond), _item_norm(guided)
    return torch.where(norm > limit, guided * (limit / norm), guided)


def _spread(logits: Tensor) -> Tensor:
    """Unbiased standard deviation over the last axis; ``Tensor.std`` is several times slower on a CPU."""
    centred: Any = logits - logits.mean(-1, keepdim=True)
    length: Tensor = centred.norm(dim=-1, keepdim=True)
    return length / math.sqrt(logits.shape[-1] - 1)


def _item_norm(values: Tensor) -> Tensor:
    wide = values if values.dtype == torch.float64 else values.float()
    return wide.square().flatten(1).sum(1).sqrt().view(-1, *(1,) * (values.ndim - 1))
