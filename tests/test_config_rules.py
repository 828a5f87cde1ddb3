"""Errors are one line; configurations are strict, typed and reversible."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from llada_uni import errors
from llada_uni.config import from_mapping, override, read_json, to_mapping


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True, kw_only=True)
class Run:
    name: str
    steps: int = 10
    mode: Literal["normal", "turbo"] = "normal"
    bits: Literal[1, 16, 32] | None = None
    note: str | None = None
    out: Path | None = None
    fast: bool = False
    blocks: tuple[int, ...] = (16, 32)
    extra: dict[str, int] = field(default_factory=dict)
    optim: Optim = field(default_factory=Optim)


def build(**values: Any) -> Run:
    return from_mapping(Run, {"name": "r", **values}, source="run.json")


def test_messages_are_one_line() -> None:
    assert str(errors.SizeError("no\n  such   size")) == "no such size"


def test_every_error_is_ours_and_has_a_status() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    assert all(issubclass(kind, errors.LladaUniError) for kind in kinds)
    assert {kind.__name__: errors.http_status(kind("x")) for kind in kinds} == {
        "BudgetError": 413,
        "CheckpointError": 500,
        "ConfigError": 400,
        "ImageError": 400,
        "LladaUniError": 400,
        "OfflineError": 503,
        "PromptError": 400,
        "ResourceError": 503,
        "SizeError": 400,
    }


def test_round_trip_through_json() -> None:
    run = build(bits=16, out="here", blocks=[1, 2, 3], optim={"lr": 1}, extra={"a": 1})
    assert from_mapping(Run, json.loads(json.dumps(to_mapping(run))), source="again") == run
    assert (run.blocks, run.optim.lr, run.out) == ((1, 2, 3), 1.0, Path("here"))
    assert isinstance(run.optim.lr, float)


def test_whole_floats_become_ints_and_defaults_fill_in() -> None:
    assert build(steps=5.0) == Run(name="r", steps=5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"stepz": 1}, "run.json: unknown key 'stepz'; did you mean 'steps'?"),
        ({"steps": "5"}, "run.json: steps: expected int, got '5'"),
        ({"steps": 5.5}, "expected int, got 5.5"),
        ({"steps": True}, "expected int, got True"),
        ({"fast": 1}, "expected bool, got 1"),
        ({"mode": "slow"}, "expected one of 'normal', 'turbo', got 'slow'"),
        ({"bits": True}, "bits: expected one of 1, 16, 32, got True"),
        ({"blocks": "16"}, "blocks: expected a list, got '16'"),
        ({"blocks": ["a"]}, "blocks: expected int, got 'a'"),
        ({"optim": {"betas": [0.9]}}, "run.json: optim: betas: expected 2 entries, got [0.9]"),
        ({"optim": {"lrr": 1}}, "run.json: optim: unknown key 'lrr'; did you mean 'lr'?"),
        ({"optim": 3}, "optim: expected an object, got 3"),
        ({"extra": []}, "extra: expected an object, got []"),
        ({"blocks": [list(range(1000))]}, "..."),
    ],
)
def test_wrong_values_name_the_key_and_both_sides(values: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        build(**values)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_missing_key_is_named() -> None:
    with pytest.raises(errors.ConfigError, match=r"run.json: missing name; expected the keys name, steps"):
        from_mapping(Run, {}, source="run.json")


def test_foreign_files_may_carry_unknown_keys() -> None:
    mapping = {"name": "r", "_class_name": "X", "dtype": "bf16", "surprise": 1}
    with pytest.warns(UserWarning, match=r"unknown key 'surprise' is ignored"):
        run = from_mapping(Run, mapping, source="f", foreign=True, ignored=("dtype",))
    assert run == Run(name="r")


def test_a_foreign_key_that_looks_like_an_absent_one_raises() -> None:
    with pytest.raises(errors.ConfigError, match=r"unknown key 'step' resembles 'steps', which is absent"):
        from_mapping(Run, {"name": "r", "step": 3}, source="f", foreign=True)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        from_mapping(Run, {"name": "r", "steps": 2, "step": 3}, source="f", foreign=True)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("steps=7", Run(name="r", steps=7)),
        ("name=5", Run(name="5")),
        ("optim.lr=2e-5", Run(name="r", optim=Optim(lr=2e-5))),
        ("optim.betas=[0.5, 0.6]", Run(name="r", optim=Optim(betas=(0.5, 0.6)))),
        ("blocks=[64]", Run(name="r", blocks=(64,))),
        ("fast=True", Run(name="r", fast=True)),
        ("mode=turbo", Run(name="r", mode="turbo")),
        ("bits=32", Run(name="r", bits=32)),
        ("bits=None", Run(name="r", bits=None)),
        ("note=null", Run(name="r", note=None)),
        ("note=None", Run(name="r", note=None)),
        ("note=a = b", Run(name="r", note="a = b")),
        ("out=12", Run(name="r", out=Path("12"))),
    ],
)
def test_override_parses_against_the_type(assignment: str, expected: Run) -> None:
    assert override(Run(name="r", bits=16, note="n"), assignment) in (
        expected,
        from_mapping(
            Run,
            {**to_mapping(expected), **{k: v for k, v in (("bits", 16), ("note", "n")) if k not in assignment}},
            source="expected",
        ),
    )


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("steps", "expected an override such as optim.lr=2e-5, got 'steps'"),
        ("stpes=1", "--set stpes: no field 'stpes'; did you mean 'steps'?"),
        ("steps=many", "--set steps: expected int, got 'many'"),
        ("mode=slow", "--set mode: expected one of 'normal', 'turbo', got 'slow'"),
        ("bits=8", "--set bits: expected one of 1, 16, 32, got 8"),
        ("steps.x=1", "--set steps.x: 'steps' has no fields inside it"),
        ("optim.lr=fast", "--set optim.lr: expected float, got 'fast'"),
    ],
)
def test_wrong_overrides_raise(assignment: str, words: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        override(Run(name="r"), assignment)
    assert words in str(caught.value)


def test_read_json(tmp_path: Path) -> None:
    good, broken, lists = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.json"
    good.write_text('{"a": 1}')
    broken.write_text('{"a": 1,\n')
    lists.write_text("[1]")
    assert read_json(good) == {"a": 1}
    with pytest.raises(errors.ConfigError, match=r"b.json is not valid JSON \(line 2"):
        read_json(broken)
    with pytest.raises(errors.ConfigError, match=r"expected a JSON object, got list"):
        read_json(lists)
    with pytest.raises(errors.ConfigError, match=r"cannot read"):
        read_json(tmp_path / "absent.json")
