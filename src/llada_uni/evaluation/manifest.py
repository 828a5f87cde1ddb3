"""``run.json``: what was run on which data by which model, with its seeds and number formats."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llada_uni.errors import ConfigError
from llada_uni.evaluation.items import BadItem, Item, Suite
from llada_uni.pipeline.files import write_atomic

if TYPE_CHECKING:
    from llada_uni.evaluation.items import SuiteModel
    from llada_uni.evaluation.run import RunSettings

__all__ = ["SEED_POLICY", "data_digest", "manifest", "read_manifest", "settle_manifest"]

SEED_POLICY = "seed of a sample = first 4 bytes of SHA-256('seed/item id/sample'), shifted right by 1"
_SAME = ("suite", "items_sha256", "items", "model", "dtype", "seed", "limit", "options", "checkpoint_digest")


def manifest(
    suite: Suite,
    data: Path | None,
    entries: Sequence[Item | BadItem],
    *,
    model: SuiteModel | None,
    settings: RunSettings,
) -> dict[str, Any]:
    """Everything that decides the outputs, JSON-ready; without a model only what the data decides."""
    decided: dict[str, Any] = {
        "suite": suite.name,
        "data": data.name if data else "in the package",
        "data_sha256": data_digest(data) if data and data.is_file() else None,
        "items": len(entries),
        "items_sha256": _items_digest(entries),
        "limit": settings.limit,
        "seed": settings.seed,
        "seed_policy": SEED_POLICY,
    }
    if model is None:
        return decided
    networks: Any = getattr(model, "networks", None)
    return decided | {
        "model": model.name,
        "checkpoint_digest": _checkpoint_digest(getattr(networks, "directory", None)),
        "dtype": str(getattr(networks, "dtype", "unknown")).removeprefix("torch."),
        "dtype_policy": "networks and activations in dtype; sampling probabilities and scores in float32",
        "device": str(getattr(networks, "device", "unknown")),
        "options": {name: value for name, value in settings.options.items() if value is not None},
        "timeout_s": settings.timeout_s,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "llada_uni": _version()},
        "threads": torch.get_num_threads(),
    }


def settle_manifest(out: Path, wanted: dict[str, Any], *, resume_only: bool) -> None:
    """Write ``run.json``, or check that the one in ``out`` describes the same run.

    Raises:
        ConfigError: it does not (the message names the first difference), or there is none and ``resume_only``.
    """
    path = out / "run.json"
    if not path.exists():
        if resume_only:
            raise ConfigError(f"no run in {str(out)!r} to merge: expected run.json there")
        if (out / "outputs").exists():
            raise ConfigError(f"{str(out)!r} has outputs but no run.json; choose an empty directory")
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (json.dumps(wanted, indent=2) + "\n").encode())
        return
    there = read_manifest(out)
    for name in _SAME:
        if name in wanted and wanted[name] != there.get(name):
            raise ConfigError(
                f"{str(out)!r} holds another run: {name} is {there.get(name)!r} there and {wanted[name]!r} here; "
                "choose another --out, or the same settings to go on with it"
            )


def read_manifest(out: Path) -> dict[str, Any]:
    """``run.json`` of an output directory.

    Raises:
        ConfigError: there is none, or it is not JSON.
    """
    path = out / "run.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no run in {str(out)!r}: expected run.json there") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON; choose another --out") from error


def data_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _items_digest(entries: Sequence[Item | BadItem]) -> str:
    """SHA-256 over what every item asks; paths count by name only, so that the data may be moved."""
    digest = hashlib.sha256()
    for entry in entries:
        if isinstance(entry, Item):
            shown = [
                entry.id,
                entry.prompt,
                entry.parts,
                [_image_name(image) for image in entry.images],
                entry.reference,
                entry.samples,
            ]
        else:
            shown = [entry.id, "bad"]
        digest.update(json.dumps(shown, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _image_name(image: Path | bytes) -> str:
    return hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else image.name


def _checkpoint_digest(directory: Path | None) -> str | None:
    """SHA-256 over the names and sizes of a checkpoint's files and the bytes of its JSON files; None without one."""
    if directory is None:
        return None
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(directory).rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(directory).as_posix()} {os.path.getsize(path)}\n".encode())
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _version() -> str:
    from llada_uni import __version__

    return __version__
