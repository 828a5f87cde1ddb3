"""Writes docs/leaderboard.md from benchmarks/results: one row per model or setting, and no row without a result file.

python docs/make_leaderboard.py
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from make_performance import origin

from llada_uni.scenes.bench import wilson

PAGE = Path(__file__).with_name("leaderboard.md")
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
TASKS = ("generation", "understanding")
_GPU = "scenebench_nano_gpu.json"
_HEAD = """\
# SceneBench leaderboard

Written by `python docs/make_leaderboard.py` from the files in `benchmarks/results`; do not edit. A row stands here
because a result file does; the number in its last column leads to the file and the command that makes it again.
Intervals are 95 %: Wilson for shares of items, Wilson intervals combined for means of categories.

Two scores are told apart. *Categories* is SceneBench's own: the mean of the category rates over regular items. *All
items* is the share of right items, held-out combinations among them; it is the only one that some result files hold.
Rows of different `n` were taken on different subsets, each balanced over the categories: compare intervals, not points.
Presets, SPRINT and quantised rows are of nano, with one thing changed.
What the baselines are is told in [the guide](guides/evaluate.md#baselines).
"""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A mean of categories with its interval where it is known, and right items out of all."""

    correct: int
    total: int
    mean: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model or setting: its name, its group, a score per task, the result file."""

    name: str
    group: str
    scores: dict[str, Score]
    source: str


def opened(name: str) -> dict[str, Any] | None:
    """A result file with numbers; None when it is missing or holds none."""
    path = RESULTS / name
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return report if "numbers" in report else None


def percent(rate: float | None, interval: tuple[float, float] | list[float] | None) -> str:
    """``97.1 % (95.0 – 98.4)``, a dash for what is not known."""
    if rate is None or interval is None:
        return "–"
    return f"{100 * rate:.1f} % ({100 * interval[0]:.1f} – {100 * interval[1]:.1f})"


# --- result files to rows -------------------------------------------------------------------------------------------


def of_bench(part: dict[str, Any]) -> Score:
    """One task as ``run_scenebench`` reports it."""
    cells = [*part["categories"].values(), *part["held_out"].values()]
    correct, total = (sum(cell[key] for cell in cells) for key in ("correct", "total"))
    mean = part["overall"]
    return Score(correct=correct, total=total, mean=mean, interval=None if mean is None else tuple(part["interval"]))


def of_suite(part: dict[str, Any]) -> Score:
    """One task as the suites report it."""
    cells, overall = part["categories"].values(), part["overall"]
    return Score(
        correct=round(sum(cell["value"] * cell["items"] for cell in cells)),
        total=sum(cell["items"] for cell in cells),
        mean=None if overall is None else overall["value"],
        interval=None if overall is None else tuple(overall["interval"]),
    )


def bench_rows() -> Iterator[Row]:
    """Whole models: ``scenebench.json`` and every ``scenebench_*.json``."""
    for path in sorted(RESULTS.glob("scenebench*.json")):
        report = opened(path.name)
        if report is None:
            continue
        numbers, machine = report["numbers"], report["hardware"]
        name = "nano" if path.stem == "scenebench" else path.stem.removeprefix("scenebench_").replace("_", " ")
        place = machine.get("gpu") or "CPU"
        with_ = "".join(f", {key} {value}" for key, value in numbers["settings"].items())
        scores = {task: of_bench(numbers[task]) for task in TASKS if task in numbers}
        yield Row(name=f"{name}{with_}, {place}", group="Models", scores=scores, source=path.name)


def baseline_rows() -> Iterator[Row]:
    """Retrieval, and both backbones that were trained for the same steps."""
    report = opened("baselines.json")
    numbers = {} if report is None else report["numbers"]
    retrieval, source = numbers.get("retrieval"), "baselines.json"
    if retrieval:
        usual = {"understanding": of_bench(retrieval["common_answer_of_the_family"]["understanding"])}
        yield Row(name="the commonest answer of the question's family", group="Baselines", scores=usual, source=source)
        found = {task: of_bench(retrieval["nearest"][task]) for task in TASKS}
        name = f"nearest of {retrieval['scenes']} training scenes, and of {retrieval['questions']} questions"
        yield Row(name=name, group="Baselines", scores=found, source=source)
    for arm, run in numbers.get("backbones", {}).get("arms", {}).items():
        name = f"{arm}, from scratch, {_trained(run)}"
        scores = {task: of_bench(run[task]) for task in TASKS}
        yield Row(name=name, group="Baselines", scores=scores, source=source)


def _trained(run: dict[str, Any]) -> str:
    return f"{run['steps']} steps of {run['step_cpu_seconds']:.2f} processor seconds"


def sprint_rows() -> Iterator[Row]:
    """SPRINT's settings on the items they were compared on, the exact path first."""
    report = opened("sprint_nano.json")
    tasks = {"generation": "pictures", "understanding": "answers"}
    rows: dict[str, dict[str, Score]] = {}
    for task, part in tasks.items():
        found = {} if report is None else report["numbers"].get(part, {})
        for line in (found["exact"], *found["settings"]) if found else ():
            total = found["items"]
            score = Score(correct=round(line["rate"] * total), total=total)
            rows.setdefault(_sprint_name(line), {})[task] = score
    for name, scores in rows.items():
        yield Row(name=name, group="SPRINT", scores=scores, source="sprint_nano.json")


def _sprint_name(line: dict[str, Any]) -> str:
    if "sprint" not in line:
        return "exact, on the same items"
    rules = line["sprint"]
    return (
        f"{rules['schedule']}, keep {rules['keep_ratio']:g}, threshold {line['confidence_threshold']:g}, "
        f"{line['steps_per_block']} steps a block"
    )


def quantised_rows() -> Iterator[Row]:
    """Forms of the experts, the stored one first."""
    report = opened("quantisation.json")
    for form, row in ({} if report is None else report["numbers"]["forms"]).items():
        scores = {task: Score(**row[task]) for task in TASKS if task in row}
        name = "as stored" if form == "none" else f"experts {form}"
        if scores:
            yield Row(name=name, group="Quantised", scores=scores, source="quantisation.json")


def efficiency_rows() -> Iterator[Row]:
    """Steps, SPRINT presets by name, and pixel decoders."""
    report = opened("efficiency.json")
    rows: dict[str, dict[str, Score]] = {}
    for table in ("speeds", "decoders"):
        for key, row in ({} if report is None else report["numbers"].get(table, {})).items():
            task, name = key.split(", ", 1)
            rows.setdefault(name, {})[task] = of_suite(row)
    for name, scores in rows.items():
        yield Row(name=name, group="Presets", scores=scores, source="efficiency.json")


ROWS: tuple[Callable[[], Iterator[Row]], ...] = (
    bench_rows, baseline_rows, efficiency_rows, sprint_rows, quantised_rows,
)  # fmt: skip


# --- the page -------------------------------------------------------------------------------------------------------


def build() -> str:
    """The whole page."""
    rows = [row for make in ROWS for row in make()]
    sources: list[str] = []
    parts = [_HEAD]
    for task in TASKS:
        parts.append(f"## {task.capitalize()}\n\n" + "\n".join(_task(task, rows, sources)))
    for title, table in EXTRAS:
        lines = list(table(sources))
        if lines:
            parts.append(f"## {title}\n\n" + "\n".join(lines))
    parts.append("## Where the numbers come from\n\n" + "\n".join(_origins(sources)))
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _task(task: str, rows: list[Row], sources: list[str]) -> Iterator[str]:
    yield "| | model or setting | categories | all items | n | source |\n|---|---|---|---|---|---|"
    shown = [row for row in rows if task in row.scores]
    for row in shown:
        score = row.scores[task]
        every = percent(score.correct / score.total if score.total else None, wilson(score.correct, score.total))
        cells = (row.group, row.name, percent(score.mean, score.interval), every, str(score.total))
        yield f"| {' | '.join(cells)} | {_number(row.source, sources)} |"
        if row.group == "Models" and (row is shown[-1] or shown[shown.index(row) + 1].group != "Models"):
            yield from _gpu()
    if not any(row.group == "Models" for row in shown):
        yield from _gpu()
    yield from _paired(task)


def _paired(task: str) -> Iterator[str]:
    """Both backbones that were trained for the same steps, item by item."""
    report = opened("baselines.json")
    backbones = {} if report is None else report["numbers"].get("backbones", {})
    found = backbones.get("autoregressive_minus_block_diffusion", {}).get(task)
    if found:
        low, high = (100 * end for end in found["interval"])
        yield (
            f"\nAutoregressive minus block diffusion after the same steps, on the same {found['total']} items: "
            f"{100 * found['difference']:+.1f} points ({low:+.1f} to {high:+.1f}, matched pairs after Agresti and "
            f"Min); right with block diffusion only {found['only_first']}, autoregressive only {found['only_second']}."
        )


def _gpu() -> Iterator[str]:
    """The model trained by the GPU recipes: its place in the queue is known, its result file is not there."""
    if opened(_GPU) is None:
        yield f"| Models | nano by the GPU recipes | not run yet | `{_GPU}` is missing | | [queue]({_QUEUE}) |"


_QUEUE = "../benchmarks/gpu/README.md"


def _number(source: str, sources: list[str]) -> str:
    if source not in sources:
        sources.append(source)
    return f"[{sources.index(source) + 1}](../benchmarks/results/{source})"


def task_suites(sources: list[str]) -> Iterator[str]:
    """Riddles, edits, stories, comparisons and facts of every model they were run on."""
    paths = [path for path in sorted(RESULTS.glob("tasks*.json")) if opened(path.name)]
    if paths:
        yield "| model | suite | categories | all items | n | source |\n|---|---|---|---|---|---|"
    for path in paths:
        report = opened(path.name)
        assert report is not None
        for suite, part in report["numbers"].items():
            if isinstance(part, dict) and "categories" in part:
                score = of_bench(part)
                every = percent(score.correct / score.total, wilson(score.correct, score.total))
                mean = percent(score.mean, score.interval)
                name = path.stem.removeprefix("tasks_").replace("_", " ")
                cells = (name, suite.replace("_", " "), mean, every, str(score.total))
                yield f"| {' | '.join(cells)} | {_number(path.name, sources)} |"


def drawn(sources: list[str]) -> Iterator[str]:
    """What the way from a scene to pixels allows at best, without a backbone."""
    rows: list[tuple[str, float, list[float], int, str]] = []
    bench, decoders, baselines = (opened(f"{n}.json") for n in ("scenebench", "decoders", "baselines"))
    if bench is not None:
        names = {"verifier": "the render itself", "vae": "its round trip through the autoencoder",
                 "decoder": "its codes, decoded by the preset's decoder"}  # fmt: skip
        for name, one in bench["numbers"].get("ceilings", {}).items():
            rows.append((names[name], one["rate"], one["interval"], one["total"], "scenebench.json"))
    for name, one in ({} if decoders is None else decoders["numbers"]["rates"]).items():
        if name != "render":
            steps = decoders["numbers"]["num_steps"][name]  # type: ignore[index]
            rows.append((f"codes, {name} decoder, {steps} evaluations", one["rate"], one["interval"], one["total"],
                         "decoders.json"))  # fmt: skip
    for arm, run in ({} if baselines is None else baselines["numbers"].get("decoders", {}).get("arms", {})).items():
        one = run["pictures"]
        name = f"{arm}, a decoder from scratch, {_trained(run)}"
        rows.append((name, one["rate"], one["interval"], one["total"], "baselines.json"))
    if rows:
        yield "Pictures of scenes that satisfy the prompts; right when the verifier reads them so.\n"
        yield "| from | right | n | source |\n|---|---|---|---|"
    for name, rate, interval, total, source in rows:
        yield f"| {name} | {percent(rate, interval)} | {total} | {_number(source, sources)} |"


def ablations(sources: list[str]) -> Iterator[str]:
    """Arms that differ from the recipe in one rule; held-out metrics, not SceneBench."""
    report = opened("ablations.json")
    part = None if report is None else report["numbers"].get("backbone")
    if part is None:
        return
    seeds = {arm: list(found["seeds"].values()) for arm, found in part["arms"].items()}
    metrics = [name for name in ("nll_image_half", "nll_image_full", "nll_hidden_region", "answers", "max_violation")
               if all(name in found for found in part["summary"].values())]  # fmt: skip
    yield "Short trainings from scratch, scored on fresh held-out scenes: nats per code of half masked and wholly"
    yield "masked pictures and of hidden rectangles, share of answers written in one step, imbalance of the experts."
    yield "Means over seeds; in brackets the difference from the recipe, seed by seed. No interval is claimed of so few"
    yield "seeds."
    yield f"Source {_number('ablations.json', sources)}.\n"
    yield f"| arm | seeds | steps | {' | '.join(name.replace('_', ' ') for name in metrics)} |"
    yield "|---|---|---|" + "---|" * len(metrics)
    for arm, found in part["summary"].items():
        steps = statistics.fmean(run["steps"] for run in seeds[arm])
        cells = " | ".join(_difference(found[name]) for name in metrics)
        yield f"| {arm} | {len(seeds[arm])} | {steps:.0f} | {cells} |"


def _difference(metric: dict[str, Any]) -> str:
    apart = ", ".join(f"{value:+.3f}" for value in metric.get("minus_recipe", ()))
    return f"{metric['mean']:.3f}" + (f" ({apart})" if apart else "")


def trainings(sources: list[str]) -> Iterator[str]:
    """What the stages of every trained version ended with, as their own evaluation says."""
    found = []
    for path in sorted(RESULTS.glob("nano_v*_curves.json")):
        report = opened(path.name)
        for stage, run in ({} if report is None else report["numbers"]).items():
            done = run.get("evaluation") if isinstance(run, dict) else None
            if done and "step" in done:
                found.append((path, stage, done))
    if found:
        yield "| version | stage | steps | minutes | evaluation on fresh scenes | source |\n|---|---|---|---|---|---|"
    for path, stage, done in found:
        told = [f"{name} {done[name]:.3f}" for name in _SHOWN if name in done]
        version = path.stem.split("_")[1]
        number = _number(path.name, sources)
        yield f"| {version} | {stage} | {done['step']} | {done['seconds'] / 60:.0f} | {', '.join(told)} | {number} |"


_SHOWN = ("nll_image_half", "nll_image_full", "nll_image", "answers", "psnr", "verified", "verified_ceiling")
EXTRAS: tuple[tuple[str, Callable[[list[str]], Iterator[str]]], ...] = (
    ("Tasks", task_suites),
    ("Pictures without a backbone", drawn),
    ("Ablations", ablations),
    ("Trainings", trainings),
)


def _origins(sources: list[str]) -> Iterator[str]:
    missing = [name for name in KNOWN if opened(name) is None]
    if missing:
        yield f"No rows for lack of a result file: {', '.join(f'`{name}`' for name in missing)}.\n"
    for number, name in enumerate(sources, 1):
        report = opened(name)
        assert report is not None
        yield (
            f"{number}. `{name}`: {origin(report)}\n".replace("\n\n```bash", "\n\n   ```bash")
            .replace("\npython", "\n   python")
            .replace("\n```\n", "\n   ```\n")
        )


KNOWN = (
    "scenebench.json", "baselines.json", "efficiency.json", "sprint_nano.json", "quantisation.json", "tasks_nano.json",
    "decoders.json", "ablations.json",
)  # fmt: skip


def main() -> None:
    """Write the page."""
    PAGE.write_text(build(), encoding="utf-8")


if __name__ == "__main__":
    main()
