"""Writes docs/performance.md and its curves from benchmarks/results: every number comes from a result file.

python docs/make_performance.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from performance_efficiency import efficiency
from performance_speed import CHARTS, SPEED_SECTIONS

PAGE = Path(__file__).with_name("performance.md")
CURVES = PAGE.parent / "assets" / "speed"
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
_HEAD = """\
# Performance

Written by `python docs/make_performance.py` from the files in `benchmarks/results`; do not edit. Each file holds
hardware, versions, command and commit beside the raw numbers, and each section names the command that repeats it.
Rates carry 95 % intervals (Wilson; matched pairs after Agresti and Min). What waits for a GPU is in
[its queue](../benchmarks/gpu/README.md).
"""


def build() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, name, arguments, show in SECTIONS:
        parts.append(f"## {title}\n\n{section(name, arguments, show)}")
        for path in released(name.removesuffix("_nano")):
            parts.append(f"### {title}: {label(path)}\n\n{section(path.stem, arguments, show)}")
    return "\n".join(part.rstrip() + "\n" for part in parts)


def charts() -> dict[str, str]:
    """The curves as SVG text by file name, of every result file that has some."""
    found = {}
    for name, draw in CHARTS.items():
        for path in (RESULTS / f"{name}_nano.json", *released(name)):
            if path.exists():
                found |= {f"{path.stem}_{kind}.svg": text for kind, text in draw(opened(path)["numbers"]).items()}
    return found


def released(name: str) -> list[Path]:
    """Result files of a benchmark at the released shapes."""
    return sorted(RESULTS.glob(f"{name}_uni*.json"))


def label(path: Path) -> str:
    """``uni`` or ``uni batches``: what a result file of a size is called."""
    return path.stem[path.stem.index("_uni") + 1 :].replace("_", " ")


def opened(path: Path) -> dict[str, Any]:
    """A result file; numbers of a size are told apart by the name of their file."""
    report = json.loads(path.read_text(encoding="utf-8"))
    if "_uni" in path.stem:
        report["numbers"]["size"] = label(path)
    return report


def section(name: str, arguments: str, show: Callable[[dict[str, Any]], Iterator[str]]) -> str:
    """The numbers of one result file and where they were taken, or how to take them."""
    path = RESULTS / f"{name}.json"
    report = opened(path) if path.exists() else {}
    if "numbers" not in report:
        script = f"python benchmarks/{arguments} --out benchmarks/results/{name}.json"
        return f"Not measured yet: `benchmarks/results/{name}.json` is missing.\n\n```bash\n{script}\n```"
    return "\n".join(show(report["numbers"])) + f"\n\n{origin(report)}"


def origin(report: dict[str, Any]) -> str:
    """One sentence: when, where, with what."""
    machine, versions = report["hardware"], report["versions"]
    count = machine.get("threads")
    threads = f", {count} thread{'s' if count > 1 else ''}" if count else ""
    commit = report["commit"][:10] + ("+changes" if report["commit"].endswith("+changes") else "")
    place = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores{threads}"
    return (
        f"{report['date'][:10]}, {place}, load {machine['load_average']}, Python {versions['python']}, "
        f"torch {versions['torch']}, commit `{commit}`:\n\n```bash\n{report['command']}\n```"
    )


def percent(part: dict[str, Any]) -> str:
    """``97.1 % (95.0 – 98.4)``."""
    if part["rate"] is None:
        return "–"
    low, high = part["interval"]
    return f"{100 * part['rate']:.1f} % ({100 * low:.1f} – {100 * high:.1f})"


def scenebench(numbers: dict[str, Any]) -> Iterator[str]:
    """Scores per category, and the ceilings."""
    settings = ", ".join(f"{name} {value}" for name, value in numbers["settings"].items()) or "presets"
    yield f"Model `{numbers['model']}`, seed {numbers['seed']}, settings: {settings}.\n"
    for part in ("generation", "understanding"):
        if part in numbers:
            yield from scores(part, numbers[part])
    if "ceilings" in numbers:
        yield "\nCeilings: the right scene is drawn instead of imagined.\n"
        yield "| route | reads and satisfies | read exactly |"
        yield "|---|---|---|"
        for name, found in numbers["ceilings"].items():
            yield f"| {name} | {percent(found)} | {100 * found['exact']:.1f} % |"


def scores(part: str, found: dict[str, Any]) -> Iterator[str]:
    """One task's table: the overall mean first, then its categories."""
    overall = {"rate": found["overall"], "interval": found["interval"]}
    yield f"\n| {part} | regular | held out |"
    yield "|---|---|---|"
    yield f"| **overall** | **{percent(overall)}** | |"
    for name, value in found["categories"].items():
        rare = found["held_out"].get(name)
        yield f"| {name.replace('_', ' ')} | {percent(value)} | {percent(rare) if rare else ''} |"


