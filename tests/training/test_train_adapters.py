"""Any recipe can train adapters: only they move, are averaged, saved and exported; what was trained is what is used."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from group_runs import check_equal, furthest, in_group
from group_runs import trained as trained_here
from tiny_stages import BACKBONE, NUM_TEXT, OBJECTIVES, tiny_config

from llada_uni.backbone.model import Backbone
from llada_uni.config import override
from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.layers.adapters import AdapterConfig
from llada_uni.training.adapters import narrowed
from llada_uni.training.checkpoint import load_state
from llada_uni.training.config import OptimConfig, ParallelConfig, TrainConfig
from llada_uni.training.objective import Resources
from llada_uni.training.optim import build_optimizer
from llada_uni.training.run import RunOptions, run_recipe
from llada_uni.training.train import train
from llada_uni.weights.adapters import apply_adapter, open_adapter
from llada_uni.weights.load import load_backbone, load_decoder
from llada_uni.weights.save import save_backbone

EXPERTS = AdapterConfig(kind="dora", rank=4, targets=("*attention.*", "*.experts.*"))


@pytest.fixture(scope="module")
def trained(tiny_resources: Resources) -> Resources:
    """The tiny checkpoint with a backbone in it."""
    torch.manual_seed(1)
    model = Backbone(BACKBONE)
    model.reset_parameters(torch.Generator().manual_seed(1))
    save_backbone(tiny_resources.out, model, dtype=None)
    return tiny_resources


def config(stage: str, **changes: object) -> TrainConfig:
    objective = OBJECTIVES[stage]
    if hasattr(objective, "warm"):
        objective = dataclasses.replace(objective, warm="out" if stage != "turbo" else None)
    return tiny_config(stage, **({"objective": objective, "adapter": AdapterConfig(rank=4)} | changes))


def test_only_adapters_are_trained_averaged_and_saved(trained: Resources, tmp_path: Path) -> None:
    settings = config("backbone", adapter=EXPERTS)
    objective = narrowed(settings.objective.build(trained, 0), settings)
    before = {key: value.clone() for key, value in objective.inner.model.state_dict().items()}
    names = {key for key, _ in objective.model.named_parameters()}
    held = {id(p) for group in build_optimizer(objective.model, settings.optim).param_groups for p in group["params"]}
    assert held == {id(p) for p in objective.model.parameters()}
    train(settings, objective, tmp_path)
    after = objective.inner.model.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.items()), "the network moved"
    state = load_state(tmp_path)
    assert state is not None
    assert set(state.model) == set(state.ema["average"]) == names
    assert all(float(state.model[key].abs().sum()) > 0 for key in names)
    fresh = narrowed(settings.objective.build(trained, 0), settings)
    moved = [key for key, value in fresh.model.state_dict().items() if not torch.equal(value, state.model[key])]
    assert set(moved) == names


@pytest.mark.parametrize("stage", ["backbone", "decoder", "turbo"])
def test_a_run_writes_an_adapter_that_is_what_was_trained(stage: str, trained: Resources, tmp_path: Path) -> None:
    where = dataclasses.replace(trained, cache=trained.cache / "adapters")
    settings = config(stage, name=f"tiny-lora-{stage}", ema_decay=0.0)
    (numbers,) = run_recipe(settings, RunOptions(out=where.out, cache=where.cache))
    path = where.out / "adapters" / f"tiny-lora-{stage}"
    network = load_backbone(where.out) if stage == "backbone" else load_decoder(where.out)
    assert open_adapter(path).component == ("decoder-turbo" if stage == "turbo" else stage)
    adapters = apply_adapter(network, path)
    state = load_state(where.cache / f"tiny-lora-{stage}")
    assert state is not None
    assert all(torch.equal(value, state.model[key]) for key, value in adapters.state_dict().items())
    assert numbers["step"] == 6


def test_resuming_adapters_is_exact(trained: Resources, tmp_path: Path) -> None:
    settings = config("backbone", adapter=dataclasses.replace(EXPERTS, dropout=0.2))

    def run(directory: Path, **options: object) -> dict:
        objective = narrowed(settings.objective.build(trained, 0), settings)
        train(settings, objective, directory, **options)
        state = load_state(directory)
        assert state is not None
        return state.model

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_at=3)
    parts = run(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    other = dataclasses.replace(settings, adapter=AdapterConfig(rank=2))
    with pytest.raises(CheckpointError, match="other values of adapter"):
        train(other, narrowed(other.objective.build(trained, 0), other), tmp_path / "whole")


def test_recomputed_blocks_train_adapters_to_the_same_bits(trained: Resources, tmp_path: Path) -> None:
    settings = config("backbone", adapter=dataclasses.replace(EXPERTS, dropout=0.2), steps=3)
    plain = trained_here(settings, tmp_path / "plain", trained)
    again = trained_here(dataclasses.replace(settings, recompute=True), tmp_path / "again", trained)
    assert furthest(plain["weights"], again["weights"]) == 0


@pytest.mark.slow
def test_adapters_trained_by_two_processes_equal_those_of_one(trained: Resources, tmp_path: Path) -> None:
    settings = config("backbone", adapter=EXPERTS, steps=3, accumulation=2, dtype="float64", log_every=1)
    one = trained_here(settings, tmp_path / "one", trained)
    check_equal(one, in_group(2, settings, tmp_path / "two", trained), 1e-9)


def test_parts_of_a_divided_model_are_refused_before_anything_is_built() -> None:
    for parallel in (ParallelConfig(shard=2), ParallelConfig(expert=2)):
        with pytest.raises(ConfigError, match=r"adapters need the whole network in every process.*set both to 1"):
            config("backbone", parallel=parallel)
    with pytest.raises(ConfigError, match=r"only=image_rows needs whole tables.*got parallel.shard 2"):
        config("backbone", adapter=None, only="image_rows", parallel=ParallelConfig(shard=2))


def test_a_bfloat16_base_trains_float32_adapters(trained: Resources, tmp_path: Path) -> None:
    settings = config("backbone", adapter=AdapterConfig(rank=4, base_dtype="bfloat16"))
    objective = narrowed(settings.objective.build(trained, 0), settings)
    matrices = [p for p in objective.inner.model.parameters() if p.ndim > 1]
    assert all(p.dtype == torch.bfloat16 for p in matrices)
    assert all(router.expert_bias.dtype == torch.float32 for router in objective.inner.model.routers())
    train(settings, objective, tmp_path)
    assert all(p.dtype == torch.float32 for p in objective.model.parameters())


@pytest.mark.parametrize("base_dtype", ["int8", "int4"])
def test_adapters_train_on_a_quantised_base(trained: Resources, tmp_path: Path, base_dtype: str) -> None:
    settings = config("backbone", adapter=dataclasses.replace(EXPERTS, base_dtype=base_dtype))
    objective = narrowed(settings.objective.build(trained, 0), settings)
    names = {key for key, _ in objective.inner.model.named_parameters()}
    assert not any("experts" in key or "query_key_value" in key for key in names)
    train(settings, objective, tmp_path)
    state = load_state(tmp_path)
    assert state is not None
    assert all(float(state.model[key].abs().sum()) > 0 for key in state.model)
    objective.export(tmp_path / "out")
    apply_adapter(load_backbone(trained.out), tmp_path / "out" / "adapters" / settings.name).merge()


def test_the_command_line_turns_any_recipe_into_one_of_adapters() -> None:
    plain = tiny_config("backbone")
    changed = override(override(plain, "adapter.rank=16"), "adapter.kind=dora")
    assert changed.adapter == AdapterConfig(rank=16, kind="dora")
    assert plain.adapter is None
    with pytest.raises(ConfigError, match="did you mean 'rank'"):
        override(plain, "adapter.rnk=3")
    with pytest.raises(ConfigError, match="no fields inside it"):
        override(plain, "init_from.rank=3")


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("backbone", {"objective": OBJECTIVES["backbone"]}, "set objective.warm to a checkpoint"),
        ("vae", {}, "adapters are for the backbone and the decoder"),
        ("backbone", {"only": "image_rows"}, "set adapter or only, not both"),
        ("backbone", {"adapter": None, "only": "image_rows"}, "needs optim.weight_decay=0"),
        ("vae", {"adapter": None, "only": "image_rows", "optim": OptimConfig(weight_decay=0)}, "with image codes"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_so_is_refused(trained: Resources, stage: str, changes: dict, message: str) -> None:
    settings = config(stage, **changes)
    with pytest.raises(ConfigError, match=message):
        narrowed(settings.objective.build(trained, 0), settings)


def test_image_rows_alone_can_be_trained(trained: Resources, tmp_path: Path) -> None:
    optim = OptimConfig(lr=1e-2, weight_decay=0.0)
    settings = config("backbone", adapter=None, only="image_rows", optim=optim)
    objective = narrowed(settings.objective.build(trained, 0), settings)
    before = {key: value.clone() for key, value in objective.model.named_parameters()}
    train(settings, objective, tmp_path)
    tables = ("model.word_embeddings.weight", "lm_head.weight")
    state = load_state(tmp_path)
    assert state is not None
    for key, value in objective.model.named_parameters():
        if key not in tables:
            assert torch.equal(value, before[key])
            continue
        for found in (value, state.ema["average"][key]):
            assert torch.equal(found[:NUM_TEXT], before[key][:NUM_TEXT])
            assert not torch.equal(found[NUM_TEXT:], before[key][NUM_TEXT:])
