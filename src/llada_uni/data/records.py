"""One training sample as people write it: turns of text and pictures. The form in which data is imported and exchanged.

A file of records is JSON lines. A picture is named by a path (relative to the file) before its tokens are extracted; a
record may also carry the tokens themselves. Source: training specification §5.3; ``image`` and ``sha256`` are ours.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from llada_uni.config import from_mapping, to_mapping
from llada_uni.errors import ConfigError, ResourceError

__all__ = [
    "RECORDS_FILE",
    "SKIPPED_FILE",
    "TASKS",
    "Record",
    "RecordSegment",
    "Role",
    "Skipped",
    "Task",
    "dump_record",
    "dump_skipped",
    "parse_record",
    "read_records",
    "write_lines",
    "write_records",
]

Task = Literal[
    "t2i", "cap", "vqa", "ocr", "ground", "count", "text", "edit", "multiref", "interleave", "t2i_think", "reason"
]
Role = Literal["system", "user", "assistant"]
TASKS: tuple[Task, ...] = get_args(Task)
RECORDS_FILE = "records.jsonl"
SKIPPED_FILE = "skipped.jsonl"


@dataclass(frozen=True, kw_only=True)
class RecordSegment:
    """A piece of one modality: ``text``; or a picture, by its path ``image``, its codes ``ids``, or both.

    ``ids`` are codebook indices [h*w], row-major, of ``h`` rows and ``w`` columns of token cells. ``sha256`` is the
    digest of the picture's file. ``supervised``: the model learns to write this.

    Raises:
        ConfigError: fields that contradict each other.
    """

    role: Role
    kind: Literal["text", "image"]
    text: str | None = None
    image: str | None = None
    sha256: str | None = None
    ids: tuple[int, ...] | None = None
    h: int | None = None
    w: int | None = None
    supervised: bool = False

    def __post_init__(self) -> None:
        has_picture = self.image is not None or self.ids is not None
        if self.kind == "text" and (self.text is None or has_picture or self.sha256 or self.h or self.w):
            raise ConfigError("a segment of kind 'text' has a text and nothing of a picture")
        if self.kind == "image" and (self.text is not None or not has_picture):
            raise ConfigError("a segment of kind 'image' has an image or ids, and no text")
        if self.ids is not None and (self.h or 0) * (self.w or 0) != len(self.ids):
            raise ConfigError(
                f"a picture of {len(self.ids)} ids needs h and w with that product, got {self.h}, {self.w}"
            )
        if self.ids and not 0 <= min(self.ids) <= max(self.ids) < 2**16:
            raise ConfigError(f"ids: expected codebook indices in 0..65535, got {min(self.ids)}..{max(self.ids)}")
        if self.supervised and self.role != "assistant":
            raise ConfigError(f"only what the assistant writes can be supervised, got role {self.role!r}")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A sample. ``id`` is unique in its data set; ``weight`` multiplies its loss; ``meta`` is free, for example scores.

    ``n_tokens`` and ``n_target`` are the numbers of tokens and of supervised tokens, 0 until tokens are extracted.

    Raises:
        ConfigError: an empty id, no segments, nothing to learn, or a weight that is not positive.
    """

    id: str
    task: Task
    segments: tuple[RecordSegment, ...]
    n_tokens: int = 0
    n_target: int = 0
    source: str = ""
    weight: float = 1.0
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id.strip() or any(ord(letter) < 32 for letter in self.id):
            raise ConfigError(f"id: expected a name without control characters, got {self.id!r}")
        if not any(part.supervised for part in self.segments):
            raise ConfigError("expected at least one supervised segment of the assistant, got none")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ConfigError(f"weight: expected a positive number, got {self.weight}")
        if min(self.n_tokens, self.n_target) < 0:
            raise ConfigError(f"expected counts of at least 0, got {self.n_tokens} and {self.n_target}")


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A sample that was left out: its id, or its place where it has none, and why, in one line."""

    id: str
    reason: str


def parse_record(line: str, source: str) -> Record:
    """The record on one line; ``source`` names the place in messages.

    Raises:
        ConfigError: not JSON, an unknown key (the nearest known one is named), a missing one, or a wrong value.
    """
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{source}: not valid JSON ({error.msg} at character {error.pos})") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: expected a JSON object, got {type(value).__name__}")
    try:
        return from_mapping(Record, value, source=source)
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(source) else f"{source}: {message}") from error


def dump_record(record: Record) -> str:
    """One line of JSON; fields at their defaults are left out."""
    value = _without(to_mapping(record), {"n_tokens": 0, "n_target": 0, "source": "", "weight": 1.0, "meta": {}})
    empty = dict.fromkeys(("text", "image", "sha256", "ids", "h", "w"))
    value["segments"] = [_without(part, {**empty, "supervised": False}) for part in value["segments"]]
    line = json.dumps(value, ensure_ascii=False)
    return line if line.isascii() or _is_unicode(line) else json.dumps(value)


def dump_skipped(skipped: Iterable[Skipped]) -> Iterator[str]:
    """Lines of a report of what was left out."""
    return (json.dumps({"id": one.id, "reason": one.reason}) for one in skipped)


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file, in order; empty lines are passed over.

    Raises:
        ConfigError: the file is missing, or a line is not a record (its number is named).
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield parse_record(line, f"{path.name}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Writes a file of records, completely or not at all; returns how many.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    return write_lines(path, (dump_record(record) for record in records))


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Writes lines of text to a file that appears when it is complete; returns how many.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            for count, line in enumerate(lines, start=1):  # noqa: B007
                file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error}; nothing was changed") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _without(value: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {key: entry for key, entry in value.items() if key not in defaults or entry != defaults[key]}
