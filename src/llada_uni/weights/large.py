"""The large weights of a network: which they are, how they get a place, and how they visit a device in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from llada_uni.decoder.blocks import Block
from llada_uni.errors import ConfigError
from llada_uni.layers.moe import Experts
from llada_uni.layers.quantized import FrozenLinear
from llada_uni.layers.served import Kind, Served
from llada_uni.layers.streamed import Streamed, Weights, set_weight
from llada_uni.weights.keys import Plan
from llada_uni.weights.materialise import Target, materialise, serve
from llada_uni.weights.store import TensorStore

__all__ = [
    "SERVED_LINEAR",
    "Large",
    "blocks_of_decoder",
    "experts_of_backbone",
    "is_dense",
    "make_room",
    "network_bytes",
    "stream",
    "streams_of",
]

Large = Callable[[nn.Module], Mapping[str, nn.Module]]
"""A network -> its parts with large weights, in the order in which they run, by their dotted names."""
SERVED_LINEAR = (".attention.", ".feed_forward.")
_Later = dict[str, list[Plan]]


def experts_of_backbone(network: nn.Module) -> dict[str, nn.Module]:
    """The routed experts of every layer."""
    return {name: module for name, module in network.named_modules() if isinstance(module, Experts)}


def blocks_of_decoder(network: nn.Module) -> dict[str, nn.Module]:
    """The blocks; the condition is refined first."""
    blocks = {name: module for name, module in network.named_modules() if isinstance(module, Block)}
    return dict(sorted(blocks.items(), key=lambda item: not item[0].startswith("context_refiner")))


def make_room(
    module: nn.Module, plans: Sequence[Plan], target: Target, large: Large | None, *, where: Path
) -> tuple[list[Plan], dict[str, list[Plan]]]:
    """Sort the plans: those of plain parameters, and those of every part that is quantised or waits elsewhere.

    Quantised weights lose their place among the parameters here and get it back from :func:`stream`.

    Raises:
        ConfigError: weights on the disk are not stored in the form that is wanted.
    """
    parts = large(module) if large is not None else {}
    own: list[Plan] = []
    later: _Later = {name: [] for name in parts}
    for plan in plans:
        part = next((name for name in parts if plan.name.startswith(f"{name}.")), None)
        kind = _kind(plan, target) if part is not None else None
        if part is None or (kind is None and target.offload is None):
            own.append(plan)
            continue
        if target.offload == "disk" and kind != plan.parts[0].kind and kind is not None:
            raise ConfigError(
                f"offload 'disk' reads weights as they are stored and {where} does not hold {kind}; "
                "write such a checkpoint with llada-uni convert first"
            )
        later[part].append(plan)
        if kind is not None:
            _without_parameter(module, plan.name)
    return own, {name: found for name, found in later.items() if found}


def stream(module: nn.Module, later: Mapping[str, list[Plan]], store: TensorStore, target: Target) -> None:
    """Give the parts their weights for good, or whenever they run (``target.offload``)."""
    if target.offload is None:
        for name, plans in later.items():
            for key, weight in _read(name, plans, store, target).items():
                set_weight(module.get_submodule(name), key, weight)
        return
    parts = [module.get_submodule(name) for name in later]
    if target.offload == "disk":
        named = list(later.items())
        read: Callable[[int], Weights] = lambda n: _read(*named[n], store, target, packed=False)  # noqa: E731
    else:
        host = Target(dtype=target.dtype, device=torch.device("cpu"), block=target.block, quantize=target.quantize)
        waiting = [_pinned(_read(name, plans, store, host, packed=False)) for name, plans in later.items()]
        read = lambda n: {key: _moved(weight, target.device) for key, weight in waiting[n].items()}  # noqa: E731
    module.__dict__["_streamed"] = Streamed(parts, read, device=target.device)


def streams_of(module: nn.Module) -> Streamed | None:
    """What moves the weights of a network that waits elsewhere."""
    return module.__dict__.get("_streamed")


def network_bytes(module: nn.Module) -> int:
    """Bytes a network has on its device now, weights that only visit not counted."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers()) if not t.is_meta}
    own = sum(tensor.nbytes for tensor in tensors.values())
    return own + sum(one.num_bytes for part in module.modules() for one in _served(part))


def is_dense(module: nn.Module) -> bool:
    """Whether every weight is an ordinary parameter, so that the network can be changed, moved and saved."""
    return streams_of(module) is None and not any(True for part in module.modules() for _ in _served(part))


def _served(part: nn.Module) -> list[Served]:
    return [value for value in part.__dict__.values() if isinstance(value, Served)]


def _kind(plan: Plan, target: Target) -> Kind | None:
    matrix = len(plan.shape) == 3 or any(piece in plan.name for piece in SERVED_LINEAR)
    return target.kind(plan) if matrix and len(plan.shape) > 1 else None


def _without_parameter(module: nn.Module, name: str) -> None:
    path, _, attribute = name.rpartition(".")
    owner = module.get_submodule(path)
    if isinstance(owner, nn.Linear):
        parent, _, own = path.rpartition(".")
        module.get_submodule(parent).__setattr__(own, FrozenLinear(owner))
    else:
        del owner._parameters[attribute]
        setattr(owner, attribute, None)


def _read(
    part: str, plans: Sequence[Plan], store: TensorStore, target: Target, *, packed: bool | None = None
) -> dict[str, Tensor | Served]:
    """Every weight of a part under its name below it."""
    weights: dict[str, Tensor | Served] = {}
    for plan in plans:
        kind = _kind(plan, target)
        name = plan.name.removeprefix(f"{part}.")
        weights[name] = (
            materialise(plan, store, target) if kind is None else serve(plan, store, target, kind, packed=packed)
        )
    return weights


def _pinned(weights: dict[str, Tensor | Served]) -> dict[str, Tensor | Served]:
    """In memory that a GPU copies from directly."""
    return {name: one.pinned() if isinstance(one, Served) else one.pin_memory() for name, one in weights.items()}


def _moved(weight: Tensor | Served, device: torch.device) -> Tensor | Served:
    if isinstance(weight, Served):
        return weight.moved(device, non_blocking=True)
    return weight.to(device, non_blocking=True)
