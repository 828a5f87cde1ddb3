"""Several processes make the steps of one: who computes which micro-batch, and how gradients are added and clipped.

A step is a number of micro-batches, whoever computes them; the model may be whole in every process or divided
(``sharding``, ``experts``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from llada_uni.errors import ConfigError
from llada_uni.training.config import TrainConfig
from llada_uni.training.group import from_all, several, summed

__all__ = ["World"]

_BUCKET_NUMBERS = 2**25  # gradients that are added in one message


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a run and how they divide the model. The default is one process that is alone.

    ``shard_mesh`` has the dimensions (data, shard), ``expert_mesh`` (replica, expert); None where the model is whole.
    """

    rank: int = 0
    size: int = 1
    shard_mesh: DeviceMesh | None = None
    expert_mesh: DeviceMesh | None = None

    @classmethod
    def of(cls, config: TrainConfig) -> World:
        """The world this process is in, divided as ``config.parallel`` asks.

        Raises:
            ConfigError: the degrees or the micro-batches do not fit the number of processes.
        """
        size = dist.get_world_size() if several() else 1
        _check_fit(config, size)
        if size == 1:
            return cls()
        degrees, kind = config.parallel, torch.device(config.device).type
        shards = experts = None
        if degrees.shard > 1:
            shards = init_device_mesh(kind, (size // degrees.shard, degrees.shard), mesh_dim_names=("data", "shard"))
        if degrees.expert > 1:
            shape = (size // degrees.expert, degrees.expert)
            experts = init_device_mesh(kind, shape, mesh_dim_names=("replica", "expert"))
        return cls(rank=dist.get_rank(), size=size, shard_mesh=shards, expert_mesh=experts)

    @property
    def divided(self) -> bool:
        """Whether no process holds the whole model."""
        return self.shard_mesh is not None or self.expert_mesh is not None

    def micros(self, accumulation: int) -> range:
        """Numbers of the micro-batches of a step that this process computes."""
        return range(self.rank, accumulation, self.size)

    def total(self, values: Sequence[float]) -> float:
        """Sum over the values of all processes."""
        return sum(values) if self.size == 1 else sum(from_all(sum(values)))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.size == 1 else any(from_all(flag))

    def copy_from_first(self, model: nn.Module) -> None:
        """Every process starts with the parameters and buffers of the first."""
        if self.size > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.detach(), src=0)

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Adds up what the processes' micro-batches contribute; sharded parameters have done so in the backward pass.

        A parameter that got a gradient in some process gets one in all, one that got none stays without.
        """
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        self._fill_absent([parameter for parameter in trained if not isinstance(parameter, DTensor)])
        whole: list[Tensor] = []
        experts: list[Tensor] = []
        for gradient in (parameter.grad for parameter in trained if parameter.grad is not None):
            if not isinstance(gradient, DTensor):
                whole.append(gradient)
            elif gradient.device_mesh == self.expert_mesh:
                experts.append(gradient.to_local())
        _sum_in_buckets(whole, None)
        if self.expert_mesh is not None:
            _sum_in_buckets(experts, self.expert_mesh.get_group("replica"))

    def _fill_absent(self, parameters: Sequence[nn.Parameter]) -> None:
        present = summed(torch.tensor([int(parameter.grad is not None) for parameter in parameters]))
        for parameter, count in zip(parameters, present.tolist(), strict=True):
            if count and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    @torch.no_grad()
    def clip_divided(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """``optim.clip_gradients`` for parameters of which every process holds a part."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        squares: dict[Any, Tensor] = {}
        for gradient in gradients:
            local = _local(gradient)
            mesh = gradient.device_mesh if isinstance(gradient, DTensor) else None
            squares[mesh] = squares.get(mesh, local.new_zeros(())) + local.square().sum()
        for mesh, square in squares.items():
            if mesh is not None:  # the last dimension holds the parts, the first repeats them
                dist.all_reduce(square, group=mesh.get_group(mesh.ndim - 1))
        norm = torch.stack(list(squares.values())).sum().sqrt()
        if max_norm > 0:
            scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                _local(gradient).mul_(scale)
        return norm


def _check_fit(config: TrainConfig, size: int) -> None:
    degrees, name = config.parallel, config.name
    if size % degrees.shard or size % degrees.expert:
        raise ConfigError(
            f"{name}: parallel.shard {degrees.shard} and parallel.expert {degrees.expert} must divide the number of "
            f"processes, which is {size}; start with torchrun --nproc-per-node or lower them"
        )
    if degrees.data and degrees.data * degrees.shard != size:
        raise ConfigError(
            f"{name}: parallel.data {degrees.data} times parallel.shard {degrees.shard} must be the number of "
            f"processes, which is {size}; leave data at 0 to have it computed"
        )
    if config.accumulation % size:
        samples = config.accumulation * config.batch_size
        raise ConfigError(
            f"{name}: {size} processes share the micro-batches of a step and accumulation is {config.accumulation}; "
            f"make it a multiple of {size}, for example --set accumulation={size} "
            f"--set batch_size={max(samples // size, 1)} for about {samples} samples a step as now"
        )


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _sum_in_buckets(gradients: Sequence[Tensor], group: Any) -> None:
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat, group=group)
        for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of gradients of one dtype with at most ``_BUCKET_NUMBERS`` numbers (one gradient is never cut)."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        filled = sum(item.numel() for item in bucket)
        if bucket and (bucket[0].dtype != gradient.dtype or filled + gradient.numel() > _BUCKET_NUMBERS):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
