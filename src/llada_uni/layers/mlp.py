"""The gated feed-forward block."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from llada_uni.layers.precision import matmul_dtype
from llada_uni.layers.side_by_side import Beside, Remembered, joinable

__all__ = ["SwiGLU"]


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))`` without biases, on the last axis: ``[..., width] -> [..., width]``."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden_width, bias=False)
        self.up_proj = nn.Linear(width, hidden_width, bias=False)
        self.down_proj = nn.Linear(hidden_width, width, bias=False)
        self._beside = Remembered()

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(matmul_dtype(x))  # one conversion for both projections under autocast
        laid = self.laid(x)
        if laid is not None:
            return laid.gated(x)
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    def laid(self, x: Tensor) -> Beside | None:
        """The weights as one memory where they are so and products with ``x`` may use that."""
        weights = self.weights() if joinable(x) else None
        return self._beside(weights) if weights is not None and weights[0].dtype == x.dtype else None

    def weights(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """The three weights, None where more than products with them happens."""
        parts = self.gate_proj, self.up_proj, self.down_proj
        if any(type(part) is not nn.Linear or part._forward_hooks or part._forward_pre_hooks for part in parts):
            return None
        return parts[0].weight, parts[1].weight, parts[2].weight