def decoders(numbers: dict[str, Any]) -> Iterator[str]:
    """Both decoders on the same codes."""
    steps, seconds = numbers["num_steps"], numbers["encode_and_decode_s_per_picture"]
    yield "| pictures | velocity evaluations | reads and satisfies | s a picture, encoding included |"
    yield "|---|---|---|---|"
    for name, found in numbers["rates"].items():
        yield f"| {name} | {steps.get(name, '')} | {percent(found)} of {found['total']} | {seconds.get(name, '')} |"
    pair = numbers["turbo_minus_normal"]
    low, high = pair["interval"]
    yield (
        f"\nTurbo minus normal on the same {pair['total']} prompts: {100 * pair['difference']:+.2f} points "
        f"({100 * low:+.2f} to {100 * high:+.2f}); right with normal only {pair['only_first']}, "
        f"with turbo only {pair['only_second']}."
    )


def first_picture(numbers: dict[str, Any]) -> Iterator[str]:
    """Wall time and memory of fresh processes."""
    yield f"`llada-uni {json.dumps(numbers['prompt'])}` and `llada-uni --help` as fresh processes.\n"
    yield "| what | runs, wall s | best, processor s | peak memory, MiB |"
    yield "|---|---|---|---|"
    for name, title in (("first_picture", "first picture"), ("help", "`--help`")):
        runs = ", ".join(f"{one['wall_s']:.2f}" for one in numbers[name]["runs"])
        peak = max(one["peak_rss_mib"] for one in numbers[name]["runs"])
        yield f"| {title} | {runs} | {numbers[name]['best']['cpu_s']:.2f} | {peak:.0f} |"


def verifier(numbers: dict[str, Any]) -> Iterator[str]:
    """Right readings of degraded pictures, false accepts of wrong ones."""
    yield "| picture | read rightly | wrongly | not at all | of |"
    yield "|---|---|---|---|---|"
    for name, found in numbers["right_readings"].items():
        shares = " | ".join(f"{100 * found[key]:.1f} %" for key in ("right", "wrong", "abstained"))
        yield f"| {name.replace('_', ' ')} | {shares} | {found['count']} |"
    yield "\n| wrong picture | read as some scene | of |"
    yield "|---|---|---|"
    for name, found in numbers["wrong_pictures"].items():
        yield f"| {name.replace('_', ' ')} | {100 * found['false_accepts']:.1f} % | {found['count']} |"
    speed = numbers["speed"]
    yield f"\nDrawing takes {speed['render_ms']:.1f} ms a picture, reading {speed['read_ms']:.1f} ms."


def starts(numbers: dict[str, Any]) -> Iterator[str]:
    """What a backbone knows after its first steps, by where it started."""
    yield "Masked cells of objects after 110 steps on windows, 15 % of the tokens masked: nats of the right"
    yield "code, and the probability of the right kind and colour.\n"
    yield "| start | nats | kind | colour |\n|---|---|---|---|"
    for name, row in numbers.items():
        yield f"| {name} | {row['nats']:.2f} | {row['kind']:.2f} | {row['colour']:.2f} |"


def missing(numbers: dict[str, Any]) -> Iterator[str]:
    """What a backbone knows of masked cells in else visible pictures."""
    yield "Probability of codes that show the right kind at one masked cell of an object, and at all cells of its kind"
    yield "masked together; probability of codes that show no object in the latter case.\n"
    yield "| weights | one cell | whole object | whole object: none |\n|---|---|---|---|"
    for name, row in numbers.items():
        cells = " | ".join(f"{value:.2f}" for value in row.values())
        yield f"| {name} | {cells} |"


def tasks(numbers: dict[str, Any]) -> Iterator[str]:
    """Task suites, all categories together."""
    yield "| suite | regular | held out |\n|---|---|---|"
    for name, found in numbers.items():
        if isinstance(found, dict) and "categories" in found:
            yield f"| {name.replace('_', ' ')} | {_counted(found['categories'])} | {_counted(found['held_out'])} |"


def _counted(categories: dict[str, Any]) -> str:
    correct, total = (sum(one[key] for one in categories.values()) for key in ("correct", "total"))
    return f"{correct} of {total}" if total else ""


