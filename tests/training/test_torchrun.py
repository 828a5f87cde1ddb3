"""The command line under torchrun, and a training that is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def torchrun(recipe: str, directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "llada_uni", "train"]
    where = ["--out", str(directory / "out"), "--cache", str(directory / "cache")]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests" / "training"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, recipe, *where, *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_two_processes_train_evaluate_and_export_once(tmp_path: Path) -> None:
    ended = torchrun("group_recipes:small", tmp_path)
    assert ended.returncode == 0, ended.stderr
    (numbers,) = json.loads(ended.stdout)  # one process prints
    assert (numbers["step"], numbers["horizon"]) == (2, 2)
    assert (tmp_path / "out" / "vae" / "config.json").exists()


@pytest.mark.slow
def test_a_failure_of_one_process_ends_all_with_one_line(tmp_path: Path) -> None:
    ended = torchrun("group_recipes:failing", tmp_path)
    assert ended.returncode != 0
    assert ended.stdout == ""
    lines = [line for line in ended.stderr.splitlines() if "cannot be made" in line or "another process" in line]
    assert len(lines) == 1, ended.stderr
    assert lines[0].endswith("this micro-batch cannot be made; change the data")
    assert "Traceback" not in ended.stderr.split("ChildFailedError")[0].split("torch/distributed/elastic")[0]


@pytest.mark.slow
def test_killed_five_times_a_training_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    specification = importlib.util.spec_from_file_location("kill_resume", ROOT / "benchmarks" / "kill_resume.py")
    assert specification is not None
    assert specification.loader is not None
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    found = script.survive(kills=5, steps=40, seed=0, directory=tmp_path)
    assert found["kills"] >= 3  # a moment may fall behind the end
    assert found["identical"]
