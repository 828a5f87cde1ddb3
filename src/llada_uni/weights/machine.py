"""Main memory of this machine and of this process, as Linux tells it; None where nothing is known."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_memory", "process_memory"]

_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes of main memory that can be used now (also under a container's limit)."""
    sizes = [size for size in (_line("/proc/meminfo", "MemAvailable:"), _container_memory()) if size is not None]
    return min(sizes, default=None)


def process_memory() -> int | None:
    """Bytes of main memory this process holds, libraries included."""
    return _line("/proc/self/status", "VmRSS:")


def _line(path: str, name: str) -> int | None:
    try:
        lines = Path(path).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


def _container_memory() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)
