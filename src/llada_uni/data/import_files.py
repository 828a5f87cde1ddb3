"""Drafts from files: folders of pictures with captions, JSON lines, WebDataset tars.

Every reader yields drafts, and a ``Skipped`` for what it cannot make one of; it never raises for a single sample.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llada_uni.data.drafts import QUESTION, Draft, caption_in, captioned, conversation, find_in, from_record
from llada_uni.data.records import Skipped, Task, parse_record
from llada_uni.errors import ConfigError

__all__ = ["IMAGE_SUFFIXES", "Drafts", "SourceOptions", "read_folder", "read_jsonl", "read_tars"]

Drafts = Iterator[Draft | Skipped]
IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm",
)  # fmt: skip
_METADATA = "metadata.jsonl"
_TEXT_SUFFIXES = (".txt", ".caption")
_FILE_KEYS = ("file_name", "image", "file", "path")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How captions become samples, and where tables keep what.

    ``tasks``: one sample of each per captioned picture; ``question`` is asked where the caption is the answer.
    ``image_column`` and ``text_column`` of tables are found by their usual names when not given; ``split`` and
    ``config_name`` choose a part of a hub data set. ``max_bytes``: larger members of tars are not read.
    """

    tasks: tuple[Task, ...] = ("t2i",)
    question: str = QUESTION
    image_column: str | None = None
    text_column: str | None = None
    split: str = "train"
    config_name: str | None = None
    max_bytes: int = 2**28


def read_folder(folder: Path, options: SourceOptions) -> Drafts:
    """Pictures in ``folder`` and below it, in the order of their names.

    A caption stands in a text file of the picture's name (``x.png``, ``x.txt``), or in a ``metadata.jsonl`` beside the
    picture, one object per line with ``file_name`` and ``text``.
    """
    tables: dict[Path, Mapping[str, Mapping[str, Any]]] = {}
    for path in sorted(folder.rglob("*")):
        if path.name == _METADATA:
            yield from _told_but_absent(path)
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.parent not in tables:
            tables[path.parent] = _metadata(path.parent / _METADATA)
        try:
            caption = _caption_of(path, tables[path.parent])
            yield from captioned(_unique(name, path), path, caption, options.tasks, options.question)
        except ConfigError as error:
            yield Skipped(id=path.relative_to(folder).as_posix(), reason=str(error))


def _unique(name: str, path: Path) -> str:
    """The name without its ending, unless a picture with another ending has the same."""
    twins = [other for other in path.parent.glob(f"{_escaped(path.stem)}.*") if other.suffix.lower() in IMAGE_SUFFIXES]
    return name if len(twins) < 2 else name + path.suffix


def _escaped(stem: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in stem)


def _caption_of(path: Path, table: Mapping[str, Mapping[str, Any]]) -> object:
    if path.name in table:
        return caption_in(table[path.name])
    beside = next((path.with_suffix(end) for end in _TEXT_SUFFIXES if path.with_suffix(end).is_file()), None)
    if beside is None:
        raise ConfigError(f"no caption; expected {path.with_suffix('.txt').name} or a line in {_METADATA}")
    return _text(_bytes_of(beside), beside.name)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path.name}: {error.strerror or error}") from error


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 text ({error.reason} at byte {error.start})") from error


def _metadata(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """File name -> fields, of the lines that can be read (the others are reported by :func:`_told_but_absent`)."""
    if not path.is_file():
        return {}
    rows = (row for _, row in _objects(path) if isinstance(row, Mapping))
    return {name: row for row in rows if (name := _named(row)) is not None}


def _told_but_absent(path: Path) -> Iterator[Skipped]:
    for number, row in _objects(path):
        name = _named(row) if isinstance(row, Mapping) else None
        if name is None:
            reason = row if isinstance(row, str) else f"expected an object with {_FILE_KEYS[0]}"
            yield Skipped(id=f"{path.name}:{number}", reason=reason)
        elif not (path.parent / name).is_file():
            yield Skipped(id=f"{path.name}:{number}", reason=f"no picture {name!r}")


def _named(row: Mapping[str, Any]) -> str | None:
    return next((row[key] for key in _FILE_KEYS if isinstance(row.get(key), str)), None)


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and value of every line that is not empty; the value is a reason in words where it is not JSON."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8-sig"))
            except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
                yield number, f"not valid JSON ({type(error).__name__})"


