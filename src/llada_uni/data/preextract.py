"""Tokens extracted once, before training: records -> codes of their pictures and ids of their prompts and targets.

Shard k is made of the same lines of the records' file whenever and wherever it is made, and it appears in one move. A
run that was killed is simply run again: it makes the shards that are missing. Several processes or machines that share
the folder take every n-th shard each (``part``); who finds all shards there writes the manifest.

A shard is made again when its records, the tokenizers or the options change. A picture is known by the digest in its
record: without one, a file that changes under the same name is not noticed (``restart``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llada_uni.data.extractor import ExtractOptions, Extractor, id_of
from llada_uni.data.records import RECORDS_FILE, SKIPPED_FILE, Skipped, dump_skipped, write_lines
from llada_uni.data.token_shards import (
    MANIFEST_FILE,
    Manifest,
    Shard,
    shard_mark,
    shard_name,
    write_manifest,
    write_shard,
)
from llada_uni.errors import ConfigError
from llada_uni.weights.load import load_backbone_config, load_geometry, load_vocab

__all__ = [
    "Chunk",
    "ExtractResult",
    "ShardMaker",
    "ShardWork",
    "checkpoint_mark",
    "concluded",
    "extract_tokens",
    "records_file",
    "shard_works",
]

_FORMAT = "tokens 1"
_REMAINS = ("tokens-*.safetensors", ".tokens-*.safetensors.*", f".{MANIFEST_FILE}.*", f".{SKIPPED_FILE}.*")


@dataclass(frozen=True, kw_only=True)
class ExtractResult:
    """``written`` shards were made, ``kept`` were there. ``manifest`` is None while other parts are missing."""

    written: int
    kept: int
    manifest: Manifest | None


def extract_tokens(
    records: Path,
    checkpoint: Path,
    out: Path,
    options: ExtractOptions | None = None,
    *,
    report: Callable[[int, int], None] | None = None,
) -> ExtractResult:
    """Extracts a file of records (or the ``records.jsonl`` of a folder) with the tokenizers of ``checkpoint``.

    Writes shards, ``skipped.jsonl`` and at last the manifest into ``out``. Records that cannot be used are told there
    with id and reason. ``report`` is called with the number of the shard and of its samples after each.

    Raises:
        ConfigError: no such file, or no usable record in it. CheckpointError: the checkpoint cannot be read.
        ResourceError: the disk is full or not writable.
    """
    options = options or ExtractOptions()
    maker: ShardMaker | None = None
    marks, written = list[str](), 0
    for work in shard_works(records, checkpoint, out, options):
        marks.append(work.mark)
        if not work.wanted:
            continue
        maker = maker or ShardMaker(records, checkpoint, out, options)
        samples = maker(work)
        written += 1
        if report is not None:
            report(work.chunk.index, samples)
    return concluded(records, checkpoint, out, options, marks, written)


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """One shard: its lines, what it will be made from, and whether it is to be made in this run."""

    chunk: Chunk
    mark: str
    wanted: bool


def shard_works(records: Path, checkpoint: Path, out: Path, options: ExtractOptions) -> Iterator[ShardWork]:
    """Every shard of a file of records, in order. Errors as for :func:`extract_tokens`."""
    positions = load_backbone_config(checkpoint).max_position_embeddings
    before = f"{_FORMAT} {checkpoint_mark(checkpoint)} {positions} {options.max_tokens} {options.block_length}"
    for chunk in _chunks(records_file(records), options.shard_size):
        mark = chunk.mark(before)
        is_there = shard_mark(out / shard_name(chunk.index)) == mark and not options.restart
        mine = chunk.index % options.part[1] == options.part[0]
        yield ShardWork(chunk=chunk, mark=mark, wanted=mine and not is_there)


def records_file(records: Path) -> Path:
    """The file of a folder that import wrote, or the file itself."""
    return records / RECORDS_FILE if records.is_dir() else records


class ShardMaker:
    """The tokenizers of a checkpoint, ready to make shards."""

    def __init__(self, records: Path, checkpoint: Path, out: Path, options: ExtractOptions) -> None:
        self._records, self._out = records_file(records), out
        self._extractor = Extractor.load(checkpoint, options)

    def __call__(self, work: ShardWork) -> int:
        """Makes and writes one shard; the number of its samples. Errors as for :func:`extract_tokens`."""
        (self._out / MANIFEST_FILE).unlink(missing_ok=True)
        samples, skipped = self._extractor.shard(work.chunk.lines(self._records.name), self._records.parent)
        write_shard(self._out / shard_name(work.chunk.index), samples, [*skipped, *work.chunk.repeated], work.mark)
        return len(samples)


def concluded(
    records: Path, checkpoint: Path, out: Path, options: ExtractOptions, marks: Sequence[str], written: int
) -> ExtractResult:
    """The result of a run over all shards with these marks, ``written`` of them made; the manifest if all are there.

    Raises:
        ConfigError: there was no record, or no usable one.
    """
    if not marks:
        raise ConfigError(f"{records_file(records)} holds no records")
    manifest = _manifest(out, marks, checkpoint_mark(checkpoint), options)
    own = len(range(options.part[0], len(marks), options.part[1]))
    return ExtractResult(written=written, kept=own - written, manifest=manifest)


def checkpoint_mark(checkpoint: Path) -> str:
    """Digest of all that ids depend on: the files of both tokenizers, the vocabulary's sizes and the geometry."""
    digest = hashlib.sha256(repr((load_geometry(checkpoint), load_vocab(checkpoint).image_offset)).encode())
    folder = checkpoint / "image_tokenizer"
    files = [p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".safetensors") and "sigvq" not in p.name]
    for path in (checkpoint / "tokenizer.json", *files):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@dataclass(kw_only=True)
