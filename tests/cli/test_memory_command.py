"""``--memory``, ``--quantize`` and ``llada-uni convert`` on a tiny checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llada_uni.cli.main import run
from llada_uni.testing.checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_plan_is_shown_before_the_picture_is_made(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "two red apples", "--model", checkpoint, "--seed", "1", "--memory", "8GB"]) == 0
    told = capsys.readouterr()
    assert re.match(r"memory plan: .* of 8.00 GB on cpu, float32\n  backbone ", told.err)
    assert "all networks stay in memory" in told.err
    assert told.out.startswith("two-red-apples-1.png")


def test_too_little_memory_is_one_line(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "two red apples", "--model", checkpoint, "--memory", "1MB"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("error: --memory 1 MB is too little for model: the smallest plan needs ")
    assert run(["generate", "two red apples", "--model", checkpoint, "--memory", "lots"]) == 2
    assert "expected an amount such as 24GB" in capsys.readouterr().err


def test_quantised_pictures_and_answers(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["two red apples", "--model", checkpoint, "--seed", "1", "--quantize", "int4", "--json"]
    assert run(["generate", *words]) == 0
    picture = json.loads(capsys.readouterr().out)["output"]
    assert run(["understand", picture, "how many?", "--model", checkpoint, "--quantize", "int8"]) == 0
    assert run(["generate", "x", "--model", checkpoint, "--quantize", "int3"]) == 2
    assert "quantize: expected none, int8, int4, fp8, got 'int3'" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["int4", "int8", "fp8", "none"])
def test_convert_and_use(checkpoint: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", checkpoint, "--quantize", form, "--output", "small"]) == 0
    assert re.fullmatch(rf".*small  backbone \d+\.\d KiB, experts {form}\n", capsys.readouterr().out)
    assert run(["generate", "two red apples", "--model", "small", "--seed", "1"]) == 0
    assert run(["doctor", "--model", "small"]) == 0
    capsys.readouterr()
    assert run(["convert", checkpoint, "--quantize", "int5", "--output", "other"]) == 2
    assert not Path("other").exists()
    assert "got 'int5'" in capsys.readouterr().err
    assert run(["convert", "small", "--output", "small"]) == 2
    assert "the checkpoint itself" in capsys.readouterr().err
