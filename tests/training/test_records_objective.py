"""An existing checkpoint goes on learning from extracted records: deterministic, resumable, and servable at the end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from group_runs import check_equal, in_group, trained
from PIL import Image

from llada_uni import LladaUni
from llada_uni.cli.main import run
from llada_uni.data.drafts import Draft, Turn
from llada_uni.data.extractor import ExtractOptions
from llada_uni.data.importing import import_records
from llada_uni.data.preextract import extract_tokens
from llada_uni.data.token_loader import PoseRules
from llada_uni.errors import ConfigError
from llada_uni.testing.checkpoint import write_tiny_checkpoint
from llada_uni.training.config import OptimConfig, ParallelConfig, ScheduleConfig, TrainConfig
from llada_uni.training.export import warm_start
from llada_uni.training.objective import Draw, Resources
from llada_uni.training.objectives.records import RecordsObjective, RecordsObjectiveConfig
from llada_uni.training.run import RunOptions, run_recipe
from llada_uni.training.train import train
from llada_uni_recipes import own
from own_data import draw_folder

COUNT = 10


@dataclasses.dataclass(frozen=True)
class Place:
    """A checkpoint and what was extracted with it."""

    checkpoint: Path
    tokens: Path

    def objective(self, **changes: Any) -> RecordsObjectiveConfig:
        values: dict[str, Any] = {"data": str(self.tokens), "warm": str(self.checkpoint), "capacity": 160}
        return RecordsObjectiveConfig(**(values | {"pose": PoseRules(block_lengths=((16, 1.0),))} | changes))

    def config(self, **changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "name": "tiny-own", "objective": self.objective(), "steps": 6, "batch_size": 4, "ema_decay": 0.5,
            "optim": OptimConfig(lr=5e-3), "schedule": ScheduleConfig(warmup_steps=1), "log_every": 2, "prefetch": 0,
        }  # fmt: skip
        return TrainConfig(**(values | changes))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("own")
    checkpoint = write_tiny_checkpoint(root / "tiny")
    drafts = []
    for number in range(COUNT):
        path = root / f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        asked, told = (("a star",), (path,)) if number % 2 else ((path, "what?"), (f"number {number}",))
        turns = (Turn(role="user", parts=asked), Turn(role="assistant", parts=told))
        task: Any = "t2i" if number % 2 else "cap"
        drafts.append(Draft(id=f"s{number}", task=task, turns=turns, weight=1.0 + number % 3))
    turns = (Turn(role="user", parts=("two?",)), Turn(role="assistant", parts=("2",)))
    drafts.append(Draft(id="words", task="text", turns=turns))
    edit = (Turn(role="user", parts=(root / "0.png", "change")), Turn(role="assistant", parts=(root / "1.png",)))
    drafts.append(Draft(id="edit", task="edit", turns=edit))
    import_records(iter(drafts), root / "records")
    result = extract_tokens(root / "records", checkpoint, root / "tokens", ExtractOptions(shard_size=5))
    assert result.manifest is not None
    assert result.manifest.samples == COUNT + 2
    return Place(checkpoint, root / "tokens")


def built(place: Place, tmp_path: Path, seed: int = 0, **changes: Any) -> RecordsObjective:
    return place.objective(**changes).build(Resources(out=tmp_path / "out", cache=tmp_path), seed)


def test_it_starts_with_the_weights_of_the_checkpoint(place: Place, tmp_path: Path) -> None:
    objective = built(place, tmp_path)
    model = type(objective.model)(objective.model.config)
    warm_start(model, str(place.checkpoint), "backbone", Resources(out=tmp_path, cache=tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(objective.model.parameters(), model.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in objective.model.parameters())


def test_a_batch_is_a_function_of_its_address(place: Place, tmp_path: Path) -> None:
    one, other = built(place, tmp_path), built(place, tmp_path)
    for step in (3, 0, 7):
        first, second = (o.batch(Draw(seed=0, step=step, size=4)) for o in (one, other))
        assert all(torch.equal(first[key], second[key]) for key in first)
    split = one.batch(Draw(seed=0, step=1, micro=1, size=4, accumulation=2))
    whole = one.batch(Draw(seed=0, step=3, size=4))
    assert all(torch.equal(split[key], whole[key]) for key in whole)


def test_an_epoch_trains_on_every_sample_once(place: Place, tmp_path: Path) -> None:
    objective = built(place, tmp_path)
    loader = objective.rows.loader(4)
    seen = [one.sample.id for number in range(3) for one in loader.at(number)]
    assert sorted(seen) == sorted([*(f"s{n}" for n in range(COUNT)), "words", "edit"])


def test_the_loss_is_the_weighted_sum_over_samples(place: Place, tmp_path: Path) -> None:
    """Against the plain formula on every sample alone: sum of w sum(l) / sqrt(n), over sum of w sqrt(n)."""
    objective = built(place, tmp_path)
    objective.model.double().eval()
    batch = objective.batch(Draw(seed=0, step=0, size=6))
    found, total, norm = objective._found(batch), 0.0, 0.0
    for number, weight in enumerate(batch["weight"].tolist()):
        own_tokens = found.sample == number
        count = int(own_tokens.sum())
        scaled = found.losses[own_tokens] * torch.where(found.fill[own_tokens], 0.1, 1.0)
        total += weight * float(scaled.detach().sum()) / max(count, 1) ** 0.5
        norm += weight * count**0.5
    loss, told = objective.loss(batch, torch.Generator())
    assert float(loss.detach()) == pytest.approx(total / norm, rel=1e-5)
    assert len(set(batch["weight"].tolist())) > 1
    assert 0 < float(told["fill_ratio"]) <= 1


def test_two_views_cover_every_target_once(place: Place, tmp_path: Path) -> None:
    rules = PoseRules(block_lengths=((16, 1.0),), views=2)
    batch = built(place, tmp_path, pose=rules).batch(Draw(seed=0, step=0, size=6))
    masked: dict[tuple[int, int], int] = {}
    chosen = batch["maskable"]
    facts = zip(*(batch[k][chosen].tolist() for k in ("sample", "position", "masked")), strict=True)
    for sample, position, is_masked in facts:
        masked[sample, position] = masked.get((sample, position), 0) + is_masked
    assert set(masked.values()) == {1}


def test_held_out_samples_are_only_evaluated(place: Place, tmp_path: Path) -> None:
    objective = built(place, tmp_path, held_out_share=0.3)
    assert len(objective.trained) + len(objective.held_out) == COUNT + 2
    assert objective.held_out
    names = [facts["id"] for facts in objective.data.facts()]
    out = {names[index] for index in objective.held_out}
    seen = {one.sample.id for number in range(6) for one in objective.rows.loader(4).at(number)}
    assert seen == set(names) - out
    numbers = objective.evaluate(1)
    assert numbers["held_out_samples"] == len(out)
    assert any(name.startswith("held_out_nll") for name in numbers)
    assert numbers == objective.evaluate(1)
    with pytest.raises(ConfigError, match="no sample to train on"):
        built(place, tmp_path, held_out_share=1.0)


def test_stopped_and_resumed_is_uninterrupted(place: Place, tmp_path: Path) -> None:
    states = []
    for name, stops in (("whole", [None]), ("parts", [2, 5, None])):
        for stop in stops:
            objective = built(place, tmp_path)
            train(place.config(), objective, tmp_path / name, stop_at=stop)
        states.append({k: v.clone() for k, v in objective.model.state_dict().items()})
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.slow
def test_two_processes_with_logits_in_chunks_equal_one(place: Place, tmp_path: Path) -> None:
    where = Resources(out=tmp_path / "out", cache=tmp_path / "cache")
    plain = place.config(objective=place.objective(balance_rate=0.02), accumulation=2, dtype="float64", log_every=1)
    chunked = dataclasses.replace(plain, objective=dataclasses.replace(plain.objective, logit_chunk=16, num_buckets=2))
    one = trained(plain, tmp_path / "one", where)
    check_equal(one, in_group(2, chunked, tmp_path / "two", where), 1e-9)
    divided = dataclasses.replace(chunked, parallel=ParallelConfig(shard=2), recompute=True)
    check_equal(one, in_group(2, divided, tmp_path / "divided", where), 1e-9)


def test_a_run_lowers_the_loss_and_ends_in_a_checkpoint_that_serves(place: Place, tmp_path: Path) -> None:
    before = built(place, tmp_path).evaluate(1)
    options = RunOptions(out=tmp_path / "out", cache=tmp_path / "cache")
    config = place.config(steps=40, optim=OptimConfig(lr=2e-2), objective=place.objective(balance_rate=1e-3))
    (numbers,) = run_recipe(config, options)
    for key in ("trained_nll_image_half", "trained_nll_text_full"):
        assert numbers[key] < 0.9 * before[key]
    model = LladaUni.from_pretrained(tmp_path / "out")
    assert model.generate_image("a star", seed=0).image.size == (32, 32)
    (again,) = run_recipe(config, dataclasses.replace(options, export_only=True))
    assert again["trained_nll_image_half"] == numbers["trained_nll_image_half"]


def test_wrong_places_are_one_clear_error(place: Place, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name the folder that llada-uni data extract wrote"):
        built(place, tmp_path, data=None)
    other = write_tiny_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match="extracted with other tokenizers"):
        built(place, tmp_path, warm=str(other))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="choose another --out"):
        built(place, tmp_path)
    with pytest.raises(ConfigError, match="choose another --out"):
        place.objective().build(Resources(out=other, cache=tmp_path), 0)


@pytest.mark.slow
def test_from_a_folder_of_pictures_to_a_picture_in_four_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands of the guide on nano, with fewer steps; the loss of these pictures falls."""
    monkeypatch.chdir(tmp_path)
    captions = draw_folder(tmp_path / "pictures")
    assert run(["data", "import", "pictures", "--out", "records"]) == 0
    assert run(["data", "extract", "records", "--model", "nano", "--out", "tokens"]) == 0
    objective = dataclasses.replace(own.backbone().objective, data="tokens")
    before = objective.build(Resources(out=tmp_path / "mine", cache=tmp_path), 0).evaluate(1)
    steps = ["--steps", "25", "--set", "batch_size=12", "--set", "ema_decay=0.8"]
    options = ["--set", "objective.data=tokens", "--out", "mine", "--cache", "state", *steps]
    assert run(["train", "recipes.own:backbone", *options]) == 0
    after = (
        dataclasses.replace(objective, warm="mine").build(Resources(out=tmp_path / "x", cache=tmp_path), 0).evaluate(1)
    )
    assert after["trained_nll_image_full"] < 0.8 * before["trained_nll_image_full"]
    assert after["trained_nll_image_half"] < 0.8 * before["trained_nll_image_half"]
    assert run(["generate", captions["00"], "--model", "mine", "--seed", "1", "-o", "a.png"]) == 0
    assert Image.open(tmp_path / "a.png").size == (128, 128)
