"""Opens the model a command asks for, with every core at work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llada_uni.pipeline import LladaUni

__all__ = ["open_model", "use_all_cores"]


def open_model(
    model: str, *, revision: str | None, device: str, dtype: str | None, engine: str | None = None
) -> LladaUni:
    """The pipeline behind ``--model``, ``--revision``, ``--device``, ``--dtype`` and ``--engine``."""
    from llada_uni.pipeline import LladaUni

    use_all_cores()
    return LladaUni.from_pretrained(model, revision=revision, device=device, dtype=dtype, engine=engine)


def use_all_cores() -> None:
    """Let torch use every core this process may run on, unless ``OMP_NUM_THREADS`` says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
