"""Where results go: file names, standard output, standard input."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

from llada_uni.errors import ConfigError, PromptError, ResourceError

__all__ = [
    "STANDARD",
    "checked_path",
    "emit",
    "free_path",
    "note",
    "read_stdin_bytes",
    "read_stdin_text",
    "slug",
    "target",
    "write_stdout",
]

STANDARD = "-"
_SLUG_LENGTH = 48


def emit(text: str) -> None:
    """Print one result on standard output."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def emit_json(value: dict[str, Any]) -> None:
    """Print ``value`` as the one JSON object of a ``--json`` run."""
    emit(json.dumps(value, ensure_ascii=False))


def note(text: str) -> None:
    """Say something beside the result, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def write_stdout(data: bytes) -> None:
    """Write raw bytes (a picture) on standard output."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def read_stdin_text() -> str:
    """Everything on standard input as text, without the final line break.

    Raises:
        PromptError: standard input is not UTF-8.
    """
    try:
        return sys.stdin.buffer.read().decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise PromptError(f"standard input: expected UTF-8 text, got byte {error.object[error.start]:#04x}") from error


def read_stdin_bytes() -> bytes:
    """Everything on standard input."""
    return sys.stdin.buffer.read()


def slug(text: str) -> str:
    """File name stem made of ``text``: lower-case ASCII words joined by hyphens, at most 48 characters."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")
    return words[:_SLUG_LENGTH].strip("-") or "picture"


def free_path(stem: str, suffix: str) -> Path:
    """``stem + suffix`` in the working directory, or with the first free counter: nothing is overwritten."""
    path, counter = Path(stem + suffix), 2
    while path.exists():
        path, counter = Path(f"{stem}-{counter}{suffix}"), counter + 1
    return path


def target(output: str | None, *, as_json: bool) -> Path | None:
    """The explicit output path, or None for a default name or standard output.

    Raises:
        ConfigError: ``-`` together with ``--json`` (both want standard output), or an empty name.
        ResourceError: the directory does not exist, or the name is a directory.
    """
    if output is None:
        return None
    if output == STANDARD:
        if as_json:
            raise ConfigError("--output - and --json both write to standard output; choose one of them")
        return None
    return checked_path(output, "--output")


def checked_path(name: str, option: str) -> Path:
    """The path that ``option`` names, in a directory that exists.

    Raises:
        ResourceError: the directory does not exist, or the name is a directory or empty.
    """
    path = Path(name)
    if not name.strip() or path.is_dir():
        raise ResourceError(f"{option}: expected a file name, got {'a directory: ' if name.strip() else ''}{name!r}")
    if not path.parent.is_dir():
        raise ResourceError(f"{option}: the directory {str(path.parent)!r} does not exist; create it first")
    return path
