"""The pictures of a file of records at one size, in memory: for the stages that learn from pixels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from llada_uni.data.records import RECORDS_FILE, Record, read_records
from llada_uni.errors import ConfigError
from llada_uni.image_tokenizer.images import load_image, resize_to_cover_and_crop
from llada_uni.scenes.graph import CELL_PX

__all__ = ["RecordPictures", "load_pictures"]


@dataclass(frozen=True, kw_only=True)
class RecordPictures:
    """``images`` uint8 [N, H, W, 3] in the order in which records name them, each once; ``words`` [N] asks for each.

    ``digest`` names their pixels.
    """

    images: np.ndarray
    words: tuple[str, ...]
    digest: str = field(default="", compare=False)

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """``count`` random pictures; every other one mirrored."""
        chosen = self.images[rng.integers(0, len(self), count)]
        mirrored = rng.random(count) < 0.5
        return np.where(mirrored[:, None, None, None], chosen[:, :, ::-1], chosen)


def load_pictures(records: Path, grid: tuple[int, int] = (8, 8)) -> RecordPictures:
    """Every picture that the records name, scaled and cut to ``grid`` cells of 16 pixels.

    Read once: a copy of the pixels beside the records serves later calls until the records change.

    Raises:
        ConfigError: no such file, or no picture in it. ImageError: a picture cannot be read.
    """
    path = records / RECORDS_FILE if records.is_dir() else records
    named = dict(_named(path))
    if not named:
        raise ConfigError(f"{path} names no picture; expected records of llada-uni data import")
    mark = hashlib.sha256(f"{grid} {list(named)}".encode("utf-8", "surrogatepass")).hexdigest()
    stored = path.with_name(f".{path.name}.{grid[0]}x{grid[1]}.npz")
    images = _stored(stored, mark)
    if images is None:
        size = (grid[0] * CELL_PX, grid[1] * CELL_PX)
        images = np.stack([_sized(path.parent / name, size) for name, _ in named])
        _store(stored, images, mark)
    digest = hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
    return RecordPictures(images=images, words=tuple(named.values()), digest=digest)


def _named(path: Path) -> Iterator[tuple[tuple[str, str | None], str]]:
    """(place, digest) of every picture and the words beside it; a picture that an answer draws tells best."""
    told: dict[tuple[str, str | None], str] = {}
    for record in read_records(path):
        for part in record.segments:
            if part.image is not None:
                key, words = (part.image, part.sha256), _words(record)
                told[key] = words if record.task == "t2i" and not told.get(key) else told.get(key, "")
    yield from told.items()


def _words(record: Record) -> str:
    return " ".join(part.text for part in record.segments if part.text is not None and part.role == "user")


def _sized(path: Path, size: tuple[int, int]) -> np.ndarray:
    image = load_image(path)
    return np.asarray(resize_to_cover_and_crop(image, size, Image.Resampling.LANCZOS))


def _stored(path: Path, mark: str) -> np.ndarray | None:
    if not path.is_file():
        return None
    with np.load(path) as kept:
        return kept["images"] if str(kept["mark"]) == mark else None


def _store(path: Path, images: np.ndarray, mark: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.npz")
    try:
        np.savez(partial, images=images, mark=np.array(mark))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