def seams(numbers: dict[str, Any]) -> Iterator[str]:
    """Agreement of new cells with the true ones at the edge of a region and everywhere in it."""
    yield f"Codes of a region of {numbers['scenes']} scenes predicted again from the caption: share equal to the true"
    yield "code, at the edge before the region, at the edge after it, and in all of it. The last row is what bare"
    yield "background would get.\n"
    yield "| blocks of | source in the prompt | before | after | all |\n|---|---|---|---|---|"
    for row in numbers["variants"]:
        yield f"| {row['block_length']} | {'yes' if row['reference'] else 'no'} | {_edges(row['agreement'])} |"
    yield f"| – | bare background | {_edges(numbers['blanked'])} |"


def _edges(agreement: dict[str, Any]) -> str:
    return " | ".join(f"{100 * agreement[side]['code']['rate']:.1f} %" for side in ("before", "after", "all"))


def sprint(numbers: dict[str, Any]) -> Iterator[str]:
    """SPRINT against the exact path on the same items."""
    for part in ("pictures", "answers"):
        if part not in numbers:
            continue
        found = numbers[part]
        yield f"{part.capitalize()} ({found['items']} items):\n"
        yield "| schedule | keep ratio | threshold | steps per block | right | steps per item | processor s per item |"
        yield "|---|---|---|---|---|---|---|"
        yield f"| exact | | | | {_speed(found['exact'])} |"
        for row in found["settings"]:
            yield f"| {_setting(row)} | {_speed(row)} |"
        yield ""
    yield from _all_pairs(numbers)


def _all_pairs(numbers: dict[str, Any]) -> Iterator[str]:
    """Pictures, answers and both together against the exact path, where a few settings were compared on many items."""
    if "together" not in numbers:
        return
    yield "| items | setting | points more right than exact (95 %) | steps | backbone calls | token seconds |"
    yield "|---|---|---|---|---|---|"
    for part in ("pictures", "answers", "together"):
        for row in numbers[part]["settings"]:
            change = row["minus_exact"]
            low, high = change["interval"]
            gain = " | ".join(f"{row[f'times_fewer_{what}']:.2f} x fewer" for what in ("steps", "calls", "token_s"))
            points = f"{100 * change['difference']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
            yield f"| {change['total']} {part} | {row['name']} | {points} | {gain} |"
    yield ""


def _setting(row: dict[str, Any]) -> str:
    rules = row["sprint"]
    return f"{rules['schedule']} | {rules['keep_ratio']:g} | {row['confidence_threshold']:g} | {row['steps_per_block']}"


def _speed(row: dict[str, Any]) -> str:
    return f"{percent(row)} | {row['steps_per_item']:.1f} | {row['cpu_s_per_item']:.2f}"


def training_throughput(numbers: dict[str, Any]) -> Iterator[str]:
    """Training against a straightforward implementation of the same loss."""
    yield "Steps of the backbone's recipe at evenly spaced points of its run, against doubled sequences under a dense"
    yield "mask, one sample a row, logits at every position. Same documents, same masks, equal losses. Times faster:"
    yield "median of the repeats (least – most).\n"
    yield "| point of the run | tokens/s | straightforward, tokens/s | times faster |\n|---|---|---|---|"
    rows = [(f"{one['progress']:g}", one) for one in numbers["points"]]
    for name, row in (*rows, ("all", numbers["all_points"])):
        speed, gain = row["tokens_per_s"], row["times_faster"]
        told = f"{gain['median']:.2f} ({gain['least']:.2f} – {gain['most']:.2f})"
        yield f"| {name} | {speed['ours']:.0f} | {speed['plain']:.0f} | {told} |"


def serving(numbers: dict[str, Any]) -> Iterator[str]:
    """The server under many clients."""
    yield f"{numbers['clients']} clients at once against the same requests one after another; start to ready"
    yield f"{numbers['ready_s']:.1f} s.\n"
    yield "| requests | one after another, s | at once, s | times faster |\n|---|---|---|---|"
    for name, row in numbers["compared"].items():
        times = f"{row['one_after_another_s']:.1f} | {row['at_once_s']:.1f} | {row['times_faster']:.2f}"
        yield f"| {row['requests']} {name.replace('_', ' ')} | {times} |"
    alone, beside = numbers["short_text_alone"], numbers["short_text_beside_pictures"]
    yield f"\nA short text takes {alone['median_s']:.2f} s alone (median) and {beside['p95_s']:.2f} s (95th percentile)"
    yield "while all other clients ask for pictures. A mix of pictures, edits, questions and texts by all clients for"
    load = numbers["load"]
    answers = ", ".join(f"{count} with status {status}" for status, count in load["statuses"].items())
    yield f"{load['seconds']:.0f} s: {answers}; memory {100 * load['growth']:+.1f} % after warm-up."


