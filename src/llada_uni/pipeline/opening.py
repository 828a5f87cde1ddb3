"""Opens a checkpoint as its caller wants it: device, number format, adapters, and within how much memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from llada_uni.pipeline.engines import check_engine
from llada_uni.pipeline.memory import Keeping, MemoryPlan, plan_memory
from llada_uni.pipeline.networks import Networks
from llada_uni.pipeline.pixels import PixelOptions
from llada_uni.weights.catalog import resolve
from llada_uni.weights.load import resolve_device, resolve_dtype
from llada_uni.weights.materialise import Target

__all__ = ["open_networks"]


def open_networks(
    name_or_dir: str | Path,
    revision: str | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    adapter: str | Path | Sequence[str | Path] | None = None,
    quantize: str | None = None,
    offload: str | None = None,
    memory: int | str | None = None,
    together: bool = False,
    pixels: PixelOptions | None = None,
    engine: str | None = None,
) -> Networks:
    """Arguments and errors of ``LladaUni.from_pretrained``; no weights are read yet."""
    place, writes = resolve_device(_automatic(device)), check_engine(engine)
    directory = resolve(name_or_dir, revision)
    adapters = [Path(one) for one in ([adapter] if isinstance(adapter, (str, Path)) else adapter or ())]
    keeping, plan = _kept(directory, place, dtype, quantize=quantize, offload=offload, memory=memory, together=together)
    return Networks(
        directory,
        name=str(name_or_dir),
        device=place,
        dtype=resolve_dtype(dtype, place) if plan is None else plan.dtype,
        adapters=adapters,
        pixels=pixels,
        keeping=keeping,
        plan=plan,
        engine=writes,
    )


def _kept(
    root: Path,
    device: torch.device,
    dtype: torch.dtype | str | None,
    *,
    quantize: str | None,
    offload: str | None,
    memory: int | str | None,
    together: bool,
) -> tuple[Keeping | None, MemoryPlan | None]:
    """What ``from_pretrained`` was asked for: a plan where there is a budget, else the wishes as they are.

    Raises:
        ConfigError: an unknown word. ResourceError: nothing fits.
    """
    usual = resolve_dtype(dtype, device)
    asked = Target(dtype=usual, device=device, quantize=quantize, offload=offload)  # type: ignore[arg-type]
    if memory is None:
        return Keeping(experts=asked.quantize, offload_experts=asked.offload), None
    plan = plan_memory(
        root,
        memory,
        device=device,
        dtype=usual,
        fixed_dtype=dtype is not None,
        quantize=asked.quantize,
        offload=asked.offload,
        together=together,
    )
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, plan.budget / whole), device)
    return None, plan


def _automatic(device: str | torch.device | None) -> str | torch.device:
    if device is None or device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
