"""The paper's tables: commands, data and expected values for the released weights, and what nano can do at once.

Expected values are those of :mod:`llada_uni.evaluation.paper` and nothing else. What the paper does not say (picture
size, question wording, exact judges) is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llada_uni.errors import ConfigError
from llada_uni.evaluation.efficiency import TABLE_13, TABLE_14, measure_all
from llada_uni.evaluation.paper import PUBLISHED, SPRINT, TURBO
from llada_uni.evaluation.run import RunSettings, run_suite
from llada_uni.evaluation.scenebench_tasks import run_scenebench_tasks
from llada_uni.evaluation.suites import SUITES, find_suite

__all__ = ["TABLES", "Recipe", "find_table", "recipe", "run_analogue"]

_WEIGHTS = "inclusionAI/LLaDA2.0-Uni"
_ANSWER = "--steps-per-block 32 --confidence-threshold 0.95"
_DRAW = "--steps-per-block 8 --guidance-scale 2.0"
_EDIT = "--steps-per-block 8 --guidance-text 4.0"
_JUDGES = {
    "viewer": " --judge-url http://localhost:8000/v1 --judge-model NAME",
    "reader": " --ocr",
}
_EDITING = ("imgedit", "gedit_en", "gedit_cn", "mico")
TABLES: dict[int, str] = {
    2: "Understanding benchmarks",
    3: "GenEval",
    4: "DPG-Bench",
    5: "OneIG-Bench",
    6: "UniGenBench",
    7: "CVTG-2K",
    8: "WISE",
    9: "ImgEdit-Bench",
    10: "GEdit-Bench",
    11: "MICo-Bench",
    12: "InterGen",
    13: "SPRINT against plain decoding",
    14: "The distilled decoder against the full one",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one table is made: commands for a shell, data by suite, expected values as printed, what is not known."""

    table: int
    title: str
    commands: tuple[str, ...]
    data: dict[str, str]
    expected: dict[str, Any]
    unknown: tuple[str, ...]
    analogue: str


def find_table(name: str) -> int:
    """The number in ``paper-table-N``.

    Raises:
        ConfigError: not of that form, or a table that is no measurement or not in our notes.
    """
    number = name.removeprefix("paper-table-")
    if not name.startswith("paper-table-") or not number.isdigit():
        raise ConfigError(f"expected paper-table-N with N from 2 to {max(TABLES)}, got {name!r}")
    if int(number) not in TABLES:
        why = "it lists training settings; see docs/guides/training.md" if int(number) == 1 else "none is in our notes"
        raise ConfigError(f"no measurements for table {number}: {why}; expected 2 to {max(TABLES)}")
    return int(number)


def recipe(table: int, *, model: str = _WEIGHTS) -> Recipe:
    """What to run for ``table`` with the weights ``model``."""
    names, variants = _suites(table), _variants(table)
    commands = [line for name in names for variant in variants for line in _commands(name, model, variant)]
    return Recipe(
        table=table,
        title=TABLES[table],
        commands=tuple(commands),
        data={name: SUITES[name].data_help for name in names},
        expected=_expected(table, names),
        unknown=_unknown(table, names),
        analogue=_ANALOGUES[_kind(table)],
    )


def run_analogue(
    table: int,
    model: Any,
    out: Path,
    *,
    limit: int | None,
    seed: int = 0,
    tell: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """The same kind of measurement on SceneBench: scores with intervals, for tables 13 and 14 with what they cost.

    Raises:
        ConfigError: ``out`` holds another run.
    """
    kind = _kind(table)
    if kind in ("edit", "story"):
        report = run_scenebench_tasks(model, limit=limit, seed=seed, runs=[kind])
        return {kind: report[kind], "seconds": report["seconds"]}
    if table in _EFFICIENCY:
        return measure_all(model, _EFFICIENCY[table], out, limit=limit, seed=seed, tell=tell)
    settings = RunSettings(seed=seed, limit=limit)
    report = run_suite(find_suite(f"scenebench_{kind}"), None, out / kind, model=model, settings=settings, tell=tell)
    return {kind: report["score"] and {"items": report["items"], **report["score"]}}


_ANALOGUES = {
    "understanding": "SceneBench v1, understanding: questions about rendered scenes",
    "generation": "SceneBench v1, generation: pictures read by the verifier",
    "edit": "SceneBench tasks, edit",
    "story": "SceneBench tasks, story",
    "both": "SceneBench v1 without and with SPRINT; benchmarks/efficiency.py has more rows",
    "decoders": "SceneBench v1, generation, with both decoders; benchmarks/efficiency.py has more rows",
}
_EFFICIENCY = {13: TABLE_13, 14: TABLE_14}


def _kind(table: int) -> str:
    kinds = {2: "understanding", 9: "edit", 10: "edit", 11: "edit", 12: "story", 13: "both", 14: "decoders"}
    return kinds.get(table, "generation")


def _suites(table: int) -> list[str]:
    if table == 13:
        return [name for name in SPRINT if name in SUITES]
    if table == 14:
        return [name for name in TURBO if name in SUITES]
    return [name for name, row in PUBLISHED.items() if row.table == table]


def _variants(table: int) -> list[str]:
    if table == 13:
        return ["", "--sprint paper"]
    return ["--decoder normal", "--decoder turbo"] if table == 14 else [""]


def _commands(name: str, model: str, variant: str) -> list[str]:
    suite = SUITES[name]
    sampling = _ANSWER if suite.perform is SUITES["chartqa"].perform else _EDIT if name in _EDITING else _DRAW
    sampling = "" if name == "intergen" else f" {sampling}"
    folder = name + "".join("-" + word for word in variant.split() if not word.startswith("--"))
    tail = f" {variant}" if variant else ""
    first = f"llada-uni eval {name} --model {model} --data DATA/{name} --out runs/{folder}{sampling}{tail}"
    if suite.judge_kind == "detector":  # detections are made of the pictures, between the two commands
        return [first, f"llada-uni eval merge runs/{folder} --data DATA/{name} --detector detections.jsonl"]
    return [first + _JUDGES.get(suite.judge_kind, "")]


def _expected(table: int, names: list[str]) -> dict[str, Any]:
    if table == 13:
        return {
            name: {"plain": {"score": a, "tokens_per_s": b}, "sprint": {"score": c, "tokens_per_s": d}}
            for name, ((a, b), (c, d)) in SPRINT.items()
        }
    if table == 14:
        return {name: {"full decoder": full, "distilled decoder": fast} for name, (full, fast) in TURBO.items()}
    rows = {name: asdict(PUBLISHED[name]) for name in names}
    return {
        name: {key: value for key, value in row.items() if value not in ("", {}, None)} for name, row in rows.items()
    }


def _unknown(table: int, names: list[str]) -> tuple[str, ...]:
    found = [f"{name}: {SUITES[name].caution}" for name in names if SUITES[name].caution and table != 2]
    found += [f"{name}: {SUITES[name].format_note}" for name in names if "unverified" in SUITES[name].format_note][:1]
    if table == 2:
        found.append("the paper's question wording and answer extraction")
    elif table != 13:
        found.append("the picture size of the paper's runs: the checkpoint's own is used unless --size is given")
    if table in (3, *range(5, 13)):
        found.append("the table's number: taken from the order in which the paper's rows were noted down")
    return tuple(found)
