"""Random scenes are valid, reproducible, and never show what is held out."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from llada_uni.errors import ConfigError
from llada_uni.scenes import KINDS, MAX_OBJECTS, SIGN_WORDS, from_json, is_held_out, parse, satisfies, to_json
from llada_uni.scenes.graph import COLOURS, SceneGraph, SceneObject
from llada_uni.scenes.sample import sample_matching, sample_scene
from llada_uni.scenes.split import HELD_OUT_COUNTS, HELD_OUT_PAIRS, allowed_colours


def cells_of(item: SceneObject) -> set[tuple[int, int]]:
    height, width = item.cells
    return {(item.row + r, item.column + c) for r in range(height) for c in range(width)}


def assert_valid(graph: SceneGraph) -> None:
    assert 1 <= len(graph.objects) <= MAX_OBJECTS
    taken: set[tuple[int, int]] = set()
    for item in graph.objects:
        cells = cells_of(item)
        assert all(0 <= r < graph.grid_h and 0 <= c < graph.grid_w for r, c in cells)
        assert not cells & taken
        taken |= {(r + dr, c + dc) for r, c in cells for dr in (-1, 0, 1) for dc in (-1, 0, 1)}
        if item.kind == "sign":
            assert item.colour is None
            assert item.size == "small"
            assert item.word in SIGN_WORDS
        else:
            assert item.kind in KINDS
            assert item.colour in COLOURS
            assert item.word is None


@pytest.mark.parametrize("grid", [(8, 8), (8, 12), (12, 8)])
def test_scenes_are_valid_and_never_held_out(grid: tuple[int, int]) -> None:
    rng = random.Random(3)
    for _ in range(1500):
        graph = sample_scene(rng, grid_h=grid[0], grid_w=grid[1])
        assert_valid(graph)
        assert (graph.grid_h, graph.grid_w) == grid
        assert not is_held_out(graph)


def test_held_out_scenes_on_request() -> None:
    rng = random.Random(4)
    for _ in range(300):
        graph = sample_scene(rng, held_out=True)
        assert_valid(graph)
        assert is_held_out(graph)
    marks = {is_held_out(sample_scene(rng, held_out=None)) for _ in range(200)}
    assert marks == {True, False}


def test_distribution_covers_what_has_to_be_learnt() -> None:
    rng = random.Random(5)
    graphs = [sample_scene(rng) for _ in range(6000)]
    numbers = Counter(len(graph.objects) for graph in graphs)
    assert all(numbers[count] > 300 for count in range(1, 5))
    pairs = {(item.kind, item.colour) for graph in graphs for item in graph.objects if item.colour}
    assert pairs == {(kind, colour) for kind in KINDS for colour in allowed_colours(kind)}
    assert {item.word for graph in graphs for item in graph.objects} == {None, *SIGN_WORDS}
    counted = sum(max(Counter(item.kind for item in graph.objects).values()) >= 2 for graph in graphs)
    assert 0.25 < counted / len(graphs) < 0.6
    for name, share in (("white", 0.30), ("night", 0.14)):
        assert abs(sum(graph.background == name for graph in graphs) / len(graphs) - share) < 0.03


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_fixed_parts(count: int) -> None:
    graph = sample_scene(random.Random(0), num_objects=count, background="dusk", style="outline")
    assert (len(graph.objects), graph.background, graph.style) == (count, "dusk", "outline")


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="between 1 and 4"):
        sample_scene(random.Random(0), num_objects=5)
    with pytest.raises(ConfigError, match="grid"):
        sample_scene(random.Random(0), grid_h=1, grid_w=1)
    with pytest.raises(ConfigError):
        sample_matching(random.Random(0), parse("a blue apple"), held_out=False)


@pytest.mark.parametrize(
    "prompt",
    [
        "two red apples left of a house",
        "three cats above a big ball",
        'a sign that says "OPEN" next to a small pink key at night',
        "a cat at the top left and a fish in the middle",
        "a line drawing of four small books on sand",
    ],
)
def test_matching_scenes_satisfy_the_requirement(prompt: str) -> None:
    rng = random.Random(7)
    for _ in range(60):
        graph = sample_matching(rng, parse(prompt))
        assert_valid(graph)
        assert satisfies(graph, prompt)


def test_split_is_sparse() -> None:
    assert len(HELD_OUT_PAIRS) == 16
    assert max(Counter(kind for kind, _ in HELD_OUT_PAIRS).values()) <= 2
    assert max(Counter(colour for _, colour in HELD_OUT_PAIRS).values()) <= 3
    assert max(Counter(count for _, count in HELD_OUT_COUNTS).values()) <= 4
    assert not is_held_out(sample_matching(random.Random(0), parse("two red apples left of a house"), held_out=False))


def test_json_round_trip() -> None:
    rng = random.Random(8)
    for grid_w in (8, 12):
        for _ in range(200):
            graph = sample_scene(rng, grid_w=grid_w)
            assert from_json(to_json(graph)) == graph
    with pytest.raises(ConfigError, match="scene graph"):
        from_json({"objects": [["cat"]], "background": "white", "style": "flat"})
    with pytest.raises(ConfigError, match="scene graph"):
        from_json({"objects": []})


_DIGEST = """
import hashlib, random
from llada_uni.scenes import corpus, sample_captioned, sample_question, sample_scene
rng = random.Random(11)
text = repr([sample_captioned(rng) for _ in range(50)]) + repr(list(corpus(rng, 100)))
text += repr([sample_question(sample_scene(rng), rng) for _ in range(100)])
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_same_seed_same_data_in_every_process() -> None:
    digests = [
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert digests[0] == digests[1] != ""
