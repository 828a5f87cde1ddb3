"""The task suites of SceneBench on a model: riddles plain and thinking, edits, stories, comparisons, facts.

python benchmarks/tasks.py --model nano --limit 60 --out benchmarks/results/tasks_nano.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _record import record, write
from scenebench import settings, tell


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="nano", help="nano, a hub id or a directory")
    options.add_argument("--limit", type=int, help="that many items of every suite; all when not given")
    options.add_argument("--suite", action="append", help="only this one; may be repeated")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--settings", action="append", default=[], metavar="NAME=VALUE", help="of what makes pictures")
    options.add_argument("--device", default="auto")
    options.add_argument("--out", type=Path, help="result file")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = parser().parse_args(arguments)
    given = settings(options.settings, None)

    from llada_uni import LladaUni
    from llada_uni.evaluation.scenebench_tasks import run_scenebench_tasks

    model = LladaUni.from_pretrained(options.model, device=options.device)
    numbers = run_scenebench_tasks(
        model, limit=options.limit, seed=options.seed, runs=options.suite, progress=tell, settings=given
    )
    numbers |= {"limit": options.limit, "settings": given}
    write(record(numbers, device=str(model.networks.device), arguments=arguments), options.out)


if __name__ == "__main__":
    main()
