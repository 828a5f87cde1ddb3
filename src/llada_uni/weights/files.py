"""Files and directories that appear completely or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from llada_uni.errors import ResourceError

__all__ = ["Writer", "json_writer", "replacing", "text_writer", "write_files"]

Writer = Callable[[Path], None]
"""Writes one whole file to the path it is given."""


def write_files(folder: Path, writers: Mapping[str, Writer], *, obsolete: Iterable[Path] = ()) -> None:
    """Write several files of ``folder`` together, then delete ``obsolete``.

    Every file is complete under a temporary name and on the disk before the first one is renamed.

    Raises:
        ResourceError: writing failed; the temporary files are gone and the folder is as it was.
    """
    token, written = secrets.token_hex(4), False
    temporary = {name: folder / f".{name}.{token}.tmp" for name in writers}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, writer in writers.items():
            writer(temporary[name])
            _flush(temporary[name])
        written = True
        for name, path in temporary.items():
            path.replace(folder / name)
    except (OSError, SafetensorError) as error:
        state = "some files may be the new ones" if written else "nothing was changed"
        raise ResourceError(f"cannot write {folder}: {error}; {state}") from error
    finally:
        for path in temporary.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    for path in obsolete:
        path.unlink(missing_ok=True)


def json_writer(value: Mapping[str, Any]) -> Writer:
    """Writer of an indented JSON object."""
    return text_writer(json.dumps(value, indent=2) + "\n")


def text_writer(text: str) -> Writer:
    """Writer of a UTF-8 text."""

    def write(path: Path) -> None:
        path.write_bytes(text.encode("utf-8"))

    return write


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary directory beside ``target`` that takes its place when the block ends without an error.

    Raises:
        ResourceError: the disk is full or not writable; ``target`` is as it was.
    """
    token = secrets.token_hex(4)
    temporary = target.with_name(f".{target.name}.{token}.tmp")
    previous = target.with_name(f".{target.name}.{token}.old")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if target.exists():
            target.replace(previous)
        temporary.replace(target)
    except ResourceError as error:
        raise ResourceError(str(error).replace(str(temporary), str(target))) from error
    except OSError as error:
        raise ResourceError(f"cannot write {target}: {error}; nothing was changed") from error
    finally:
        if previous.exists() and not target.exists():
            previous.replace(target)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)
