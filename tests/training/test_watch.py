"""A run records what it was, shows itself when asked, and is not changed by being watched."""

from __future__ import annotations

import builtins
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from test_run import options
from tiny_stages import tiny_config

from llada_uni.errors import ConfigError
from llada_uni.training.checkpoint import load_state
from llada_uni.training.objective import Resources
from llada_uni.training.record import git_revision, record_run
from llada_uni.training.run import run_recipe
from llada_uni.training.train import train
from llada_uni.training.watch import picture_grid, watching


def test_a_run_records_what_it_was(tmp_path: Path) -> None:
    where = Resources(out=tmp_path / "out", cache=tmp_path / "cache")
    run_recipe(tiny_config("vae", seed=7), options(where, overrides=("optim.lr=0.005",)))
    told = json.loads((where.cache / "tiny-vae" / "run.json").read_text())
    assert (told["name"], told["seed"], told["config"]["optim"]["lr"]) == ("tiny-vae", 7, 0.005)
    (start,) = told["starts"]
    assert start["versions"]["torch"] == torch.__version__
    assert {"python", "numpy", "llada-uni"} <= set(start["versions"])
    assert start["git"] is None or len(start["git"]["commit"]) == 40
    assert start["device"] == "cpu"


def test_a_resumed_run_adds_a_start_and_a_fresh_one_forgets(tmp_path: Path) -> None:
    def starts() -> int:
        return len(json.loads((tmp_path / "run.json").read_text())["starts"])

    for resumed, expected in ((False, 1), (True, 2), (True, 3), (False, 1)):
        record_run(tmp_path, tiny_config("vae"), resumed=resumed)
        assert starts() == expected
    (tmp_path / "run.json").write_text("no")
    record_run(tmp_path, tiny_config("vae"), resumed=True)
    assert starts() == 1


def test_outside_a_repository_there_is_no_revision(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").touch()
    assert git_revision(tmp_path) is None


@pytest.mark.parametrize("stage", ["vae", "decoder", "turbo"])
def test_sample_pictures_make_a_grid(stage: str, tiny_resources: Resources) -> None:
    objective = tiny_config(stage).objective.build(tiny_resources, 0)
    objective.model.train()
    torch.manual_seed(3)
    grid = picture_grid(objective, seed=1)
    after = torch.rand(1)
    assert grid is not None
    assert grid.dtype == "uint8"
    assert grid.ndim == 3
    assert grid.shape[1] > grid.shape[0]
    assert (grid == picture_grid(objective, seed=1)).all()
    assert objective.model.training
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), after), "pictures took numbers of the run"


def test_stages_without_pictures_have_no_grid(tiny_resources: Resources) -> None:
    assert picture_grid(tiny_config("tokenizer").objective.build(tiny_resources, 0)) is None


def test_tensorboard_gets_scalars_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    where = Resources(out=tmp_path / "out", cache=tmp_path / "cache")
    run_recipe(tiny_config("vae"), options(where, watch="tensorboard"))
    events = EventAccumulator(str(where.cache / "tiny-vae" / "tensorboard")).Reload()
    assert {"loss", "psnr", "lr", "samples_per_s"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6]
    assert events.Tags()["images"] == ["samples"]
    plain = Resources(out=tmp_path / "out2", cache=tmp_path / "cache2")
    run_recipe(tiny_config("vae"), options(plain))
    one, two = load_state(where.cache / "tiny-vae"), load_state(plain.cache / "tiny-vae")
    assert one is not None
    assert two is not None
    assert all(torch.equal(value, two.model[key]) for key, value in one.model.items()), "watching changed the run"


def test_a_divided_model_shows_no_pictures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with watching("tensorboard", tmp_path, None) as watch:
        watch({"step": 1, "loss": 2.0})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Tags()
    assert (events["scalars"], events["images"]) == (["loss"], [])


def test_without_its_package_watching_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: object, **more: object) -> object:
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    where = Resources(out=tmp_path / "out", cache=tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"pip install 'llada-uni\[train\]'"):
        run_recipe(tiny_config("vae"), options(where, watch="tensorboard"))
    with pytest.raises(ConfigError, match="expected one of none, tensorboard, got 'board'"):
        run_recipe(tiny_config("vae"), options(where, watch="board"))


def test_watching_nothing_needs_nothing(tmp_path: Path, tiny_resources: Resources) -> None:
    objective = tiny_config("vae").objective.build(tiny_resources, 0)
    with watching("none", tmp_path / "run", objective) as watch:
        watch({"step": 1, "loss": 2.0})
    assert not (tmp_path / "run").exists()


def test_progress_hears_every_step(tmp_path: Path, tiny_resources: Resources) -> None:
    heard: list[tuple[int, int]] = []
    config = tiny_config("vae", steps=3)
    train(config, config.objective.build(tiny_resources, 0), tmp_path, progress=lambda *told: heard.append(told))
    assert heard == [(0, 3), (1, 3), (2, 3), (3, 3)]
    heard.clear()
    more = dataclasses.replace(config, log_every=5)
    train(more, more.objective.build(tiny_resources, 0), tmp_path, progress=lambda *told: heard.append(told))
    assert heard == [(3, 3)]
