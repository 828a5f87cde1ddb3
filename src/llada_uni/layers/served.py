"""Quantised weights as inference keeps them: integers or float8 with their factors, and products with them.

The numbers are those of ``layers.quantized`` ("int4": runs of up to 64 inputs; "int8": one run per row) and
``layers.float8`` ("fp8": blocks of 128 x 128); factors of integers are rounded to bfloat16 first. On a CPU that has
kernels for such products they take the weights as they are and compute in bfloat16; otherwise one expert at a time
becomes dense, and only experts that tokens have chosen.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from llada_uni.layers.float8 import BLOCK, FP8, dequantize_blocks, quantize_blocks, scale_shape
from llada_uni.layers.quantized import packed, rounded, spread, unpacked

__all__ = ["KINDS", "Kind", "Served", "can_pack", "steps_shape"]

Kind = Literal["int8", "int4", "fp8"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_RUN = 64
_KERNEL_RUNS = (32, 64, 128, 256)
_KERNEL_ROWS = 32  # beyond so many rows the kernels lose speed, so that more go in portions
_DENSE_AT_ONCE = 2**25
_ops: Any = torch.ops.aten


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """A weight ``shape`` ([out, in] or a stack [E, out, in]) in the form ``kind``.

    ``codes`` uint8 ``[..., out, in / 2]`` for int4, int8 or float8 ``[..., out, in]``; ``scale`` bfloat16
    ``[..., out, runs]`` for integers, float32 blocks for float8. ``packed``: in the order of the CPU kernels, with
    ``scale`` ``[..., runs, out, 2]`` for int4. Fill an :meth:`empty` one with :meth:`put` or :meth:`put_stored`.
    """

    kind: Kind
    shape: tuple[int, ...]
    codes: Tensor
    scale: Tensor
    packed: bool = False
    dtype: ClassVar[torch.dtype] = torch.float32

    @classmethod
    def empty(
        cls, shape: tuple[int, ...], kind: Kind, *, device: torch.device | str = "cpu", packed: bool = False
    ) -> Served:
        """Memory for a weight of this shape. ``packed`` needs :func:`can_pack`."""
        codes, scale = _forms(tuple(shape), kind, packed)
        return cls(
            kind=kind,
            shape=tuple(shape),
            codes=torch.empty(codes[0], dtype=codes[1], device=device),
            scale=torch.empty(scale[0], dtype=scale[1], device=device),
            packed=packed,
        )

    @classmethod
    def of(cls, weight: Tensor, kind: Kind, *, packed: bool = False) -> Served:
        """The quantised form of a dense weight, on its device."""
        made = cls.empty(tuple(weight.shape), kind, device=weight.device, packed=packed)
        for index in range(weight.shape[0]) if weight.ndim == 3 else (None,):
            made.put(index, weight if index is None else weight[index])
        return made

    @staticmethod
    def count_bytes(shape: tuple[int, ...], kind: Kind, *, packed: bool = False) -> int:
        """Memory of a weight of this shape, without making it."""
        return sum(math.prod(size) * dtype.itemsize for size, dtype in _forms(tuple(shape), kind, packed))

    @property
    def device(self) -> torch.device:
        """Where the weight is."""
        return self.codes.device

    @property
    def num_bytes(self) -> int:
        """Bytes of codes and factors."""
        return self.codes.nbytes + self.scale.nbytes

    def put(self, index: int | None, weight: Tensor) -> None:
        """Quantise a dense ``weight [out, in]`` into place ``index`` of the stack (None: there is no stack)."""
        if self.kind == "fp8":
            self._store(index, *quantize_blocks(weight, block=BLOCK))
            return
        run = weight.shape[-1] if self.kind == "int8" else _RUN
        numbers, scale = rounded(weight, 8 if self.kind == "int8" else 4, run=run, scale_dtype=torch.bfloat16)
        self._put_numbers(index, numbers, scale.squeeze(-1))

    def put_stored(self, index: int | None, codes: Tensor, scale: Tensor) -> None:
        """Take over codes and factors in the plain form into place ``index``."""
        if self.packed and self.kind == "int4":
            self._put_numbers(index, unpacked(codes, self.shape[-1]), scale)
        else:
            self._store(index, codes, scale)

    def _put_numbers(self, index: int | None, numbers: Tensor, scale: Tensor) -> None:
        """int8 ``numbers [out, in]`` in the form of this weight."""
        if self.kind == "int4" and self.packed:
            factors = torch.stack((scale.mT, torch.zeros_like(scale.mT)), dim=-1)
            codes = _ops._convert_weight_to_int4pack_for_cpu(numbers.to(torch.int32).add_(8), 1)
            self._store(index, codes, factors)
        else:
            self._store(index, numbers if self.kind == "int8" else packed(numbers), scale)

    def _store(self, index: int | None, codes: Tensor, scale: Tensor) -> None:
        mine = (self.codes, self.scale) if index is None else (self.codes[index], self.scale[index])
        mine[0].copy_(codes)
        mine[1].copy_(scale)

    def moved(self, device: torch.device, *, non_blocking: bool = False) -> Served:
        """The same on another device."""
        codes, scale = (one.to(device, non_blocking=non_blocking) for one in (self.codes, self.scale))
        return replace(self, codes=codes, scale=scale)

    def pinned(self) -> Served:
        """The same in memory that a GPU copies from directly."""
        return replace(self, codes=self.codes.pin_memory(), scale=self.scale.pin_memory())

    def to(self, dtype: torch.dtype) -> Tensor:
        """The dense weight."""
        if len(self.shape) == 2:
            return self._dense(self.codes, self.scale, dtype)
        dense = torch.empty(self.shape, dtype=dtype, device=self.device)
        step = max(1, _DENSE_AT_ONCE // math.prod(self.shape[1:])) if not self.packed else 1
        for first in range(0, self.shape[0], step):
            here = slice(first, first + step) if not self.packed else first
            dense[here] = self._dense(self.codes[here], self.scale[here], dtype)
        return dense

    def product(self, x: Tensor, ends: Tensor | None = None) -> Tensor:
        """``x [..., in]`` times the transposed weight, or rows ``[M, in]`` in segments (``ends``) and a stack.

        Result in the dtype of ``x``; no gradient.
        """
        if ends is None:
            return self._rows(x.reshape(-1, x.shape[-1]), self.codes, self.scale).view(*x.shape[:-1], self.shape[-2])
        if x.device.type != "cpu":
            from llada_uni.layers.moe import grouped_linear

            return grouped_linear(x, self.to(x.dtype), ends)
        sizes = torch.diff(ends, prepend=ends.new_zeros(1)).tolist()
        parts = [
            self._rows(rows, self.codes[expert], self.scale[expert])
            for expert, rows in enumerate(x.split(sizes))
            if len(rows)
        ]
        return torch.cat(parts) if parts else x.new_empty(0, self.shape[-2])

    def _rows(self, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        if not self.packed:
            return F.linear(x, self._dense(codes, scale, x.dtype))
        return self._by_kernel(x.to(torch.bfloat16).contiguous(), codes, scale).to(x.dtype)

    def _by_kernel(self, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        parts = [_kernel(rows, codes, scale, self.kind, self._run) for rows in x.split(_KERNEL_ROWS)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @property
    def _run(self) -> int:
        return math.gcd(self.shape[-1], _RUN)

    def _dense(self, codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        if self.kind == "fp8":
            return dequantize_blocks(codes, scale, dtype=dtype)
        if self.packed and self.kind == "int4":  # the order of the kernel is its own; rows of the identity undo it
            return self._by_kernel(torch.eye(self.shape[-1], dtype=torch.bfloat16), codes, scale).mT.to(dtype)
        if self.kind == "int4":
            codes = unpacked(codes, self.shape[-1])
        return spread(codes, scale.unsqueeze(-1), dtype)


def steps_shape(shape: tuple[int, ...], kind: Kind) -> tuple[int, ...]:
    """Shape of the factors of integers in the plain form, for a weight ``[..., out, in]``."""
    return _forms(shape, kind, packed=False)[1][0]


def can_pack(shape: tuple[int, ...], kind: Kind, *, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this machine has a kernel for such a weight, and products in ``dtype`` may be bfloat16."""
    if device.type != "cpu" or dtype == torch.float64 or kind == "fp8":
        return False
    if kind == "int8":
        fits = shape[-1] % 16 == 0  # other widths are read beyond their end
    else:
        fits = shape[-2] % 16 == 0 and math.gcd(shape[-1], _RUN) in _KERNEL_RUNS
    return fits and _kernel_works(kind)


