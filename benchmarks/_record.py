"""What every result file says about itself: hardware, versions, command, commit and date, beside the numbers."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["FIELDS", "paired_difference", "portable", "record", "write"]

FIELDS = ("benchmark", "date", "commit", "command", "hardware", "versions", "numbers")
ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("torch", "numpy", "pillow", "llada_uni")
_Z95 = 1.959963984540054


def record(numbers: Any, *, device: str | None = None, arguments: list[str] | None = None) -> dict[str, Any]:
    """A result file: ``numbers`` (JSON-ready) with everything needed to judge and repeat them.

    ``device`` is the torch device that was used, None when the benchmark runs no network; ``arguments`` are those of
    the running script by default. Absolute paths are shortened: result files name no machine's folders.
    """
    return {
        "benchmark": Path(sys.argv[0]).stem,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _COMMIT,
        "command": command(sys.argv[1:] if arguments is None else arguments),
        "hardware": hardware(device),
        "versions": versions(),
        "numbers": portable(numbers),
    }


def write(report: dict[str, Any], out: Path | None) -> None:
    """Show ``report`` on standard output and store it in ``out`` when given."""
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def commit() -> str:
    """Commit of the working tree, with ``+changes`` when files that git knows differ from it."""
    head = _git("rev-parse", "HEAD")
    return f"{head}+changes" if head and _git("status", "--porcelain", "--untracked-files=no") else head or "unknown"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


_COMMIT = commit()  # when the run begins: a long one may see the next commit


def command(arguments: list[str]) -> str:
    """The command line from the root of the repository."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *portable(arguments)])


def hardware(device: str | None = None) -> dict[str, Any]:
    """Processor, cores this process may use, threads of torch (None = torch not in use), load, and the GPU if used."""
    torch = sys.modules.get("torch")
    found: dict[str, Any] = {
        "cpu": _processor(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads() if torch else None,
        "memory_gib": _memory_gib(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "device": device or "cpu",
    }
    if torch and device and device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of what computes the numbers."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name.replace("_", "-"))
    except PackageNotFoundError:
        return "missing"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def portable(value: Any) -> Any:
    """``value`` with absolute paths made relative to the repository or cut down to their last part, and NaN as None."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).is_absolute()):
        path = Path(value)
        return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    return None if isinstance(value, float) and math.isnan(value) else value


def paired_difference(first: list[bool], second: list[bool]) -> dict[str, Any]:
    """Rate of ``second`` minus rate of ``first`` over the same cases, with a 95 % interval.

    Source: Agresti and Min (2005), the Wald interval for matched pairs with half a case added to each of the four
    cells of the table.
    """
    table = {f"{a:d}{b:d}": 0 for a in (True, False) for b in (True, False)}
    for a, b in zip(first, second, strict=True):
        table[f"{a:d}{b:d}"] += 1
    count = len(first)
    lost, won, total = table["10"] + 0.5, table["01"] + 0.5, count + 2.0
    middle = (won - lost) / total
    half = _Z95 * (won + lost - (won - lost) ** 2 / total) ** 0.5 / total
    return {
        "difference": (table["01"] - table["10"]) / max(count, 1),
        "interval": [max(middle - half, -1.0), min(middle + half, 1.0)],
        "both": table["11"],
        "only_first": table["10"],
        "only_second": table["01"],
        "neither": table["00"],
        "total": count,
    }
