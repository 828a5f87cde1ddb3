"""The section of docs/performance.md that sets scores beside what they cost; used by make_performance.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["efficiency"]

_TITLES = {
    "speeds": "Steps and SPRINT presets (the paper's Table 13 on SceneBench)",
    "decoders": "Pixel decoders (the paper's Table 14 on SceneBench)",
}


def efficiency(numbers: dict[str, Any]) -> Iterator[str]:
    """Score, tokens per forward and seconds of every setting, the same items for all."""
    yield f"Model `{numbers['model']}`, seed {numbers['seed']}. Scores are means of the categories present, regular"
    yield "items alone; costs are means over all items made, held-out ones included, one at a time. Tokens per forward:"
    yield "ids written per backbone call, guidance branches counted as one; tokens per second: over the token phase."
    for name, title in _TITLES.items():
        for part in ("generation", "understanding"):
            rows = {key: row for key, row in numbers.get(name, {}).items() if key.startswith(f"{part}, ")}
            if rows:
                yield f"\n{title}: {part}\n"
                yield from _table(rows, pixels=part == "generation")


def _table(rows: dict[str, dict[str, Any]], *, pixels: bool) -> Iterator[str]:
    drawing = " pixels, s |" if pixels else ""
    yield f"| setting | score | items | tokens per forward | steps | tokens/s |{drawing} s an item | processor s |"
    yield "|---|---|---|---|---|---|" + ("---|" if pixels else "") + "---|---|"
    for key, row in rows.items():
        yield f"| {key.split(', ', 1)[1]} | {_score(row['overall'])} | {row['items']['total']} | {_cost(row, pixels)} |"


def _score(overall: dict[str, Any] | None) -> str:
    if overall is None:
        return "–"
    low, high = overall["interval"]
    return f"{100 * overall['value']:.1f} % ({100 * low:.1f} – {100 * high:.1f})"


def _cost(row: dict[str, Any], pixels: bool) -> str:
    cost = row["cost"]
    if cost is None:
        return " | ".join("–" for _ in range(6 if pixels else 5))
    speed = "–" if cost["tokens_per_s"] is None else f"{cost['tokens_per_s']:.1f}"
    drawing = [f"{cost['pixels_s_per_item']:.3f}"] if pixels else []
    told = [f"{cost['tokens_per_call']:.2f}", f"{cost['steps_per_item']:.1f}", speed, *drawing]
    return " | ".join([*told, f"{cost['s_per_item']:.3f}", f"{cost['cpu_s_per_item']:.3f}"])
