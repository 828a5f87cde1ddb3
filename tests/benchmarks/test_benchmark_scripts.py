"""The benchmark scripts start, and what they store says where it comes from."""

from __future__ import annotations

import json
import random
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from llada_uni.testing.checkpoint import write_tiny_checkpoint

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NANO = BENCHMARKS.parent / "src" / "llada_uni" / "nano"
SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if not path.name.startswith("_"))


@pytest.fixture(autouse=True)
def _beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Any:
    import _record

    monkeypatch.setattr(sys, "argv", ["somewhere/toy.py"])
    return _record


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", *arguments])
    runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help(script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        run(script.stem, monkeypatch, "--help")
    assert leave.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_a_record_has_every_field(recording: Any) -> None:
    report = recording.record({"a": 1}, device="cpu", arguments=["--count", "3"])
    assert tuple(report) == recording.FIELDS
    assert report["benchmark"] == "toy"
    assert report["command"] == "python benchmarks/toy.py --count 3"
    assert report["numbers"] == {"a": 1}
    assert set(report["versions"]) >= {"python", "torch", "llada_uni"}
    assert report["versions"]["llada_uni"] != "missing"
    assert report["hardware"]["cpu"]
    assert report["hardware"]["cores"] >= 1
    assert report["date"].endswith("+00:00")


def test_a_record_names_no_folder_of_the_machine(recording: Any, tmp_path: Path) -> None:
    inside = str(BENCHMARKS / "results" / "x.json")
    report = recording.record(
        {"model": str(tmp_path / "nano"), "nothing": float("nan"), "list": [inside]}, arguments=["--out", inside]
    )
    assert report["numbers"] == {"model": "nano", "nothing": None, "list": ["benchmarks/results/x.json"]}
    assert report["command"].endswith("--out benchmarks/results/x.json")
    assert str(tmp_path) not in json.dumps(report)


def test_a_record_is_shown_and_stored(recording: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording.write({"a": 1}, tmp_path / "new" / "x.json")
    assert json.loads((tmp_path / "new" / "x.json").read_text()) == json.loads(capsys.readouterr().out) == {"a": 1}


def test_paired_difference(recording: Any) -> None:
    first, second = [True] * 60 + [False] * 40, [True] * 50 + [False] * 10 + [True] * 20 + [False] * 20
    found = recording.paired_difference(first, second)
    assert found["difference"] == pytest.approx(0.1)
    assert [found[name] for name in ("both", "only_first", "only_second", "neither")] == [50, 10, 20, 20]
    low, high = found["interval"]
    assert low == pytest.approx(-0.0076, abs=1e-3)
    assert high == pytest.approx(0.2036, abs=1e-3)
    same = recording.paired_difference(first, first)
    assert same["interval"][0] == pytest.approx(-same["interval"][1])


def test_paired_intervals_hold_the_truth(recording: Any) -> None:
    rng, held = random.Random(0), 0
    for _ in range(300):
        first = [rng.random() < 0.9 for _ in range(200)]
        second = [a if rng.random() < 0.8 else rng.random() < 0.7 for a in first]
        low, high = recording.paired_difference(first, second)["interval"]
        held += low <= 0.2 * (0.7 - 0.9) <= high
    assert 0.91 <= held / 300 <= 0.99


def test_decoders_and_scenebench_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = write_tiny_checkpoint(tmp_path / "tiny"), tmp_path / "out.json"
    run("decoders", monkeypatch, "--model", str(checkpoint), "--count", "2", "--square", "--out", str(out))
    numbers = json.loads(out.read_text())["numbers"]
    assert numbers["rates"]["render"]["rate"] == 1.0
    assert numbers["rates"]["turbo"]["total"] == 2
    assert numbers["turbo_minus_normal"]["neither"] == 2
    assert numbers["num_steps"] == {"normal": 6, "turbo": 3}
    run("scenebench", monkeypatch, "--model", str(checkpoint), "--limit", "1", "--decoder", "normal", "--settings",
        "steps_per_block=2", "--settings", "guidance_scale=1.5", "--out", str(out))  # fmt: skip
    numbers = json.loads(out.read_text())["numbers"]
    assert numbers["settings"] == {"decoder": "normal", "steps_per_block": 2, "guidance_scale": 1.5}
    assert numbers["model"] == "tiny"
    assert numbers["generation"]["overall"] == 0.0
    assert "1/1" in capsys.readouterr().err


def test_decoder_options_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, out = write_tiny_checkpoint(tmp_path / "tiny"), tmp_path / "out.json"
    run("decoder_options", monkeypatch, "--model", str(checkpoint), "--count", "2", "--step-cache", "0.1", "0.5",
        "--interval", "0", "0.1", "--vae-tile", "24", "--out", str(out))  # fmt: skip
    rows = {(row["group"], row["route"]): row for row in json.loads(out.read_text())["numbers"]["routes"]}
    assert rows["turbo", "exact"]["row_evaluations_per_picture"] == 3
    assert rows["guided", "exact"]["row_evaluations_per_picture"] == 12
    assert rows["guided", "interval 0 to 0.1"]["row_evaluations_per_picture"] == 9
    for group in ("turbo", "normal", "guided"):
        assert rows[group, "plain"]["pixels_equal"]
        assert rows[group, "exact"]["times_faster_than_exact"] == 1
    assert rows["turbo", "tiles of 24"]["pixel_difference_mean"] > 0
    assert rows["normal", "step cache 0.5"]["total"] == 2


def test_sprint_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, out = write_tiny_checkpoint(tmp_path / "tiny"), tmp_path / "out.json"
    run("sprint", monkeypatch, "--model", str(checkpoint), "--count", "2", "--keep-ratio", "1", "0.4", "--threshold",
        "0.95", "--steps", "4", "--schedule", "even", "--thin-text", "--out", str(out))  # fmt: skip
    numbers = json.loads(out.read_text())["numbers"]
    for part in ("pictures", "answers"):
        whole, thinned = numbers[part]["settings"]
        assert numbers[part]["exact"]["ids_agreement"] == whole["ids_agreement"] == whole["times_fewer_positions"] == 1
        assert numbers[part]["items"] == thinned["minus_exact"]["total"] == 2
        assert thinned["positions_attended_per_item"] < whole["positions_attended_per_item"]
        assert thinned["sprint"]["keep_ratio"] == 0.4
    assert "answers: even keep 0.4 threshold 0.95 steps 4" in capsys.readouterr().err
    both = numbers["together"]
    assert [row["name"] for row in both["settings"]] == ["even-1-0.95-4", "even-0.4-0.95-4"]
    assert both["items"] == both["settings"][1]["minus_exact"]["total"] == 4
    steps = [numbers[part]["settings"][1]["steps_per_item"] for part in ("pictures", "answers")]
    assert both["settings"][1]["steps_per_item"] == sum(steps) / 2


def test_a_preset_is_compared_on_many_pairs_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, state, out = write_tiny_checkpoint(tmp_path / "tiny"), tmp_path / "state", tmp_path / "out.json"
    given = ("--model", str(checkpoint), "--preset", "readme", "--pictures", "3", "--answers", "2", "--batch", "2")
    run("sprint", monkeypatch, *given, "--state", str(state), "--out", str(out))
    first = json.loads(out.read_text())["numbers"]
    row = first["pictures"]["settings"][0]
    assert (row["name"], row["steps_per_block"], row["sprint"]["keep_ratio"]) == ("readme", 8, 0.5)
    assert [first[part]["items"] for part in ("pictures", "answers", "together")] == [3, 2, 5]
    path = state / "pictures-readme.jsonl"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:3]) + '{"ids": [1, 2')
    (state / "answers-exact.jsonl").unlink()
    capsys.readouterr()
    run("sprint", monkeypatch, *given[:-1], "1", "--state", str(state), "--out", str(out))
    told = capsys.readouterr().err
    assert "pictures, readme: 3 of 3" in told
    assert "pictures, exact" not in told
    assert "pictures, readme: 2 of 3" not in told
    again = json.loads(out.read_text())["numbers"]
    lines = [[json.loads(line) for line in text.splitlines()] for text in (whole, path.read_text())]
    for one, other in zip(*lines, strict=True):
        timed = {"token_s", "pixel_s"}
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    for part in ("pictures", "answers", "together"):
        assert again[part]["settings"][0]["minus_exact"] == first[part]["settings"][0]["minus_exact"]
    with pytest.raises(SystemExit, match="belongs to a run with other settings"):
        run("sprint", monkeypatch, *given, "--state", str(state), "--seed", "1")


