"""Which training states stay on the disk: the newest, some before it, and the best by a metric.

``state.pt`` is the newest state of a whole model. Further ones are ``state-STEP.pt``, those of a divided model the
folders ``state-STEP``. ``best.json`` says which is best.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.training.checkpoint import STATE_FILE
from llada_uni.training.config import KeepConfig
from llada_uni.training.export import write_json

__all__ = ["BEST_FILE", "Keeper", "best_state", "forget_states", "newest_state", "state_folder"]

BEST_FILE = "best.json"
_NAME = re.compile(r"state-(\d{8,})(\.pt)?")


def state_folder(directory: Path, step: int) -> Path:
    """Where the state of a divided model after ``step`` steps is kept."""
    return directory / f"state-{step:08d}"


def newest_state(directory: Path) -> Path | None:
    """The state to go on from: a file or a folder; None when there is none."""
    folders = [path for _, path in _kept(directory) if path.is_dir()]
    newest = [directory / STATE_FILE] if (directory / STATE_FILE).exists() else []
    return max(newest + folders[-1:], key=_written, default=None)


def best_state(directory: Path) -> Path:
    """The state that ``keep.best`` found best.

    Raises:
        CheckpointError: none was kept.
    """
    step = _best(directory).get("step")
    path = dict(_kept(directory)).get(step) if step is not None else None
    if path is None:
        raise CheckpointError(f"no best state in {directory}; train with --set keep.best=METRIC first")
    return path


def forget_states(directory: Path) -> None:
    """Removes every state of a run, whole or partial."""
    partial = [*directory.glob(f".{STATE_FILE}.*"), *directory.glob(".state-*.partial")]
    for path in (*(path for _, path in _kept(directory)), directory / STATE_FILE, directory / BEST_FILE, *partial):
        _remove(path)


class Keeper:
    """Watches a metric between saves and decides after each what stays."""

    def __init__(self, directory: Path, keep: KeepConfig) -> None:
        self._directory, self._keep = directory, keep
        self._values: list[float] = []
        self._names: set[str] = set()

    def watch(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Takes note of one step."""
        if self._keep.best:
            self._names |= set(metrics)
            self._values.append(float(metrics.get(self._keep.best, math.nan)))

    def settle(self, step: int) -> None:
        """To be called when the state after ``step`` steps is on the disk: judges it, and removes what need not stay.

        Raises:
            ConfigError: no step so far had the metric named ``keep.best``.
        """
        record = self._judged(step)
        best = record.get("step")
        folder = state_folder(self._directory, step)
        if not folder.exists() and (self._keep.last > 1 or best == step):
            _link(self._directory / STATE_FILE, folder.with_suffix(".pt"))
        if best == step:
            write_json(self._directory / BEST_FILE, record)
        kept = _kept(self._directory)
        stay = {best, *sorted({step, *(number for number, _ in kept)})[-self._keep.last :]}
        for number, path in kept:
            if number not in stay:
                _remove(path)
        if folder.is_dir():
            _remove(self._directory / STATE_FILE)  # older, of a run that was not divided

    def _judged(self, step: int) -> dict[str, Any]:
        """The best state, this one included: its step and its value of the metric."""
        values, self._values = [value for value in self._values if math.isfinite(value)], []
        before, name = _best(self._directory), self._keep.best
        if name and self._names and name not in self._names:
            raise ConfigError(f"keep.best is {name!r}; the metrics are {', '.join(sorted(self._names))}")
        if not values:
            return before
        value, sign = sum(values) / len(values), -1 if self._keep.highest else 1
        if before.get("metric") == name and sign * value >= sign * before["value"]:
            return before
        return {"metric": name, "value": value, "step": step}


def _kept(directory: Path) -> list[tuple[int, Path]]:
    """States named by their step, with it and in its order."""
    return sorted((int(match[1]), path) for path in directory.glob("state-*") if (match := _NAME.fullmatch(path.name)))


def _best(directory: Path) -> dict[str, Any]:
    path = directory / BEST_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _written(path: Path) -> float:
    return path.stat().st_mtime


def _link(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system has none."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        partial = target.with_name(f".{STATE_FILE}.{os.getpid()}")
        shutil.copyfile(source, partial)
        os.replace(partial, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
