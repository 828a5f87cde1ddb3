"""The frozen task suites: intact, large enough, passable, and scored as documented."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.scenes import is_held_out, parse, sample_matching
from llada_uni.scenes.bench_task_items import build_lines
from llada_uni.scenes.bench_tasks import (
    SCENEBENCH_TASKS_V1_SHA256,
    EditItem,
    QuestionItem,
    RiddleItem,
    StoryItem,
    TaskBench,
    TaskItem,
    answer_passes,
    edit_passes,
    edit_preserves,
    load_task_bench,
    riddle_passes,
    score_tasks,
    select_tasks,
    story_passes,
)
from llada_uni.scenes.clues import HELD_OUT_CLUES
from llada_uni.scenes.comparisons import COMPARISON_FAMILIES
from llada_uni.scenes.edits import EDIT_CATEGORIES
from llada_uni.scenes.facts import FACT_FAMILIES
from llada_uni.scenes.graph import SceneGraph
from llada_uni.scenes.render import validate
from llada_uni.scenes.stories import STORY_KINDS


@pytest.fixture(scope="module")
def bench() -> TaskBench:
    return load_task_bench()


def every(bench: TaskBench) -> list[TaskItem]:
    return [*bench.riddles, *bench.edits, *bench.stories, *bench.comparisons, *bench.facts]


def frozen_bytes() -> bytes:
    return resources.files("llada_uni.scenes").joinpath("scenebench_tasks_v1.jsonl").read_bytes()


def test_file_is_frozen_and_small(bench: TaskBench) -> None:
    assert bench.sha256 == SCENEBENCH_TASKS_V1_SHA256
    assert len(frozen_bytes()) < 700_000


def test_the_script_draws_the_frozen_file() -> None:
    drawn = ("\n".join(build_lines()) + "\n").encode("ascii")
    assert hashlib.sha256(drawn).hexdigest() == SCENEBENCH_TASKS_V1_SHA256


def test_an_altered_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    path.write_bytes(frozen_bytes().replace(b"remove the", b"keep the"))
    with pytest.raises(CheckpointError, match="altered"):
        load_task_bench(path)
    with pytest.raises(CheckpointError, match="reinstall"):
        load_task_bench(tmp_path / "absent.jsonl")


def test_sizes(bench: TaskBench) -> None:
    regular = Counter((item.suite, item.category) for item in every(bench) if not item.held_out)
    rare = Counter((item.suite, item.category) for item in every(bench) if item.held_out)
    whole = [("riddle", "riddle"), *(("edit", c) for c in EDIT_CATEGORIES), *(("story", k) for k in STORY_KINDS)]
    assert all(regular[name] >= 100 and rare[name] >= 25 for name in whole)
    for suite, families in (("comparison", COMPARISON_FAMILIES), ("fact", FACT_FAMILIES)):
        assert sum(regular[suite, family] for family in families) >= 100
        assert sum(rare[suite, family] for family in families) >= 25
        assert all(regular[suite, family] >= 18 for family in families)
    names = [item.id for item in every(bench)]
    assert len(set(names)) == len(names)


def test_riddles_can_be_painted(bench: TaskBench) -> None:
    rng = random.Random(0)
    rare = {clue for clues in HELD_OUT_CLUES.values() for clue in clues}
    for item in bench.riddles:
        graph = sample_matching(rng, parse(item.answer), held_out=False)
        assert riddle_passes(item, graph)
        assert not riddle_passes(item, None)
        assert not riddle_passes(item, SceneGraph())
        plain = " ".join(w for w in item.prompt.replace(",", "").split() if w not in COLOURS)
        assert any(clue in plain for clue in rare) == item.held_out


COLOURS = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"}


def test_edits_have_a_passing_target_and_failing_sources(bench: TaskBench) -> None:
    for item in bench.edits:
        for graph in (*item.graphs, item.target):
            validate(graph)
        assert edit_passes(item, item.target)
        assert edit_preserves(item, item.target) == 1.0
        assert not any(edit_passes(item, graph) for graph in item.graphs)
        assert not edit_passes(item, None)
        assert is_held_out(item.target) == item.held_out
        if not item.held_out:
            assert not any(map(is_held_out, item.graphs))


def test_stories_can_be_told_in_the_words_of_the_grammar(bench: TaskBench) -> None:
    for item in bench.stories:
        assert 2 <= len(item.frames) <= 4
        for frame in item.frames:
            assert parse(frame.caption).num_objects >= 1
            assert bool(frame.mover) == bool(frame.place) == (item.category in ("motion", "walking"))
        assert bool(item.answer) == (item.category in ("counting", "walking"))
        assert not story_passes(item, [], item.answer)


def test_a_puzzle_needs_its_answer(bench: TaskBench) -> None:
    rng = random.Random(0)
    for item in [one for one in bench.stories if one.category == "counting"][:20]:
        told = [(frame.caption, sample_matching(rng, parse(frame.caption))) for frame in item.frames]
        assert story_passes(item, told, f"there are {item.answer}.")
        assert not story_passes(item, told, "there are some.")


def test_questions_have_answers_that_pass(bench: TaskBench) -> None:
    for item in (*bench.comparisons, *bench.facts):
        assert answer_passes(item, item.question.answer)
        assert not answer_passes(item, "perhaps")
        assert len(item.graphs) == 0 if item.suite == "fact" else len(item.graphs) in (2, 3)
        for graph in item.graphs:
            validate(graph)
        if item.suite == "comparison":
            assert any(map(is_held_out, item.graphs)) == item.held_out


def test_no_answer_is_right_most_of_the_time(bench: TaskBench) -> None:
    found: dict[tuple[str, str], Counter[str]] = {}
    for item in (*bench.comparisons, *bench.facts):
        found.setdefault((item.suite, item.category), Counter())[item.question.answer] += 1
    for name, counts in found.items():
        assert max(counts.values()) / counts.total() <= 0.56, name


def test_scores_count_every_category_alike(bench: TaskBench) -> None:
    items = bench.edits
    scores = score_tasks(items, [item.category in ("add", "move") and not item.held_out for item in items])
    assert scores.overall == pytest.approx(2 / 8)
    assert scores.interval[0] < 2 / 8 < scores.interval[1]
    assert scores.categories["add"].rate == 1.0
    assert scores.held_out["add"].rate == 0.0
    with pytest.raises(ConfigError, match="one outcome"):
        score_tasks(items, [True])
    rare = [item for item in items if item.held_out]
    assert score_tasks(rare, [True] * len(rare)).categories == {}


def test_selection_is_balanced_and_seeded(bench: TaskBench) -> None:
    chosen = select_tasks(bench.edits, limit=32, seed=1)
    assert set(Counter((item.category, item.held_out) for item in chosen).values()) == {2}
    assert chosen == select_tasks(bench.edits, limit=32, seed=1) != select_tasks(bench.edits, limit=32, seed=2)
    with pytest.raises(ConfigError, match="at least 1"):
        select_tasks(bench.facts, limit=0)


def test_item_classes(bench: TaskBench) -> None:
    assert all(isinstance(item, RiddleItem) for item in bench.riddles)
    assert all(isinstance(item, EditItem) for item in bench.edits)
    assert all(isinstance(item, StoryItem) for item in bench.stories)
    assert all(isinstance(item, QuestionItem) for item in (*bench.comparisons, *bench.facts))
