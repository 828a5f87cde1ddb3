"""Options that save memory or time change no number: recomputed blocks, chunked logits, compiled blocks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from group_runs import furthest, shared, trained
from torch import Tensor, nn

from llada_uni.errors import ConfigError
from llada_uni.training.config import ParallelConfig
from llada_uni.training.objective import Draw, Resources
from llada_uni.training.parallel import World
from llada_uni.training.sharding import prepared


@pytest.mark.parametrize("stage", ["backbone", "decoder", "turbo"])
def test_recomputed_blocks_give_the_same_bits(stage: str, tiny_resources: Resources, tmp_path: Path) -> None:
    config = shared(stage, accumulation=1)
    plain = trained(config, tmp_path / "plain", tiny_resources)
    recomputed = trained(dataclasses.replace(config, recompute=True), tmp_path / "recomputed", tiny_resources)
    assert furthest(plain["weights"], recomputed["weights"]) == 0


def _kept_numbers(config: Any, resources: Resources) -> int:
    """Numbers that the graph of one loss keeps for its backward pass."""
    objective = config.objective.build(resources, 0)
    loss = prepared(objective, config, World())
    objective.model.train()
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no memory is used twice

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss(_batch(objective), torch.Generator().manual_seed(0))
    return sum(kept.values())


def _batch(objective: Any) -> Any:
    return objective.batch(Draw(seed=0, step=0, size=4))


def test_recomputing_and_chunks_keep_less(tiny_resources: Resources) -> None:
    config = shared()
    chunked = dataclasses.replace(config, objective=dataclasses.replace(config.objective, logit_chunk=16))
    plain = _kept_numbers(config, tiny_resources)
    assert _kept_numbers(dataclasses.replace(config, recompute=True), tiny_resources) < 0.7 * plain
    masked = int(_batch(config.objective.build(tiny_resources, 0))["masked"].sum())
    assert _kept_numbers(chunked, tiny_resources) < plain - 0.9 * masked * config.objective.backbone.vocab_size


def test_chunked_logits_train_alike_and_an_old_state_goes_on_with_them(
    tiny_resources: Resources, tmp_path: Path
) -> None:
    config = shared(accumulation=1, dtype="float64")
    chunked = dataclasses.replace(config, objective=dataclasses.replace(config.objective, logit_chunk=16))
    plain = trained(config, tmp_path / "plain", tiny_resources)
    assert furthest(plain["weights"], trained(chunked, tmp_path / "chunked", tiny_resources)["weights"]) < 1e-9


def test_blocks_are_compiled_when_asked(tiny_resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    config = shared()
    objective = config.objective.build(tiny_resources, 0)
    prepared(objective, config, World())
    assert compiled == []
    prepared(objective, dataclasses.replace(config, compile=True), World())
    assert compiled == list(objective.model.model.layers)


@pytest.mark.parametrize("option", ["recompute", "compile"])
def test_options_need_blocks(option: str, tiny_resources: Resources, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"VaeObjective has no blocks, which {option} works on"):
        trained(shared("vae", **{option: True}), tmp_path, tiny_resources)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["recompute", "chunked"])
def test_options_hold_for_divided_models(option: str, tiny_resources: Resources, tmp_path: Path) -> None:
    from group_runs import check_equal, in_group

    config = shared(dtype="float64", steps=5)
    one = trained(config, tmp_path / "one", tiny_resources)
    changes: dict[str, Any] = {"recompute": True}
    if option == "chunked":
        changes = {"objective": dataclasses.replace(config.objective, logit_chunk=16)}
    divided = dataclasses.replace(config, parallel=ParallelConfig(shard=2, expert=2), **changes)
    check_equal(one, in_group(2, divided, tmp_path / "two", tiny_resources), 1e-9)
