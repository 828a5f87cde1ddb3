"""Outcomes of a long run in files, item by item: a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

__all__ = ["Ledger", "fingerprint"]


class Ledger:
    """One file of lines, the first of which says what the others belong to; without a folder only in memory.

    Args:
        directory: of the file, made when missing; None keeps nothing.
        name: of the file, without ending.
        header: everything the outcomes depend on, JSON-ready. A file with another one ends the program.
    """

    def __init__(self, directory: Path | None, name: str, header: Mapping[str, Any]) -> None:
        self._path = None if directory is None else directory / f"{name}.jsonl"
        self.lines: list[dict[str, Any]] = []
        if self._path is None:
            return
        if self._path.exists():
            self._read(self._path, json.loads(json.dumps(header)))
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(header) + "\n", encoding="utf-8")

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append outcomes; they are on the disk when this returns."""
        self.lines += [dict(line) for line in lines]
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))

    def _read(self, path: Path, header: Any) -> None:
        """Whole lines of the file; half a line at its end, from a run that was killed, is cut off."""
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        first, *lines = [json.loads(line) for line in whole.splitlines()] or [None]
        if first != header:
            sys.exit(f"error: {path} belongs to a run with other settings; give another --state or remove it")
        self.lines = lines


def fingerprint(weights: torch.Tensor) -> str:
    """Short name of a table of weights: equal for equal numbers."""
    plain = weights.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(plain.numpy().tobytes()).hexdigest()[:16]
