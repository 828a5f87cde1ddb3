"""From what people have to a folder of records: pictures are read and judged, samples checked, exceptions reported."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from PIL import Image

from llada_uni.data.drafts import Draft, Part, Picture, Turn
from llada_uni.data.filters import ClipFilter, PictureFilter
from llada_uni.data.import_files import Drafts, SourceOptions, read_folder, read_jsonl, read_tars
from llada_uni.data.import_tables import read_hub, read_parquet, read_saved
from llada_uni.data.records import (
    RECORDS_FILE,
    SKIPPED_FILE,
    Record,
    RecordSegment,
    Skipped,
    dump_record,
    dump_skipped,
    write_lines,
)
from llada_uni.errors import ConfigError, ImageError, LladaUniError
from llada_uni.image_tokenizer.images import MAX_PIXELS, load_image

__all__ = ["SOURCE_KINDS", "ImportResult", "ImportRules", "SourceKind", "import_records", "open_source"]

SourceKind = Literal["auto", "folder", "jsonl", "tar", "parquet", "saved", "hub"]
SOURCE_KINDS: tuple[SourceKind, ...] = ("auto", "folder", "jsonl", "tar", "parquet", "saved", "hub")
_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_PICTURES = "images"


@dataclass(frozen=True, kw_only=True)
class ImportRules:
    """What is let in. ``limit``: stop after that many records. Pictures of more than ``max_pixels`` are left out.

    Raises:
        ConfigError: a number below 1.
    """

    pictures: PictureFilter = field(default_factory=PictureFilter)
    clips: ClipFilter = field(default_factory=ClipFilter)
    max_pixels: int = MAX_PIXELS
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("max_pixels", self.max_pixels), ("limit", self.limit)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """Numbers of records written and samples left out, and the files that hold them."""

    records: int
    skipped: int
    records_file: Path
    skipped_file: Path


def open_source(source: str, kind: SourceKind, options: SourceOptions) -> Drafts:
    """The reader of ``source``; ``"auto"`` goes by what it is: a folder, a file's ending, or a name on the hub.

    Raises:
        ConfigError: nothing of that kind is there.
    """
    path = Path(source).expanduser()
    kind = _kind(source, path) if kind == "auto" else kind
    if kind == "hub":
        return read_hub(source, options)
    if not path.exists():
        raise ConfigError(f"no file or folder {source!r}")
    if kind in ("folder", "saved"):
        if not path.is_dir():
            raise ConfigError(f"{source!r} is a file; expected a folder")
        return read_folder(path, options) if kind == "folder" else read_saved(path, options)
    if kind == "jsonl":
        return read_jsonl(_single(path, (".jsonl", ".ndjson")))
    endings = _TAR_ENDINGS if kind == "tar" else (".parquet",)
    return (read_tars if kind == "tar" else read_parquet)(_files(path, endings), options)


def import_records(
    drafts: Drafts,
    out: Path,
    rules: ImportRules | None = None,
    *,
    name: str = "",
    report: Callable[[int, int], None] | None = None,
) -> ImportResult:
    """Writes ``records.jsonl`` and ``skipped.jsonl`` in ``out``; pictures that are no files are stored in ``images/``.

    Every picture is decoded. What cannot be used is told in ``skipped.jsonl`` with its id and the reason. ``report`` is
    called with the numbers of records and of skipped samples so far. Both files appear together, at the end.

    Raises:
        ConfigError: no record was left. ResourceError: the disk is full or not writable.
    """
    rules = rules or ImportRules()
    desk = _Desk(out=out, rules=rules, name=name)
    out.mkdir(parents=True, exist_ok=True)
    kept = islice(desk.records(drafts, report), rules.limit)
    partial = out / f".{RECORDS_FILE}.new"
    try:
        count = write_lines(partial, (dump_record(record) for record in kept))
        skipped = write_lines(out / SKIPPED_FILE, dump_skipped(desk.skipped))
        if not count:
            first = f"; the first: {desk.skipped[0].id}: {desk.skipped[0].reason}" if desk.skipped else ""
            raise ConfigError(f"no sample was left of {skipped} ({out / SKIPPED_FILE} says why){first}")
        os.replace(partial, out / RECORDS_FILE)
    finally:
        partial.unlink(missing_ok=True)
    return ImportResult(
        records=count, skipped=skipped, records_file=out / RECORDS_FILE, skipped_file=out / SKIPPED_FILE
    )


@dataclass(kw_only=True)
class _Desk:
    """Turns drafts into records one by one; keeps the ids it has seen and what it left out."""

    out: Path
    rules: ImportRules
    name: str
    skipped: list[Skipped] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def records(self, drafts: Drafts, report: Callable[[int, int], None] | None) -> Iterator[Record]:
        count = 0
        for draft in drafts:
            record = draft if isinstance(draft, Skipped) else self._checked(draft)
            if isinstance(record, Skipped):
                self.skipped.append(record)
            else:
                self.seen.add(record.id)
                count += 1
                yield record
            if report is not None:
                report(count, len(self.skipped))

    def _checked(self, draft: Draft) -> Record | Skipped:
        try:
            if draft.id in self.seen:
                raise ConfigError("another sample has the same id")
            return self._record(draft)
        except LladaUniError as error:
            return Skipped(id=draft.id, reason=str(error))

    def _record(self, draft: Draft) -> Record:
        words = "\n".join(part for turn in draft.turns for part in turn.parts if isinstance(part, str))
        segments = []
        for turn in draft.turns:
            for part in turn.parts:
                segments.append(self._segment(turn, part, words))
        frames = sum(part.kind == "image" for part in segments)
        objection = self.rules.clips.objection(draft.meta, frames) if draft.task == "interleave" else None
        if objection is not None:
            raise ConfigError(objection)
        return Record(
            id=draft.id, task=draft.task, segments=tuple(segments), source=draft.source or self.name,
            weight=draft.weight, meta=draft.meta,
        )  # fmt: skip

    def _segment(self, turn: Turn, part: Part, words: str) -> RecordSegment:
        if isinstance(part, str):
            return RecordSegment(role=turn.role, kind="text", text=part, supervised=turn.supervised)
        place, digest = self._picture(part, words)
        return RecordSegment(role=turn.role, kind="image", image=place, sha256=digest, supervised=turn.supervised)

    def _picture(self, picture: Picture, words: str) -> tuple[str, str]:
        """Place and digest of a picture that can be read and passes the filter."""
        content = _content(picture)
        image = load_image(content, max_pixels=self.rules.max_pixels)
        objection = self.rules.pictures.objection(image, len(content), words)
        if objection is not None:
            raise ConfigError(objection)
        digest = hashlib.sha256(content).hexdigest()
        if isinstance(picture, bytes):
            return self._stored(content, digest), digest
        return os.path.relpath(picture.resolve(), self.out.resolve()), digest

    def _stored(self, content: bytes, digest: str) -> str:
        """The place of a picture that came as bytes, named by its digest and written once."""
        with Image.open(io.BytesIO(content)) as image:
            ending = (image.format or "img").lower()
        path = self.out / _PICTURES / digest[:2] / f"{digest[:32]}.{ending}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            partial.write_bytes(content)
            os.replace(partial, path)
        return path.relative_to(self.out).as_posix()


def _content(picture: Picture) -> bytes:
    try:
        return picture if isinstance(picture, bytes) else picture.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read the picture {picture!s}: {getattr(error, 'strerror', None) or error}") from error


def _kind(source: str, path: Path) -> SourceKind:
    if path.is_dir():
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            return "saved"
        names = [one.name.lower() for one in path.iterdir()]
        if any(name.endswith(_TAR_ENDINGS) for name in names):
            return "tar"
        return "parquet" if any(name.endswith(".parquet") for name in names) else "folder"
    if path.exists() or not _looks_like_hub(source):
        lower = path.name.lower()
        return "tar" if lower.endswith(_TAR_ENDINGS) else "parquet" if lower.endswith(".parquet") else "jsonl"
    return "hub"


def _looks_like_hub(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "~", "/")) and "." not in source.split("/")[0]


def _single(path: Path, endings: tuple[str, ...]) -> Path:
    if path.is_file():
        return path
    found = _files(path, endings)
    if len(found) > 1:
        raise ConfigError(f"{path} holds {len(found)} files; name one of them, such as {found[0].name}")
    return found[0]


def _files(path: Path, endings: tuple[str, ...]) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(one for one in path.rglob("*") if one.name.lower().endswith(endings) and one.is_file())
    if not found:
        raise ConfigError(f"{path} holds no file that ends with {' or '.join(endings)}")
    return found
