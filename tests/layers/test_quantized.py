"""Quantised frozen weights: small, close, the gradients of their dense form, and adapters train on top of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llada_uni.backbone.model import Backbone
from llada_uni.errors import ConfigError
from llada_uni.layers.adapters import AdapterConfig, Adapters, adaptable, quantize_network
from llada_uni.layers.quantized import Quantized, frozen_product
from llada_uni.testing.tiny import tiny_backbone

TARGETS = ("*attention.*", "*.experts.*")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits(model: Backbone) -> Tensor:
    ids = torch.randint(0, 40, (2, 9), generator=generator(5))
    return model(ids, torch.arange(9).expand(2, 9))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", [(6, 64), (3, 5, 192), (4, 7), (2, 96)])
def test_numbers_come_back_within_half_a_step(bits: int, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=generator())
    weight[0] = 0
    found = Quantized(weight, bits)
    dense = found.to(torch.float32)
    assert dense.shape == weight.shape
    step = found.scale.expand(*found.scale.shape[:-1], shape[-1] // found.scale.shape[-2]).flatten(-2)
    assert bool(((dense - weight).abs() <= step / 2 * (1 + 1e-6)).all())
    again = Quantized(dense, bits)
    assert torch.equal(again.codes, found.codes)
    expected = weight.numel() * bits / 8
    assert expected <= found.codes.nbytes <= expected + weight.numel() / shape[-1]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_network_computes_and_differentiates_as_its_dense_form(bits: int) -> None:
    frozen, dense = tiny_backbone(dtype=torch.float64), tiny_backbone(dtype=torch.float64)
    quantize_network(frozen, bits)
    with torch.no_grad():
        for name, (owner, attribute) in adaptable(dense).items():
            getattr(owner, attribute).copy_(Quantized(getattr(owner, attribute), bits).to(torch.float64))
            assert name in adaptable(frozen)
    outputs, gradients = [], []
    for model in (frozen, dense):
        adapters = Adapters(model, AdapterConfig(kind="dora", rank=4, targets=TARGETS)).double()
        adapters.reset_parameters(generator())
        with torch.no_grad():
            for parameter in adapters.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(3)))
        outputs.append(logits(model))
        outputs[-1].square().sum().backward()
        gradients.append([parameter.grad for parameter in adapters.parameters()])
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)


def test_the_dense_weight_is_not_kept_for_the_backward_pass() -> None:
    weight, kept = Quantized(torch.randn(32, 64, generator=generator()), 8), []
    x = torch.randn(3, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        frozen_product(x, weight).sum().backward()
    assert not any(number >= 32 * 64 for number in kept)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.to(torch.float32).sum(0).expand(3, 64))


def test_quantised_networks_cannot_be_merged_into() -> None:
    model = tiny_backbone()
    quantize_network(model, 4)
    adapters = Adapters(model, AdapterConfig(rank=4, targets=TARGETS), generator=generator())
    with pytest.raises(ConfigError, match="merge into the original checkpoint"):
        adapters.merge()
    assert len(adapters) > 0