def test_efficiency_end_to_end_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, out = write_tiny_checkpoint(tmp_path / "tiny"), tmp_path / "out.json"
    arguments = ["--model", str(checkpoint), "--limit", "1", "--questions", "2", "--work", str(tmp_path / "work")]
    run("efficiency", monkeypatch, *arguments, "--out", str(out))
    numbers = json.loads(out.read_text())["numbers"]
    assert numbers["limits"] == {"generation": 1, "understanding": 2}
    plain, few = (numbers["speeds"][f"generation, {name}"]["cost"] for name in ("plain", "2 steps a block"))
    assert plain["tokens_per_call"] < few["tokens_per_call"]
    assert numbers["speeds"]["understanding, SPRINT paper"]["items"]["total"] == 2
    names = ("normal, 20", "normal, 8", "turbo, 8", "turbo, 4", "turbo, 2", "turbo, 1")
    assert set(numbers["decoders"]) == {f"generation, {name} steps" for name in names}
    run("efficiency", monkeypatch, *arguments, "--out", str(out))
    assert json.loads(out.read_text())["numbers"] == numbers, "nothing is measured twice"


def test_retrieval_baseline_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.json"
    out.write_text(json.dumps({"numbers": {"decoders": {"kept": True}}}))
    run("baselines", monkeypatch, "--model", str(NANO), "--cache", str(tmp_path), "--parts", "retrieval", "--limit",
        "13", "--scenes", "300", "--out", str(out))  # fmt: skip
    numbers = json.loads(out.read_text())["numbers"]
    found = numbers["retrieval"]
    assert found["scenes"] + found["bench_scenes_left_out"] == 300
    assert found["questions"] == 2 * found["scenes"]
    assert set(found["nearest"]) == {"generation", "understanding", "scoring_seconds", "outcomes"}
    assert found["common_answer_of_the_family"]["understanding"]["overall"] >= 0
    assert numbers["decoders"] == {"kept": True}, "other parts of the file stay"


def test_seams_count_each_side_of_a_region() -> None:
    import seams

    codes = tuple(range(64))
    case = seams.Case(caption="a", region=(2, 1, 3, 2), meaning=codes, codes=codes, blanked=codes)
    assert case.positions == [17, 18, 25, 26, 33, 34]
    sides = seams.sides(case)
    assert sides["before"] == [17, 18, 25, 33], "above or left of them lies a kept cell"
    assert sides["after"] == [18, 26, 33, 34]
    assert sides["all"] == case.positions
    wrong = tuple(99 if position in (33, 50) else code for position, code in enumerate(codes))
    found = seams.agreement([case], [wrong], {code: code for code in codes} | {99: 33})
    assert found["after"]["code"] == {
        "rate": 0.75,
        "interval": found["after"]["code"]["interval"],
        "correct": 3,
        "total": 4,
    }
    assert found["all"]["meaning"]["correct"] == 6, "another code of the same meaning is right"
    edge = seams.Case(caption="a", region=(1, 0, 2, 8), meaning=codes, codes=codes, blanked=codes)
    assert seams.sides(edge)["before"] == list(range(8, 16)), "the outline of the picture is no seam"


@pytest.mark.skipif(not NANO.is_dir(), reason="the embedded model is not built yet")
def test_seams_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "seams.json"
    run("seams", monkeypatch, "--count", "2", "--meaning-scenes", "6", "--block-lengths", "64", "--out", str(out))
    numbers = json.loads(out.read_text())["numbers"]
    assert [(one["block_length"], one["reference"]) for one in numbers["variants"]] == [(64, False), (64, True)]
    assert numbers["true_codes"]["all"]["code"]["rate"] == 1.0
    assert numbers["blanked"]["all"]["code"]["rate"] < 1.0
    total = numbers["true_codes"]["all"]["code"]["total"]
    for one in numbers["variants"]:
        assert one["agreement"]["all"]["meaning"]["total"] == total
        assert 0 < one["agreement"]["after"]["code"]["total"] <= total


def test_curves_are_thinned_and_keep_the_last_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = tmp_path / "cache" / "nano-line"
    stage.mkdir(parents=True)
    rows = [{"step": n, "error": 1 / n, "lr": 0.1, "seconds": 2.0 * n} for n in range(1, 102)]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (stage / "evaluation.json").write_text('{"psnr": 30.0}', encoding="utf-8")
    out = tmp_path / "out.json"
    run("training_curves", monkeypatch, "--cache", str(tmp_path / "cache"), "--out", str(out))
    numbers = json.loads(out.read_text())["numbers"]["nano-line"]
    assert set(numbers["curve"]) == {"step", "error", "seconds"}
    assert numbers["curve"]["step"][-1] == 101
    assert 30 <= len(numbers["curve"]["step"]) <= 40
    assert numbers["curve"]["seconds"] == [2.0 * step for step in numbers["curve"]["step"]]
    assert numbers["evaluation"] == {"psnr": 30.0}


def test_curves_of_nothing_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="found none"):
        run("training_curves", monkeypatch, "--cache", str(tmp_path))


def test_quantisation_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = write_tiny_checkpoint(tmp_path / "tiny"), tmp_path / "out.json"
    run("quantisation", monkeypatch, "--model", str(checkpoint), "--scenes", "2", "--limit", "1", "--forms", "int4",
        "--out", str(out))  # fmt: skip
    forms = json.loads(out.read_text())["numbers"]["forms"]
    assert list(forms) == ["none", "int4"]
    assert forms["none"]["masked_codes"]["relative_error"] == 0
    assert forms["none"]["golden"]["backbone_a"]["relative_error"] < 1e-5
    assert 1e-3 < forms["int4"]["golden"]["backbone_a"]["relative_error"] < 0.5
    assert 0 < forms["int4"]["masked_codes"]["relative_error"] < 0.5
    assert forms["int4"]["generation"]["total"] == 1
    assert "int4 generation 1/1" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["int4", "fp8", "none"])
def test_a_backbone_from_weights_made_on_the_way(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.json"
    run("big_on_cpu", monkeypatch, "--size", "tiny", "--quantize", form, "--blocks", "2", "--out", str(out))
    numbers = json.loads(out.read_text())["numbers"]
    assert numbers["text"]["tokens"] == 64
    assert numbers["text"]["backbone_calls"] >= 8
    assert 0 < numbers["loading"]["weight_bytes"] < numbers["loading"]["peak_rss_bytes"]
