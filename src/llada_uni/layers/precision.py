"""Which number format a computation runs in."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["at_least_float32", "matmul_dtype"]


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` itself when it is float32 or float64, otherwise ``x`` converted to float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def matmul_dtype(x: Tensor) -> torch.dtype:
    """The dtype a matrix product with ``x`` runs in: that of the active autocast region, otherwise that of ``x``."""
    kind = x.device.type
    if x.dtype != torch.float64 and kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype
