"""Generated pages say what the code and the result files say now."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS = DOCS.parent / "benchmarks" / "results"
INTERVAL = {"rate": 0.9, "interval": [0.8, 0.95], "total": 10, "correct": 9, "exact": 0.5}
SAMPLES: dict[str, Any] = {
    "scenebench": {
        "model": "nano", "seed": 0, "settings": {"decoder": "turbo"}, "ceilings": {"vae": INTERVAL},
        "generation": {"overall": 0.9, "interval": [0.8, 0.95], "categories": {"two_object": INTERVAL},
                       "held_out": {"two_object": INTERVAL}},
        "understanding": {"overall": None, "interval": [0, 1], "categories": {"style": INTERVAL}, "held_out": {}},
    },
    "decoders": {
        "num_steps": {"normal": 49, "turbo": 8}, "encode_and_decode_s_per_picture": {"normal": 1.5, "turbo": 0.25},
        "rates": {"render": INTERVAL, "normal": INTERVAL, "turbo": INTERVAL},
        "turbo_minus_normal": {"difference": -0.0125, "interval": [-0.02, 0.01], "total": 80, "only_first": 3,
                               "only_second": 2},
    },
    "efficiency": {
        "model": "nano", "seed": 0,
        "speeds": {
            "generation, plain": {
                "overall": {"value": 0.9, "interval": [0.8, 0.95], "items": 7}, "items": {"total": 9},
                "categories": {"colours": {"value": 1.0, "items": 4}, "colours, held out": {"value": 0.25, "items": 4}},
                "cost": {"tokens_per_call": 8.0, "steps_per_item": 7.5, "tokens_per_s": 50.25, "s_per_item": 1.5,
                         "pixels_s_per_item": 0.25, "cpu_s_per_item": 1.25},
            },
            "understanding, plain": {"overall": None, "items": {"total": 9}, "categories": {}, "cost": None},
        },
    },
}  # fmt: skip
BASELINES = {
    "retrieval": {
        "scenes": 4094, "questions": 8188,
        "nearest": dict.fromkeys(("generation", "understanding"), SAMPLES["scenebench"]["generation"]),
        "common_answer_of_the_family": {"understanding": SAMPLES["scenebench"]["generation"]},
    },
    "backbones": {
        "arms": {"autoregressive": {"steps": 240, "step_cpu_seconds": 2.5} | SAMPLES["scenebench"]},
        "autoregressive_minus_block_diffusion": {
            "generation": SAMPLES["decoders"]["turbo_minus_normal"],
        },
    },
    "decoders": {"arms": {"classes": {"steps": 720, "step_cpu_seconds": 0.5, "pictures": INTERVAL}}},
}  # fmt: skip
ABLATIONS = {
    "backbone": {
        "arms": {"recipe": {"seeds": {"0": {"steps": 240}}}, "other": {"seeds": {"0": {"steps": 240}}}},
        "summary": {"recipe": {"answers": {"mean": 0.4}}, "other": {"answers": {"mean": 0.5, "minus_recipe": [0.1]}}},
    }
}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["make_reference", "make_performance", "make_leaderboard"])
def test_the_page_is_up_to_date(name: str) -> None:
    module = load(name)
    assert module.PAGE.read_text(encoding="utf-8") == module.build(), f"run: python docs/{name}.py"


def test_the_curves_are_up_to_date() -> None:
    module = load("make_performance")
    stored = {path.name: path.read_text(encoding="utf-8") for path in module.CURVES.glob("*.svg")}
    assert stored == module.charts(), "run: python docs/make_performance.py"


def test_results_of_the_released_shapes_stand_behind_those_of_nano(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = load("make_performance")
    for size in ("nano", "uni", "uni_more"):
        report = json.loads((RESULTS / "decoder_nano.json").read_text(encoding="utf-8"))
        report["numbers"]["size"] = size[:4].rstrip("_")
        (tmp_path / f"decoder_{size}.json").write_text(json.dumps(report))
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    page = module.build()
    assert page.index("## The pixel decoder") < page.index("### The pixel decoder: uni\n")
    assert "### The pixel decoder: uni more" in page
    names = {f"decoder_{size}_grid.svg" for size in ("nano", "uni", "uni_more")}
    assert set(module.charts()) == names
    assert all(page.count(f"assets/speed/{name}") == 1 for name in names)


def test_a_chart_places_numbers_by_their_logarithms() -> None:
    load("make_performance")
    plots = load("plots")
    chart = plots.line_chart("a < b", "x", "y", {"line": [(1, 1), (10, 10), (100, 100)]})
    assert "a &lt; b" in chart
    places = [float(part.split('"')[1]) for part in chart.split("<circle cx=")[1:]]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)
    for bad in ({}, {"line": []}, {"line": [(1, 0)]}):
        with pytest.raises(ValueError, match="positive"):
            plots.line_chart("t", "x", "y", bad)


def test_the_reference_lists_the_public_names_and_every_option() -> None:
    page = load("make_reference").build()
    for name in ("LladaUni.generate_image", "load_backbone", "SizeError", "sample_scene", "llada-uni eval scenebench"):
        assert f"`{name}" in page
    for text in ("--confidence-threshold P", "--restart", 'granularity: Granularity = "step"', "prompt: str | "):
        assert text in page
    assert ":class:" not in page
    assert " at 0x" not in page


def stored(folder: Path, name: str, numbers: Any, **hardware: Any) -> None:
    machine = {"cpu": "a processor", "cores": 2, "threads": 2, "load_average": 0.1} | hardware
    report = {
        "date": "2026-01-31T00:00:00+00:00", "commit": "0123456789abcdef", "command": f"python benchmarks/{name}.py",
        "hardware": machine, "versions": {"python": "3.12", "torch": "2.13"}, "numbers": numbers,
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(report))


def test_every_kind_of_result_has_its_rows_on_the_leaderboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = load("make_leaderboard")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    page = module.build()
    assert "| Models | nano by the GPU recipes | not run yet |" in page
    assert all(f"`{name}`" in page for name in module.KNOWN)
    assert "%" not in page.split("## Generation")[1], "no result file, no number"
    for name, numbers in {**SAMPLES, "baselines": BASELINES, "ablations": ABLATIONS}.items():
        stored(tmp_path, name, numbers)
    page = module.build()
    source = "[1](../benchmarks/results/scenebench.json) |"
    assert f"| Models | nano, decoder turbo, CPU | 90.0 % (80.0 – 95.0) | 90.0 % (69.9 – 97.2) | 20 | {source}" in page
    assert "| Baselines | nearest of 4094 training scenes, and of 8188 questions | 90.0 % (80.0 – 95.0) |" in page
    assert (
        "| Baselines | autoregressive, from scratch, 240 steps of 2.50 processor seconds | 90.0 % (80.0 – 95.0) |"
        in page
    )
    assert "the commonest answer" not in page.split("## Understanding")[0]
    assert "| Presets | plain | 90.0 % (80.0 – 95.0) | 62.5 % (30.6 – 86.3) | 8 |" in page
    assert (
        "| classes, a decoder from scratch, 720 steps of 0.50 processor seconds | 90.0 % (80.0 – 95.0) | 10 |" in page
    )
    assert "| other | 1 | 240 | 0.500 (+0.100) |" in page
    assert "   python benchmarks/baselines.py" in page
    assert page.count("Autoregressive minus block diffusion") == 1
    assert "on the same 80 items: -1.2 points (-2.0 to +1.0, matched pairs" in page
    stored(tmp_path, "scenebench_nano_gpu", SAMPLES["scenebench"], gpu="a GPU")
    page = module.build()
    assert "not run yet" not in page
    assert "| Models | nano gpu, decoder turbo, a GPU |" in page


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_numbers_of_a_result_file_reach_the_page(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = load("make_performance")
    stored(tmp_path, name, SAMPLES[name])
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    page = module.build()
    assert "90.0 % (80.0 – 95.0)" in page
    assert "2026-01-31, a processor, 2 cores, 2 threads" in page
    assert page.count("Not measured yet") == len(module.SECTIONS) - 1
    if name == "efficiency":
        assert "| plain | 90.0 % (80.0 – 95.0) | 9 | 8.00 | 7.5 | 50.2 | 0.250 | 1.500 | 1.250 |" in page
        assert "| plain | – | 9 | – | – | – | – | – |" in page
    if name == "decoders":
        assert "-1.25 points (-2.00 to +1.00); right with normal only 3, with turbo only 2." in page


def test_paired_presets_reach_the_page() -> None:
    times = {f"times_fewer_{what}": 1.5 for what in ("steps", "calls", "token_s")}
    speed = {"rate": 0.5, "interval": [0.4, 0.6], "steps_per_item": 3.0, "cpu_s_per_item": 0.1}
    change = {"difference": -0.005, "interval": [-0.02, 0.01], "total": 40}
    rules = {"schedule": "adaptive", "keep_ratio": 0.8}
    row = speed | times | {"name": "paper", "sprint": rules, "confidence_threshold": 0.95, "steps_per_block": 32}
    part = {"items": 40, "exact": speed, "settings": [row | {"minus_exact": change}]}
    module = load("make_performance")
    told = "\n".join(module.sprint({"pictures": part, "answers": part, "together": part}))
    line = "| 40 together | paper | -0.50 (-2.00 to +1.00) | 1.50 x fewer | 1.50 x fewer | 1.50 x fewer |"
    assert line in told
    assert "| adaptive | 0.8 | 0.95 | 32 | 50.0 %" in told
    assert "together" not in "\n".join(module.sprint({"pictures": part, "answers": part}))


def test_result_files_say_where_they_come_from() -> None:
    needed = {"date", "commit", "command", "hardware", "versions"}
    for path in RESULTS.glob("*.json"):
        assert needed <= set(json.loads(path.read_text(encoding="utf-8"))), f"{path.name}: measure again"


# --- pictures of the guides -----------------------------------------------------------------------------------------


def test_every_drawn_picture_stands_in_a_guide_and_fits() -> None:
    module = load("make_pictures")
    names = {f"{name}.png" for name in module.PANELS} | {module.FILM}
    guides = " ".join(path.read_text(encoding="utf-8") for path in (DOCS / "guides").glob("*.md"))
    assert {name for name in names if f"](../assets/{name})" in guides} == names
    limits = {module.FILM: module.FILM_LARGEST}
    for name in names:
        path = module.ASSETS / name
        assert path.stat().st_size <= limits.get(name, sys.modules["sheets"].LARGEST), f"{name} is too large"


def test_words_are_wrapped_and_cells_stand_beside_each_other() -> None:
    load("make_pictures")
    sheets = sys.modules["sheets"]
    lines = sheets.wrapped("a cat and a house by the sea\nunbreakableunbreakable", 80)
    assert " ".join(lines) == "a cat and a house by the sea unbreakableunbreakable"
    assert len(lines) > 3
    square, wide = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (96, 64), "blue")
    cells = [sheets.picture_cell(square, "one"), sheets.joined([square, wide], "two"), sheets.text_cell("words")]
    assert [cell.picture.size for cell in cells] == [(66, 66), (168, 66), (130, 130)]
    page = sheets.sheet([cells, cells[:1]])
    assert page.width == 66 + 168 + 130 + 4 * 8
    assert page.height == 130 + 66 + 2 * (15 + 4) + 3 * 8
    assert [page.getpixel(at) for at in ((9, 9), (8 + 66 + 8 + 1, 9))] == [(255, 0, 0)] * 2
    tall = sheets.text_cell("word " * 80).picture
    assert tall.height > 130


def test_a_sheet_takes_as_many_colours_as_fit(tmp_path: Path) -> None:
    load("make_pictures")
    sheets, noise = sys.modules["sheets"], Image.effect_noise((160, 160), 90).convert("RGB")
    roomy, tight = (sheets.save(noise, tmp_path / "a.png", largest=limit) for limit in (10**6, 20_000))
    assert tight <= 20_000 < roomy
    assert Image.open(tmp_path / "a.png").size == (160, 160)
    with pytest.raises(ValueError, match=r"a.png: \d+ bytes with 24 colours, at most 100; show less"):
        sheets.save(noise, tmp_path / "a.png", largest=100)


def test_pictures_are_drawn_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("make_pictures").main(["--only", "poetry"])
    assert "invalid choice: 'poetry'" in capsys.readouterr().err
