"""Reads the data files of suites: JSON, JSON lines, CSV and TSV; an entry that cannot be used becomes a BadItem."""

from __future__ import annotations

import base64
import binascii
import csv
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from llada_uni.errors import ConfigError
from llada_uni.evaluation.items import UNREADABLE, BadItem, Item

__all__ = ["Entry", "each", "first_of", "picture_files", "read_entries", "text_of"]

Entry = dict[str, Any]


def read_entries(path: Path, *, key: str | None = None) -> list[Entry | str]:
    """The entries of a file; a line that is not JSON comes as a string that says why.

    ``.jsonl`` has an object a line, ``.json`` a list (or an object whose ``key`` or ``data`` is one), ``.csv`` and
    ``.tsv`` a header line.

    Raises:
        ConfigError: the file is missing, not UTF-8, or not of a known kind.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if path.suffix == ".jsonl":
        return [_object(line, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if path.suffix == ".json":
        return _list(text, path, key)
    if path.suffix in (".csv", ".tsv"):
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        rows = csv.DictReader(text.splitlines(keepends=True), delimiter="," if path.suffix == ".csv" else "\t")
        return [dict(row) for row in rows]
    raise ConfigError(f"{path}: expected a .json, .jsonl, .csv or .tsv file")


def each(
    entries: Iterable[Entry | str],
    make: Callable[[Entry, int], Item],
    *,
    part: str | None = None,
    copies: int = 1,
) -> list[Item | BadItem]:
    """``make(entry, index)`` for every entry; what it cannot use (KeyError, ValueError, TypeError) is a BadItem.

    A BadItem counts ``copies`` times in the category that its field ``part`` names, if that can be read.
    """
    made: list[Item | BadItem] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, str):
            made.append(BadItem(id=f"entry {index}", reason=entry))
            continue
        try:
            made.append(make(entry, index))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            reason = f"no field {error.args[0]!r}" if isinstance(error, KeyError) else " ".join(str(error).split())
            known = entry.get(part) if part else None
            parts = (known if isinstance(known, str) and known else UNREADABLE,) * copies
            made.append(BadItem(id=f"entry {index}", reason=reason, parts=parts))
    return made


def first_of(entry: Entry, names: Sequence[str]) -> Any:
    """The first of the fields ``names`` that ``entry`` has.

    Raises:
        KeyError: it has none.
    """
    for name in names:
        if entry.get(name) not in (None, ""):
            return entry[name]
    raise KeyError(" or ".join(names))


def text_of(value: Any) -> str:
    """``value`` if it is words.

    Raises:
        ValueError: it is not, or is empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected words, got {value!r}")
    return value


def picture_files(value: Any, root: Path) -> tuple[Path | bytes, ...]:
    """Pictures named below ``root`` or given as base64.

    Raises:
        ValueError: a file does not exist or leaves ``root``, or it is no base64.
    """
    names = value if isinstance(value, list) else [value]
    return tuple(_picture(name, root) for name in names)


def _picture(name: Any, root: Path) -> Path | bytes:
    if not isinstance(name, str) or not name:
        raise ValueError(f"expected the name of a picture, got {str(name)[:40]!r}")
    if len(name) > 1000:
        try:
            return base64.b64decode(name, validate=True)
        except binascii.Error as error:
            raise ValueError(f"a picture is not base64: {error}") from error
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"the picture {name!r} lies outside {root.name!r}")
    if not path.is_file():
        raise ValueError(f"no picture {name!r}")
    return path


def _object(line: str, number: int) -> Entry | str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return f"line {number} is not JSON: {error.msg}"
    return value if isinstance(value, dict) else f"line {number} is not an object"


def _list(text: str, path: Path, key: str | None) -> list[Entry | str]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON: {error.msg} at line {error.lineno}") from error
    if isinstance(value, dict):
        value = value.get(key or "data")
    if not isinstance(value, list):
        raise ConfigError(f"{path}: expected a list of objects{f', or an object with {key!r}' if key else ''}")
    return [one if isinstance(one, dict) else f"entry {index} is not an object" for index, one in enumerate(value)]
