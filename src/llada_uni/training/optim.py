"""Optimiser construction and the gradient step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from llada_uni.errors import ConfigError
from llada_uni.training.config import OptimConfig
from llada_uni.training.muon import JointOptimizer, Muon

__all__ = ["Optimizer", "build_optimizer", "clip_gradients", "parameter_groups", "set_lr"]


Optimizer = torch.optim.Optimizer | JointOptimizer


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict]:
    """Trainable parameters in two groups, decayed and not (vectors and names containing one of ``optim.no_decay``)."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            skip = parameter.ndim < 2 or any(part in name for part in optim.no_decay)
            (plain if skip else decayed).append(parameter)
    if not decayed and not plain:
        raise ConfigError(f"{type(model).__name__} has no trainable parameter; check what the objective freezes")
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, optim: OptimConfig) -> Optimizer:
    """Optimiser over the trainable parameters of ``model``.

    ``muon`` steps the matrices inside the network; tables, heads and everything that is not decayed stay with AdamW.
    """
    groups = parameter_groups(model, optim)
    if optim.kind == "muon":
        return _with_muon(model, groups, optim)
    if optim.kind == "radam":
        return torch.optim.RAdam(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, decoupled_weight_decay=True)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def _with_muon(model: nn.Module, groups: list[dict], optim: OptimConfig) -> JointOptimizer:
    inner = {id(p) for name, p in model.named_parameters() if any(part in name for part in optim.muon)}
    decayed, plain = groups[0], groups[1:]
    matrices = [p for p in decayed["params"] if id(p) in inner]
    if not matrices:
        raise ConfigError(
            f"{type(model).__name__} has no matrix named like {', '.join(optim.muon)}; use optim.kind=adamw"
        )
    rest = [p for p in decayed["params"] if id(p) not in inner]
    others = [*([{**decayed, "params": rest}] if rest else []), *plain]
    muon = Muon(matrices, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay)
    return JointOptimizer(muon, torch.optim.AdamW(others, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True))


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Sets the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales gradients to a joint 2-norm of at most ``max_norm`` (0 = measure only); returns the norm before."""
    limit = max_norm if max_norm > 0 else float("inf")
    return nn.utils.clip_grad_norm_(list(parameters), limit)
