"""The run of a suite: resumed, sharded, interrupted, failing; what it keeps and what its report counts."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from llada_uni.errors import ConfigError, PromptError
from llada_uni.evaluation.items import BadItem, Item, JudgeError, Judges, Output, Suite, Verdict
from llada_uni.evaluation.paper import PUBLISHED
from llada_uni.evaluation.records import Journal, read_lines
from llada_uni.evaluation.report import markdown
from llada_uni.evaluation.run import RunSettings, collect, item_seed, load_items, parse_shard, run_suite
from llada_uni.evaluation.statistics import bootstrap, interval, of_means
from llada_uni.evaluation.suites import SUITES, find_suite
from llada_uni.scenes import load_bench
from llada_uni.scenes.bench import SCORED_FAMILIES

ITEMS = [
    Item(id="one", prompt="say yes", parts=("a",)),
    Item(id="two", prompt="say yes", parts=("b",)),
    Item(id="three", prompt="say no", parts=("b",)),
    Item(id="four", prompt="fail", parts=("a",)),
    BadItem(id="five", reason="no picture", parts=("a",)),
]


class Parrot:
    """Answers the last word of the prompt; ``fail`` raises and ``wait`` takes its time."""

    name = "parrot"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def reply(self, prompt: str, seed: int) -> str:
        self.asked.append((prompt, seed))
        if prompt == "fail":
            raise PromptError("cannot say that")
        if prompt == "wait":
            time.sleep(5)
        return prompt.split()[-1]


def judge(item: Item, output: Output, out: Path, judges: Judges) -> Verdict:
    right = float(output.text == "yes")
    return Verdict(score=right, parts=(right,))


def suite(**changes: Any) -> Suite:
    base = Suite(
        name="toy",
        title="Toy",
        data_help="",
        load=lambda _: list(ITEMS),
        perform=lambda model, item, seeds, options: (model.reply(item.prompt, seeds[0]), []),  # type: ignore[attr-defined]
        judge=judge,
    )
    return replace(base, **changes)


def run(out: Path, model: Any, toy: Suite | None = None, **settings: Any) -> dict[str, Any]:
    judges = settings.pop("judges", None)
    return run_suite(toy or suite(), None, out, model=model, judges=judges, settings=RunSettings(**settings))


def test_failures_stay_in_the_denominator(tmp_path: Path) -> None:
    report = run(tmp_path, Parrot())
    assert report["items"] == {"total": 5, "bad_data": 1, "failed": 1, "ok": 3}
    assert report["score"]["overall"]["value"] == pytest.approx(2 / 5)
    assert report["score"]["overall"]["items"] == 5
    assert report["score_of_judged"]["overall"]["value"] == pytest.approx(2 / 3)
    assert report["score"]["categories"]["a"]["value"] == pytest.approx(1 / 3)
    assert report["complete"]
    assert {p["id"]: p["error"] for p in report["problems"]} == {
        "four": "PromptError: cannot say that",
        "five": "no picture",
    }
    page = (tmp_path / "report.md").read_text()
    assert "| overall | 0.4 |" in page
    assert "`five`: bad_data: no picture" in page
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_a_finished_run_asks_nothing_again(tmp_path: Path) -> None:
    first = run(tmp_path, Parrot())
    again = Parrot()
    assert run(tmp_path, again) == first
    assert again.asked == []
    run(tmp_path, again, retry_failed=True)
    assert [prompt for prompt, _ in again.asked] == ["fail"]


def test_shards_meet_in_the_same_report(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Parrot())
    half = run(tmp_path / "halves", Parrot(), shard=(1, 2))
    assert not half["complete"]
    assert half["items"] == {"total": 5, "failed": 1, "ok": 1, "pending": 3}
    assert "**Incomplete**" in markdown(half)
    both = run(tmp_path / "halves", Parrot(), shard=(0, 2))
    assert both["score"] == whole["score"]
    assert run(tmp_path / "halves", None)["score"] == whole["score"]
    one, other = (collect(tmp_path / name, "outputs") for name in ("whole", "halves"))
    assert {k: v.get("seeds") for k, v in one.items()} == {k: v.get("seeds") for k, v in other.items()}


def test_a_cut_line_is_done_again(tmp_path: Path) -> None:
    whole = run(tmp_path, Parrot())
    path = tmp_path / "outputs" / "0-of-1.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1]) + lines[1][:20])
    model = Parrot()
    assert run(tmp_path, model)["score"] == whole["score"]
    assert [prompt for prompt, _ in model.asked] == ["say yes", "say no", "fail"]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "0-of-1.jsonl"
    path.write_text('{"id": "one"}\nnot json\n{"id": "two"}\n')
    with pytest.raises(ConfigError, match="line 2: not JSON"):
        read_lines([path])


def test_two_processes_cannot_write_one_shard(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.jsonl"), pytest.raises(ConfigError, match="another process"):
        Journal(tmp_path / "a.jsonl")


@pytest.mark.parametrize("change", [{"seed": 1}, {"limit": 2}, {"options": {"decoder": "turbo"}}])
def test_another_run_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    run(tmp_path, Parrot())
    with pytest.raises(ConfigError, match="holds another run"):
        run(tmp_path, Parrot(), **change)


def test_merging_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected run\.json"):
        run(tmp_path, None)


def test_a_slow_item_times_out(tmp_path: Path) -> None:
    toy = suite(load=lambda _: [Item(id="slow", prompt="wait", parts=("a",)), ITEMS[0]])
    report = run(tmp_path, Parrot(), toy, timeout_s=0.2)
    assert report["items"] == {"total": 2, "ok": 1, "timeout": 1}
    assert report["score"]["overall"]["value"] == 0.5


def test_an_item_that_does_not_fit_into_memory(tmp_path: Path) -> None:
    def perform(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    report = run(tmp_path, Parrot(), suite(perform=perform))
    assert report["items"] == {"total": 5, "bad_data": 1, "failed": 4}
    assert report["problems"][0]["error"].startswith("out of memory")


def test_a_failing_judge_is_reported_with_its_reply(tmp_path: Path) -> None:
    def broken(item: Item, output: Output, out: Path, judges: Judges) -> Verdict:
        if item.id == "one":
            raise JudgeError("no score in the reply", reply="I would rather not")
        if item.id == "two":
            raise JudgeError("no reply", timed_out=True)
        return Verdict(score=1.0, parts=(1.0,))

    report = run(tmp_path, Parrot(), suite(judge=broken))
    assert report["items"] == {"total": 5, "bad_data": 1, "failed": 1, "judge_failed": 1, "judge_timeout": 1, "ok": 1}
    assert report["score"]["overall"]["value"] == pytest.approx(1 / 5)
    assert report["problems"][0]["reply"] == "I would rather not"


def test_without_its_judge_a_suite_has_no_score(tmp_path: Path) -> None:
    toy = suite(judge_kind="viewer")
    report = run(tmp_path, Parrot(), toy)
    assert report["score"] is None
    assert report["items"]["unjudged"] == 3
    assert not report["complete"]
    assert "no score" in markdown(report)
    viewer = SimpleNamespace(ask=lambda pictures, question: "")
    assert run(tmp_path, None, toy, judges=Judges(viewer=viewer))["score"]["overall"]["value"] == pytest.approx(2 / 5)


def test_pictures_are_kept(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), (255, 0, 0))
    toy = suite(
        load=lambda _: [Item(id="a/b", prompt="x", parts=("a",))], judge=None,
        perform=lambda *_: (None, [picture, picture]),
        picture_name=lambda item, index: f"deep/{index}.webp" if index else "deep/first.png",
    )  # fmt: skip
    run(tmp_path, Parrot(), toy)
    assert Image.open(tmp_path / "pictures/deep/first.png").getpixel((0, 0)) == (255, 0, 0)
    assert Image.open(tmp_path / "pictures/deep/1.webp").convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_the_run_is_written_down(tmp_path: Path) -> None:
    written = run(tmp_path, Parrot(), seed=3, options={"decoder": "turbo"})["run"]
    assert written["seed"] == 3
    assert written["options"] == {"decoder": "turbo"}
    assert {"dtype", "dtype_policy", "seed_policy", "versions", "items_sha256", "device"} <= set(written)


def test_items(tmp_path: Path) -> None:
    assert [e.id for e in load_items(suite(), None, limit=2, seed=0)] == [
        e.id for e in load_items(suite(), None, limit=2, seed=0)
    ]
    with pytest.raises(ConfigError, match="at least 1"):
        load_items(suite(), None, limit=0, seed=0)
    with pytest.raises(ConfigError, match="two items are called 'one'"):
        load_items(suite(load=lambda _: [ITEMS[0], ITEMS[0]]), None, limit=None, seed=0)
    with pytest.raises(ConfigError, match="holds no items"):
        load_items(suite(load=lambda _: []), None, limit=None, seed=0)
    with pytest.raises(ConfigError, match="expected --data"):
        load_items(suite(data_help="a file"), tmp_path / "missing", limit=None, seed=0)


def test_seeds_differ_and_are_stable() -> None:
    assert item_seed(0, "one", 0) == item_seed(0, "one", 0) < 2**31
    assert len({item_seed(s, i, k) for s in (0, 1) for i in ("one", "two") for k in (0, 1)}) == 8


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "1/0", "0/2/3"])
def test_shards_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="expected I/N"):
        parse_shard(text)


def test_intervals_by_hand() -> None:
    between, method = interval([[1.0], [0.0], [1.0], [1.0]])
    # Wilson, 3 of 4, z = 1.96: middle (0.75 + 0.4802) / 1.9604, half 1.96 / 1.9604 * sqrt(0.1875 / 4 + 3.8415 / 64)
    assert method == "wilson"
    assert between == pytest.approx((0.3006, 0.9544), abs=1e-3)
    between, method = interval([[1.0, 1.0], [1.0, 1.0]])
    assert method == "wilson over items"
    assert between is not None
    assert between[0] < 0.5
    between, method = interval([[0.5], [3.0], [2.0]], perfect=5.0)
    assert method == "bootstrap over items"
    assert between is not None
    assert 0.5 <= between[0] < between[1] <= 3.0
    assert interval([]) == (None, "none")
    assert bootstrap([[2.0, 2.0], [2.0]]) == (2.0, 2.0)
    # halves 0.1 below and 0.2 above each: sqrt(2) / 2 of that for the mean of two
    low, high = of_means([(0.5, 0.4, 0.7), (0.3, 0.2, 0.5)])
    assert (0.4 - low, high - 0.4) == pytest.approx((0.1 * math.sqrt(0.5), 0.2 * math.sqrt(0.5)))


def test_published_rows_stand_for_suites() -> None:
    known = set(SUITES)
    assert {name for name in known if not name.startswith("scenebench")} == known & set(PUBLISHED)
    assert all(0 <= value <= row.scale for row in PUBLISHED.values() for value in row.columns.values() if row.scale > 1)
    with pytest.raises(ConfigError, match="no suite 'nothing'"):
        find_suite("nothing")


def test_scenebench_as_a_suite(tmp_path: Path) -> None:
    answers = {item.question.text: item.question.answer for item in load_bench().understanding}
    model = SimpleNamespace(
        name="oracle",
        # one wording may have several answers; the item's picture is not looked at here
        understand_image=lambda image, text, **_: SimpleNamespace(text=answers[text]),
    )
    report = run(tmp_path, model, SUITES["scenebench_understanding"], limit=20)
    assert report["items"] == {"total": 20, "ok": 20}
    counted = [n for n in report["score"]["categories"] if n in SCORED_FAMILIES]
    assert report["score"]["overall"]["value"] == pytest.approx(
        sum(report["score"]["categories"][n]["value"] for n in counted) / len(counted)
    )
