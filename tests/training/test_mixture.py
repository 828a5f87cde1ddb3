"""The backbone on scenes and records at once: one mean over both, exact resume, and data of the right tokenizers."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stages import OBJECTIVES, tiny_config

from llada_uni.data.import_files import SourceOptions
from llada_uni.data.importing import import_records, open_source
from llada_uni.data.preextract import extract_tokens
from llada_uni.data.token_loader import PoseRules
from llada_uni.errors import ConfigError
from llada_uni.training.objective import Draw, Resources
from llada_uni.training.objectives.mixture import MixtureObjective, MixtureObjectiveConfig
from llada_uni.training.objectives.package import PackageJob
from llada_uni.training.objectives.records import RecordsObjectiveConfig
from llada_uni.training.train import train
from llada_uni.weights.catalog import PackageConfig
from own_data import draw_folder


@pytest.fixture(scope="module")
def place(tiny_resources: Resources, tmp_path_factory: pytest.TempPathFactory) -> Resources:
    """A whole tiny checkpoint, and in its cache the tokens of six captioned pictures."""
    root = tmp_path_factory.mktemp("mixture")
    place = Resources(out=root / "out", cache=root / "cache")
    shutil.copytree(tiny_resources.out, place.out)
    OBJECTIVES["backbone"].build(place, 0).export(place.out)
    PackageJob(name="tiny-package", package=PackageConfig(trained_grids=((8, 8),))).run(place)
    draw_folder(root / "pictures", 6)
    drafts = open_source(str(root / "pictures"), "folder", SourceOptions(tasks=("t2i", "cap")))
    import_records(drafts, place.cache / "own")
    extract_tokens(place.cache / "own", place.out, place.cache / "own-tokens")
    return place


def config(**changes: Any) -> MixtureObjectiveConfig:
    records = RecordsObjectiveConfig(
        data="cache:own-tokens", pose=PoseRules(block_lengths=((16, 1.0),)), capacity=160, eval_samples=4
    )
    scenes = dataclasses.replace(OBJECTIVES["backbone"], warm="out", meaning_shards=0)
    values = {"scenes": scenes, "records": records, "held_out": "cache:own-tokens", "renew": False}
    return MixtureObjectiveConfig(**(values | changes))


def test_the_loss_is_one_mean_over_both(place: Resources) -> None:
    objective = config(records_share=0.5).build(place, 0)
    assert isinstance(objective, MixtureObjective)
    batch = objective.batch(Draw(seed=1, step=3, size=4))
    total, told = objective.loss(batch, torch.Generator())
    parts = [(one.weight(batch[name]), one.loss(batch[name], torch.Generator())[0]) for name, one in (
        ("scenes", objective.scenes), ("records", objective.records))]  # fmt: skip
    wanted = sum(weight * float(loss.detach()) for weight, loss in parts) / sum(weight for weight, _ in parts)
    assert objective.weight(batch) == pytest.approx(sum(weight for weight, _ in parts))
    assert float(total.detach()) == pytest.approx(wanted, rel=1e-5)
    assert {"nll_image", "records_nll_image"} <= set(told)
    assert objective.scenes.model is objective.records.model


def test_routers_are_balanced_by_the_load_of_both(place: Resources) -> None:
    objective = config().build(place, 0)
    batch = objective.batch(Draw(seed=1, step=0, size=4))
    objective.loss(batch, torch.Generator())
    before = [router.expert_bias.clone() for router in objective.model.routers()]
    loads = [objective.scenes._loads, objective.records._loads]
    assert all(part is not None and int(part.sum()) > 0 for part in loads)
    objective.after_step(1, 100)
    assert any(
        not torch.equal(old, new.expert_bias) for old, new in zip(before, objective.model.routers(), strict=True)
    )
    assert objective.scenes._loads is None
    assert objective.records._loads is None


@pytest.mark.parametrize(("size", "share", "counts"), [(4, 0.5, (2, 2)), (8, 0.75, (2, 6)), (2, 0.9, (1, 1))])
def test_shares_of_a_batch(size: int, share: float, counts: tuple[int, int], place: Resources) -> None:
    objective = config(records_share=share).build(place, 0)
    asked: list[int] = []
    for part in (objective.scenes, objective.records):
        part.batch = lambda draw: asked.append(draw.size) or {}  # type: ignore[method-assign]
    objective.batch(Draw(seed=1, step=0, size=size))
    assert tuple(asked) == counts


def test_stopped_and_resumed_is_the_same_run(place: Resources, tmp_path: Path) -> None:
    runs = []
    for name, stops in (("whole", (6,)), ("parts", (2, 4, 6))):
        for stop in stops:
            objective = config().build(place, 0)
            train(tiny_config("backbone", objective=objective.config, batch_size=4), objective, tmp_path / name,
                  stop_at=stop)  # fmt: skip
        runs.append(objective.model.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert {"held_out_nll_image_full", "trained_nll_image_full", "answers"} <= set(objective.evaluate(0))


def test_tokens_of_other_tokenizers_are_refused(place: Resources, tmp_path: Path) -> None:
    other = Resources(out=tmp_path / "out", cache=place.cache)
    shutil.copytree(place.out, other.out)
    PackageJob(name="p", package=PackageConfig(trained_grids=((8, 8),), resize_factor=4)).run(other)
    with pytest.raises(ConfigError, match="extracted with other tokenizers"):
        config().build(other, 0)
    with pytest.raises(ConfigError, match=r"objective\.records\.data"):
        config(records=RecordsObjectiveConfig()).build(place, 0)
