"""Optimiser construction and the gradient step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llada_uni.errors import ConfigError
from llada_uni.training.config import OptimConfig
from llada_uni.training.muon import JointOptimizer, Muon

__all__ = ["Optimizer", "build_optimizer", "clip_gradients", "parameter_groups", "parameters_in_order", "set_lr"]


Optimizer = torch.optim.Optimizer | JointOptimizer


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict]:
    """Trainable parameters by weight decay and share of the learning rate (``lr_scale``).

    Not decayed: vectors and names containing one of ``optim.no_decay``. ``optim.tables`` take ``optim.table_lr``.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or any(part in name for part in optim.no_decay)
            table = parameter.ndim >= 2 and any(part in name for part in optim.tables)
            kind = (0.0 if plain else optim.weight_decay, optim.table_lr if table else 1.0)
            groups.setdefault(kind, []).append(parameter)
    if not groups:
        raise ConfigError(f"{type(model).__name__} has no trainable parameter; check what the objective freezes")
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale, "lr": optim.lr * scale}
        for (decay, scale), parameters in groups.items()
    ]


def build_optimizer(model: nn.Module, optim: OptimConfig) -> Optimizer:
    """Optimiser over the trainable parameters of ``model``.

    ``muon`` steps the matrices inside the network; tables, heads and everything that is not decayed stay with AdamW.
    """
    groups = [_by_layout(part) for part in _parts(model, optim)]
    if optim.kind == "muon":
        muon = Muon(groups[0], lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay)
        return JointOptimizer(muon, _adamw(groups[1], optim))
    if optim.kind == "radam":
        return torch.optim.RAdam(groups[0], lr=optim.lr, betas=optim.betas, eps=optim.eps, decoupled_weight_decay=True)
    return _adamw(groups[0], optim)


def parameters_in_order(model: nn.Module, optim: OptimConfig) -> list[list[nn.Parameter]]:
    """The parameters of each part of the optimiser as its stored state numbers them, however the model is divided."""
    return [[parameter for group in part for parameter in group["params"]] for part in _parts(model, optim)]


def _adamw(groups: list[dict], optim: OptimConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def _parts(model: nn.Module, optim: OptimConfig) -> list[list[dict]]:
    """Groups for one optimiser, or for Muon and the AdamW beside it."""
    groups = parameter_groups(model, optim)
    return _with_muon(model, groups, optim) if optim.kind == "muon" else [groups]


def _with_muon(model: nn.Module, groups: list[dict], optim: OptimConfig) -> list[list[dict]]:
    tables = (*optim.no_decay, *optim.tables)
    inner = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if parameter.ndim >= 2 and any(p in name for p in optim.muon) and not any(p in name for p in tables)
    }
    matrices = [p for group in groups for p in group["params"] if id(p) in inner]
    if not matrices:
        names = ", ".join(optim.muon)
        raise ConfigError(f"{type(model).__name__} has no matrix named like {names}; use optim.kind=adamw")
    others = [{**group, "params": [p for p in group["params"] if id(p) not in inner]} for group in groups]
    return [[{"params": matrices}], [group for group in others if group["params"]]]


def _by_layout(groups: list[dict]) -> list[dict]:
    """The groups, cut further so that a fused step meets tensors of one division among processes."""
    parted = []
    for group in groups:
        layouts: dict[object, list[Tensor]] = {}
        for parameter in group["params"]:
            layout = parameter.device_mesh if isinstance(parameter, DTensor) else None
            layouts.setdefault(layout, []).append(parameter)
        parted += [{**group, "params": parameters} for parameters in layouts.values()]
    return parted


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Sets the learning rate of every group, times the group's ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales gradients to a joint 2-norm of at most ``max_norm`` (0 = measure only); returns the norm before."""
    limit = max_norm if max_norm > 0 else float("inf")
    return nn.utils.clip_grad_norm_(list(parameters), limit)
