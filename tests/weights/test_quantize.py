"""Block-scaled float8: exact where it can be, close elsewhere, both ways."""

from __future__ import annotations

import pytest
import torch

from llada_uni.weights.quantize import FP8, dequantize_blocks, quantize_blocks, scale_shape


@pytest.mark.parametrize(
    ("shape", "scales"), [((128, 256), (1, 2)), ((129, 1), (2, 1)), ((3, 200, 300), (3, 2, 3)), ((5, 7), (1, 1))]
)
def test_shapes(shape: tuple[int, ...], scales: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    stored, scale = quantize_blocks(weight)
    assert stored.dtype == FP8
    assert scale.dtype == torch.float32
    assert stored.shape == weight.shape
    assert tuple(scale.shape) == scales == scale_shape(shape)


def test_factors_belong_to_their_blocks() -> None:
    """Written out entry by entry for blocks of 2 x 3."""
    stored = torch.arange(35.0).reshape(5, 7).to(FP8)
    scale = torch.arange(1.0, 10.0).reshape(3, 3)
    found = dequantize_blocks(stored, scale, dtype=torch.float32, block=(2, 3))
    for row in range(5):
        for column in range(7):
            assert found[row, column] == stored[row, column].float() * scale[row // 2, column // 3]


def test_relative_error() -> None:
    weight = torch.randn(300, 200, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 300)[:, None]
    stored, scale = quantize_blocks(weight, block=(1, 64))
    found = dequantize_blocks(stored, scale, dtype=torch.float32, block=(1, 64))
    large = weight.abs() > weight.abs().amax(1, keepdim=True) / 1000
    assert float(((found - weight).abs() / weight.abs())[large].max()) <= 1 / 16
    assert bool((stored.float().abs().amax(1) == 448).all())


def test_quantising_again_changes_nothing() -> None:
    weight = torch.randn(2, 130, 140, generator=torch.Generator().manual_seed(2))
    once = dequantize_blocks(*quantize_blocks(weight), dtype=torch.float32)
    twice = dequantize_blocks(*quantize_blocks(once), dtype=torch.float32)
    torch.testing.assert_close(once, twice, rtol=1e-6, atol=0)


def test_zeros_stay_zeros() -> None:
    stored, scale = quantize_blocks(torch.zeros(4, 4))
    assert torch.equal(scale, torch.ones(1, 1))
    assert torch.equal(dequantize_blocks(stored, scale, dtype=torch.bfloat16), torch.zeros(4, 4, dtype=torch.bfloat16))
