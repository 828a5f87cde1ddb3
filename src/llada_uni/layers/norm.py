"""Root-mean-square normalisation as the released networks compute it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from llada_uni.layers.precision import at_least_float32

__all__ = ["RMSNorm"]


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x², last axis) + eps) * weight``, shape kept.

    A half-precision module normalises in float32, rounds back to its own dtype and only then multiplies by the weight.
    With a float32 weight (mixed-precision training) everything is float32, the result too. Source: released
    modeling_llada2uni_moe.py and decoder_model.py (same rule, different ``eps``).
    """

    def __init__(self, width: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to one."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if weight.dtype not in (torch.float32, torch.float64):
            return weight * F.rms_norm(at_least_float32(x), weight.shape, None, self.eps).to(x.dtype)
        x = x.to(weight.dtype)
        if x.device.type == "cpu" and torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            return _TrainedOnCpu.apply(x, weight, self.eps)
        return F.rms_norm(x, weight.shape, weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


class _TrainedOnCpu(torch.autograd.Function):
    """The same forward with a fused backward, which PyTorch lacks for this norm on the CPU (about five times faster).

    The layer-norm gradient with the mean set to 0 is ``rstd * (h - mean(h) - x_hat * mean(h * x_hat))`` where
    ``h = grad * weight``; the root-mean-square norm has no ``mean(h)`` term, so it is added back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return F.rms_norm(x, weight.shape, weight, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rstd = torch.linalg.vecdot(x, x).div_(weight.numel()).add_(ctx.eps).rsqrt_().unsqueeze(-1)
        grad_x, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x, weight.shape, torch.zeros_like(rstd), rstd, weight, None, [True, True, False]
        )
        mean = (grad @ (weight / weight.numel())).unsqueeze(-1)
        return grad_x.add_(rstd * mean), grad_weight, None
