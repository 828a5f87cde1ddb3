"""The report of a run: scores with intervals, every failure by item, and the paper's published row beside ours."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llada_uni.evaluation.items import UNREADABLE, BadItem, Item, Suite
from llada_uni.evaluation.manifest import read_manifest
from llada_uni.evaluation.paper import PUBLISHED
from llada_uni.evaluation.statistics import interval, of_means
from llada_uni.pipeline.files import write_atomic

__all__ = ["make_report", "markdown", "write_report"]

_PENDING, _UNJUDGED = "pending", "unjudged"
_LOST = {"bad_data", "failed", "timeout", "judge_failed", "judge_timeout"}  # these count as zero
_SHOWN = 50


def write_report(suite: Suite, entries: Sequence[Item | BadItem], out: Path) -> dict[str, Any]:
    """Make the report of the records in ``out`` and write it as ``report.json`` and ``report.md``."""
    from llada_uni.evaluation.run import collect

    report = make_report(suite, entries, collect(out, "outputs"), collect(out, "verdicts"), read_manifest(out))
    write_atomic(out / "report.json", (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    write_atomic(out / "report.md", markdown(report).encode())
    return report


def make_report(
    suite: Suite,
    entries: Sequence[Item | BadItem],
    outputs: dict[str, dict[str, Any]],
    verdicts: dict[str, dict[str, Any]],
    run: dict[str, Any],
) -> dict[str, Any]:
    """One JSON-ready object.

    ``score`` is over every item that was due, failures as zero; ``score_of_judged`` over those that were judged. Both
    carry the number of items they stand on. Items not performed yet are counted as pending and stop ``complete``.
    """
    states = {entry.id: _state(entry, outputs, verdicts) for entry in entries}
    counts = Counter(states.values())
    scored = [entry for entry in entries if states[entry.id] not in (_PENDING, _UNJUDGED)]
    judged = [entry for entry in scored if states[entry.id] == "ok"]
    return {
        "suite": suite.name,
        "title": suite.title,
        "complete": not counts[_PENDING] and not counts[_UNJUDGED],
        "items": {"total": len(entries), **{name: counts[name] for name in sorted(counts)}},
        "perfect": suite.perfect,
        "score": _summary(suite, scored, verdicts, states) if judged else None,
        "score_of_judged": _summary(suite, judged, verdicts, states) if judged else None,
        "extras": _extras(suite, judged, verdicts),
        "problems": [_problem(e.id, states[e.id], outputs, verdicts) for e in entries if states[e.id] in _LOST],
        "published": _published(suite.name),
        "official_scorer": suite.official,
        "format": suite.format_note,
        "caution": suite.caution,
        "run": run,
    }


def _state(entry: Item | BadItem, outputs: dict[str, Any], verdicts: dict[str, Any]) -> str:
    output = outputs.get(entry.id)
    if output is None:
        return _PENDING
    if output["status"] != "ok":
        return output["status"]
    verdict = verdicts.get(entry.id)
    if verdict is None or verdict.get("output_time") != output["time"]:
        return _UNJUDGED
    return verdict["status"]


def _summary(
    suite: Suite, entries: Sequence[Item | BadItem], verdicts: dict[str, Any], states: dict[str, str]
) -> dict[str, Any]:
    categories: dict[str, list[list[float]]] = {}
    scores: list[list[float]] = []
    for entry in entries:
        fine = states[entry.id] == "ok"
        values = verdicts[entry.id]["parts"] if fine else [0.0] * len(entry.parts)
        scores.append([verdicts[entry.id]["score"] if fine else 0.0])
        mine: dict[str, list[float]] = {}
        for name, value in zip(entry.parts, values, strict=True):
            mine.setdefault(name, []).append(value)
        for name, group in mine.items():
            categories.setdefault(name, []).append(group)
    shown = {name: _one(groups, suite.perfect) for name, groups in sorted(categories.items())}
    if suite.overall == "categories":
        return {"overall": _mean_of(shown, suite), "categories": shown}
    singles = [group for groups in categories.values() for group in groups]
    overall = _one(scores if suite.overall == "items" else singles, suite.perfect)
    return {"overall": overall, "categories": shown}


def _mean_of(shown: dict[str, dict[str, Any]], suite: Suite) -> dict[str, Any] | None:
    """Mean of the counted categories; entries of no readable category lower it as zeros in proportion."""
    counted = [one for n, one in shown.items() if n != UNREADABLE and (not suite.counted or n in suite.counted)]
    if not counted:
        return None
    known, lost = sum(one["scores"] for one in counted), shown.get(UNREADABLE, {}).get("scores", 0)
    share = known / (known + lost)
    low, high = of_means([(one["value"], *one["interval"]) for one in counted])
    return {
        "value": share * sum(one["value"] for one in counted) / len(counted),
        "interval": [share * low, share * high],
        "method": f"mean of {len(counted)} categories; square-and-add of their intervals"
        + (f"; times {known}/{known + lost} for unreadable entries" if lost else ""),
        "items": sum(one["items"] for one in counted) + lost,
    }


def _extras(suite: Suite, judged: Sequence[Item | BadItem], verdicts: dict[str, Any]) -> dict[str, Any]:
    found = {name: [[float(verdicts[e.id]["details"][name])] for e in judged] for name in suite.extras}
    return {name: _one(groups, 1.0) for name, groups in found.items() if groups}


def _one(groups: list[list[float]], perfect: float) -> dict[str, Any]:
    flat = [value for group in groups for value in group]
    between, method = interval(groups, perfect=perfect)
    assert between is not None
    return {
        "value": sum(flat) / len(flat), "interval": list(between), "method": method, "items": len(groups),
        "scores": len(flat),
    }  # fmt: skip


def _problem(name: str, state: str, outputs: dict[str, Any], verdicts: dict[str, Any]) -> dict[str, Any]:
    record = outputs[name] if outputs[name]["status"] != "ok" else verdicts[name]
    found = {"id": name, "status": state, "error": record.get("error", "")}
    return found | ({"reply": record["reply"]} if record.get("reply") else {})


def _published(name: str) -> dict[str, Any] | None:
    row = PUBLISHED.get(name)
    if row is None:
        return None
    return {
        "table": row.table, "overall": row.overall, "scale": row.scale, "columns": dict(row.columns), "note": row.note,
    }  # fmt: skip


def markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    counts = ", ".join(f"{value} {name}" for name, value in report["items"].items())
    lines = [f"# {report['title']}", "", f"Items: {counts}.", ""]
    if not report["complete"]:
        lines += ["**Incomplete**: pending or unjudged items are in no score below.", ""]
    lines += _score_table(report) if report["score"] else ["No item has been judged yet: no score.", ""]
    lines += _problem_list(report["problems"])
    lines += ["## Run", "", f"Layout: {report['format']}."]
    lines += [f"Official scorer: {report['official_scorer']}."] if report["official_scorer"] else []
    lines += ["", "```json", json.dumps(report["run"], indent=2, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


def _score_table(report: dict[str, Any]) -> list[str]:
    published = report["published"]
    columns = published["columns"] if published else {}
    scale = report["perfect"] if published is None else published["scale"]
    factor = scale / report["perfect"]
    rows = {"overall": report["score"]["overall"], **report["score"]["categories"]}
    judged = report["score_of_judged"]
    strict = {"overall": judged["overall"], **judged["categories"]}
    lines = [f"Scores on the scale 0 to {scale:g}; failures count as zero in the first column.", ""]
    lines += ["| | score | 95 % interval | items | judged only | items | paper |", "|---|---|---|---|---|---|---|"]
    for name, one in rows.items():
        if one is None:
            continue
        paper = published["overall"] if published and name == "overall" else columns.get(name)
        low, high = (value * factor for value in one["interval"])
        alone = strict.get(name)
        lines.append(
            f"| {name} | {one['value'] * factor:.4g} | {low:.4g} to {high:.4g} | {one['items']} | "
            f"{_alone(alone, factor)} | "
            f"{'–' if paper is None else f'{paper:g}'} |"
        )
    for name, one in report["extras"].items():
        low, high = one["interval"]
        paper = f"{columns[name]:g}" if name in columns else "–"
        lines.append(f"| {name} | – | {low:.4g} to {high:.4g} | – | {one['value']:.4g} | {one['items']} | {paper} |")
    known = {*rows, *report["extras"]}
    lines += [f"| {n} | – | – | – | – | – | {v:g} |" for n, v in columns.items() if n not in known]
    lines += ["", f"Caution: {report['caution']}."] if report["caution"] else []
    note = f"Paper: table {published['table']}. {published['note']}".strip() if published else "The paper: no row."
    return [*lines, "", note, ""]


def _alone(one: dict[str, Any] | None, factor: float) -> str:
    return "– | 0" if one is None else f"{one['value'] * factor:.4g} | {one['items']}"


def _problem_list(problems: list[dict[str, Any]]) -> list[str]:
    if not problems:
        return []
    lines = [f"## Items that failed ({len(problems)})", ""]
    lines += [f"- `{one['id']}`: {one['status']}: {one['error']}" for one in problems[:_SHOWN]]
    more = len(problems) - _SHOWN
    return [*lines, *([f"- and {more} more, in report.json"] if more > 0 else []), ""]
