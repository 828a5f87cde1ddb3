"""Opens the model a command asks for, with every core at work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from llada_uni.cli import output as out

if TYPE_CHECKING:
    from llada_uni.pipeline import LladaUni
    from llada_uni.pipeline.pixels import PixelOptions

__all__ = ["open_model", "use_all_cores"]


def open_model(
    model: str,
    *,
    revision: str | None,
    device: str,
    dtype: str | None,
    pixels: PixelOptions | None = None,
    quantize: str | None = None,
    memory: str | None = None,
    together: bool = False,
    engine: str | None = None,
) -> LladaUni:
    """The pipeline behind the common options; a memory plan is shown before anything is loaded.

    ``pixels``: how pictures are drawn; ``engine``: what writes the ids.
    """
    from llada_uni.pipeline import LladaUni

    use_all_cores()
    keep: dict[str, Any] = {
        "pixels": pixels,
        "quantize": quantize,
        "memory": memory,
        "together": together,
        "engine": engine,
    }
    opened = LladaUni.from_pretrained(model, revision=revision, device=device, dtype=dtype, **keep)
    if opened.memory_plan is not None:
        out.note("\n".join(opened.memory_plan.lines()))
    return opened


def use_all_cores() -> None:
    """Let torch use every core this process may run on, unless ``OMP_NUM_THREADS`` says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
