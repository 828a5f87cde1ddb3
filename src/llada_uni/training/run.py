"""One recipe from the command line to a finished component: resolve, train, evaluate, export.

``python -m llada_uni.training.run recipes.nano:vae --out DIR --cache DIR [--minutes N] [--set a.b=c] [--resume]``
Under ``torchrun`` the same arguments after ``-m`` make several processes one run (``group``, ``parallel``).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llada_uni.config import override
from llada_uni.errors import ConfigError, LladaUniError
from llada_uni.training.adapters import narrowed
from llada_uni.training.config import TrainConfig
from llada_uni.training.divided_state import read_weights
from llada_uni.training.export import write_json
from llada_uni.training.group import (
    alone_first,
    announces_failure,
    everywhere,
    is_first,
    joined,
    lost_partner,
    wait,
)
from llada_uni.training.keeping import best_state, forget_states, newest_state
from llada_uni.training.objective import Objective, Resources
from llada_uni.training.record import record_run
from llada_uni.training.train import Run, TrainResult, train
from llada_uni.training.watch import watching

__all__ = ["RunOptions", "main", "resolve_recipe", "run_recipe"]

_LOG = logging.getLogger("llada_uni.training")
Report = Callable[[Mapping[str, Any]], None]
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run recipes: ``out`` is the checkpoint directory being built, ``cache`` keeps state and other files.

    ``resume`` continues saved states; ``export_only`` trains nothing and exports what the saved state holds: the
    newest, or the ``best`` one that ``keep.best`` chose. ``watch``: "none" or "tensorboard".
    """

    out: Path
    cache: Path
    minutes: float | None = None
    steps: int | None = None
    overrides: tuple[str, ...] = ()
    resume: bool = True
    export_only: bool = False
    best: bool = False
    force: bool = False
    watch: str = "none"


def default_cache() -> Path:
    """Folder for training state of this user."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "llada-uni" / "train"


def resolve_recipe(name: str) -> Any:
    """What the recipe function ``recipes.module:function`` returns: a job or a tuple of them.

    Raises:
        ConfigError: the name has another form, or there is no such module or function.
    """
    module_name, _, function = name.partition(":")
    if not function:
        raise ConfigError(f"expected a recipe such as recipes.nano:vae, got {name!r}")
    path = "llada_uni_" + module_name if module_name.split(".")[0] == "recipes" else module_name
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise ConfigError(f"no recipe module {module_name!r} ({error})") from error
    if function not in getattr(module, "__all__", ()):
        raise ConfigError(f"{module_name} has no recipe {function!r}; it has {', '.join(module.__all__)}")
    return getattr(module, function)()


def run_recipe(
    recipe: Any, options: RunOptions, *, report: Report | None = None, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Runs one job or a chain of them; a chain skips jobs whose result is already there. Returns their evaluations.

    ``report`` hears every line of metrics, ``progress`` (name, step, horizon) after every step. In a group of processes
    all train; the first one runs other jobs, records, evaluates and exports, and tells the others.

    Raises:
        ConfigError: an override does not fit.
    """
    jobs = recipe if isinstance(recipe, tuple) else (recipe,)
    if len(jobs) > 1 and options.minutes is not None:
        jobs = _fitted(jobs, options.minutes)
    results = []
    for job in jobs:
        config = _configured(job, options, chain=len(jobs) > 1)
        directory = options.cache / config.name
        done = directory / "evaluation.json"
        if everywhere(len(jobs) > 1 and done.exists() and not options.force):
            results.append(json.loads(done.read_text(encoding="utf-8")))
            continue
        numbers = _run_job(config, directory, options, report, progress)
        if numbers is None:
            break
        results.append(numbers)
    return results


def _fitted(jobs: tuple[Any, ...], minutes: float) -> tuple[Any, ...]:
    """The jobs of a chain with their time budgets scaled to ``minutes`` in all."""
    total = sum(job.minutes or 0.0 for job in jobs if isinstance(job, TrainConfig))
    return tuple(
        dataclasses.replace(job, minutes=job.minutes * minutes / total)
        if isinstance(job, TrainConfig) and job.minutes
        else job
        for job in jobs
    )


