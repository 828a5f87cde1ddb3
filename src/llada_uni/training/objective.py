"""The contract between the loop and a stage of training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Batch", "Draw", "Metrics", "Objective", "Resources"]

Batch = Mapping[str, Any]
Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where a stage reads what earlier stages made (``out``: a checkpoint directory) and keeps caches (``cache``)."""

    out: Path
    cache: Path

    def find(self, name: str) -> Path:
        """A folder that a recipe names: "cache:NAME" lies in the cache, "out" is the directory being built."""
        if name == "out":
            return self.out
        inner = name.removeprefix("cache:")
        return Path(name).expanduser() if inner == name else self.cache / inner


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Address of one batch: everything random in it is a function of these numbers and nothing else.

    ``progress`` is step / horizon in [0, 1); ``size`` the number of samples of a full-cost batch; ``micro`` counts the
    ``accumulation`` batches of a step.
    """

    seed: int
    step: int
    micro: int = 0
    size: int
    progress: float = 0.0
    accumulation: int = 1

    def _key(self, purpose: str) -> list[int]:
        digest = hashlib.sha256(purpose.encode()).digest()
        return [self.seed, self.step, self.micro, int.from_bytes(digest[:4], "little")]

    def numpy(self, purpose: str) -> np.random.Generator:
        """Independent numpy generator for one purpose."""
        return np.random.default_rng(self._key(purpose))

    def torch(self, purpose: str) -> torch.Generator:
        """Independent CPU torch generator for one purpose."""
        seed = int(np.random.SeedSequence(self._key(purpose)).generate_state(1, np.uint64)[0])
        return torch.Generator().manual_seed(seed & (2**63 - 1))

    def __str__(self) -> str:
        return f"{self.seed}:{self.step}:{self.micro}"


class Objective(Protocol):
    """One stage: what is trained, on what, and towards which number.

    ``model`` holds every parameter and every state that must survive a restart (as buffers). Frozen helpers stay
    outside of it.
    """

    model: nn.Module

    def batch(self, draw: Draw) -> Batch:
        """Training batch at an address; CPU tensors; no other state is read. Called from a background thread."""
        ...

    def weight(self, batch: Batch) -> float:
        """Weight of a batch's mean loss among the batches of one step (for example its number of supervised tokens)."""
        ...

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Mean loss of a batch (scalar) and detached metrics. ``generator`` is a CPU generator for noise."""
        ...

    def after_step(self, step: int, horizon: int) -> Metrics:
        """Changes outside the optimiser (router bias, code restarts), after it has stepped."""
        ...

    def conclude(self, seed: int) -> Metrics:
        """One-time work on the averaged weights after the last step, before evaluation and export."""
        ...

    def evaluate(self, seed: int) -> Metrics:
        """Held-out numbers of the model as it stands."""
        ...

    def export(self, directory: Path) -> None:
        """Writes the finished component into a checkpoint directory in the released layout."""
        ...
