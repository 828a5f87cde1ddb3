"""Learning curves of a training run: the metrics its stages logged, thinned, with their evaluations.

python benchmarks/training_curves.py --cache build/state --out benchmarks/results/nano_curves.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from _record import record, write

_SKIPPED = ("lr", "tokens", "samples_per_s", "loss")
_POINTS = 40


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cache", type=Path, required=True, help="folder of training state: one folder per stage")
    options.add_argument("--out", type=Path, help="result file")
    return options


def curve(lines: list[str], points: int = _POINTS) -> dict[str, list[float]]:
    """At most about ``points`` evenly spaced records, the last one included, as one list per metric."""
    rows = [json.loads(line) for line in lines]
    stride = max(-(-len(rows) // points), 1)
    kept = rows[::-1][::stride][::-1]
    names = [name for name in kept[0] if name not in _SKIPPED] if kept else []
    return {name: [row[name] for row in kept] for name in names if all(name in row for row in kept)}


def curves(cache: Path) -> dict[str, Any]:
    """Curve and evaluation of every stage with metrics in ``cache``."""
    found: dict[str, Any] = {}
    for path in sorted(cache.glob("*/metrics.jsonl")):
        done = path.with_name("evaluation.json")
        evaluation = json.loads(done.read_text(encoding="utf-8")) if done.exists() else None
        found[path.parent.name] = {
            "curve": curve(path.read_text(encoding="utf-8").splitlines()),
            "evaluation": evaluation,
        }
    return found


def main(arguments: list[str] | None = None) -> None:
    """Read, show and store."""
    options = parser().parse_args(arguments)
    numbers = curves(options.cache)
    if not numbers:
        sys.exit(f"error: expected <stage>/metrics.jsonl in {options.cache}, found none")
    write(record(numbers, arguments=arguments), options.out)


if __name__ == "__main__":
    main()
