"""Watching a run from outside: TensorBoard scalars and grids of sample pictures. Off unless asked for.

Nothing here changes a run: pictures are drawn between two steps from streams of their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch

from llada_uni.errors import ConfigError
from llada_uni.training.objective import Objective

__all__ = ["WATCHES", "Watch", "picture_grid", "watching"]

WATCHES = ("none", "tensorboard")
WatchName = Literal["none", "tensorboard"]
_PICTURES = 8


class Watch(Protocol):
    """Receives every line of metrics."""

    def __call__(self, record: Mapping[str, Any]) -> None:
        """One line of metrics with its ``step``."""
        ...


@contextmanager
def watching(
    kind: str, directory: Path, objective: Objective | None, *, picture_seconds: float = 120.0
) -> Iterator[Watch]:
    """Inside, what comes out of a training is shown by ``kind``; ``directory`` is the run's.

    Pictures come with the first line and then at most every ``picture_seconds``, from the live weights, where the
    objective has ``samples(seed, count) -> uint8 [rows, columns, H, W, 3]``. Without an objective (a divided model,
    which one process cannot run alone) there are none.

    Raises:
        ConfigError: an unknown kind, or its package is not installed.
    """
    if kind not in WATCHES:
        raise ConfigError(f"--watch: expected one of {', '.join(WATCHES)}, got {kind!r}")
    if kind == "none":
        yield lambda record: None
        return
    writer = _writer(directory / "tensorboard")
    try:
        yield _TensorBoard(writer, objective, picture_seconds)
    finally:
        writer.close()


class _TensorBoard:
    def __init__(self, writer: Any, objective: Objective | None, picture_seconds: float) -> None:
        self._writer, self._objective, self._every = writer, objective, picture_seconds
        self._next = 0.0

    def __call__(self, record: Mapping[str, Any]) -> None:
        step = int(record.get("step", 0))
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(name, value, step)
        if self._objective is not None and time.monotonic() >= self._next:
            grid = picture_grid(self._objective)
            if grid is not None:
                self._writer.add_image("samples", grid, step, dataformats="HWC")
            self._next = time.monotonic() + self._every
        self._writer.flush()


def picture_grid(objective: Objective, *, seed: int = 0, gap_px: int = 2) -> np.ndarray | None:
    """Sample pictures of an objective as one picture uint8 ``[H, W, 3]`` with white gaps; None where it makes none."""
    found = getattr(objective, "samples", None) or getattr(getattr(objective, "inner", None), "samples", None)
    if found is None:
        return None
    was_training = objective.model.training
    objective.model.eval()
    with torch.random.fork_rng(devices=_cuda_devices()), torch.no_grad():
        pictures = cast(np.ndarray, found(seed, _PICTURES))
    objective.model.train(was_training)
    rows, columns, height, width, _ = pictures.shape
    grid = np.full((rows * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3), 255, dtype=np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + gap_px), column * (width + gap_px)
            grid[top : top + height, left : left + width] = pictures[row, column]
    return grid


def _cuda_devices() -> list[int]:
    return list(range(torch.cuda.device_count()))


def _writer(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "--watch tensorboard needs the package tensorboard; install it with pip install 'llada-uni[train]'"
        ) from error
    return SummaryWriter(log_dir=str(directory))