def read_jsonl(path: Path) -> Drafts:
    """Records or conversations (``drafts.conversation``), one per line. Paths are relative to the file."""
    find = find_in(path.parent)
    for number, value in _objects(path):
        place = f"{path.name}:{number}"
        if not isinstance(value, Mapping):
            told = value if isinstance(value, str) else f"expected an object, got {type(value).__name__}"
            yield Skipped(id=place, reason=told)
            continue
        name = str(value["id"]) if isinstance(value.get("id"), str | int) else place
        try:
            if "segments" in value:
                yield from_record(parse_record(json.dumps(value), place), find)
            else:
                yield conversation(name, value, find)
        except ConfigError as error:
            yield Skipped(id=name, reason=str(error))


def read_tars(paths: Sequence[Path], options: SourceOptions) -> Drafts:
    """Samples of WebDataset tars: neighbouring members of one name, told apart by what follows its first dot.

    A sample is a picture with ``txt``, ``caption`` or a ``json`` that holds its caption; or a ``json`` with messages.
    """
    for path in paths:
        key, members = "", dict[str, bytes]()
        try:
            with tarfile.open(path, "r|*") as archive:
                for member in archive:
                    name, ending = _split(member.name)
                    if name != key and members:
                        yield from _from_members(f"{path.stem}/{key}", members, options)
                        members = {}
                    key = name
                    if not member.isfile() or not ending:
                        continue
                    if member.size > options.max_bytes:
                        yield Skipped(id=f"{path.stem}/{name}.{ending}", reason=f"{member.size:,} bytes are too many")
                        continue
                    content = archive.extractfile(member)
                    members[ending] = content.read() if content else b""
            if members:
                yield from _from_members(f"{path.stem}/{key}", members, options)
        except (tarfile.TarError, OSError, EOFError) as error:
            yield Skipped(id=f"{path.stem}/{key}", reason=f"{path.name} breaks off here: {error}")


def _split(name: str) -> tuple[str, str]:
    """Key and lower-case ending of a member, split at the first dot of its last part."""
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return (path.parent / stem).as_posix() if path.parent != PurePosixPath(".") else stem, ending.lower()


def _from_members(name: str, members: Mapping[str, bytes], options: SourceOptions) -> Drafts:
    try:
        values = _json(members.get("json"))
        picture = next((data for end, data in members.items() if f".{end.split('.')[-1]}" in IMAGE_SUFFIXES), None)
        if "messages" in values or "conversations" in values:
            yield conversation(name, {"images": [] if picture is None else [picture], **values}, _bytes_or(members))
            return
        if picture is None:
            raise ConfigError(f"no picture among {', '.join(members)}")
        words = next((members[end[1:]] for end in _TEXT_SUFFIXES if end[1:] in members), None)
        caption = caption_in(values) if words is None else _text(words, "the caption")
        yield from captioned(name, picture, caption, options.tasks, options.question)
    except ConfigError as error:
        yield Skipped(id=name, reason=str(error))


def _json(content: bytes | None) -> Mapping[str, Any]:
    if content is None:
        return {}
    try:
        value = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"its json is not valid ({type(error).__name__})") from error
    if not isinstance(value, Mapping):
        raise ConfigError(f"its json: expected an object, got {type(value).__name__}")
    return value


def _bytes_or(members: Mapping[str, bytes]) -> Any:
    """Pictures as bytes, as the ending of a member, or as a data URI."""
    elsewhere = find_in(None)

    def find(value: Any) -> Any:
        if isinstance(value, str) and _split(value)[1] in members:
            return members[_split(value)[1]]
        return value if isinstance(value, bytes) else elsewhere(value)

    return find
