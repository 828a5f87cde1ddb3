"""Metrics as JSON lines, averaged between two writes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["METRICS_FILE", "MetricsLog", "mean_metrics", "read_metrics"]

METRICS_FILE = "metrics.jsonl"


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Lines logged in a run's directory, oldest first; a last line cut off by a crash is left out."""
    path = directory / METRICS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = []
    for number, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number + 1 < len(lines):
                raise
    return records


def mean_metrics(found: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """Means of the metrics of a step's micro-batches, given as (share, metrics), weighted by share.

    A value that is not a number is left out, unless there is no other.
    """
    means: dict[str, float] = {}
    for name in dict.fromkeys(name for _, metrics in found for name in metrics):
        told = [(share, metrics[name]) for share, metrics in found if name in metrics]
        told = [(share, value) for share, value in told if value == value]
        weight = sum(share for share, _ in told)
        means[name] = sum(share * value for share, value in told) / weight if weight else float("nan")
    return means


class MetricsLog:
    """Collects metrics of single steps and writes their means every ``every`` steps.

    Opening it at ``step`` drops lines of later steps, left by a run that went further than its last saved state.
    """

    def __init__(
        self, directory: Path, *, every: int, step: int, report: Callable[[Mapping[str, Any]], None] | None
    ) -> None:
        self._path = directory / METRICS_FILE
        self._every = every
        self._report = report
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._samples = 0
        self._since = time.monotonic()
        kept = [record for record in read_metrics(directory) if record.get("step", 0) <= step]
        directory.mkdir(parents=True, exist_ok=True)
        self._path.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

    def add(self, step: int, metrics: Mapping[str, Tensor | float], *, samples: int, **fixed: float) -> None:
        """Adds one step's metrics; ``fixed`` values are written as they are at the time of writing."""
        self._samples += samples
        for name, value in metrics.items():
            number = float(value)
            if number == number:
                self._sums[name] = self._sums.get(name, 0.0) + number
                self._counts[name] = self._counts.get(name, 0) + 1
        if step % self._every == 0:
            self._write(step, fixed)

    def _write(self, step: int, fixed: Mapping[str, float]) -> None:
        now = time.monotonic()
        means = {name: self._sums[name] / self._counts[name] for name in self._sums}
        rate = self._samples / max(now - self._since, 1e-9)
        self.write({"step": step, **means, **fixed, "samples_per_s": rate})
        self._sums, self._counts, self._samples, self._since = {}, {}, 0, now

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one line now."""
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in record.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        if self._report is not None:
            self._report(rounded)
