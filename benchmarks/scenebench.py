"""SceneBench v1 of a model: raw numbers per category, ceilings beside them.

python benchmarks/scenebench.py --model nano --out benchmarks/results/scenebench.json
python benchmarks/scenebench.py --limit 140 --decoder normal --settings guidance_scale=1.5 --settings steps_per_block=4
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
    options.add_argument("--limit", type=int, help="that many prompts and that many questions; all when not given")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--category", action="append", help="only this one; may be repeated")
    options.add_argument("--decoder", choices=("normal", "turbo"), help="pixel decoder; the preset when not given")
    options.add_argument("--settings", action="append", default=[], metavar="NAME=VALUE", help="of generate_image")
    options.add_argument("--device", default="auto")
    options.add_argument("--out", type=Path, help="result file")
    return options


def settings(pairs: list[str], decoder: str | None) -> dict[str, Any]:
    """``name=value`` pairs as keyword arguments of ``generate_image``; numbers become numbers."""
    found: dict[str, Any] = {} if decoder is None else {"decoder": decoder}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise SystemExit(f"--settings: expected NAME=VALUE, got {pair!r}")
        found[name.replace("-", "_")] = _number(text)
    return found


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def tell(part: str, done: int, total: int, correct: int) -> None:
    """One line of progress on standard error."""
    sys.stderr.write(f"{part} {done}/{total}, {correct} right\n")


def main(arguments: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = parser().parse_args(arguments)
    given = settings(options.settings, options.decoder)

    from llada_uni import LladaUni
    from llada_uni.evaluation.scenebench import run_scenebench

    model = LladaUni.from_pretrained(options.model, device=options.device)
    numbers = run_scenebench(
        model, limit=options.limit, seed=options.seed, categories=options.category, progress=tell, settings=given
    )
    numbers |= {"limit": options.limit, "settings": given}
    write(record(numbers, device=str(model.networks.device), arguments=arguments), options.out)


if __name__ == "__main__":
    main()