def _configured(job: Any, options: RunOptions, *, chain: bool) -> Any:
    if options.overrides and chain:
        raise ConfigError("--set edits one recipe, not a chain of them; run that stage alone")
    for assignment in options.overrides:
        job = override(job, assignment)
    if isinstance(job, TrainConfig) and not chain:
        if options.minutes is not None:
            job = dataclasses.replace(job, minutes=options.minutes, steps=None)
        elif options.steps is not None:
            job = dataclasses.replace(job, steps=options.steps, minutes=None)
    return job


def _run_job(
    config: Any, directory: Path, options: RunOptions, report: Report | None, progress: Progress | None
) -> dict[str, Any] | None:
    resources = Resources(out=options.out, cache=options.cache)
    directory.mkdir(parents=True, exist_ok=True)
    if not isinstance(config, TrainConfig):
        return _by_first(lambda: _run_plain(config, directory, resources))
    with alone_first():
        objective = _built(config, resources)
    if options.export_only:
        return _by_first(lambda: _finish(config, objective, directory, resources, best=options.best))
    if is_first():
        _open_record(config, directory, resume=options.resume)
    shown = None if config.parallel.divides else objective
    with watching(options.watch if is_first() else "none", directory, shown) as watch, _stop_on_signals() as stop:
        tell = None if progress is None else functools.partial(progress, config.name)
        result = train(config, objective, directory, stop=stop, report=_both(report, watch), progress=tell)
    if not result.finished:
        _LOG.info("stopped at step %d of %d; run again to continue", result.step, result.horizon)
        return None
    return _by_first(lambda: _finish(config, _whole(config, objective, resources), directory, resources, result))


def _built(config: TrainConfig, resources: Resources) -> Objective:
    return narrowed(config.objective.build(resources, config.seed), config)


def _whole(config: TrainConfig, objective: Objective, resources: Resources) -> Objective:
    """The objective with a model that this process holds alone."""
    return _built(config, resources) if config.parallel.divides else objective


def _open_record(config: TrainConfig, directory: Path, *, resume: bool) -> None:
    """Notes the start of a run in its directory; one that does not resume forgets its states first."""
    if not resume:
        forget_states(directory)
    record_run(directory, config, resumed=newest_state(directory) is not None)


