"""Norm, rotary embedding, attention, feed-forward and time features."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from llada_uni.layers.attention import attend, mask_of_layers
from llada_uni.layers.mlp import SwiGLU
from llada_uni.layers.norm import RMSNorm
from llada_uni.layers.rope import adjacent_pairs, angles, half_split
from llada_uni.layers.timestep import sinusoidal


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rms_norm_formula_and_gradient(dtype):
    norm = RMSNorm(12, eps=1e-3).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(_random(12, dtype=dtype))
    x, cotangent = (_random(5, 3, 12, seed=s, dtype=dtype) for s in (1, 2))
    x.requires_grad_()
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)
    with torch.no_grad():
        assert torch.equal(norm(x), norm(x.detach().clone().requires_grad_()))
    torch.testing.assert_close(
        torch.autograd.grad(norm(x), (x, norm.weight), cotangent),
        torch.autograd.grad(expected, (x, norm.weight), cotangent),
    )


def test_rms_norm_rounds_before_the_weight_in_half_precision():
    norm = RMSNorm(16).to(torch.bfloat16)
    with torch.no_grad():
        norm.weight.copy_(_random(16))
    x = _random(7, 16).to(torch.bfloat16)
    normal = x.float() * (x.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    assert torch.equal(norm(x), normal.to(torch.bfloat16) * norm.weight)


def test_angles_of_the_released_frequencies():
    angle = angles(torch.tensor([[0, 1, 7]]), 8, theta=600000.0)
    assert angle.shape == (1, 3, 4)
    assert angle[0, 2].tolist() == pytest.approx([7 * 600000 ** (-2 * j / 8) for j in range(4)])


@pytest.mark.parametrize("rotate", [half_split, adjacent_pairs])
def test_rotation_keeps_relative_position_and_length(rotate):
    q, k = _random(8, seed=1), _random(8, seed=2)

    def turned(x: torch.Tensor, position: int) -> torch.Tensor:
        angle = angles(torch.tensor(position), 8, theta=100.0, dtype=torch.float64)
        return rotate(x, angle.cos(), angle.sin())

    assert turned(q, 5).norm().item() == pytest.approx(q.norm().item())
    assert (turned(q, 9) @ turned(k, 4)).item() == pytest.approx((turned(q, 5) @ turned(k, 0)).item())
    assert torch.equal(turned(q, 0), q)


def test_conventions_differ_by_a_permutation_only():
    x, angle = _random(3, 8), _random(3, 4, seed=1)
    order = torch.arange(8).view(2, 4).t().flatten()
    split = half_split(x, angle.cos(), angle.sin())
    pairs = adjacent_pairs(x[..., order], angle.cos(), angle.sin())
    torch.testing.assert_close(pairs, split[..., order])
    assert not torch.allclose(split, adjacent_pairs(x, angle.cos(), angle.sin()))


def test_adjacent_pairs_is_complex_multiplication():
    x, angle = _random(3, 8), _random(3, 4, seed=1)
    rotated = torch.view_as_complex(x.view(3, 4, 2)) * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(adjacent_pairs(x, angle.cos(), angle.sin()), torch.view_as_real(rotated).flatten(-2))


def test_partial_rotation_passes_the_rest_through():
    x, angle = _random(2, 12), _random(2, 3, seed=1)
    assert torch.equal(half_split(x, angle.cos(), angle.sin())[..., 6:], x[..., 6:])


MASKS = {
    "none": None,
    "causal": torch.ones(80, 90, dtype=torch.bool).tril(10)[None, None],
    "per_row": torch.rand(2, 1, 80, 90, generator=torch.Generator().manual_seed(4)) < 0.3,
    "per_head": torch.rand(1, 6, 80, 90, generator=torch.Generator().manual_seed(5)) < 0.3,
    "blind": (torch.arange(80) % 40 > 2)[:, None] & (torch.arange(90) < 33).expand(2, 1, 80, 90),
    "empty_tile": ((torch.arange(80) < 32)[:, None] & (torch.arange(90) > 70))[None, None],
}


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("backend", ["sdpa", "tiled", "auto"])
@pytest.mark.parametrize("kv_heads", [6, 2])
def test_attention_backends_agree_forward_and_backward(mask, backend, kv_heads):
    allowed = MASKS[mask]
    q = _random(2, 80, 6, 8).transpose(1, 2).requires_grad_()
    k, v = (_random(2, kv_heads, 90, 8, seed=s).requires_grad_() for s in (1, 2))
    cotangent = _random(2, 6, 80, 8, seed=3)
    results = []
    for name in ("reference", backend):
        out = attend(q, k, v, allowed, backend=name)
        results.append((out, *torch.autograd.grad(out, (q, k, v), cotangent)))
    torch.testing.assert_close(results[0], results[1])
    if allowed is not None:
        blind = ~allowed.any(-1).expand(2, 6, 80)
        assert not results[1][0][blind].any()


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("kv_heads", [6, 2])
def test_tiled_attention_in_half_precision(mask, kv_heads):
    allowed = MASKS[mask]
    exact = [_random(2, h, n, 8, seed=h + n) for h, n in ((6, 80), (kv_heads, 90), (kv_heads, 91))]
    exact[2] = exact[2][:, :, :90]
    cotangent = _random(2, 6, 80, 8, seed=3)
    results = []
    for dtype, name in ((torch.float64, "reference"), (torch.bfloat16, "tiled")):
        q, k, v = (x.to(dtype).requires_grad_() for x in exact)
        out = attend(q, k, v, allowed, backend=name)
        results.append((out, *torch.autograd.grad(out, (q, k, v), cotangent.to(dtype))))
    for expected, actual in zip(*results, strict=True):
        assert (actual - expected).abs().max() < 0.06 * expected.abs().max()


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("length", [40, 80])
def test_a_mask_made_once_for_all_layers_means_the_same(mask, length):
    allowed = None if MASKS[mask] is None else MASKS[mask][:, :, :length]
    q = _random(2, length, 6, 8).transpose(1, 2)
    k, v = (_random(2, 2, 90, 8, seed=s) for s in (1, 2))
    expected = attend(q, k, v, allowed, backend="auto")
    with torch.no_grad():
        made = mask_of_layers(allowed, q.transpose(1, 2).flatten(2))
    assert made is allowed or (length < 64 and made.dtype == q.dtype)
    assert torch.equal(attend(q, k, v, made, backend="auto"), expected)
    assert mask_of_layers(allowed, q.transpose(1, 2).flatten(2)) is allowed, "gradients are measured with booleans"


def test_attention_formula_scale_and_head_groups():
    q, k, v = _random(1, 4, 3, 8), _random(1, 2, 5, 8, seed=1), _random(1, 2, 5, 8, seed=2)
    out = attend(q, k, v)
    for head in range(4):
        weights = (q[0, head] @ k[0, head // 2].t() / math.sqrt(8)).softmax(-1)
        torch.testing.assert_close(out[0, head], weights @ v[0, head // 2])
    torch.testing.assert_close(
        attend(q, k, v, scale=0.0), v.mean(2, keepdim=True).repeat_interleave(2, 1).expand(q.shape)
    )


@pytest.mark.parametrize("backend", ["sdpa", "tiled", "reference"])
def test_attention_keeps_half_precision(backend):
    q, k, v = (_random(1, 2, 70, 8, seed=s, dtype=torch.bfloat16) for s in range(3))
    allowed = torch.ones(70, 70, dtype=torch.bool).tril()[None, None]
    out = attend(q, k, v, allowed, backend=backend)
    assert out.dtype == torch.bfloat16
    exact = attend(q.double(), k.double(), v.double(), allowed, backend="reference")
    assert (out - exact).abs().max() < 0.03


def test_swiglu_formula():
    mlp, x = SwiGLU(6, 10).double(), _random(2, 3, 6)
    expected = (F.silu(x @ mlp.gate_proj.weight.t()) * (x @ mlp.up_proj.weight.t())) @ mlp.down_proj.weight.t()
    torch.testing.assert_close(mlp(x), expected)


def test_sinusoidal_puts_cosines_first():
    features = sinusoidal(torch.tensor([0.0, 250.0]), 8)
    assert features.dtype == torch.float32
    assert features[0].tolist() == [1.0] * 4 + [0.0] * 4
    frequencies = [10000 ** (-k / 4) for k in range(4)]
    expected = [math.cos(250 * f) for f in frequencies] + [math.sin(250 * f) for f in frequencies]
    assert features[1].tolist() == pytest.approx(expected, abs=2e-5)
