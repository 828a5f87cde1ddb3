"""Orthogonalised updates: what they do to singular values, to stacks of matrices, and to a stored state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llada_uni.errors import ConfigError
from llada_uni.training.config import OptimConfig
from llada_uni.training.muon import JointOptimizer, Muon, orthogonalised
from llada_uni.training.optim import build_optimizer, set_lr


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12), (3, 7, 4)])
def test_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(orthogonalised(matrix, num_steps=8))
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_singular_vectors_are_kept() -> None:
    """U S V^T becomes U S' V^T: rotated into the singular basis the result is diagonal."""
    matrix = torch.randn(5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.mT @ orthogonalised(matrix) @ v.mT
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-9
    assert (inside.diagonal() > 0).all()


def test_a_stack_is_its_matrices_one_by_one_and_zero_stays_zero() -> None:
    stack = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    stack[1] = 0
    result = orthogonalised(stack)
    for index in range(3):
        torch.testing.assert_close(result[index], orthogonalised(stack[index]))
    assert (result[1] == 0).all()


def test_the_first_step_by_hand() -> None:
    """Nesterov momentum of the first gradient g is (1 - m^2) g; its length does not matter once orthogonalised."""
    start = torch.randn(4, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    parameter = nn.Parameter(start.clone())
    gradient = torch.randn(4, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    parameter.grad = gradient.clone()
    Muon([parameter], lr=0.1, weight_decay=0.5).step()
    expected = start * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 3.0 * orthogonalised(gradient)  # 3 = sqrt(9), the longer side
    torch.testing.assert_close(parameter.detach(), expected)


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="matrices"):
        Muon([nn.Parameter(torch.zeros(3))])


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
        self.word_embeddings = nn.Embedding(5, 4)
        self.head = nn.Linear(3, 2, bias=False)


def _optimizer(net: _Net) -> JointOptimizer:
    optimizer = build_optimizer(net, OptimConfig(kind="muon", lr=0.02))
    assert isinstance(optimizer, JointOptimizer)
    return optimizer


def test_only_inner_matrices_are_orthogonalised_and_every_parameter_is_stepped_once() -> None:
    net = _Net()
    optimizer = _optimizer(net)
    inner = {id(p) for group in optimizer.parts[0].param_groups for p in group["params"]}
    assert inner == {id(net.mlp[0].weight), id(net.mlp[1].weight)}
    everything = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in net.parameters())
    set_lr(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


@pytest.mark.parametrize("kind", ["muon", "adamw", "radam"])
def test_tables_take_their_share_of_the_rate(kind: str) -> None:
    net = _Net()
    optimizer = build_optimizer(net, OptimConfig(kind=kind, lr=0.02, table_lr=0.1))  # type: ignore[arg-type]
    set_lr(optimizer, 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(net.word_embeddings.weight)] == 0.05
    assert rates[id(net.mlp[0].weight)] == rates[id(net.head.weight)] == 0.5


def test_a_network_without_such_matrices_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.kind=adamw"):
        build_optimizer(nn.Linear(2, 2), OptimConfig(kind="muon"))


def _steps(net: _Net, optimizer: JointOptimizer, seeds: range) -> None:
    for seed in seeds:
        optimizer.zero_grad()
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
        net.head(net.mlp(x + net.word_embeddings.weight.sum(0))).square().mean().backward()
        optimizer.step()


def test_state_restored_goes_on_bit_for_bit() -> None:
    torch.manual_seed(0)
    whole = _Net()
    half = _Net()
    half.load_state_dict(whole.state_dict())
    _steps(whole, _optimizer(whole), range(6))
    first = _optimizer(half)
    _steps(half, first, range(3))
    resumed = _Net()
    resumed.load_state_dict(half.state_dict())
    second = _optimizer(resumed)
    second.load_state_dict(first.state_dict())
    _steps(resumed, second, range(3, 6))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
