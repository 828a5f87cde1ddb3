"""The picture reader: right on renders and their mild degradations, silent on wrong pictures."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from llada_uni.scenes.graph import BACKGROUNDS, COLOURS, KINDS, SIGN_WORDS, STYLES, SceneGraph, SceneObject
from llada_uni.scenes.render import render, render_array
from llada_uni.scenes.verify import read, verify


def _load_benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "verifier.py"
    spec = importlib.util.spec_from_file_location("verifier_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bench = _load_benchmark()


def icon(kind: str, colour: str, size: str, row: int, column: int) -> SceneObject:
    return SceneObject(kind=kind, colour=colour, size=size, row=row, column=column)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", ["small", "large"])
def test_every_kind_and_colour_reads_back(style: str, size: str) -> None:
    for index, kind in enumerate(KINDS):
        colours = [COLOURS[(index + k) % len(COLOURS)] for k in range(4)]
        places = [(0, 0), (1, 5), (5, 0), (5, 4)]
        graph = SceneGraph(
            objects=tuple(icon(kind, c, size, *place) for c, place in zip(colours, places, strict=True)),
            background=BACKGROUNDS[index % len(BACKGROUNDS)],
            style=style,
        )
        assert verify(render(graph)) == graph


@pytest.mark.parametrize("style", STYLES)
def test_every_sign_reads_back(style: str) -> None:
    for index, word in enumerate(SIGN_WORDS):
        item = SceneObject(kind="sign", colour=None, size="small", row=index % 7, column=index % 5, word=word)
        graph = SceneGraph(objects=(item,), background=BACKGROUNDS[index % 6], style=style)
        reading = read(render(graph))
        assert reading.graph == graph
        assert reading.objects[0].word == word


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("grid", [(8, 8), (8, 12), (12, 8)])
def test_empty_scenes_read_as_flat(background: str, grid: tuple[int, int]) -> None:
    graph = SceneGraph(background=background, grid_h=grid[0], grid_w=grid[1])
    assert verify(render(graph)) == graph
    assert verify(render(replace(graph, style="outline"))) == graph


@pytest.mark.parametrize("name", [*bench.DEGRADATIONS, "moved_2px"])
def test_mild_degradations_are_read_right(name: str) -> None:
    result = bench.measure_degraded(name, 8, seed=11)
    assert result["wrong"] == 0
    assert result["right"] >= 7 / 8, result


@pytest.mark.parametrize("name", list(bench.SPOILERS))
def test_wrong_pictures_are_not_accepted(name: str) -> None:
    assert bench.measure_spoiled(name, 8, seed=12)["false_accepts"] == 0


def test_other_picture_sizes_are_resized_first() -> None:
    graph = bench.random_scene(random.Random(3), grid=(8, 12))
    assert verify(render(graph, scale=2)) == graph
    assert verify(render(graph).resize((96, 64), Image.Resampling.BOX)) in (graph, None)
    assert verify(render(graph).convert("RGBA")) == graph
    assert verify(render_array(graph), grid=(8, 12)) == graph


def test_unknown_aspect_abstains_with_a_reason() -> None:
    reading = read(np.full((100, 300, 3), 250, dtype=np.uint8))
    assert reading.graph is None
    assert "aspect" in reading.reason


def test_broken_rules_abstain() -> None:
    """Boxes that touch belong to no legal scene, whatever is in them."""
    first = render_array(SceneGraph(objects=(icon("cat", "red", "small", 2, 2),)))
    second = render_array(SceneGraph(objects=(icon("star", "blue", "small", 2, 4),)))
    assert verify(np.minimum(first, second)) is None


def test_mixed_styles_abstain() -> None:
    objects = (icon("cat", "red", "small", 1, 1), icon("star", "blue", "small", 5, 5))
    pixels = render_array(SceneGraph(objects=objects))
    pixels[:64] = render_array(SceneGraph(objects=objects, style="outline"))[:64]
    reading = read(pixels)
    assert reading.graph is None
    assert reading.reason == "objects of different styles"


def test_readings_explain_themselves() -> None:
    graph = SceneGraph(objects=(icon("cat", "red", "small", 1, 1),), background="grass")
    reading = read(render(graph))
    assert reading.reason == ""
    assert reading.background == "grass"
    item = reading.objects[0]
    assert item.match is not None
    assert (item.match.label.kind, item.match.label.colour) == ("cat", "red")
    assert item.match.kind_ratio < 0.1
    assert item.gain == pytest.approx(1.0, abs=0.02)
    assert reading.worst_patch is not None
    assert reading.worst_patch < 0.1


def test_benchmark_writes_its_report(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    bench.main(["--out", str(out), "--count", "1", "--seed", "1"])
    report = json.loads(out.read_text())
    assert set(report["numbers"]["right_readings"]) == {*bench.DEGRADATIONS, "moved_2px"}
    assert set(report["numbers"]["wrong_pictures"]) == set(bench.SPOILERS)
    assert report["numbers"]["speed"]["read_ms"] > 0
