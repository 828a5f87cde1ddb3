"""From stored tensors to one weight in memory: dense, or quantised expert by expert so that no dense stack exists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from llada_uni.errors import CheckpointError, ConfigError, ResourceError
from llada_uni.layers.served import Kind, Served, can_pack
from llada_uni.weights import keys
from llada_uni.weights.quantize import BLOCK, dequantize_blocks
from llada_uni.weights.store import TensorStore

__all__ = ["ALWAYS_FLOAT32", "Offload", "Quantize", "Target", "check_finite", "materialise", "serve"]

Quantize = Literal["none", "int8", "int4", "fp8"]
Offload = Literal["cpu", "disk"]
ALWAYS_FLOAT32 = "expert_bias"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where and how the weights of a network are wanted; ``weights.load`` says what the words mean.

    Raises:
        ConfigError: an unknown word, or an offload that makes no sense on this device.
    """

    dtype: torch.dtype
    device: torch.device
    block: tuple[int, int] = BLOCK
    quantize: Quantize | None = None
    offload: Offload | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("quantize", self.quantize, get_args(Quantize)),
            ("offload", self.offload, get_args(Offload)),
        ):
            if value is not None and value not in known:
                raise ConfigError(f"{name}: expected {', '.join(known)}, got {value!r}")
        if self.offload == "cpu" and self.device.type == "cpu":
            raise ConfigError("offload 'cpu' moves weights from main memory to a GPU; on a CPU use 'disk'")

    def kind(self, plan: keys.Plan) -> Kind | None:
        """In which quantised form a large weight is kept; None = dense."""
        if self.quantize is not None:
            return None if self.quantize == "none" else self.quantize
        stored = plan.parts[0].kind
        return None if stored == "fp8" else stored


def materialise(plan: keys.Plan, store: TensorStore, target: Target, *, row: int | None = None) -> Tensor:
    """A dense weight in the wanted dtype, checked to be finite; ``row``: one expert of a stored stack.

    Raises:
        CheckpointError: numbers that are not finite. ResourceError: not enough memory.
    """
    dtype = torch.float32 if plan.name.endswith(ALWAYS_FLOAT32) else target.dtype
    try:
        if plan.stacked and plan.shape[2:]:
            tensor = torch.empty(plan.shape, dtype=dtype, device=target.device)
            for slot, part in zip(tensor, plan.parts, strict=True):
                slot.copy_(_dense(part, store, plan.shape[1:], dtype, target.block))
        else:
            whole = _dense(plan.parts[0], store, plan.shape, dtype, target.block, row)
            tensor = whole.to(target.device, dtype, copy=True)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _no_memory(plan, target) from error
    check_finite(tensor, plan.name, store.where)
    return tensor


def serve(plan: keys.Plan, store: TensorStore, target: Target, kind: Kind, *, packed: bool | None = None) -> Served:
    """A quantised weight; what is stored in this form is taken over as it is. ``packed`` None: where there is a kernel.

    Raises:
        CheckpointError: numbers that are not finite. ResourceError: not enough memory.
    """
    if packed is None:
        packed = can_pack(plan.shape, kind, device=target.device, dtype=target.dtype)
    try:
        made = Served.empty(plan.shape, kind, device=target.device, packed=packed)
        for index in range(made.codes.shape[0]) if made.codes.ndim == 3 else (None,):
            part = plan.parts[index if plan.stacked and index is not None else 0]
            _fill(made, index, part, None if plan.stacked else index, store, plan, target)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _no_memory(plan, target) from error
    check_finite(made.scale, plan.name, store.where)
    return made


def _fill(
    made: Served,
    index: int | None,
    part: keys.Part,
    row: int | None,
    store: TensorStore,
    plan: keys.Plan,
    target: Target,
) -> None:
    """Expert ``index`` from ``part``, or from its entry ``row`` where it holds all of them."""
    as_it_is = part.kind == made.kind and (made.kind != "fp8" or target.block == BLOCK)
    if as_it_is and part.scale is not None:
        made.put_stored(index, _entry(store, part.key, row), _entry(store, part.scale, row))
        return
    dense = _dense(part, store, plan.shape[-2:], torch.float32, target.block, row).to(torch.float32)
    check_finite(dense, plan.name, store.where)
    made.put(index, dense.to(target.device))


def _dense(
    part: keys.Part,
    store: TensorStore,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    block: tuple[int, int],
    row: int | None = None,
) -> Tensor:
    """A stored weight of this dense ``shape``: as stored, or multiplied out to ``dtype``."""
    stored = _entry(store, part.key, row)
    if part.kind is None or part.scale is None:
        return stored
    scale = _entry(store, part.scale, row)
    if part.kind == "fp8":
        return dequantize_blocks(stored, scale, dtype=dtype, block=block)
    return Served(kind=part.kind, shape=shape, codes=stored, scale=scale).to(dtype)


def _entry(store: TensorStore, key: str, row: int | None) -> Tensor:
    return store.read(key) if row is None else store.read_row(key, row)


def check_finite(tensor: Tensor, name: str, where: Path) -> None:
    """Are these numbers?

    Raises:
        CheckpointError: infinite or not a number.
    """
    if tensor.numel():
        low, high = torch.aminmax(tensor.float() if tensor.dtype == torch.float8_e4m3fn else tensor)
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise CheckpointError(f"{where}: {name} holds numbers that are not finite; the file is damaged")


def _no_memory(plan: keys.Plan, target: Target) -> ResourceError:
    return ResourceError(f"not enough memory on {target.device} for {plan.name} {list(plan.shape)}")
