"""Weights side by side: the same numbers as apart, and back to several products as soon as one of them moves."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from llada_uni.layers.mlp import SwiGLU
from llada_uni.layers.moe import Experts, MoE, Router
from llada_uni.layers.rope import angles, half_split, split_tables, turned
from llada_uni.layers.side_by_side import lay_experts, lay_gated

WIDTH, HIDDEN, EXPERTS = 16, 12, 6


def moe(*, shared: bool, dtype: torch.dtype = torch.float64) -> MoE:
    torch.manual_seed(0)
    made = MoE(
        Router(WIDTH, EXPERTS, top_k=2, num_groups=2, top_groups=2, scale=2.5),
        Experts(WIDTH, HIDDEN, EXPERTS),
        SwiGLU(WIDTH, HIDDEN) if shared else None,
    )
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.to(dtype).requires_grad_(False)


def weights_of(module: MoE) -> tuple[tuple[nn.Parameter, ...], tuple[nn.Parameter, ...] | None]:
    experts, shared = module.experts, module.shared_experts
    also = None if shared is None else (shared.gate_proj.weight, shared.up_proj.weight, shared.down_proj.weight)
    return (experts.gate_proj, experts.up_proj, experts.down_proj), also


def laid(module: MoE) -> MoE:
    """The same with its weights side by side."""
    made = copy.deepcopy(module)
    routed, also = weights_of(made)
    for weight, moved in zip((*routed, *(also or ())), lay_experts(routed, also), strict=True):
        weight.data = moved
    return made


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("num_tokens", [1, 2, 7, 200])
def test_experts_side_by_side_compute_the_same(shared: bool, num_tokens: int) -> None:
    apart = moe(shared=shared)
    joined = laid(apart)
    x = torch.randn(2, num_tokens, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        assert joined.laid(x[0]) is not None
        assert apart.laid(x[0]) is None
        expected, routing = apart(x)
        found, again = joined(x)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    assert torch.equal(routing.ids, again.ids)
    for one, other in zip(apart.state_dict().values(), joined.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_feed_forward_side_by_side_computes_the_same() -> None:
    torch.manual_seed(0)
    apart = SwiGLU(WIDTH, HIDDEN).double().requires_grad_(False)
    joined = copy.deepcopy(apart)
    parts = [joined.gate_proj.weight, joined.up_proj.weight, joined.down_proj.weight]
    for weight, moved in zip(parts, lay_gated(*parts), strict=True):
        weight.data = moved
    x = torch.randn(3, 5, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        assert joined.laid(x) is not None
        torch.testing.assert_close(joined(x), apart(x), atol=1e-12, rtol=1e-12)
    assert joined.laid(x) is None, "with gradients every weight has a product of its own"


def _replaced(module: MoE) -> None:
    module.experts.up_proj = nn.Parameter(module.experts.up_proj.clone(), requires_grad=False)


def _shared_replaced(module: MoE) -> None:
    assert module.shared_experts is not None
    down = module.shared_experts.down_proj
    down.weight = nn.Parameter(down.weight * 2, requires_grad=False)


def _changed(module: MoE) -> None:
    module.experts.changes["up_proj"] = lambda x, y, ends: y + 1


def _hooked(module: MoE) -> None:
    module.experts.register_forward_hook(lambda *_: None)


def _looped(module: MoE) -> None:
    module.experts.backend = "loop"


def _wider(module: MoE) -> None:
    module.double()


@pytest.mark.parametrize("move", [_replaced, _shared_replaced, _changed, _hooked, _looped, _wider])
def test_weights_that_move_are_multiplied_on_their_own_again(move: Callable[[MoE], None]) -> None:
    apart = moe(shared=True, dtype=torch.float32)
    joined, x = laid(apart), torch.randn(9, WIDTH)
    with torch.no_grad():
        joined(x)
        move(apart)
        move(joined)
        x = x.to(apart.gate.weight.dtype)
        assert joined.laid(x) is None
        torch.testing.assert_close(joined(x)[0], apart(x)[0], atol=1e-5, rtol=1e-5)


def test_numbers_written_in_place_are_seen() -> None:
    joined, x = laid(moe(shared=True)), torch.randn(9, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        before = joined(x)[0]
        joined.experts.down_proj.mul_(2)
        assert joined.shared_experts is not None
        joined.shared_experts.down_proj.weight.mul_(2)
        torch.testing.assert_close(joined(x)[0], 2 * before)


def test_a_copy_remembers_nothing() -> None:
    joined, x = laid(moe(shared=True)), torch.randn(9, WIDTH, dtype=torch.float64)
    with torch.inference_mode():
        before = joined(x)[0]
        copied = copy.deepcopy(joined)
        joined.experts.down_proj.zero_()
        torch.testing.assert_close(copied(x)[0], before)


@pytest.mark.parametrize("width", [8, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_turned_is_half_split_bit_for_bit(width: int, dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 3, width).to(dtype)
    angle = angles(torch.randint(0, 900, (2, 5)), 8, theta=100.0).unsqueeze(2)
    cos, sin = split_tables(angle, width)
    expected = half_split(x, angle.cos().to(dtype), angle.sin().to(dtype))
    assert torch.equal(turned(x, cos.to(dtype), sin.to(dtype), 4), expected)