def _by_first(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the first process gets from ``work``; the others wait for it."""
    numbers = work() if is_first() else {}
    wait()
    return everywhere(numbers)


def _run_plain(job: Any, directory: Path, resources: Resources) -> dict[str, Any]:
    numbers = job.run(resources)
    write_json(directory / "evaluation.json", numbers)
    return numbers


def _both(report: Report | None, watch: Report) -> Report:
    def hear(record: Mapping[str, Any]) -> None:
        if report is not None:
            report(record)
        watch(record)

    return hear


def _finish(
    config: TrainConfig,
    objective: Objective,
    directory: Path,
    resources: Resources,
    result: TrainResult | None = None,
    *,
    best: bool = False,
) -> dict[str, Any]:
    """Evaluates and exports with the averaged weights of the newest saved state, or of the ``best`` one."""
    source = best_state(directory) if best else newest_state(directory)
    if source is None:
        raise ConfigError(f"no saved state in {directory}; train {config.name} first")
    run = Run.start(config, objective)
    state = read_weights(source)
    run.restore(state)
    with run.ema.applied(objective.model):
        concluded = objective.conclude(config.seed + 2)
        numbers = {**objective.evaluate(config.seed + 1), **concluded}
        objective.export(resources.out)
    told = {"step": state.step, "horizon": state.horizon, "seconds": round(state.seconds, 1)}
    summary = {"name": config.name, **told, **{k: round(float(v), 6) for k, v in numbers.items()}}
    write_json(directory / "evaluation.json", summary)
    return summary


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM and SIGINT ask for a stop after the current step instead of ending the process."""
    asked: list[int] = []
    kinds = (signal.SIGTERM, signal.SIGINT)
    try:
        previous = [signal.signal(kind, lambda number, _: asked.append(number)) for kind in kinds]
    except ValueError:  # not in the main thread: signals are someone else's business
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        for kind, handler in zip(kinds, previous, strict=True):
            signal.signal(kind, handler)


def _options(arguments: argparse.Namespace) -> RunOptions:
    cache = arguments.cache or default_cache()
    return RunOptions(
        out=arguments.out or cache / "nano",
        cache=cache,
        minutes=arguments.minutes,
        steps=arguments.steps,
        overrides=tuple(arguments.set),
        resume=not arguments.restart,
        export_only=arguments.export_only or arguments.best,
        best=arguments.best,
        force=arguments.force,
        watch=arguments.watch,
    )


def _trained(arguments: argparse.Namespace, progress: Progress | None) -> str:
    """The evaluations of a recipe that was run, as JSON; metrics go to the log."""
    report: Report = lambda record: _LOG.info("%s", json.dumps(record))  # noqa: E731
    results = run_recipe(resolve_recipe(arguments.recipe), _options(arguments), report=report, progress=progress)
    return json.dumps(results)


def _plan(arguments: argparse.Namespace) -> str:
    """The plan of a recipe as text, or as JSON."""
    from llada_uni.training.plan import as_mapping, plan_jobs, table

    recipe = resolve_recipe(arguments.recipe)
    jobs = recipe if isinstance(recipe, tuple) else (recipe,)
    options = _options(arguments)
    jobs = [_configured(job, options, chain=len(jobs) > 1) for job in jobs]
    speed = None if arguments.throughput is None else arguments.throughput * 1e12
    siblings = _siblings(arguments.recipe)
    plans = plan_jobs(
        jobs, recipes=siblings, out=options.out, cache=options.cache, ranks=arguments.ranks, throughput=speed
    )
    if not plans:
        raise ConfigError(f"{arguments.recipe} trains nothing; there is nothing to plan")
    return json.dumps([as_mapping(plan) for plan in plans]) if arguments.json else table(plans)


def _siblings(name: str) -> list[Any]:
    """The recipes of the same module that decide shapes of others."""
    path, _, _ = name.partition(":")
    module = importlib.import_module("llada_uni_" + path if path.split(".")[0] == "recipes" else path)
    return [getattr(module, other)() for other in ("tokenizer", "decoder") if other in module.__all__]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llada-uni train", description="Train one stage or a chain of stages.")
    parser.add_argument("recipe", help="recipes.module:function")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change one field of the recipe")
    parser.add_argument("--minutes", type=float, help="time budget; fixes the number of steps once, at the start")
    parser.add_argument("--steps", type=int, help="number of steps")
    parser.add_argument("--out", type=Path, help="checkpoint directory being built")
    parser.add_argument("--cache", type=Path, help="folder for training state")
    parser.add_argument("--resume", action="store_true", help="continue the saved state (the default)")
    parser.add_argument("--restart", action="store_true", help="forget the saved state")
    parser.add_argument("--export-only", action="store_true", help="export what the saved state holds")
    parser.add_argument("--best", action="store_true", help="export the state that keep.best chose, train nothing")
    parser.add_argument("--force", action="store_true", help="in a chain, run finished stages again")
    parser.add_argument("--watch", default="none", metavar="tensorboard", help="show metrics and pictures there")
    parser.add_argument("--plan", action="store_true", help="print size, cost and time; train nothing")
    parser.add_argument("--ranks", type=int, help="with --plan: number of processes")
    parser.add_argument("--throughput", type=float, help="with --plan: TFLOP/s of one rank")
    parser.add_argument("--json", action="store_true", help="with --plan: JSON instead of a table")
    return parser


def main(arguments: Sequence[str] | None = None, *, progress: Progress | None = None) -> int:
    """Entry of ``python -m llada_uni.training.run``; progress on stderr, the evaluation as JSON on stdout.

    ``progress`` as in :func:`run_recipe`.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parsed = _parser().parse_args(arguments)
    try:
        with joined():
            told = _plan(parsed) if parsed.plan else _trained(parsed, progress)
            first = is_first()
    except LladaUniError as error:
        if announces_failure():
            _LOG.error("%s", error)
        return 2
    except Exception as error:
        if lost_partner(error):
            if announces_failure():
                _LOG.error("stopped: another process of this run has ended (%s)", " ".join(str(error).split())[:200])
            return 2
        announces_failure()
        raise
    if first:
        sys.stdout.write(told + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
