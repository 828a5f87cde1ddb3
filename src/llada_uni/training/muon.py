"""Muon: momentum whose matrices are replaced by their nearest orthogonal ones before the step.

Few samples are seen when the arithmetic is the limit; an update whose singular values are all alike learns more from
each. Source: K. Jordan et al. 2024 (Newton-Schulz coefficients); Liu et al. 2025, arXiv 2502.16982 (step and decay).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["JointOptimizer", "Muon", "orthogonalised"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrix: Tensor, num_steps: int = 5) -> Tensor:
    """The matrices of ``matrix [..., m, n]`` with singular values brought near 1 (between about 0.7 and 1.2).

    Computed in the dtype of the input by ``num_steps`` Newton-Schulz steps; a zero matrix stays zero.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(num_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def _orthogonalised_whole(matrix: Tensor) -> Tensor:
    """:func:`orthogonalised`, also of matrices of which every process holds some rows (these are gathered first)."""
    if not isinstance(matrix, DTensor):
        return orthogonalised(matrix)
    mesh, cuts = matrix.device_mesh, matrix.placements
    if matrix.ndim > 2 and all(cut.is_replicate() or cut.is_shard(0) for cut in cuts):  # whole matrices of a stack
        local = orthogonalised(matrix.to_local())
        return DTensor.from_local(local, mesh, cuts, shape=matrix.shape, stride=matrix.stride())
    return distribute_tensor(orthogonalised(matrix.full_tensor()), mesh, cuts, src_data_rank=None)


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for parameters of two or more dimensions; leading ones are a stack of matrices.

    The step is scaled to the root mean square of an AdamW step (0.2), so that both can share a learning rate.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim < 2:
                    raise ValueError(f"Muon takes matrices, got a parameter of shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None, "closures are not used here"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(gradient, 1 - group["momentum"])
        update = _orthogonalised_whole(gradient.lerp(momentum, group["momentum"]))
        rows, columns = parameter.shape[-2:]
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-0.2 * group["lr"] * max(rows, columns) ** 0.5)


class JointOptimizer:
    """Several optimisers over disjoint parameters behind the interface of one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """One step of every part."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of all parts."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """States of the parts, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave."""
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(own)
