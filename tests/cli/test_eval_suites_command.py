"""``eval SUITE``, ``eval suites``, ``eval merge``, ``scenebench --out``, ``reproduce``, on a tiny checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llada_uni.cli.main import run
from llada_uni.evaluation.paper import PUBLISHED
from llada_uni.evaluation.reproduce import TABLES, find_table, recipe
from llada_uni.evaluation.suites import SUITES
from llada_uni.testing.checkpoint import write_tiny_checkpoint

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture
def questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "a.png")
    lines = [{"id": n, "image": "a.png", "question": "how many?", "answer": n} for n in range(3)]
    lines.append({"id": 3, "image": "gone.png", "question": "how many?", "answer": 3})
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return "q.jsonl"


@pytest.fixture
def refuses(capsys: Capture) -> Callable[..., str]:
    def check(*arguments: str) -> str:
        assert run(list(arguments)) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return check


def test_shards_and_merging(checkpoint: str, questions: str, capsys: Capture) -> None:
    base = ["eval", "countbench", "--data", questions, "--model", checkpoint, "--max-new-tokens", "4", "--json"]
    assert run([*base, "--out", "whole"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["items"]["total"] == 4
    assert whole["items"]["bad_data"] == 1
    assert whole["score"]["overall"]["items"] == 4
    assert run([*base, "--out", "parts", "--shard", "0/2"]) == 0
    assert not json.loads(capsys.readouterr().out)["complete"]
    assert run([*base, "--out", "parts", "--shard", "1/2"]) == 0
    capsys.readouterr()
    assert run(["eval", "merge", "parts", "--data", questions, "--json"]) == 0
    merged = json.loads(capsys.readouterr().out)
    assert merged["score"] == whole["score"]
    assert merged["problems"] == whole["problems"]
    assert "| overall |" in Path("parts/report.md").read_text()


def test_bad_input(checkpoint: str, questions: str, refuses: Callable[..., str]) -> None:
    base = ("eval", "countbench", "--model", checkpoint, "--out", "o")
    assert "--data" in refuses(*base)
    assert "nothing at 'none'" in refuses(*base, "--data", "none")
    given = (*base, "--data", questions)
    assert "expected I/N" in refuses(*given, "--shard", "2/2")
    assert "at least 1" in refuses(*given, "--limit", "0")
    assert "--judge-model NAME" in refuses(*given, "--judge-url", "http://localhost:1/v1")
    assert "--judge-url" in refuses(*given, "--judge-model", "big")
    assert "no file" in refuses(*given, "--detector", "none.jsonl")
    assert "run.json" in refuses("eval", "merge", "none")
    assert "--out DIR" in refuses("eval", "scenebench", "--model", checkpoint, "--shard", "0/2")
    assert "--category" in refuses("eval", "scenebench", "--model", checkpoint, "--out", "o", "--category", "counting")


def test_suites(capsys: Capture) -> None:
    assert run(["eval", "suites", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == set(SUITES)
    assert listed["intergen"]["format"] == "format unverified"
    assert run(["eval", "suites"]) == 0
    assert "geneval  GenEval; judge: detector" in capsys.readouterr().out


@pytest.mark.parametrize("table", TABLES)
def test_recipes(table: int) -> None:
    from llada_uni.cli.main import build_command

    found = recipe(table, model="DIR")
    assert found.commands
    assert found.expected
    for line in found.commands:
        _, group, name, *rest = line.split()
        command: Any = build_command().commands[group].commands[name]  # type: ignore[attr-defined]
        command.make_context(name, rest)  # the options exist and parse
    if table not in (2, 13, 14):
        row = next(r for r in PUBLISHED.values() if r.table == table)
        assert all(one["columns"] for one in found.expected.values())
        assert row.overall is None or any(one["overall"] == row.overall for one in found.expected.values())


def test_every_published_row_is_in_one_table() -> None:
    named = [name for table in range(2, 13) for name in recipe(table).expected]
    assert sorted(named) == sorted(PUBLISHED)


def test_reproduce_prints(capsys: Capture) -> None:
    assert run(["reproduce", "paper-table-9", "--no-run"]) == 0
    printed = capsys.readouterr().out
    assert "llada-uni eval imgedit --model inclusionAI/LLaDA2.0-Uni" in printed
    assert "overall 3.92" in printed
    assert run(["reproduce", "paper-table-3", "--no-run", "--weights", "DIR", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["expected"]["geneval"]["columns"]["counting"] == 0.73
    assert shown["measured"] is None
    assert all(" DIR " in line or "merge" in line for line in shown["commands"])


@pytest.mark.parametrize("name", ["paper-table-1", "paper-table-99", "paper-table-x", "3"])
def test_tables_that_are_none(name: str, refuses: Callable[..., str]) -> None:
    assert "2 to 14" in refuses("reproduce", name)


def test_find_table() -> None:
    assert find_table("paper-table-14") == 14


@pytest.mark.slow
def test_reproduce_runs_the_analogue(tmp_path: Path, capsys: Capture) -> None:
    command = ["reproduce", "paper-table-14", "--limit", "8", "--out", str(tmp_path / "a"), "--json"]
    assert run(command) == 0
    measured = json.loads(capsys.readouterr().out)["measured"]
    assert set(measured) == {"generation, normal decoder", "generation, turbo decoder"}
    assert (tmp_path / "a" / "generation-turbo-decoder" / "report.md").is_file()
