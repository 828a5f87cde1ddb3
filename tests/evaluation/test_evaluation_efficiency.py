"""What a run costs is read off the model's own counts, and added up as ratios of sums."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llada_uni import LladaUni
from llada_uni.errors import ConfigError
from llada_uni.evaluation.efficiency import (
    DECODERS,
    SPEEDS,
    TABLE_13,
    TABLE_14,
    Setting,
    cost,
    measure,
    measure_all,
)
from llada_uni.evaluation.meter import Metered
from llada_uni.evaluation.run import collect
from llada_uni.testing.checkpoint import write_tiny_checkpoint
from llada_uni.weights.catalog import SPRINT_PRESETS


def record(tokens: int, calls: int, *, wall: float = 2.0, **changes: Any) -> dict[str, Any]:
    usage = {"output_tokens": tokens, "num_calls": calls, "num_steps": calls - 1, "prompt_tokens": 5}
    timings = {"load": 10.0, "tokens": wall / 2, "pixels": wall / 4, "total": 10.0 + wall}
    return {"status": "ok", "usage": usage, "timings": timings, "cpu_seconds": 1.5} | changes


def test_costs_are_ratios_of_sums() -> None:
    found = cost([record(64, 8), record(2, 3, wall=1.0), record(9, 9, status="failed"), record(9, 9, usage={})])
    assert found is not None
    assert found == {
        "items": 2, "tokens_per_item": 33, "steps_per_item": 4.5, "calls_per_item": 5.5, "tokens_per_call": 6.0,
        "tokens_per_s": 66 / 1.5, "tokens_s_per_item": 0.75, "pixels_s_per_item": 0.375, "s_per_item": 1.5,
        "cpu_s_per_item": 1.5,
    }  # fmt: skip
    assert cost([]) is None
    assert cost([{"status": "ok"}]) is None, "records of an older run say nothing"


def test_results_are_watched_and_everything_else_is_the_models() -> None:
    shared = {"tokens": 1.0, "total": 2.0}
    pair = [
        SimpleNamespace(usage={"num_calls": 2}, timings=shared),
        SimpleNamespace(usage={"num_calls": 3}, timings=shared),
    ]
    answer = SimpleNamespace(text="no counts")
    model = SimpleNamespace(
        name="m", generate_image=lambda _: pair, understand_image=lambda *_: answer, edit_image=lambda *_: pair[0],
        generate_interleaved=lambda _: pair[1], other=7,
    )  # fmt: skip
    meter = Metered(model)
    assert meter.generate_image("a") is pair
    assert meter.understand_image("a", "b") is answer
    meter.edit_image("a", "b")
    meter.generate_interleaved("a")
    assert (meter.usage, meter.timings) == ({"num_calls": 10}, {"tokens": 3.0, "total": 6.0})
    assert (meter.name, meter.other) == ("m", 7)  # type: ignore[attr-defined]
    assert meter.spent()["cpu_seconds"] >= 0


def test_rows_of_the_tables() -> None:
    names = [f"{one.name} {part}" for one in (*SPEEDS, *DECODERS) for part in one.parts]
    assert len(set(names)) == len(names)
    assert {one.options["sprint"] for one in SPEEDS if "sprint" in one.options} == set(SPRINT_PRESETS)
    assert TABLE_13[0] in SPEEDS
    assert all(one.parts == ("generation",) for one in (*TABLE_14, *DECODERS))


def test_a_setting_is_measured_kept_and_not_repeated(tmp_path: Path) -> None:
    model = LladaUni.from_pretrained(write_tiny_checkpoint(tmp_path / "tiny"), device="cpu")
    settings = [Setting(name="few", options={"steps_per_block": 2, "decoder": "turbo"})]
    found = measure_all(model, settings, tmp_path / "out", limit=2, seed=3)
    assert list(found) == ["generation, few", "understanding, few"]
    pictures, answers = found.values()
    assert pictures["cost"]["tokens_per_item"] == 16, "4 x 4 codes by default"
    assert pictures["cost"]["tokens_per_call"] > 16 / 8
    assert pictures["cost"]["pixels_s_per_item"] > 0 == answers["cost"]["pixels_s_per_item"]
    assert pictures["cost"]["tokens_per_s"] > 0 < answers["cost"]["tokens_per_s"]
    assert pictures["items"]["total"] == 2
    kept = collect(tmp_path / "out" / "generation-few", "outputs")
    assert all(one["usage"]["num_calls"] > 0 and one["cpu_seconds"] > 0 for one in kept.values())
    again = measure(model, "generation", settings[0], tmp_path / "out", limit=2, seed=3)
    assert again == pictures
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(ConfigError):
        measure(model, "generation", settings[0], tmp_path / "out", limit=1, seed=3)
