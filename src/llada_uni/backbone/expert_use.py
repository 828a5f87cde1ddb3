"""How many different experts a backbone call reads: what a step of a mixture of experts costs in memory traffic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from llada_uni.backbone.model import Backbone
from llada_uni.layers.moe import Router, Routing

__all__ = ["ExpertUse", "count_experts"]


class ExpertUse:
    """Different experts of every call of every layer with experts, in order; counted on the device."""

    def __init__(self, num_layers: int) -> None:
        self._num_layers = num_layers
        self._counts: list[Tensor] = []

    def add(self, routing: Routing) -> None:
        """One layer's decision."""
        used = torch.zeros(routing.logits.shape[-1], dtype=torch.bool, device=routing.ids.device)
        self._counts.append(used.index_fill(0, routing.ids.flatten(), True).sum())

    @property
    def per_call(self) -> Tensor:
        """int64 [calls, layers with experts] on the CPU; reading it waits for the device."""
        if not self._counts:
            return torch.zeros(0, self._num_layers, dtype=torch.int64)
        return torch.stack(self._counts).cpu().unflatten(0, (-1, self._num_layers))

    @property
    def mean(self) -> float:
        """Of all calls and layers; 0 where there was no call."""
        counts = self.per_call
        return float(counts.double().mean()) if counts.numel() else 0.0


@contextmanager
def count_experts(backbone: Backbone) -> Iterator[ExpertUse]:
    """Count the experts of every call of ``backbone`` made inside the block.

    Calls that replay a CUDA graph run no Python and are not counted: count without graphs.
    """
    routers = backbone.routers()
    use = ExpertUse(len(routers))

    def see(_module: Router, _inputs: object, routing: Routing) -> None:
        use.add(routing)

    handles = [router.register_forward_hook(see) for router in routers]  # type: ignore[arg-type]
    try:
        yield use
    finally:
        for handle in handles:
            handle.remove()
