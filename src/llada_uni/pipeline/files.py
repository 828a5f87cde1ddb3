"""Writes a result file completely or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from llada_uni.errors import ResourceError

__all__ = ["write_atomic"]


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``: either the whole file is there afterwards or nothing has changed.

    The bytes go to a temporary file in the same directory, which replaces ``path`` in one step. Something that is not
    a regular file (a pipe, a device) is written to directly, because replacing it would destroy it.

    Raises:
        ResourceError: the directory is missing, not writable, or full.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            _replace(path, data)
    except OSError as error:
        raise ResourceError(
            f"cannot write {path} ({len(data):,} bytes): {error.strerror or error}; nothing was written"
        ) from error


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