class Chunk:
    """Lines of one shard with their numbers in the file; a line whose id came before is only told of."""

    index: int
    numbers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    repeated: list[Skipped] = field(default_factory=list)

    def mark(self, before: str) -> str:
        """Digest of the lines and of ``before``, everything else that a shard depends on."""
        digest = hashlib.sha256(before.encode())
        for text in (*self.texts, *(f"{one.id} {one.reason}" for one in self.repeated)):
            digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        return digest.hexdigest()

    def lines(self, name: str) -> list[tuple[str, str]]:
        """Place and text of every line."""
        return [(f"{name}:{number}", text) for number, text in zip(self.numbers, self.texts, strict=True)]


def _chunks(path: Path, size: int) -> Iterator[Chunk]:
    """The lines of a file, ``size`` at a time; empty ones do not count."""
    seen, chunk, index = set[bytes](), Chunk(index=0), 0
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                if len(chunk.numbers) + len(chunk.repeated) == size:
                    yield chunk
                    index += 1
                    chunk = Chunk(index=index)
                name = id_of(line)
                digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).digest()
                if name and digest in seen:
                    chunk.repeated.append(Skipped(id=name, reason=f"line {number}: another record has the same id"))
                    continue
                seen.add(digest)
                chunk.numbers.append(number)
                chunk.texts.append(line)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}; import records first") from error
    if chunk.numbers or chunk.repeated:
        yield chunk


def _manifest(out: Path, marks: Sequence[str], mark: str, options: ExtractOptions) -> Manifest | None:
    """Writes the manifest if every shard is there; shards of other records and remains of killed runs go."""
    paths = [out / shard_name(index) for index in range(len(marks))]
    if any(shard_mark(path) != wanted for path, wanted in zip(paths, marks, strict=True)):
        return None
    shards = [Shard(path) for path in paths]
    skipped = [one for shard in shards for one in shard.skipped()]
    write_lines(out / SKIPPED_FILE, dump_skipped(skipped))
    if not any(len(shard) for shard in shards):
        told = f"{skipped[0].id}: {skipped[0].reason}"
        raise ConfigError(f"no record was left of {len(skipped)} ({out / SKIPPED_FILE} says why); the first: {told}")
    entries = tuple(shard.entry() for shard in shards)
    manifest = Manifest(checkpoint_mark=mark, shard_size=options.shard_size, shards=entries)
    write_manifest(out, manifest)
    names = {path.name for path in paths}
    for path in (path for pattern in _REMAINS for path in out.glob(pattern)):
        if path.name not in names:
            path.unlink(missing_ok=True)
    return manifest
