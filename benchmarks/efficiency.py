"""Score and cost side by side: steps, SPRINT presets and both decoders on the same SceneBench items.

The analogue of the paper's Tables 13 (``speeds``: tokens per forward and per second, with and without SPRINT) and 14
(``decoders``: seconds a picture of the full and of the distilled decoder). Every setting is a run of a suite in a
folder of ``--work``: all outputs are kept, and a measurement that was stopped goes on when the command is given again.
``llada-uni reproduce paper-table-13`` and ``-14`` run the two rows each that the paper has through the same code.

python benchmarks/efficiency.py --limit 48 --questions 240 --work build/efficiency \\
    --out benchmarks/results/efficiency.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from _record import record, write


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="nano", help="nano, a hub id or a directory")
    options.add_argument("--parts", nargs="+", default=["speeds", "decoders"], choices=["speeds", "decoders"])
    options.add_argument("--limit", type=int, help="that many prompts; all when not given")
    options.add_argument("--questions", type=int, help="that many questions; as many as prompts when not given")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--work", type=Path, required=True, help="folder for the outputs of every setting")
    options.add_argument("--device", default="auto")
    options.add_argument("--out", type=Path, help="result file")
    return options


def tell(kind: str, done: int, total: int) -> None:
    """One line of progress on standard error after every run of a suite."""
    if done == total:
        sys.stderr.write(f"{kind} {done}\n")


def main(arguments: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = parser().parse_args(arguments)

    from llada_uni import LladaUni
    from llada_uni.evaluation.efficiency import DECODERS, SPEEDS, measure_all
    from llada_uni.scenes.bench import load_bench

    model = LladaUni.from_pretrained(options.model, device=options.device)
    tables = {"speeds": SPEEDS, "decoders": DECODERS}
    limits = {"generation": options.limit, "understanding": options.questions or options.limit}
    numbers: dict[str, Any] = {
        "model": options.model, "seed": options.seed, "limits": limits, "bench_sha256": load_bench().sha256,
    }  # fmt: skip
    for name in options.parts:
        numbers[name] = {}
        for part, limit in limits.items():
            run = {"limit": limit, "seed": options.seed, "parts": (part,), "tell": tell}
            numbers[name] |= measure_all(model, tables[name], options.work, **run)
    write(record(numbers, device=str(model.networks.device), arguments=arguments), options.out)


if __name__ == "__main__":
    main()
