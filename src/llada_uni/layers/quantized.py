"""Frozen weights kept as 8- or 4-bit integers: less memory under adapters, dense again only inside one product.

Rows are cut into runs of up to 64 inputs with one float32 factor each, so that the largest magnitude of a run is 127
(or 7). The backward pass makes the dense weight anew instead of keeping it. ``layers.served`` keeps such numbers for
inference. Source: QLoRA (arXiv 2305.14314), with plain integers in place of its NF4 and without double quantisation.
"""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from llada_uni.layers.precision import matmul_dtype

__all__ = ["Bits", "FrozenLinear", "Quantized", "frozen_product", "packed", "rounded", "spread", "unpacked"]

Bits = Literal[8, 4]
_RUN = 64
_LARGEST: dict[int, int] = {8: 127, 4: 7}


class Quantized:
    """A weight ``[..., out, in]`` as integers and factors; ``to(dtype)`` makes it dense, ``shape`` is the dense one."""

    dtype = torch.float32

    def __init__(self, weight: Tensor, bits: Bits) -> None:
        self.shape, self.bits = weight.shape, bits
        codes, self.scale = rounded(weight, bits)
        self.codes = codes if bits == 8 else packed(codes)

    @property
    def device(self) -> torch.device:
        """Where the integers are."""
        return self.codes.device

    @property
    def num_bytes(self) -> int:
        """Bytes of integers and factors."""
        return self.codes.nbytes + self.scale.nbytes

    def to(self, dtype: torch.dtype) -> Tensor:
        """The dense weight ``[..., out, in]``; no gradient leads through it."""
        codes = self.codes if self.bits == 8 else unpacked(self.codes, self.shape[-1])
        return spread(codes, self.scale, dtype)


class FrozenLinear(nn.Module):
    """A linear layer whose weight is quantised (``bits`` None: put there later); the bias stays as it was."""

    def __init__(self, layer: nn.Linear, bits: Bits | None = None) -> None:
        super().__init__()
        self.weight: Any = None if bits is None else Quantized(layer.weight, bits)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in] -> [..., out]`` in the dtype of products with ``x``."""
        dtype = matmul_dtype(x)
        product = frozen_product if isinstance(self.weight, Quantized) else _served_product
        y = product(x.to(dtype), self.weight)
        return y if self.bias is None else y + self.bias.to(dtype)


def frozen_product(x: Tensor, weight: Quantized, ends: Tensor | None = None) -> Tensor:
    """``x [..., in]`` times ``weight [out, in]``, or rows in segments (exclusive ``ends``) times a stack."""
    return cast(Tensor, _FrozenProduct.apply(x, weight, ends))


def _served_product(x: Tensor, weight: Any) -> Tensor:
    return weight.product(x)


def _product(x: Tensor, weight: Tensor, ends: Tensor | None) -> Tensor:
    if ends is None:
        return F.linear(x, weight)
    from llada_uni.layers.moe import grouped_linear

    return grouped_linear(x, weight, ends)


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Quantized, ends: Tensor | None) -> Tensor:
        ctx.weight, ctx.ends = weight, ends
        return _product(x, weight.to(x.dtype), ends)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _product(grad.contiguous(), ctx.weight.to(grad.dtype).mT, ctx.ends), None, None


def rounded(
    weight: Tensor, bits: Bits, *, run: int = _RUN, scale_dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """int8 numbers ``[..., in]`` and the float32 factors ``[..., runs, 1]``, themselves rounded to ``scale_dtype``."""
    runs = weight.detach().to(torch.float32).unflatten(-1, (-1, math.gcd(weight.shape[-1], run)))
    scale = (runs.abs().amax(-1, keepdim=True) / _LARGEST[bits]).to(scale_dtype).to(torch.float32)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (runs / scale).round_().to(torch.int8).flatten(-2), scale


def packed(codes: Tensor) -> Tensor:
    """Two numbers from -8 to 7 in one byte; an odd last one gets a zero beside it."""
    even = F.pad(codes, (0, 1)) if codes.shape[-1] % 2 else codes
    return ((even[..., ::2] & 15) | (even[..., 1::2] << 4)).view(torch.uint8)


def unpacked(packed: Tensor, width: int) -> Tensor:
    """The ``width`` numbers of every row of bytes ``[..., ceil(width / 2)]``, the first in the low half: int8."""
    numbers = packed.new_empty((*packed.shape, 2), dtype=torch.int8)
    numbers[..., 0] = ((packed & 15) ^ 8).to(torch.int8) - 8
    numbers[..., 1] = ((packed >> 4) ^ 8).to(torch.int8) - 8
    return numbers.flatten(-2)[..., :width]


def spread(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """``codes [..., in]`` times the factors ``scale [..., runs, 1]`` of their runs, computed in float32 or wider."""
    kind = torch.promote_types(dtype, torch.float32)
    runs = codes.unflatten(-1, (scale.shape[-2], -1)).to(kind) * scale.to(kind)
    return runs.flatten(-2).to(dtype)
