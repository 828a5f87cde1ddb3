"""What this machine offers: versions, devices, memory, disk. Nothing here needs a model."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llada_uni.weights.machine import available_memory

__all__ = ["available_memory", "describe_devices", "free_disk", "human_bytes", "num_cores", "versions"]

_PACKAGES = ("llada-uni", "torch", "numpy", "safetensors", "tokenizers", "huggingface_hub", "pillow", "typer", "rich")


def versions() -> dict[str, str]:
    """Version of Python and of every package the core needs."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def num_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_disk(directory: Path) -> int:
    """Bytes that can be written below ``directory``."""
    return shutil.disk_usage(directory).free


def describe_devices() -> list[dict[str, Any]]:
    """The CPU and every CUDA device, with memory in bytes."""
    import torch

    devices: list[dict[str, Any]] = [
        {"device": "cpu", "cores": num_cores(), "threads": torch.get_num_threads(), "memory_free": available_memory()}
    ]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        devices.append({"device": f"cuda:{index}", "name": name, "memory_free": free, "memory": total})
    return devices


def human_bytes(count: float | None) -> str:
    """``1536`` as ``1.5 KiB``."""
    if count is None:
        return "unknown"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
