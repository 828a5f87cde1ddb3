"""Several processes as one run: who computes which micro-batch, and how sums and decisions are shared.

Every function here is the identity in a process of its own, so the loop and the objectives call them without asking.
Processes are started by ``torchrun`` (or anything that sets its variables). Numbers that decide something travel on the
CPU and are added in rank order, so that all processes hold the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from llada_uni.errors import ConfigError, ResourceError
from llada_uni.training.config import TrainConfig

__all__ = [
    "World",
    "alone_first",
    "announces_failure",
    "everywhere",
    "fewest",
    "gathered",
    "is_first",
    "joined",
    "lost_partner",
    "summed",
    "wait",
]

_BUCKET_NUMBERS = 2**25  # gradients that are added in one message
_PATIENCE = timedelta(days=7)  # for one process to evaluate or to prepare data while the others wait
_STEP_LIMIT = timedelta(minutes=30)
_FAILURES = "llada_uni/failures"
Value = TypeVar("Value")


def is_first() -> bool:
    """Whether this process is the one that writes files and reports."""
    return not _several() or dist.get_rank() == 0


def summed(values: Tensor) -> Tensor:
    """``values`` added over all processes; any device, every process passes the same shape and dtype."""
    if not _several():
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def gathered(values: Sequence[Value]) -> list[Value]:
    """What every process found in each of its micro-batches (one entry each), in the order of the micro-batches.

    Tensors travel through the CPU and arrive there.
    """
    if not _several():
        return list(values)
    lists = _from_all([_on_cpu(value) for value in values])
    return [mine[index] for index in range(len(values)) for mine in lists]


def fewest(count: int) -> int:
    """The smallest ``count`` of all processes: how often all of them can call a divided model."""
    return min(_from_all(count)) if _several() else count


def everywhere(value: Value) -> Value:
    """The value of the first process."""
    return _from_all(value)[0] if _several() else value


def wait() -> None:
    """Returns when every process has come here; the first may take days."""
    if _several():
        dist.barrier(group=_PATIENT[0] if _PATIENT else None)


@contextmanager
def alone_first() -> Iterator[None]:
    """Inside, the first process goes ahead; the others enter when it has left (what it wrote is there)."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


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
        size = dist.get_world_size() if _several() else 1
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
        return sum(values) if self.size == 1 else sum(_from_all(sum(values)))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.size == 1 else any(_from_all(flag))

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


# --- starting and stopping -------------------------------------------------------------------------------------------

_PATIENT: list[Any] = []
_STORE: list[Any] = []


@contextmanager
def joined() -> Iterator[None]:
    """Inside, the processes that ``torchrun`` started are one group; without it nothing happens.

    Raises:
        ConfigError: the variables of ``torchrun`` are incomplete.
        ResourceError: the processes do not find each other, or there are fewer GPUs than processes on a machine.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1" or dist.is_initialized():
        yield
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing or not size.isdigit():
        raise ConfigError(f"WORLD_SIZE is {size!r} and {', '.join(missing) or 'RANK'} is not set; start with torchrun")
    _start_group()
    yield
    _PATIENT.clear()
    _STORE.clear()
    dist.destroy_process_group()


def announces_failure() -> bool:
    """Whether this process is the first of its group to fail, and so the one to say why."""
    if not _STORE:
        return True
    try:
        return _STORE[0].add(_FAILURES, 1) == 1
    except (RuntimeError, OSError):  # the group is gone, nobody else can have been told
        return True


def lost_partner(error: BaseException) -> bool:
    """Whether ``error`` only says that another process of the group has ended."""
    text = str(error).lower()
    told = ("gloo", "connection closed by peer", "connection reset", "nccl", "broken pipe")
    return _several() and (isinstance(error, dist.DistError) or any(words in text for words in told))


def _start_group() -> None:
    local = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise ResourceError(
                f"process {local} of this machine needs a GPU of its own and there are {torch.cuda.device_count()}; "
                "lower --nproc-per-node"
            )
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=_STEP_LIMIT)))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_STEP_LIMIT)
    except (RuntimeError, ValueError, OSError) as error:
        raise ResourceError(
            f"the processes do not find each other: {error}; check MASTER_ADDR and MASTER_PORT"
        ) from error
    _STORE.append(store)
    _PATIENT.append(dist.new_group(backend="gloo", timeout=_PATIENCE))


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


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _from_all(value: Value) -> list[Value]:
    """The values of all processes, by rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    return tuple(_on_cpu(item) for item in value) if isinstance(value, tuple) else value


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _sum_in_buckets(gradients: Sequence[Tensor], group: Any) -> None:
    for bucket in _buckets(gradients, lambda gradient: gradient.dtype):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat, group=group)
        for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(gradients: Sequence[Tensor], kind: Callable[[Tensor], Any]) -> Iterator[list[Tensor]]:
    """Runs of gradients of one kind with at most ``_BUCKET_NUMBERS`` numbers (one gradient is never cut)."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        filled = sum(item.numel() for item in bucket)
        if bucket and (kind(bucket[0]) != kind(gradient) or filled + gradient.numel() > _BUCKET_NUMBERS):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
