"""Experts divided among processes: every token copy travels to the process that holds its expert, and back.

The parameters keep their names and become distributed tensors [E, ...] cut along the experts, so that saving, averaging
and exporting need not know. Tokens stay with their process for everything else.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from llada_uni.errors import ConfigError
from llada_uni.layers.moe import ExpertBackend, Experts, MoE, Routing, apply_experts
from llada_uni.layers.precision import matmul_dtype

__all__ = ["DividedExperts", "divide_experts"]


def divide_experts(model: nn.Module, mesh: DeviceMesh) -> list[nn.Parameter]:
    """Replaces the experts of every MoE layer of ``model`` by those this process holds; returns their parameters.

    ``mesh`` has the dimensions (replica, expert).

    Raises:
        ConfigError: the model has no experts, or their number is not a multiple of the ``expert`` dimension.
    """
    layers = [module for module in model.modules() if isinstance(module, MoE)]
    if not layers:
        raise ConfigError(f"parallel.expert is {mesh.size(1)} and {type(model).__name__} has no experts; set it to 1")
    for layer in layers:
        if not isinstance(layer.experts, DividedExperts):
            layer.register_module("experts", DividedExperts(layer.experts, mesh))
    return [parameter for layer in layers for parameter in layer.experts.parameters()]


class DividedExperts(nn.Module):
    """Takes the place of :class:`Experts`: the same result, each process computing its share of the experts."""

    def __init__(self, experts: Experts, mesh: DeviceMesh) -> None:
        super().__init__()
        number, parts = experts.gate_proj.shape[0], mesh.size(1)
        if number % parts:
            raise ConfigError(
                f"parallel.expert {parts} does not divide the {number} experts of a layer; choose another"
            )
        self.backend: ExpertBackend = experts.backend
        self._parts, self._held = parts, number // parts
        self._group = mesh.get_group("expert")
        for name, parameter in experts.named_parameters():
            cut = distribute_tensor(parameter.detach(), mesh, [Replicate(), Shard(0)], src_data_rank=None)
            self.register_parameter(name, nn.Parameter(cut, requires_grad=parameter.requires_grad))

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """As :meth:`Experts.forward`; a call of every process of the group at the same time."""
        dtype, top_k = matmul_dtype(x), routing.ids.shape[-1]
        chosen = routing.ids.flatten()
        order = chosen.argsort(stable=True)
        sent = torch.bincount(chosen // self._held, minlength=self._parts)
        arrived = torch.empty_like(sent)
        dist.all_to_all_single(arrived, sent, group=self._group)
        to, back = sent.tolist(), arrived.tolist()
        rows = self._exchange(x.to(dtype)[order // top_k], to, back)
        numbers = _sent(chosen[order], to, back, self._group) % self._held
        answers = self._exchange(self._compute(rows, numbers, routing), back, to)
        copies = answers.new_empty(answers.shape).index_copy(0, order, answers).view(-1, top_k, answers.shape[-1])
        return (copies.to(routing.weights.dtype) * routing.weights.unsqueeze(-1)).sum(1).to(dtype)

    def _compute(self, rows: Tensor, numbers: Tensor, routing: Routing) -> Tensor:
        """Outputs of the expert ``numbers`` [M] of this process for ``rows`` [M, H], not yet weighted."""
        ones = routing.weights.new_ones(len(rows), 1)
        alone = Routing(numbers.unsqueeze(1), ones, routing.logits)
        weights = [_own(self.get_parameter(name)) for name in ("gate_proj", "up_proj", "down_proj")]
        return apply_experts(rows, alone, *weights, backend=self.backend)

    def _exchange(self, rows: Tensor, to: list[int], back: list[int]) -> Tensor:
        moved: Tensor = _Exchange.apply(rows, to, back, self._group)
        return moved


class _Exchange(torch.autograd.Function):
    """Rows to other processes: ``to[i]`` consecutive ones go to process i, ``back[i]`` arrive from it, in order."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, to: list[int], back: list[int], group: Any) -> Tensor:
        ctx.way = (back, to, group)
        return _sent(rows, to, back, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _sent(grad, *ctx.way), None, None, None


def _sent(rows: Tensor, to: list[int], back: list[int], group: Any) -> Tensor:
    arrived = rows.new_empty(sum(back), *rows.shape[1:])
    dist.all_to_all_single(arrived, rows.contiguous(), back, to, group=group)
    return arrived


def _own(parameter: nn.Parameter) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
