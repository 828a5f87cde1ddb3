"""The examples run as they stand, here on a tiny checkpoint."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from llada_uni.testing.checkpoint import write_tiny_checkpoint

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("examples") / "model"))


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"generate_and_ask", "batch", "stream_events"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_leaves_a_picture(
    path: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name, checkpoint])
    runpy.run_path(str(path), run_name="__main__")
    (picture,) = tmp_path.glob("*.png")
    assert picture.stat().st_size > 100
    assert capsys.readouterr().out.strip()
    assert path.name in path.read_text(encoding="utf-8").split('"""')[1], "the first lines say how to run it"