@functools.cache
def _kernel_works(kind: Kind) -> bool:
    """Does the kernel exist here and compute what it should?"""
    names = ("_weight_int8pack_mm",) if kind == "int8" else ("_convert_weight_to_int4pack_for_cpu",
                                                             "_weight_int4pack_mm_for_cpu")  # fmt: skip
    if not all(hasattr(_ops, name) for name in names):
        return False
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(64, 128, generator=generator), torch.randn(5, 128, generator=generator)
    try:
        found = Served.of(weight, kind, packed=True).product(x)
    except RuntimeError:
        return False
    wanted = F.linear(x, Served.of(weight, kind).to(torch.float32))
    return bool((found - wanted).norm() < 0.02 * wanted.norm())


def _forms(shape: tuple[int, ...], kind: Kind, packed: bool) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
    """(shape, dtype) of codes and of factors."""
    *lead, rows, columns = shape
    if kind == "fp8":
        return (shape, FP8), (scale_shape(shape), torch.float32)
    if kind == "int8":
        return (shape, torch.int8), ((*lead, rows, 1), torch.bfloat16)
    runs = columns // math.gcd(columns, _RUN)
    factors = (*lead, runs, rows, 2) if packed else (*lead, rows, runs)
    return ((*lead, rows, -(-columns // 2)), torch.uint8), (factors, torch.bfloat16)


def _kernel(x: Tensor, codes: Tensor, scale: Tensor, kind: Kind, run: int) -> Tensor:
    if kind == "int8":
        return _ops._weight_int8pack_mm(x, codes, scale.squeeze(-1))
    return _ops._weight_int4pack_mm_for_cpu(x, codes, run, scale)
