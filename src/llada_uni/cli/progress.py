"""A progress bar on standard error that reads the sampler's events."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["follow", "training_bar"]


def follow(events: Iterable[Any], *, quiet: bool = False) -> list[Any]:
    """Run ``events`` to the end, showing progress when standard error is a terminal.

    Returns the results carried by the done events, in row order.
    """
    results: dict[int, Any] = {}
    with _bar(quiet=quiet) as advance:
        for event in events:
            result = getattr(event, "result", None)
            if result is not None:
                results[event.row] = result
            advance(event)
    return [results[row] for row in sorted(results)]


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Any]:
    if quiet or not sys.stderr.isatty():
        yield lambda event: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Tracker(progress)


@contextmanager
def training_bar() -> Iterator[Callable[[str, int, int], None]]:
    """What hears (name, step, horizon) of a training; a bar with the time left when standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda name, step, horizon: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=300) as progress:

        def tell(name: str, step: int, horizon: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=horizon, completed=step)
            progress.update(tasks[name], total=horizon, completed=step)

        yield tell


class _Tracker:
    """Two tasks: tokens (blocks finished) and pixels (velocity evaluations); created when first heard of.

    Blocks that a row announced and did not need leave the total when it finishes; a row may start again (a plan, then
    its picture).
    """

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}
        self._announced: dict[int, int] = {}
        self._total = 0

    def __call__(self, event: Any) -> None:
        handler = getattr(self, f"_on_{type(event).__name__.lower()}", None)
        if handler is not None:
            handler(event)

    def _on_started(self, event: Any) -> None:
        self._announced[event.row] = event.num_blocks
        self._expect(event.num_blocks)

    def _on_blockdone(self, event: Any) -> None:
        self._progress.advance(self._task("tokens"))

    def _on_finished(self, event: Any) -> None:
        self._expect(event.usage.num_blocks - self._announced[event.row])

    def _expect(self, more: int) -> None:
        self._total += more
        self._progress.update(self._task("tokens"), total=self._total)

    def _on_flowstep(self, event: Any) -> None:
        self._progress.update(self._task("pixels"), total=event.num_steps, completed=event.index + 1)

    def _task(self, name: str) -> Any:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=None)
        return self._tasks[name]
