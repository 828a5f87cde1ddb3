"""What a device computes and how fast: fast attention and experts against the plain ones, products by dtype."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from llada_uni.layers.attention import attend
from llada_uni.layers.moe import ExpertBackend, Experts, Routing, route

__all__ = ["largest_difference", "product_speed"]


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


@torch.inference_mode()
def product_speed(device: str, *, side: int = 512, repeats: int = 8) -> dict[str, float]:
    """Billions of operations per second of a matrix product, by dtype: which of them trainings should use here."""
    speeds: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(side, side, dtype=dtype, device=device)
        seconds = min(_timed(matrix) for _ in range(repeats))
        speeds[str(dtype).removeprefix("torch.")] = 2 * side**3 / seconds / 1e9
    return speeds


def _timed(matrix: Tensor) -> float:
    began = time.perf_counter()
    float((matrix @ matrix)[0, 0])  # reading a number waits for the device
    return time.perf_counter() - began


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
