"""The sections of the performance page about speed and memory, and their curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from plots import Points, line_chart

__all__ = ["CHARTS", "SPEED_SECTIONS"]

Numbers = dict[str, Any]
_CLOCKS = {
    "processor": "processor time of one thread",
    "wall": "wall clock",
    "events": "events of the GPU",
}


def backbone_step(numbers: Numbers) -> Iterator[str]:
    """One step, against the floor and the released way."""
    yield from _head(
        numbers, "A step is 32 positions of every branch behind a context. Floor: weights and keys that have"
    )
    yield "to be read, or products, at the rates of this device."
    for kind in ("batch", "context", "experts"):
        if not numbers[kind]:
            continue
        yield from _table(
            "branches, context, experts (used), ours ms, floor ms, share of the floor, released way ms, times faster"
        )
        for row in numbers[kind]:
            took = row["seconds"]
            yield (
                f"| {row['branches']} | {row['context']} | {row['num_experts']} ({row['distinct_experts']:.1f}) "
                f"| {_ms(took['ours'])} | {row['floor_ms']:.2f} | {100 * row['share_of_floor']:.0f} % "
                f"| {_ms(took.get('reference'))} | {_times(row['times_faster'].get('reference'))} |"
            )
    yield from _pictures("backbone_step", numbers)


def image_tokens(numbers: Numbers) -> Iterator[str]:
    """The ladder from the released way to ours."""
    yield from _head(numbers, f"One guided picture, {numbers['steps_per_block']} steps in a block of 32, prompt of 40.")
    yield "Each column changes one thing of the one before; ours also caches. All write the same ids"
    shares = [share for row in numbers["grids"] for share in row["same_ids"].values()]
    yield f"(share of equal ids at least {min(shares, default=1):.3f})."
    names = list(numbers["grids"][0]["seconds"])
    heads = [f"{name.replace(',', ':')} s" for name in names]
    yield from _table(", ".join(["codes, calls", *heads, "times faster than the reference, floor s"]))
    for row in numbers["grids"]:
        cells = " | ".join(_s(row["seconds"].get(name)) for name in names)
        gain = _times(row["times_faster"].get("reference"))
        yield f"| {row['grid']}x{row['grid']} | {row['calls']} | {cells} | {gain} | {row['floor_s']:.3f} |"
    yield from _batches(numbers, "pictures")
    if "surplus" in numbers:
        found = numbers["surplus"]
        side, spent = found["grid"], found["seconds"]
        yield "\nSurplus blocks, not in the table: the released default writes 1088 ids whatever the size, for"
        yield f"{side}x{side} codes {found['surplus_blocks']} blocks too many. They take {spent['reference']:.1f} s by"
        yield f"the released way and would take {spent['ours']:.1f} s by ours, which writes none. (One step of every"
        yield "fourth such block is measured and counted for all.)"
    yield from _pictures("image_tokens", numbers)


def text(numbers: Numbers) -> Iterator[str]:
    """Answers of fixed length."""
    side = numbers["picture"]
    yield from _head(numbers, "Exactly so many ids, one a step; diffusers is its `LLaDA2Pipeline` around our network.")
    yield f"A picture is {side}x{side} codes; encoding is the same for all and not part of the times."
    yield from _table(
        "answer, prompt, ours s, ids/s, released way s, times faster, diffusers s, times faster, encoding s"
    )
    for row in numbers["cases"]:
        took, gain = row["seconds"], row["times_faster"]
        yield (
            f"| {row['name']} | {row['prompt_tokens']} | {_s(took['ours'])} | {row['tokens_per_s']:.0f} "
            f"| {_s(took.get('reference'))} | {_times(gain.get('reference'))} | {_s(took.get('diffusers'))} "
            f"| {_times(gain.get('diffusers'))} | {_s(row.get('encoding_s'))} |"
        )
    yield from _batches(numbers, "answers about a picture")


def decoder(numbers: Numbers) -> Iterator[str]:
    """Evaluations of the velocity, whole pictures, reloading."""
    yield from _head(
        numbers, "One evaluation of the velocity; diffusers is its Z-Image transformer with the same weights."
    )
    if "evaluations" in numbers:
        yield from _table(
            "codes, pictures, ours ms, floor ms, as released ms, times faster, diffusers ms, times faster"
        )
    for row in numbers.get("evaluations", ()):
        took, gain = row["seconds"], row["times_faster"]
        yield (
            f"| {row['grid']}x{row['grid']} | {row['batch']} | {_ms(took['ours'])} | {row['floor_ms']:.1f} "
            f"| {_ms(took.get('reference'))} | {_times(gain.get('reference'))} | {_ms(took.get('diffusers'))} "
            f"| {_times(gain.get('diffusers'))} |"
        )
    if "whole" in numbers:
        yield from _whole(numbers["whole"])
    yield from _pictures("decoder", numbers)


def _whole(found: Numbers) -> Iterator[str]:
    took, counts = found["seconds"], found["evaluations"]
    yield f"\nWhole pictures of {found['grid']}x{found['grid']} codes, everything in memory, and what else there is:"
    yield from _table("what, s")
    names = {
        "turbo": f"{counts.get('turbo')} evaluations",
        "normal": f"{counts.get('normal')} x 2 evaluations, guidance",
    }
    for name, value in took.items():
        yield f"| {names.get(name, f'{name} alone')} | {_s(value)} |"
    if "reload" in found:
        size, spent = found["reload"]["gb"], found["reload"]["seconds"]
        yield f"| reading decoder, embedder and VAE again ({size:.3f} GB) | {_s(spent)} |"


def end_to_end(numbers: Numbers) -> Iterator[str]:
    """Requests by stages."""
    side = numbers["grid"]
    yield from _head(
        numbers, f"Pictures of {side}x{side} codes; ours and the released way differ in the token phase alone."
    )
    yield from _table("request, ours s by stage, released way s by stage, times faster")
    for name, row in numbers["fixed"].items():
        yield f"| {name} | {_split(row, 'ours')} | {_split(row, 'reference')} | {_total(row)} |"
    first = ", ".join(f"{stage} {value:.2f}" for stage, value in numbers["first"].items())
    yield f"\nThe first picture of a program (networks made or read first), s by stage: {first}."
    for row in numbers["batches"]:
        yield f"\n{row['batch']} at once: {row['seconds_each']:.3f} s a picture ({_split(row, 'ours')} together)."
    if "as_used" in numbers:
        yield "\nAs used, with the presets of the checkpoint: answers end where they end; token phases are compared."
        yield from _table("request, ids, calls, ours s, released way s, times faster, whole call s")
        for name, row in numbers["as_used"].items():
            took = row["seconds"]
            yield (
                f"| {name} | {row['output_tokens']} | {row['calls']} | {_s(took['ours'])} "
                f"| {_s(took.get('reference'))} | {_total(row)} | {_s(row['whole_call_s'])} |"
            )


def memory(numbers: Numbers) -> Iterator[str]:
    """Weights and peaks."""
    weights = ", ".join(f"{name} {value:.3f}" for name, value in numbers["weights_gb"].items())
    yield f"Weights in {numbers['dtype']}, GB: {weights}. A token of context takes {numbers['kv_kib_per_token']:g} KiB."
    yield "Peaks of fresh processes (on a CPU the whole process with its libraries):"
    yield from _table("task, side, peak GB")
    for row in numbers["tasks"]:
        yield f"| {row['task']} | {row['side']} | {row['peak_gb']:.3f} |"


def limits(numbers: list[Numbers]) -> Iterator[str]:
    """Bytes, products and floors of every call."""
    yield "Counted from the configurations; nothing is run. A call takes at least as long as the device needs to read"
    yield "its weights and keys once, or for its products. Experts: distinct ones in a layer, as expected of a router"
    yield "that prefers none."
    for found in numbers:
        yield from _limits(found)


def _limits(found: Numbers) -> Iterator[str]:
    machine, side = found["machine"], found["grid"]
    yield (
        f"\n**{found['size']}**, {side}x{side} codes, {found['bytes_per_number']} bytes a number, on {machine['name']} "
        f"({machine['gb_per_s']:g} GB/s, {machine['tflops_per_s']:g} TFLOP/s):"
    )
    yield from _table("call, experts, read GB, products GFLOP, floor ms, bound by")
    for name, row in found["calls"].items():
        experts = f"{row['experts']:.0f}" if "experts" in row else ""
        amounts = f"{row['gb']:.3g} | {row['gflop']:.4g} | {row['floor_ms']:.3g}"
        yield f"| {name} | {experts} | {amounts} | {row['bound']} |"
    whole = "; ".join(f"{name}: {value:.3g} s" for name, value in found["whole_s"].items())
    yield f"\nWhole pictures at the floor: {whole}."
    weights = ", ".join(f"{name} {value:.3g}" for name, value in found["weights_gb"].items())
    yield f"Weights, GB: {weights}; a token of context {found['kv_kib_per_token']:g} KiB."


# Curves


def _step_charts(numbers: Numbers) -> dict[str, str]:
    charts = {}
    for kind, field, label in (
        ("batch", "branches", "branches in a step"),
        ("context", "context", "ids before the block"),
        ("experts", "num_experts", "experts in a layer"),
    ):
        if len(numbers[kind]) > 1:
            lines = _lines(numbers[kind], field, 1000) | {
                "floor": [(row[field], row["floor_ms"]) for row in numbers[kind]]
            }
            charts[kind] = line_chart(f"A denoising step, {numbers['size']}", label, "ms", lines)
    return charts


def _token_charts(numbers: Numbers) -> dict[str, str]:
    rows = [{**row, "codes": row["grid"] ** 2} for row in numbers["grids"]]
    if len(rows) < 2:
        return {}
    lines = _lines(rows, "codes", 1) | {"floor": [(row["codes"], row["floor_s"]) for row in rows]}
    return {"grid": line_chart(f"Token phase of a picture, {numbers['size']}", "codes", "s", lines)}


def _decoder_charts(numbers: Numbers) -> dict[str, str]:
    rows = [{**row, "codes": row["grid"] ** 2} for row in numbers.get("evaluations", ()) if row["batch"] == 1]
    if len(rows) < 2:
        return {}
    lines = _lines(rows, "codes", 1000) | {"floor": [(row["codes"], row["floor_ms"]) for row in rows]}
    return {"grid": line_chart(f"An evaluation of the velocity, {numbers['size']}", "codes", "ms", lines)}


def _lines(rows: list[Numbers], field: str, scale: float) -> dict[str, Points]:
    """Median times of every side that was measured at least twice."""
    names = dict.fromkeys(name for row in rows for name in row["seconds"])
    lines: dict[str, Points] = {
        name: [(row[field], scale * row["seconds"][name]["median"]) for row in rows if name in row["seconds"]]
        for name in names
    }
    return {name: line for name, line in lines.items() if len(line) > 1}


CHARTS: dict[str, Callable[[Numbers], dict[str, str]]] = {
    "backbone_step": _step_charts,
    "image_tokens": _token_charts,
    "decoder": _decoder_charts,
}


# Words


def _table(names: str) -> Iterator[str]:
    """Blank line, heads and rule of a table; ``names`` are separated by commas."""
    heads = names.split(", ")
    yield f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}"


def _head(numbers: Numbers, words: str) -> Iterator[str]:
    yield f"{numbers['size'].capitalize()}, {numbers['dtype']}, {_CLOCKS[numbers['clock']]}; sides take turns, medians"
    yield f"(times faster: least – most). {words}"


def _batches(numbers: Numbers, what: str) -> Iterator[str]:
    if numbers["batches"]:
        yield from _table(f"{what} at once, s each, times faster each")
        for row in numbers["batches"]:
            yield f"| {row['batch']} | {_s(row['seconds_each'])} | {_times(row['times_faster_each'])} |"


def _pictures(name: str, numbers: Numbers) -> Iterator[str]:
    charts = CHARTS[name](numbers)
    if charts:
        yield ""
    size = numbers["size"].replace(" ", "_")
    for kind in charts:
        yield f"![{name.replace('_', ' ')} by {kind}](assets/speed/{name}_{size}_{kind}.svg)"


def _split(row: Numbers, side: str) -> str:
    return ", ".join(f"{stage} {value:.3f}" for stage, value in row["stages"].get(side, {}).items())


def _total(row: Numbers) -> str:
    return _times(row["times_faster"].get("reference"))


def _s(spread: Numbers | None) -> str:
    return "" if spread is None else f"{spread['median']:.3f}"


def _ms(spread: Numbers | None) -> str:
    return "" if spread is None else f"{1000 * spread['median']:.2f}"


def _times(spread: Numbers | None) -> str:
    return "" if spread is None else f"{spread['median']:.2f} ({spread['least']:.2f} – {spread['most']:.2f})"


SPEED_SECTIONS: tuple[tuple[str, str, str, Callable[[Any], Iterator[str]]], ...] = (
    ("What limits each part", "limits", "limits.py", limits),
    ("A step of the backbone", "backbone_step_nano", "backbone_step.py", backbone_step),
    ("The tokens of a picture", "image_tokens_nano", "image_tokens.py", image_tokens),
    ("Answers", "text_nano", "text.py", text),
    ("The pixel decoder", "decoder_nano", "decoder.py", decoder),
    ("End to end", "end_to_end_nano", "end_to_end.py", end_to_end),
    ("Memory", "memory_nano", "memory.py", memory),
)
