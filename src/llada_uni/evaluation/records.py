"""Raw records on disk: one JSON object a line, appended as they come, read again after an interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from llada_uni.errors import ConfigError, ResourceError

__all__ = ["Journal", "last_of_each", "read_lines"]


class Journal:
    """Appends records to one file; every record is on disk when ``append`` returns.

    The file is locked until the end of the ``with`` block where the system has such locks: a shard has one process.

    Raises:
        ConfigError: another process has it open. ResourceError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
            _lock(self._file, path)
            _cut_half_a_line(path)
        except OSError as error:
            raise ResourceError(f"cannot write {path}: {error.strerror or error}") from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, record: dict[str, Any]) -> None:
        """Add one record.

        Raises:
            ResourceError: the disk is full or not writable.
        """
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ResourceError(f"cannot write {self.path}: {error.strerror or error}") from error


def read_lines(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Every record of ``paths`` in order; a last line that was cut off by an interruption is left out.

    Raises:
        ConfigError: a line in the middle is not a JSON object with an ``id``.
    """
    records: list[dict[str, Any]] = []
    for path in paths:
        for number, line in enumerate(_whole_lines(path), 1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(
                    f"{path} line {number}: not JSON ({error.msg}); move the file away to redo it"
                ) from error
            if not isinstance(record, dict) or "id" not in record:
                raise ConfigError(f"{path} line {number}: expected an object with an id")
            records.append(record)
    return records


def last_of_each(records: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The latest record of every id."""
    return {record["id"]: record for record in records}


def _whole_lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return text[: text.rfind("\n") + 1].splitlines()


def _lock(file: IO[str], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ConfigError(f"another process is writing {path}; give each process a --shard of its own") from error


def _cut_half_a_line(path: Path) -> None:
    """Remove what an interrupted write left behind, so that the next record starts a line of its own."""
    if path.exists():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)
