"""What a run was: configuration, code, versions, machine, seed; written beside its state, one entry per start."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from llada_uni.training.config import TrainConfig, describe
from llada_uni.training.export import write_json

__all__ = ["RUN_FILE", "git_revision", "record_run"]

RUN_FILE = "run.json"
_PACKAGES = ("llada-uni", "torch", "numpy", "safetensors", "tokenizers")
_PATIENCE = 10.0


def record_run(directory: Path, config: TrainConfig, *, resumed: bool) -> None:
    """Write ``run.json`` into a run's directory: name, seed and configuration of the run and, for every start so far,
    its time, git revision (None outside a repository), versions, device and threads.

    A run that starts afresh forgets the earlier starts.
    """
    path = directory / RUN_FILE
    starts = _earlier(path) if resumed else []
    now = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "git": git_revision(Path(__file__).parent),
        "versions": _versions(),
        "machine": platform.platform(),
        "device": _device(config.device),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "arguments": sys.argv[1:],
    }
    whole = {"name": config.name, "seed": config.seed, "config": describe(config), "starts": [*starts, now]}
    write_json(path, whole)


def git_revision(folder: Path) -> dict[str, Any] | None:
    """Commit of the repository that tracks ``folder`` and whether tracked files have changed; None without one."""
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
    commit = None if tracked is None else _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit.strip(), "changed": bool((changed or "").strip())}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _earlier(path: Path) -> list[Any]:
    """Starts recorded so far; a file that cannot be read is written anew."""
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _device(device: str) -> str:
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(torch.device(device))
    return device
