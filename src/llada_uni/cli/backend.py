"""Compares the fast attention and experts with the plain ones on a device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llada_uni.layers.attention import attend
from llada_uni.layers.moe import ExpertBackend, Experts, Routing, route

__all__ = ["largest_difference"]


@torch.inference_mode()
def largest_difference(device: str) -> tuple[float, float]:
    """Largest absolute difference (attention, experts) between the fast and the plain way on small random numbers."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    q, k, v = numbers(1, 4, 40, 16), numbers(1, 2, 40, 16), numbers(1, 2, 40, 16)
    allowed = torch.ones(40, 40, dtype=torch.bool, device=device).tril()[None, None]
    attention = attend(q, k, v, allowed) - attend(q, k, v, allowed, backend="reference")
    return float(attention.abs().max()), _experts(numbers)


def _experts(numbers: Callable[..., Tensor]) -> float:
    x, logits = numbers(24, 16), numbers(24, 4)
    routing = route(logits, torch.zeros_like(logits[0]), top_k=2)
    weights = numbers(4, 8, 16), numbers(4, 8, 16), numbers(4, 16, 8)
    results = [_run(backend, weights, x, routing) for backend in ("grouped", "loop")]
    return float((results[0] - results[1]).abs().max())


def _run(backend: ExpertBackend, weights: tuple[Tensor, ...], x: Tensor, routing: Routing) -> Tensor:
    experts = Experts(16, 8, 4, backend=backend).to(x.device)
    for parameter, value in zip((experts.gate_proj, experts.up_proj, experts.down_proj), weights, strict=True):
        parameter.copy_(value)
    return experts(x, routing)
