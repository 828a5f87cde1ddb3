"""Which states stay: the newest ones, the best one, nothing half written; and exporting from them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from tiny_stages import tiny_config

from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.training.checkpoint import TrainState, read_state, save_state
from llada_uni.training.config import KeepConfig, differences
from llada_uni.training.keeping import Keeper, best_state, forget_states, newest_state
from llada_uni.training.objective import Resources
from llada_uni.training.run import RunOptions, run_recipe


def state(step: int) -> TrainState:
    return TrainState(step=step, horizon=9, seconds=0.0, config={}, model={}, optimizer={}, ema={})


def walk(directory: Path, keep: KeepConfig, values: list[float]) -> list[str]:
    """Names of the states left after one save per value."""
    for step, value in enumerate(values, start=1):
        keeper = Keeper(directory, keep)  # as after a restart
        keeper.watch({"loss": value})
        save_state(directory, state(step))
        keeper.settle(step)
    return sorted(path.name for path in directory.glob("*state*"))


def test_by_default_one_state_stays(tmp_path: Path) -> None:
    assert walk(tmp_path, KeepConfig(), [3.0, 2.0, 1.0]) == ["state.pt"]
    assert newest_state(tmp_path) == tmp_path / "state.pt"
    assert not (tmp_path / "best.json").exists()


def test_the_newest_stay(tmp_path: Path) -> None:
    names = walk(tmp_path, KeepConfig(last=2), [1.0] * 4)
    assert names == ["state-00000003.pt", "state-00000004.pt", "state.pt"]
    assert read_state(tmp_path / "state-00000003.pt").step == 3


@pytest.mark.parametrize(("highest", "step"), [(False, 2), (True, 4)])
def test_the_best_stays(highest: bool, step: int, tmp_path: Path) -> None:
    nan = float("nan")
    names = walk(tmp_path, KeepConfig(best="loss", highest=highest), [2.0, 1.0, nan, 3.0, 2.5])
    assert names == [f"state-{step:08d}.pt", "state.pt"]
    assert read_state(best_state(tmp_path)).step == json.loads((tmp_path / "best.json").read_text())["step"] == step
    assert read_state(tmp_path / "state.pt").step == 5


def test_bad_names_and_numbers_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"keep\.best is 'los'; the metrics are loss"):
        walk(tmp_path, KeepConfig(best="los"), [1.0])
    with pytest.raises(ConfigError, match=r"keep\.last must be at least 1"):
        KeepConfig(last=0)
    with pytest.raises(CheckpointError, match=r"keep\.best=METRIC"):
        best_state(tmp_path)


def test_forgetting_removes_whole_and_partial_states_and_nothing_else(tmp_path: Path) -> None:
    walk(tmp_path, KeepConfig(last=2, best="loss"), [1.0, 2.0])
    (tmp_path / ".state-00000003.partial").mkdir()
    (tmp_path / "state-00000002").mkdir()
    (tmp_path / ".state.pt.123").write_text("")
    (tmp_path / "metrics.jsonl").write_text("")
    forget_states(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_what_a_killed_process_left_is_removed_by_the_next_save(tmp_path: Path) -> None:
    (tmp_path / ".state.pt.123").write_text("")
    save_state(tmp_path, state(1))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_the_best_state_is_exported(tmp_path: Path) -> None:
    keep = KeepConfig(best="lr", highest=True)  # the rate peaks at the end of the warm-up
    config = tiny_config("vae", keep=keep, checkpoint_seconds=0.0)
    where = Resources(out=tmp_path / "out", cache=tmp_path / "cache")
    options = RunOptions(out=where.out, cache=where.cache)
    (last,) = run_recipe(config, options)
    (best,) = run_recipe(config, dataclasses.replace(options, export_only=True, best=True))
    assert last["step"] == 6
    assert best["step"] in (2, 3)
    assert best["psnr"] != last["psnr"]


def test_fields_younger_than_a_stored_configuration_count_with_their_defaults() -> None:
    config = tiny_config("backbone")
    from llada_uni.training.config import describe

    stored = describe(config)
    del stored["keep"], stored["objective"]["logit_chunk"], stored["optim"]["table_lr"]
    assert differences(config, stored) == []
    changed = dataclasses.replace(config, objective=dataclasses.replace(config.objective, logit_chunk=8))
    assert differences(changed, stored) == ["objective"]
    assert differences(config, stored | {"optim": stored["optim"] | {"unknown": 1}}) == ["optim"]
