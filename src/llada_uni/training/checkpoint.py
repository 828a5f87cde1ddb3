"""Training state on disk: one file, written atomically, enough to continue bit for bit."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llada_uni.errors import CheckpointError, ResourceError

__all__ = ["STATE_FILE", "TrainState", "load_state", "read_state", "save_state"]

STATE_FILE = "state.pt"


@dataclass(kw_only=True)
class TrainState:
    """Everything a run needs to go on: ``step`` steps are done out of ``horizon``.

    ``optimizer`` is empty in a state that was read for its weights alone.
    """

    step: int
    horizon: int
    seconds: float
    config: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    ema: dict[str, Any]


def save_state(directory: Path, state: TrainState) -> Path:
    """Writes the state to ``directory``; a reader sees the old file or the new one, never a part of it.

    Raises:
        ResourceError: the disk is full or not writable; the previous state is untouched.
    """
    target = directory / STATE_FILE
    partial = directory / f".{STATE_FILE}.{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for left in directory.glob(f".{STATE_FILE}.*"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
        with partial.open("wb") as file:
            torch.save(vars(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise ResourceError(f"cannot write the training state to {target}: {error}; free disk space") from error
    return target


def load_state(directory: Path) -> TrainState | None:
    """The state saved in ``directory``, or None when there is none. Tensors arrive on the CPU.

    Raises:
        CheckpointError: the file exists but cannot be read.
    """
    path = directory / STATE_FILE
    return read_state(path) if path.exists() else None


def read_state(path: Path) -> TrainState:
    """The state in a file that :func:`save_state` wrote. Tensors arrive on the CPU.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        return TrainState(**torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"cannot read the training state {path}: {error}; delete it to start afresh") from error
