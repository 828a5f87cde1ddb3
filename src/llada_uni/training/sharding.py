"""A model made ready for its run: cut into shards, with blocks that are recomputed or compiled.

An objective whose model is a stack of blocks says so with ``blocks()`` (:class:`Stacked`); these blocks are the units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from llada_uni.errors import ConfigError
from llada_uni.training.config import TrainConfig
from llada_uni.training.experts import divide_experts
from llada_uni.training.objective import Batch, Objective
from llada_uni.training.parallel import World

__all__ = ["LossFunction", "Stacked", "prepared"]

LossFunction = Callable[[Batch, torch.Generator], tuple[Tensor, dict[str, Any]]]


@runtime_checkable
class Stacked(Protocol):
    """An objective whose model is mostly a stack of blocks, each called once or more per forward pass."""

    def blocks(self) -> Sequence[nn.Module]:
        """The blocks, in the order of the forward pass."""
        ...


def prepared(objective: Objective, config: TrainConfig, world: World) -> LossFunction:
    """Puts the objective's model where ``config`` wants it and divides it; returns the loss to call from now on.

    Raises:
        ConfigError: an option needs blocks and the objective has none, or the experts cannot be divided so.
    """
    model = objective.model
    model.to(dtype=torch.float64 if config.dtype == "float64" else torch.float32)
    if not world.divided:
        model.to(device=config.device)
    world.copy_from_first(model)
    experts: list[nn.Parameter] = []
    if world.expert_mesh is not None:
        experts = divide_experts(model, world.expert_mesh)
    if config.recompute:
        for block in _blocks(objective, "recompute"):
            _recompute(block)
    loss: LossFunction = objective.loss
    if world.shard_mesh is not None:
        loss = _sharded(objective, world.shard_mesh, experts)
    elif world.divided:
        model.to(device=config.device)
    if config.compile:
        for block in _blocks(objective, "compile"):
            block.compile()
    return loss


def _blocks(objective: Objective, option: str) -> Sequence[nn.Module]:
    objective = getattr(objective, "inner", objective)  # adapters change the blocks of another objective's network
    if not isinstance(objective, Stacked):
        raise ConfigError(f"{type(objective).__name__} has no blocks, which {option} works on; leave {option} off")
    return objective.blocks()


def _recompute(block: nn.Module) -> None:
    """Keeps only the inputs of a block where gradients are asked for, and computes the rest again in the backward pass.

    A frozen network that adapters change may be in eval mode while it is trained through.
    """
    if "forward" in vars(block):
        return
    forward = block.forward

    def recomputing(*arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **named)
        return checkpoint(forward, *arguments, use_reentrant=False, **named)

    block.forward = recomputing


class _Whole(nn.Module):
    """The objective's loss as a module, so that what no block holds is whole while the loss is computed."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.model = objective.model
        self._loss = objective.loss

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        return self._loss(batch, generator)


def _sharded(objective: Objective, mesh: DeviceMesh, left_out: Sequence[nn.Parameter]) -> LossFunction:
    """Cuts every block, and the rest of the model as one more, among the processes of ``mesh`` (data, shard)."""
    used = mesh if mesh.size(0) > 1 else mesh["shard"]
    whole, ignored = _Whole(objective), set(left_out)
    for module in (*_blocks(objective, "parallel.shard"), whole):
        unit = fully_shard(module, mesh=used, ignored_params=ignored)
        unit.set_gradient_divide_factor(1.0)  # micro-batches carry their share of the loss already
        unit.set_force_sum_reduction_for_comms(True)
    return whole
