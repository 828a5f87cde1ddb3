"""The gated feed-forward block."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from llada_uni.layers.precision import matmul_dtype

__all__ = ["SwiGLU"]


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))`` without biases, on the last axis: ``[..., width] -> [..., width]``."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden_width, bias=False)
        self.up_proj = nn.Linear(width, hidden_width, bias=False)
        self.down_proj = nn.Linear(hidden_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(matmul_dtype(x))  # one conversion for both projections under autocast
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
