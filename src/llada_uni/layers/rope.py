"""Rotary position embedding in both conventions: half-split (backbone) and adjacent pairs (decoder).

The two conventions pair different coordinates, so weights trained with one are wrong under the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llada_uni.layers.precision import at_least_float32

__all__ = ["adjacent_pairs", "angles", "half_split", "split_tables", "turned"]


def angles(positions: Tensor, width: int, *, theta: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rotation angles ``position * theta^(-2j/width)`` for ``j = 0 .. width/2 - 1``.

    ``positions`` is any shape ``[...]`` of integers; the result is ``[..., width // 2]`` of ``dtype`` on the same
    device. The backbone uses float32, the decoder computes in float64 and rounds afterwards.
    """
    exponents = torch.arange(0, width, 2, dtype=dtype, device=positions.device) / width
    return positions.to(dtype).unsqueeze(-1) * theta**-exponents


def half_split(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first ``R = 2 * cos.shape[-1]`` of the ``D`` last coordinates, pairing ``j`` with ``j + R/2``.

    ``x`` is ``[..., D]``, ``cos`` and ``sin`` broadcast to ``[..., R/2]``; the coordinates from ``R`` on pass through.
    Returns the shape and dtype of ``x``. Source: released modeling_llada2uni_moe.py (partial rotary, NeoX style).
    """
    half = cos.shape[-1]
    first, second, rest = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def split_tables(angle: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """What :func:`turned` multiplies ``width`` coordinates with, of angles ``[..., R/2]``: ``[..., width]`` twice."""
    cos, sin, rest = angle.cos(), angle.sin(), angle.new_ones(*angle.shape[:-1], width - 2 * angle.shape[-1])
    return torch.cat((cos, cos, rest), dim=-1), torch.cat((-sin, sin, rest - 1), dim=-1)


def turned(x: Tensor, cos: Tensor, sin: Tensor, half: int) -> Tensor:
    """:func:`half_split` by tables of ``R = 2 * half`` from :func:`split_tables`, bit for bit, in fewer operations."""
    first, second, rest = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    swapped = torch.cat((second, first, rest) if rest.shape[-1] else (second, first), dim=-1)
    return (x * cos.to(x.dtype)).add_(swapped.mul_(sin.to(x.dtype)))


def adjacent_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair ``(x[2j], x[2j+1])`` of the last axis by angle ``j``, computed in float32 or wider.

    ``x`` is ``[..., D]``, ``cos`` and ``sin`` broadcast to ``[..., D/2]``. Returns the shape and dtype of ``x``.
    Source: released decoder_model.py (complex multiplication of adjacent coordinates).
    """
    wide = at_least_float32(x)
    even, odd = wide[..., 0::2], wide[..., 1::2]
    cos, sin = cos.to(wide.dtype), sin.to(wide.dtype)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)
