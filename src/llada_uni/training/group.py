"""The processes of a run as one group: how they start, share sums and decisions, wait for each other, and fail.

Every function here is the identity in a process of its own, so the loop and the objectives call them without asking.
Processes are started by ``torchrun`` (or anything that sets its variables). Numbers that decide something travel on the
CPU and are added in the order of the processes, so that all hold the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from llada_uni.errors import ConfigError, ResourceError

__all__ = [
    "alone_first",
    "announces_failure",
    "everywhere",
    "fewest",
    "from_all",
    "gathered",
    "is_first",
    "joined",
    "lost_partner",
    "several",
    "summed",
    "wait",
]

_PATIENCE = timedelta(days=7)  # for one process to evaluate or to prepare data while the others wait
_STEP_LIMIT = timedelta(minutes=30)
_FAILURES = "llada_uni/failures"
Value = TypeVar("Value")
_PATIENT: list[Any] = []
_STORE: list[Any] = []


def several() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def from_all(value: Value) -> list[Value]:
    """The values of all processes, by rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def is_first() -> bool:
    """Whether this process is the one that writes files and reports."""
    return not several() or dist.get_rank() == 0


def summed(values: Tensor) -> Tensor:
    """``values`` added over all processes; any device, every process passes the same shape and dtype."""
    if not several():
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def gathered(values: Sequence[Value]) -> list[Value]:
    """What every process found in each of its micro-batches (one entry each), in the order of the micro-batches.

    Tensors travel through the CPU and arrive there.
    """
    if not several():
        return list(values)
    lists = from_all([_on_cpu(value) for value in values])
    return [mine[index] for index in range(len(values)) for mine in lists]


def fewest(count: int) -> int:
    """The smallest ``count`` of all processes: how often all of them can call a divided model."""
    return min(from_all(count)) if several() else count


def everywhere(value: Value) -> Value:
    """The value of the first process."""
    return from_all(value)[0] if several() else value


def wait() -> None:
    """Returns when every process has come here; the first may take days."""
    if several():
        dist.barrier(group=_PATIENT[0] if _PATIENT else None)


@contextmanager
def alone_first() -> Iterator[None]:
    """Inside, the first process goes ahead; the others enter when it has left (what it wrote is there)."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


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
    return several() and (isinstance(error, dist.DistError) or any(words in text for words in told))


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


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    return tuple(_on_cpu(item) for item in value) if isinstance(value, tuple) else value
