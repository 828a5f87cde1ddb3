"""The tokenizers of a checkpoint at work on records: pictures to codes, samples to ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from llada_uni.data.compile_rows import CompiledSample, Compiler, reads_like_an_edit
from llada_uni.data.records import Record, Skipped, parse_record
from llada_uni.errors import CheckpointError, ConfigError, ImageError, LladaUniError
from llada_uni.grid import Geometry, TokenGrid
from llada_uni.image_tokenizer.config import PreprocessorConfig
from llada_uni.image_tokenizer.images import for_editing, for_understanding, load_image
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.image_tokenizer.patches import patchify
from llada_uni.prompts import ImageBlock
from llada_uni.weights.load import (
    load_backbone_config,
    load_geometry,
    load_image_tokenizer,
    load_preprocessor,
    load_text_tokenizer,
    load_vocab,
    resolve_device,
)

__all__ = ["ExtractOptions", "Extractor", "id_of"]


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """``shard_size`` records per file; ``batch_size`` of them are read and tokenised together, on ``workers`` threads.

    ``max_tokens`` of a sample, the context length of the checkpoint when None; blocks of ``block_length`` are filled
    up for this. ``part`` (i, n): only every n-th shard, beginning with the i-th, counted from 0. ``restart``: make
    shards again that are there.

    Raises:
        ConfigError: a number is out of range.
    """

    shard_size: int = 512
    batch_size: int = 32
    workers: int = 1
    max_tokens: int | None = None
    block_length: int = 64
    part: tuple[int, int] = (0, 1)
    device: str = "cpu"
    restart: bool = False

    def __post_init__(self) -> None:
        for name in ("shard_size", "batch_size", "workers", "block_length", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")
        if not 0 <= self.part[0] < self.part[1]:
            raise ConfigError(f"part: expected i/n with 1 <= i <= n, got {self.part[0] + 1}/{self.part[1]}")


@dataclass(frozen=True, kw_only=True)
class _Sized:
    """A picture at the tokenizer's size; equal keys have equal pixels."""

    key: tuple[str, str, int]
    image: Image.Image


@dataclass(kw_only=True)
class Extractor:
    """The tokenizers of a checkpoint at work."""

    tokenizer: ImageTokenizer
    preprocessor: PreprocessorConfig
    geometry: Geometry
    compiler: Compiler
    options: ExtractOptions

    @classmethod
    def load(cls, checkpoint: Path, options: ExtractOptions) -> Extractor:
        """Opens what extraction needs of a checkpoint; the backbone and the decoders are not read.

        Raises:
            CheckpointError, ConfigError, ResourceError: as the loaders of ``weights``.
        """
        text = load_text_tokenizer(checkpoint)
        positions = load_backbone_config(checkpoint).max_position_embeddings
        compiler = Compiler(
            vocab=load_vocab(checkpoint, text),
            tokenizer=text,
            max_tokens=min(options.max_tokens or positions, positions),
            block_length=options.block_length,
        )
        return cls(
            tokenizer=load_image_tokenizer(checkpoint, dtype="float32", device=resolve_device(options.device)),
            preprocessor=load_preprocessor(checkpoint),
            geometry=load_geometry(checkpoint),
            compiler=compiler,
            options=options,
        )

    def shard(self, lines: Sequence[tuple[str, str]], folder: Path) -> tuple[list[CompiledSample], list[Skipped]]:
        """Samples of lines of records (place, text), and what could not be used. ``folder``: where paths start."""
        done: list[CompiledSample | Skipped] = []
        for start in range(0, len(lines), self.options.batch_size):
            done += self._batch(lines[start : start + self.options.batch_size], folder)
        samples = [one for one in done if not isinstance(one, Skipped)]
        return samples, [one for one in done if isinstance(one, Skipped)]

    def _batch(self, lines: Sequence[tuple[str, str]], folder: Path) -> list[CompiledSample | Skipped]:
        read = list(self._read(lines, folder))
        pictures = {s.key: s.image for _, found in read for s in found if isinstance(s, _Sized)}
        codes = dict(zip(pictures, self._codes(list(pictures.values())), strict=True))
        return [one if isinstance(one, Skipped) else self._compiled(one, found, codes) for one, found in read]

    def _read(self, lines: Sequence[tuple[str, str]], folder: Path) -> Iterator[tuple[Record | Skipped, list[Any]]]:
        """Every record with its pictures at the tokenizer's size, or why it is left out."""

        def read(line: tuple[str, str]) -> tuple[Record | Skipped, list[Any]]:
            name = id_of(line[1]) or line[0]
            try:
                record = parse_record(line[1], line[0])
                return record, self._pictures(record, folder)
            except LladaUniError as error:
                return Skipped(id=name, reason=str(error)), []

        if self.options.workers == 1:
            yield from map(read, lines)
            return
        with ThreadPoolExecutor(self.options.workers) as pool:
            yield from pool.map(read, lines)

    def _pictures(self, record: Record, folder: Path) -> list[_Sized | ImageBlock]:
        number = sum(part.kind == "image" and part.role != "assistant" for part in record.segments)
        found: list[_Sized | ImageBlock] = []
        for index, part in enumerate(record.segments):
            if part.ids is not None:
                found.append(ImageBlock(grid=TokenGrid(part.h or 0, part.w or 0), codes=part.ids))
            elif part.image is not None:
                content, digest = _content(folder / part.image, part.sha256)
                image = load_image(content)
                if reads_like_an_edit(record, index):
                    found.append(_Sized(key=(digest, "edit", 1), image=for_editing(image, self.geometry)))
                else:
                    sized = for_understanding(image, self.geometry, number)
                    found.append(_Sized(key=(digest, "read", min(number, 2)), image=sized))
        return found

    @torch.inference_mode()
    def _codes(self, images: Sequence[Image.Image]) -> list[ImageBlock]:
        blocks: list[ImageBlock] = []
        for start in range(0, len(images), self.options.batch_size):
            patches, grids = patchify(images[start : start + self.options.batch_size], self.preprocessor)
            device = next(self.tokenizer.parameters()).device
            codes = self.tokenizer(patches.to(device), grids).cpu().split([grid.num_tokens for grid in grids])
            blocks += [ImageBlock(grid=g, codes=c.tolist()) for g, c in zip(grids, codes, strict=True)]
        return blocks

    def _compiled(self, record: Record, found: Sequence[Any], codes: dict[Any, ImageBlock]) -> CompiledSample | Skipped:
        blocks = [codes[one.key] if isinstance(one, _Sized) else one for one in found]
        try:
            return self.compiler.compile(record, blocks)
        except CheckpointError:
            raise
        except LladaUniError as error:
            return Skipped(id=record.id, reason=str(error))


def _content(path: Path, digest: str | None) -> tuple[bytes, str]:
    """The bytes of a picture's file and their digest, which must be the one the record tells."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read the picture {path}: {getattr(error, 'strerror', None) or error}") from error
    found = hashlib.sha256(content).hexdigest()
    if digest is not None and found != digest:
        raise ImageError(f"the picture {path.name} has changed since it was imported; import it again")
    return content, found


def id_of(line: str) -> str:
    """The id on a line, empty where it has none (the line will be reported when it is parsed)."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    name = value.get("id") if isinstance(value, dict) else None
    return name if isinstance(name, str) else ""
