"""Block-scaled float8 weights: one float32 factor per block of rows and columns.

Source: the FP8 checkpoint stores ``X.weight`` in float8 (e4m3fn) with ``X.weight_scale_inv``; despite its name the
factor multiplies, as in the DeepSeek-V3 layout.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BLOCK", "FP8", "dequantize_blocks", "quantize_blocks", "scale_shape"]

FP8 = torch.float8_e4m3fn
BLOCK = (128, 128)
_FP8_MAX = 448.0


def scale_shape(shape: tuple[int, ...], block: tuple[int, int] = BLOCK) -> tuple[int, ...]:
    """Shape of the factors of a ``[..., out, in]`` weight: ``[..., ceil(out / block), ceil(in / block)]``."""
    *lead, rows, columns = shape
    return (*lead, -(-rows // block[0]), -(-columns // block[1]))


def dequantize_blocks(weight: Tensor, scale: Tensor, *, dtype: torch.dtype, block: tuple[int, int] = BLOCK) -> Tensor:
    """``weight [..., out, in] * scale`` with each factor spread over its block, computed in float32.

    ``scale`` has :func:`scale_shape`. Returns ``dtype``.
    """
    return (weight.to(torch.float32) * _spread(scale.to(torch.float32), weight.shape, block)).to(dtype)


def quantize_blocks(weight: Tensor, *, block: tuple[int, int] = BLOCK) -> tuple[Tensor, Tensor]:
    """Nearest float8 weight and its float32 factors, so that the largest magnitude of a block is stored as 448.

    The relative error of an entry is at most 1/16 of itself where it is not tiny compared with its block's largest.
    """
    wide = weight.to(torch.float32)
    scale = _block_amax(wide, block) / _FP8_MAX
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    stored = (wide / _spread(scale, wide.shape, block)).clamp(-_FP8_MAX, _FP8_MAX).to(FP8)
    return stored, scale


def _spread(scale: Tensor, shape: torch.Size, block: tuple[int, int]) -> Tensor:
    rows, columns = shape[-2:]
    spread = scale.repeat_interleave(block[0], dim=-2)[..., :rows, :]
    return spread.repeat_interleave(block[1], dim=-1)[..., :columns]


def _block_amax(weight: Tensor, block: tuple[int, int]) -> Tensor:
    rows, columns = weight.shape[-2:]
    padded = torch.nn.functional.pad(weight.abs(), (0, -columns % block[1], 0, -rows % block[0]))
    return padded.unflatten(-1, (-1, block[1])).unflatten(-3, (-1, block[0])).amax(dim=(-3, -1))
