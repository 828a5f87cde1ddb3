"""``llada-uni data``: what it prints, what it writes, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llada_uni.cli.main import run
from llada_uni.testing.checkpoint import write_tiny_checkpoint
from own_data import draw_folder


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    draw_folder(tmp_path / "pictures", 5)
    (tmp_path / "pictures" / "bad.png").write_bytes(b"x")
    return str(write_tiny_checkpoint(tmp_path / "tiny"))


def test_from_a_folder_to_tokens(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "import", "pictures", "--out", "records", "--task", "t2i", "--task", "cap"]) == 0
    said = capsys.readouterr()
    assert said.out.split() == ["records/records.jsonl", "10", "records"]
    assert "1 skipped; records/skipped.jsonl says which and why" in said.err
    command = ["data", "extract", "records", "--model", model, "--out", "tokens", "--shard-size", "4"]
    assert run([*command, "--part", "2/2"]) == 0
    assert "other parts are still missing" in capsys.readouterr().out
    assert run([*command, "--part", "1/2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["written"], told["complete"], told["num_samples"], told["num_skipped"]) == (2, True, 10, 0)
    assert run(["data", "show", "tokens", "--capacity", "256", "--verify"]) == 0
    assert "10 samples (cap 5, t2i 5), 0 skipped, 3 shards" in capsys.readouterr().out
    assert run(["data", "show", "tokens", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tasks"] == {"cap": 5, "t2i": 5}
    assert report["packed"]["rows"] == 1
    assert 0 < report["target_tokens"] < report["tokens"]


def test_filters_reach_the_import(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "import", "pictures", "--out", "records", "--paper-filters"]) == 2
    assert "no sample was left of 6" in capsys.readouterr().err
    reasons = Path("records/skipped.jsonl").read_text()
    assert "shorter side of 128 pixels, at least 512 are wanted" in reasons
    options = ["--min-side", "100", "--min-bytes-per-pixel", "0", "--limit", "2", "--json"]
    assert run(["data", "import", "pictures", "--out", "records", "--paper-filters", *options]) == 0
    assert json.loads(capsys.readouterr().out)["num_records"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "nothing", "--out", "o"], "no file or folder 'nothing'"),
        (["import", "pictures", "--out", "o", "--kind", "zip"], "--kind: expected one of auto, folder"),
        (["import", "pictures", "--out", "o", "--task", "edit"], "--task: a caption makes one of"),
        (["import", "pictures", "--out", "o", "--score", "json:dumps"], "expected a score such as"),
        (["import", "pictures", "--out", "o", "--limit", "-1"], "limit: expected at least 1"),
        (["import", "pictures", "--out", "o", "--max-pixels", "0"], "max_pixels: expected at least 1"),
        (["extract", "pictures", "--out", "o", "--model", "tiny", "--max-tokens", "0"], "max_tokens: expected"),
        (["import", "pictures"], "Missing option '--out'"),
        (["extract", "nothing.jsonl", "--out", "o", "--model", "tiny"], "import records first"),
        (["extract", "pictures", "--out", "o", "--model", "tiny", "--part", "0/2"], "part: expected i/n"),
        (["extract", "pictures", "--out", "o", "--model", "tiny", "--part", "half"], "--part: expected I/N"),
        (["extract", "pictures", "--out", "o", "--model", "huge"], "unknown model 'huge'"),
        (["show", "pictures"], "no manifest.json in pictures"),
        (["show", "pictures", "--capacity", "0"], "--capacity: expected at least 1"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