def quantisation(numbers: dict[str, Any]) -> Iterator[str]:
    """Forms of the experts against the stored one."""
    first = next(iter(numbers["forms"].values()))
    count = first["masked_codes"]["positions"]
    yield "Routed experts in another form, rounded to the nearest. Fixtures: root mean square error of the logits"
    yield f"against those of the released code, relative. Model `{numbers['model']}`: {count} masked codes of scenes"
    yield "behind their captions: the same error against the stored form, share of equal likeliest ids, probability"
    yield "that lies on other codes, nats of the true code; then SceneBench, pictures and answers that are right.\n"
    yield "| experts | backbone, MB | fixture a | fixture b | model | same id | moved | nats | pictures | answers |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for form, row in numbers["forms"].items():
        golden = " | ".join(f"{100 * one['relative_error']:.2f} %" for one in row["golden"].values())
        bench = " | ".join(f"{one['correct']} of {one['total']}" if (one := row.get(part)) else "–"
                           for part in ("generation", "understanding"))  # fmt: skip
        model = f"{_moved(row['masked_codes'])} | {row['nats_of_the_true_code']:.3f}"
        yield f"| {form} | {row['backbone_bytes'] / 1e6:.1f} | {golden} | {model} | {bench} |"
    yield f"| no routed experts | – | – | – | {_moved(numbers['without_experts'])} | – | – | – |"


def _moved(row: dict[str, Any]) -> str:
    shares = (row["relative_error"], row["same_likeliest_id"], row["moved_probability"])
    return " | ".join(f"{100 * share:.2f} %" for share in shares)


def big_on_cpu(numbers: dict[str, Any]) -> Iterator[str]:
    """The released sizes with random weights on a CPU."""
    loading, text = numbers["loading"], numbers["text"]
    yield f"The backbone of the released sizes ({numbers['layers']} layers) with random weights, {numbers['quantize']}"
    yield f"experts, {numbers['dtype']} elsewhere: {loading['weight_bytes'] / 1e9:.2f} GB of weights, loaded one expert"
    yield f"at a time in {loading['seconds']:.0f} s with a peak of {loading['peak_rss_bytes'] / 1e9:.2f} GB for the"
    yield f"whole process. Then {text['tokens']} tokens after {text['prompt_tokens']}, {text['steps_per_block']} steps"
    yield "for the block:"
    yield f"{text['seconds_per_call']:.2f} s for a backbone call, {text['tokens_per_s']:.2f} tokens/s, peak"
    yield f"{text['peak_rss_bytes'] / 1e9:.2f} GB."


SECTIONS: tuple[tuple[str, str, str, Callable[[dict[str, Any]], Iterator[str]]], ...] = (
    ("The first picture", "first_picture", "first_picture.py --repeat 3", first_picture),
    ("SceneBench v1", "scenebench", "scenebench.py --model nano", scenebench),
    ("Task suites", "tasks_nano", "tasks.py --limit 60", tasks),
    ("SPRINT", "sprint_nano", "sprint.py", sprint),
    (
        "SPRINT on 2,000 pairs",
        "sprint_pairs_nano",
        "sprint.py --preset paper --pictures 742 --answers 1258 --state build/sprint",
        sprint,
    ),
    (
        "Score against cost",
        "efficiency",
        "efficiency.py --limit 48 --questions 240 --work build/efficiency",
        efficiency,
    ),
    ("Seams of token-grid edits", "seams", "seams.py", seams),
    ("What masked cells tell", "missing", "missing.py --cache build/state", missing),
    ("Few-step against many-step decoder", "decoders", "decoders.py --count 1000", decoders),
    *SPEED_SECTIONS,
    (
        "What the backbone starts from",
        "starts",
        "starts.py --model src/llada_uni/nano --cache build/state",
        starts,
    ),
    ("Quantised experts", "quantisation", "quantisation.py", quantisation),
    ("16 billion parameters on a CPU", "big_on_cpu", "big_on_cpu.py --size uni", big_on_cpu),
    ("Serving", "serving_nano", "serving.py", serving),
    (
        "Training step against a straightforward one",
        "training_throughput",
        "training_throughput.py --model src/llada_uni/nano",
        training_throughput,
    ),
    ("The picture reader", "verifier", "verifier.py --count 1000", verifier),
)


def main() -> None:
    """Write the page and the curves; curves of results that are gone go, too."""
    PAGE.write_text(build(), encoding="utf-8")
    CURVES.mkdir(parents=True, exist_ok=True)
    drawn = charts()
    for path in CURVES.glob("*.svg"):
        if path.name not in drawn:
            path.unlink()
    for name, text in drawn.items():
        (CURVES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
