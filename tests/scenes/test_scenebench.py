"""The frozen benchmark: intact, large enough, consistent with the world, and scored as documented."""

from __future__ import annotations

import random
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.scenes import is_correct, is_held_out, load_bench, parse, sample_matching, wilson
from llada_uni.scenes.bench import (
    GENERATION_CATEGORIES,
    SCENEBENCH_V1_SHA256,
    SCORED_FAMILIES,
    UNDERSTANDING_CATEGORIES,
    Bench,
    answer_passes,
    picture_passes,
    score,
    select,
)
from llada_uni.scenes.bench_items import build_lines
from llada_uni.scenes.predicates import requires_held_out
from llada_uni.scenes.render import validate


@pytest.fixture(scope="module")
def bench() -> Bench:
    return load_bench()


def frozen_bytes() -> bytes:
    return resources.files("llada_uni.scenes").joinpath("scenebench_v1.jsonl").read_bytes()


def test_file_is_frozen_and_small(bench: Bench) -> None:
    assert bench.sha256 == SCENEBENCH_V1_SHA256
    assert len(frozen_bytes()) < 400_000


def test_an_altered_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    path.write_bytes(frozen_bytes())
    assert load_bench(path).sha256 == SCENEBENCH_V1_SHA256
    path.write_bytes(frozen_bytes().replace(b"two red apples", b"six red apples"))
    with pytest.raises(CheckpointError, match="altered"):
        load_bench(path)
    with pytest.raises(CheckpointError, match="reinstall"):
        load_bench(tmp_path / "absent.jsonl")


def test_sizes(bench: Bench) -> None:
    for items, names in ((bench.generation, GENERATION_CATEGORIES), (bench.understanding, UNDERSTANDING_CATEGORIES)):
        regular = Counter(item.category for item in items if not item.held_out)
        rare = Counter(item.category for item in items if item.held_out)
        assert set(regular) == set(names)
        assert all(regular[name] >= 100 for name in names)
        assert all(rare[name] >= 25 for name in names if name not in ("single_object", "background", "style"))
    names = [item.id for item in (*bench.generation, *bench.understanding)]
    assert len(set(names)) == len(names)


def test_prompts_can_be_satisfied_and_are_marked_rightly(bench: Bench) -> None:
    rng = random.Random(0)
    assert "two red apples left of a house" in {item.prompt for item in bench.generation}
    for item in bench.generation:
        requirement = parse(item.prompt)
        assert requires_held_out(requirement) == item.held_out
        graph = sample_matching(rng, requirement)
        assert picture_passes(item, graph)
        assert not picture_passes(item, None)
        if item.held_out:
            assert is_held_out(graph)


def test_questions_are_answerable_and_marked_rightly(bench: Bench) -> None:
    for item in bench.understanding:
        validate(item.graph)
        assert is_held_out(item.graph) == item.held_out
        assert is_correct(item.question, item.question.answer)
        assert answer_passes(item, item.question.answer)
        assert not answer_passes(item, "perhaps")


def test_answers_are_balanced(bench: Bench) -> None:
    for family, most in (("existence", 0.51), ("size", 0.51), ("style", 0.51), ("count", 0.21), ("relation", 0.34)):
        answers = Counter(
            item.question.answer for item in bench.understanding if item.category == family and not item.held_out
        )
        assert max(answers.values()) / sum(answers.values()) <= most


def test_drawing_is_deterministic() -> None:
    assert build_lines() == build_lines()


def test_wilson() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(50, 100)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)
    assert wilson(10, 10)[1] == 1.0
    assert round(wilson(10, 10)[0], 4) == 0.7225
    assert wilson(0, 10)[0] == 0.0


def test_overall_is_the_mean_of_regular_categories(bench: Bench) -> None:
    perfect = {"single_object", "counting"}
    items = bench.generation
    scores = score(items, [item.category in perfect and not item.held_out for item in items])
    assert scores.overall == pytest.approx(2 / 7)
    assert scores.interval[0] < 2 / 7 < scores.interval[1]
    assert scores.categories["counting"].rate == 1.0
    assert scores.held_out["counting"].rate == 0.0
    assert "single_object" not in scores.held_out


def test_background_and_style_stand_beside_the_understanding_score(bench: Bench) -> None:
    assert len(SCORED_FAMILIES) == 8
    items = bench.understanding
    scores = score(items, [item.category in ("background", "style") for item in items])
    assert scores.overall == 0.0
    assert scores.categories["background"].rate == 1.0


def test_score_needs_one_outcome_per_item(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="one outcome"):
        score(bench.generation, [True])


def test_select_is_balanced_and_seeded(bench: Bench) -> None:
    chosen = select(bench.generation, limit=26, seed=1)
    counts = Counter((item.category, item.held_out) for item in chosen)
    assert set(counts.values()) == {2}
    assert chosen == select(bench.generation, limit=26, seed=1) != select(bench.generation, limit=26, seed=2)
    assert select(bench.generation) == bench.generation
    with pytest.raises(ConfigError, match="at least 1"):
        select(bench.generation, limit=0)
