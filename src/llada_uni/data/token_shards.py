"""Files of compiled samples: flat arrays in safetensors, one file per shard, and a manifest once all are there.

A shard appears in one move and carries a digest of its contents and a *mark*: a digest of everything it was made from.
Samples are read one by one from the mapped file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from llada_uni.config import from_mapping, read_json, to_mapping
from llada_uni.data.block_rows import Branch, Segment
from llada_uni.data.compile_rows import DROPPED_WEIGHTS, CompiledSample, Variant
from llada_uni.data.records import Skipped, Task, write_lines
from llada_uni.errors import CheckpointError, ResourceError

__all__ = [
    "MANIFEST_FILE",
    "Manifest",
    "Shard",
    "ShardEntry",
    "read_manifest",
    "shard_mark",
    "shard_name",
    "write_manifest",
    "write_shard",
]

MANIFEST_FILE = "manifest.json"
_FORMAT = 1
_FACTS = "shard"
_KINDS = ("cond", *DROPPED_WEIGHTS)


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What the manifest knows of one shard; counts are of the samples as they are posed without dropout."""

    file: str
    mark: str
    digest: str
    samples: int
    skipped: int
    tokens: int
    target_tokens: int
    tasks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A complete set of shards. ``checkpoint_mark``: digest of the tokenizers and sizes that the ids belong to."""

    checkpoint_mark: str
    shard_size: int
    shards: tuple[ShardEntry, ...]
    format: int = _FORMAT

    @property
    def samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def tasks(self) -> dict[str, int]:
        """Number of samples of each task."""
        names = sorted({name for shard in self.shards for name in shard.tasks})
        return {name: sum(shard.tasks.get(name, 0) for shard in self.shards) for name in names}


def shard_name(index: int) -> str:
    """File name of a shard."""
    return f"tokens-{index:06d}.safetensors"


def write_shard(path: Path, samples: Sequence[CompiledSample], skipped: Sequence[Skipped], mark: str) -> None:
    """Writes a shard in one move.

    Raises:
        ResourceError: the disk is full or not writable; what was there stays.
    """
    arrays = _arrays(samples, skipped)
    facts = {"mark": mark, "digest": _digest(arrays), "format": _FORMAT}
    content = save(arrays, metadata={_FACTS: json.dumps(facts)})  # one entry: the file's bytes are always the same
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error}; nothing was changed") from error
    finally:
        partial.unlink(missing_ok=True)


def shard_mark(path: Path) -> str | None:
    """The mark of a shard; None when there is no shard or it cannot be opened."""
    try:
        with safe_open(path, framework="np") as file:
            return _facts_of(file).get("mark")
    except (OSError, SafetensorError, ValueError):
        return None


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes the manifest in one move. Errors as for :func:`write_shard`."""
    write_lines(directory / MANIFEST_FILE, [json.dumps(to_mapping(manifest), indent=1)])


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a complete extraction.

    Raises:
        CheckpointError: there is none, it is of another format, or a shard is missing.
    """
    path = directory / MANIFEST_FILE
    if not path.is_file():
        raise CheckpointError(f"no {MANIFEST_FILE} in {directory}; run llada-uni data extract (again) to its end")
    values = read_json(path)
    if values.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: format {values.get('format')!r}, expected {_FORMAT}; extract again")
    manifest = from_mapping(Manifest, values, source=str(path))
    missing = [shard.file for shard in manifest.shards if not (directory / shard.file).is_file()]
    if missing:
        raise CheckpointError(f"{directory}: missing {missing[0]} ({len(missing)} shards); run the extraction again")
    return manifest


class Shard:
    """A shard, opened: samples by index. Only the tables are in memory."""

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            CheckpointError: it is damaged or of another kind.
        """
        self.path = path
        try:
            self._file = safe_open(path, framework="np")
            self._tables = {name: self._read(name) for name in ("samples", "variants", "branches", "segments")}
            self.metadata: Mapping[str, Any] = _facts_of(self._file)
            self.info: list[dict[str, Any]] = _lines(self._read("info"))
        except (OSError, SafetensorError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged or no shard of tokens ({error}); extract it again") from error

    def __len__(self) -> int:
        return len(self._tables["samples"])

    def __getitem__(self, index: int) -> CompiledSample:
        """Sample ``index``."""
        facts = self.info[index]
        start, count = self._tables["samples"][index].tolist()
        variants = tuple(self._variant(number) for number in range(start, start + count))
        return CompiledSample(
            id=facts["id"],
            task=cast(Task, facts["task"]),
            variants=variants,
            source=facts["source"],
            weight=facts["weight"],
        )

    def verify(self) -> None:
        """Reads everything and compares the digest.

        Raises:
            CheckpointError: the contents have changed since they were written.
        """
        try:
            arrays = {name: self._read(name) for name in self._file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.path} cannot be read ({error}); extract it again") from error
        if _digest(arrays) != self.metadata.get("digest"):
            raise CheckpointError(f"{self.path}: contents do not fit their checksum; delete it and extract again")

    def skipped(self) -> list[Skipped]:
        """What was left out when the shard was made."""
        return [Skipped(**one) for one in _lines(self._read("skipped"))]

    def entry(self) -> ShardEntry:
        """The manifest's line about this shard."""
        tasks: dict[str, int] = {}
        for facts in self.info:
            tasks[facts["task"]] = tasks.get(facts["task"], 0) + 1
        return ShardEntry(
            file=self.path.name,
            mark=self.metadata["mark"],
            digest=self.metadata["digest"],
            samples=len(self),
            skipped=len(self.skipped()),
            tokens=sum(facts["n_tokens"] for facts in self.info),
            target_tokens=sum(facts["n_target"] for facts in self.info),
            tasks=tasks,
        )

    def _read(self, name: str) -> np.ndarray:
        return self._file.get_tensor(name)

    def _variant(self, index: int) -> Variant:
        kind, start, count = self._tables["variants"][index].tolist()
        return Variant(name=_KINDS[kind], branches=tuple(self._branch(i) for i in range(start, start + count)))

    def _branch(self, index: int) -> Branch:
        prompt, prompt_length, target, target_length, is_image, first, count = self._tables["branches"][index].tolist()
        parts = self._tables["segments"][first : first + count].tolist()
        return Branch(
            prompt=self._ids(prompt, prompt_length),
            target=self._ids(target, target_length),
            is_image=bool(is_image),
            segments=tuple(Segment(length=length, is_image=bool(image)) for length, image in parts),
        )

    def _ids(self, start: int, length: int) -> list[int]:
        return self._file.get_slice("ids")[start : start + length].tolist()


def _facts_of(file: Any) -> dict[str, Any]:
    return json.loads((file.metadata() or {}).get(_FACTS, "{}"))


def _arrays(samples: Sequence[CompiledSample], skipped: Sequence[Skipped]) -> dict[str, np.ndarray]:
    ids: list[int] = []
    tables: dict[str, list[Sequence[int]]] = {"samples": [], "variants": [], "branches": [], "segments": []}
    for sample in samples:
        places: dict[tuple[int, ...], int] = {}  # what variants share is stored once
        tables["samples"].append((len(tables["variants"]), len(sample.variants)))
        for variant in sample.variants:
            tables["variants"].append((_KINDS.index(variant.name), len(tables["branches"]), len(variant.branches)))
            for branch in variant.branches:
                first = len(tables["segments"])
                tables["segments"] += [(part.length, int(part.is_image)) for part in branch.segments]
                pieces = (_stored(ids, places, branch.prompt), _stored(ids, places, branch.target))
                row = (*pieces[0], *pieces[1], int(branch.is_image), first, len(branch.segments))
                tables["branches"].append(row)
    widths = {"samples": 2, "variants": 3, "branches": 7, "segments": 2}
    arrays: dict[str, np.ndarray] = {
        name: np.array(rows, dtype=np.int64).reshape(-1, widths[name]) for name, rows in tables.items()
    }
    arrays["ids"] = np.array(ids, dtype=np.int32)
    arrays["info"] = _bytes([_facts(sample) for sample in samples])
    arrays["skipped"] = _bytes([vars(one) for one in skipped])
    return arrays


def _stored(ids: list[int], places: dict[tuple[int, ...], int], piece: Sequence[int]) -> tuple[int, int]:
    key = tuple(piece)
    if key not in places:
        places[key] = len(ids)
        ids += key
    return places[key], len(key)


def _facts(sample: CompiledSample) -> dict[str, Any]:
    counts = {"n_tokens": sample.num_tokens, "n_target": sample.num_target}
    return {"id": sample.id, "task": sample.task, "source": sample.source, "weight": sample.weight, **counts}


def _bytes(values: Sequence[Mapping[str, Any]]) -> np.ndarray:
    text = "".join(json.dumps(value) + "\n" for value in values)
    return np.frombuffer(text.encode("ascii"), dtype=np.uint8)


def _lines(content: np.ndarray) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.tobytes().decode("ascii").split("\n") if line]


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
