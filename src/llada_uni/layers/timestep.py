"""Sinusoidal features of a scalar time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["sinusoidal"]


def sinusoidal(time: Tensor, width: int, *, max_period: float = 10000.0) -> Tensor:
    """``[cos(time * f_0 .. f_{w/2-1}) | sin(...)]`` with ``f_k = max_period^(-k / (width/2))``, cosines first.

    ``time`` is ``[B]`` (already scaled: the decoder passes ``1000 t``), ``width`` is even. Returns ``[B, width]`` in
    float32, or float64 for float64 input. Source: released decoder_model.py, TimestepEmbedder.
    """
    dtype = torch.float64 if time.dtype == torch.float64 else torch.float32
    half = width // 2
    exponents = torch.arange(half, dtype=dtype, device=time.device) / half
    arguments = time.to(dtype).unsqueeze(-1) * torch.exp(-math.log(max_period) * exponents)
    return torch.cat((arguments.cos(), arguments.sin()), dim=-1)
