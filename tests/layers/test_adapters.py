"""Adapters on real networks: a fresh one changes nothing, merged equals applied, unmerging restores every bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from llada_uni.backbone.model import Backbone
from llada_uni.errors import ConfigError
from llada_uni.layers.adapters import AdapterConfig, Adapters, adaptable
from llada_uni.testing.checkpoint import tiny_components
from llada_uni.testing.tiny import tiny_backbone

EVERYTHING = ("*attention.*", "*mlp.*_proj.weight", "*.experts.*")
KINDS = ("lora", "dora")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def config(kind: str, **changes: object) -> AdapterConfig:
    return AdapterConfig(**({"kind": kind, "rank": 4, "alpha": 6.0, "targets": EVERYTHING} | changes))


def run_backbone(model: nn.Module) -> Tensor:
    ids = torch.randint(0, 40, (2, 9), generator=generator(5))
    return model(ids, torch.arange(9).expand(2, 9))


def run_decoder(model: nn.Module) -> Tensor:
    kind = next(model.parameters()).dtype
    latents = torch.randn(2, 4, 16, 16, generator=generator(1)).to(kind)
    features = torch.randn(2, 64, 16, generator=generator(2)).to(kind)
    return model(latents, torch.tensor([0.2, 0.7], dtype=kind), features)


def decoder(dtype: torch.dtype) -> nn.Module:
    model = tiny_components().decoder
    assert model is not None
    for index, parameter in enumerate(model.parameters()):  # away from zero, so that nothing is hidden by a closed gate
        parameter.data = parameter.data + 0.2 * torch.randn(parameter.shape, generator=generator(index))
    return model.to(dtype)


NETWORKS: dict[str, tuple[Callable[[torch.dtype], nn.Module], Callable[[nn.Module], Tensor], tuple[str, ...]]] = {
    "grouped": (lambda dtype: tiny_backbone(dtype=dtype), run_backbone, EVERYTHING),
    "looped": (lambda dtype: looped(dtype), run_backbone, EVERYTHING),
    "decoder": (decoder, run_decoder, ("*attention.*", "*feed_forward.*", "*adaLN*", "all_x*", "*linear.weight")),
}


def looped(dtype: torch.dtype) -> Backbone:
    model = tiny_backbone(dtype=dtype)
    for layer in model.model.layers:
        if hasattr(layer.mlp, "experts"):
            layer.mlp.experts.backend = "loop"
    return model


def disturbed(adapters: Adapters, seed: int = 3) -> Adapters:
    """Adapters as after training: every number away from its start."""
    source = generator(seed)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=source).to(parameter)
    return adapters


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@torch.no_grad()  # the attention kernel may depend on whether gradients are wanted
def test_a_fresh_adapter_changes_no_bit(name: str, kind: str, dtype: torch.dtype) -> None:
    build, run, targets = NETWORKS[name]
    model = build(dtype)
    before = run(model)
    Adapters(model, config(kind, targets=targets), generator=generator())
    assert torch.equal(run(model), before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_merged_is_applied_and_unmerging_is_exact(name: str, kind: str) -> None:
    build, run, targets = NETWORKS[name]
    model = build(torch.float64)
    original = {key: value.clone() for key, value in model.state_dict().items()}
    plain = run(model)
    adapters = disturbed(Adapters(model, config(kind, targets=targets), generator=generator()))
    applied = run(model)
    assert (applied - plain).abs().max() > 1e-3
    adapters.merge()
    applied = applied.detach()
    assert (run(model) - applied).abs().max() < 1e-12 * max(float(applied.abs().max()), 1)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, original[key])}
    assert changed == {key for key, _ in adapters}
    adapters.unmerge()
    assert all(torch.equal(value, original[key]) for key, value in model.state_dict().items())
    assert torch.equal(run(model), applied)
    adapters.detach()
    assert torch.equal(run(model), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unmerging_restores_rounded_weights_bit_for_bit(dtype: torch.dtype) -> None:
    model = tiny_backbone(dtype=dtype)
    original = {key: value.clone() for key, value in model.state_dict().items()}
    adapters = disturbed(Adapters(model, config("dora"), generator=generator()))
    adapters.merge()
    adapters.unmerge()
    assert all(torch.equal(value, original[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_only_adapters_get_gradients_and_every_one_does(kind: str) -> None:
    for name in ("grouped", "decoder"):
        build, run, targets = NETWORKS[name]
        model = build(torch.float64).requires_grad_(True)
        adapters = disturbed(Adapters(model, config(kind, targets=targets), generator=generator()))
        run(model).square().sum().backward()
        assert all(parameter.grad is None for parameter in model.parameters())
        silent = [key for key, p in adapters.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not silent


@pytest.mark.parametrize("name", ["grouped", "looped"])
def test_gradients_of_expert_adapters_are_those_of_the_merged_weight(name: str) -> None:
    build, run, _ = NETWORKS[name]
    model = build(torch.float64)
    adapters = disturbed(Adapters(model, config("lora", targets=("*.experts.*",)), generator=generator()))
    run(model).square().sum().backward()
    found = {key: p.grad.clone() for key, p in adapters.named_parameters() if p.grad is not None}
    adapters.merge()
    model.requires_grad_(True)
    run(model).square().sum().backward()
    for key, adapter in adapters:
        whole = adapter.weight.grad
        assert whole is not None
        torch.testing.assert_close(found[f"{key}.up"], adapter.scale * whole @ adapter.down.mT, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found[f"{key}.down"], adapter.scale * adapter.up.mT @ whole, rtol=1e-9, atol=1e-12)


def test_grouped_and_looped_experts_agree_with_adapters() -> None:
    outputs = []
    for name in ("grouped", "looped"):
        model = NETWORKS[name][0](torch.float64)
        disturbed(Adapters(model, config("dora"), generator=generator()))
        outputs.append(run_backbone(model))
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)


def test_dora_learns_the_length_of_rows_apart_from_their_direction() -> None:
    model = tiny_backbone(dtype=torch.float64)
    adapters = disturbed(Adapters(model, config("dora", targets=("*dense.weight",)), generator=generator()))
    for _, adapter in adapters:
        assert adapter.magnitude is not None
        torch.testing.assert_close(adapter.merged().norm(dim=-1), adapter.magnitude.abs())
        whole = adapter.weight + adapter.scale * adapter.up @ adapter.down
        torch.testing.assert_close(adapter.row_lengths(), whole.norm(dim=-1))


def test_dropout_works_in_training_only() -> None:
    model = tiny_backbone()
    adapters = disturbed(Adapters(model, config("lora", dropout=0.5), generator=generator()))
    adapters.train()
    assert not torch.equal(run_backbone(model), run_backbone(model))
    adapters.eval()
    assert torch.equal(run_backbone(model), run_backbone(model))


def test_the_network_keeps_its_names_and_modules() -> None:
    model = tiny_backbone()
    before = list(model.state_dict()), [name for name, _ in model.named_modules()]
    adapters = Adapters(model, config("lora"), generator=generator())
    assert (list(model.state_dict()), [name for name, _ in model.named_modules()]) == before
    assert {key.rpartition(".")[0] for key in adapters.state_dict()} == {key for key, _ in adapters}
    assert "model.layers.1.mlp.experts.gate_proj.down" in adapters.state_dict()


def test_targets_pick_weights_by_name() -> None:
    model = tiny_backbone()
    first = Adapters(model, AdapterConfig(targets=("model.layers.0.attention.dense.weight",)), generator=generator())
    assert [key for key, _ in first] == ["model.layers.0.attention.dense.weight"]
    first.detach()
    default = Adapters(model, AdapterConfig(), generator=generator())
    names = [key for key, _ in default]
    assert not any("experts." in key and "shared" not in key for key in names)
    assert any("shared_experts" in key for key in names)
    assert "lm_head.weight" not in adaptable(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"alpha": float("inf")}, "alpha must be a positive"),
        ({"targets": ()}, "targets is empty"),
    ],
)
def test_senseless_values_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AdapterConfig(**changes)


@pytest.mark.parametrize("target", ["*atention.*", "lm_head.weight", "*norm*"])
def test_targets_that_match_nothing_are_refused(target: str) -> None:
    with pytest.raises(ConfigError, match="matches no weight that can be adapted"):
        Adapters(tiny_backbone(), AdapterConfig(targets=("*attention.*", target)))


def test_unmerging_needs_the_originals() -> None:
    adapters = Adapters(tiny_backbone(), config("lora"), generator=generator())
    adapters.merge(keep=False)
    with pytest.raises(ConfigError, match="were not kept"):
        adapters.unmerge()
