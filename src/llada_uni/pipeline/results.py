"""What the pipeline hands back: pictures, answers and codes, with everything needed to make them again."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llada_uni.config import read_json
from llada_uni.errors import ConfigError, ImageError
from llada_uni.grid import TokenGrid
from llada_uni.pipeline.files import write_atomic

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CODES_FORMAT", "AnswerDone", "EncodedImage", "ImageDone", "ImageResult", "TextResult", "picture_kind"]

CODES_FORMAT = "llada-uni-codes"
_FILE_KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """One generated or decoded picture.

    ``image`` is RGB; ``codes`` are the codebook indices in row-major order on ``grid``; ``settings`` are the values
    that were really used (presets filled in); ``timings`` are seconds by station; ``usage`` counts tokens and calls.
    ``prompt`` is None for a picture decoded from given codes, and the instruction for an edit. ``thinking`` is the plan
    that the model wrote first, None where it was not asked to.
    """

    image: Image
    codes: tuple[int, ...]
    grid: TokenGrid
    prompt: str | None
    seed: int
    model: str
    settings: Mapping[str, Any]
    timings: Mapping[str, float]
    usage: Mapping[str, int] = field(default_factory=dict)
    thinking: str | None = None

    @property
    def encoded(self) -> EncodedImage:
        """The codes as a value that every task takes instead of a picture; nothing is encoded again."""
        return EncodedImage(codes=self.codes, grid=self.grid, model=self.model)

    def metadata(self) -> dict[str, str]:
        """Text entries of a saved PNG: ``prompt``, ``seed``, ``model``, ``settings`` (JSON) and ``software``.

        With a plan also ``thinking``; without a prompt no ``prompt``.
        """
        words = {"prompt": self.prompt, "thinking": self.thinking}
        entries = {"seed": str(self.seed), "model": self.model, "settings": json.dumps(dict(self.settings))}
        return {k: v for k, v in words.items() if v is not None} | entries | {"software": "llada-uni"}

    def png_bytes(self) -> bytes:
        """The picture as a PNG file with :meth:`metadata` in it."""
        return self._encode("PNG")

    def save(self, path: str | Path) -> Path:
        """Write the picture to ``path`` (.png with metadata; .jpg and .webp without), completely or not at all.

        Raises:
            ImageError: another ending.
            ResourceError: the directory is missing, not writable, or full.
        """
        path = Path(path)
        kind = picture_kind(path)
        write_atomic(path, self._encode(kind))
        return path

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pixels, ready for JSON."""
        return {
            "prompt": self.prompt,
            "thinking": self.thinking,
            "seed": self.seed,
            "model": self.model,
            "width": self.image.width,
            "height": self.image.height,
            "grid": [self.grid.grid_h, self.grid.grid_w],
            "codes": list(self.codes),
            "settings": dict(self.settings),
            "timings": dict(self.timings),
            "usage": dict(self.usage),
        }

    def _encode(self, kind: str) -> bytes:
        from PIL.PngImagePlugin import PngInfo

        buffer, extra = io.BytesIO(), {}
        if kind == "PNG":
            info = PngInfo()
            for key, value in self.metadata().items():
                info.add_itxt(key, value)
            extra = {"pnginfo": info}
        self.image.save(buffer, kind, **extra)
        return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class TextResult:
    """One answer. ``finish_reason`` is ``"stop"`` (the model ended it) or ``"length"`` (``max_new_tokens`` reached)."""

    text: str
    question: str
    seed: int
    model: str
    finish_reason: str
    settings: Mapping[str, Any]
    timings: Mapping[str, float]
    usage: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; the answer is called ``answer``."""
        return {
            "answer": self.text,
            "question": self.question,
            "seed": self.seed,
            "model": self.model,
            "finish_reason": self.finish_reason,
            "settings": dict(self.settings),
            "timings": dict(self.timings),
            "usage": dict(self.usage),
        }


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """A picture as codebook indices (row-major on ``grid``), and the name of the model whose codebook they index."""

    codes: tuple[int, ...]
    grid: TokenGrid
    model: str

    def as_dict(self) -> dict[str, Any]:
        """The content of a codes file."""
        return {
            "format": CODES_FORMAT,
            "model": self.model,
            "grid": [self.grid.grid_h, self.grid.grid_w],
            "codes": list(self.codes),
        }

    def save(self, path: str | Path) -> Path:
        """Write a codes file (JSON), completely or not at all."""
        path = Path(path)
        write_atomic(path, (json.dumps(self.as_dict()) + "\n").encode())
        return path

    @classmethod
    def load(cls, path: str | Path) -> EncodedImage:
        """Read a codes file.

        Raises:
            ConfigError: unreadable, not JSON, or not a codes file.
        """
        return cls.from_dict(read_json(Path(path)), source=str(path))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], *, source: str) -> EncodedImage:
        """Build from the content of a codes file; ``source`` names it in messages.

        Raises:
            ConfigError: not a codes file, or the number of codes is not grid_h x grid_w.
        """
        grid, codes = value.get("grid"), value.get("codes")
        if value.get("format") != CODES_FORMAT or not _whole_numbers(grid, 2) or not _whole_numbers(codes):
            raise ConfigError(
                f'{source}: expected {{"format": "{CODES_FORMAT}", "grid": [rows, columns], "codes": [...]}}'
            )
        assert isinstance(grid, list)
        assert isinstance(codes, list)
        if min(grid) < 1 or grid[0] * grid[1] != len(codes):
            raise ConfigError(f"{source}: {grid[0]}x{grid[1]} codes announced, got {len(codes)}")
        return cls(codes=tuple(codes), grid=TokenGrid(grid[0], grid[1]), model=str(value.get("model", "")))


@dataclass(frozen=True)
class ImageDone:
    """Event: row ``row`` of the request has its picture."""

    row: int
    result: ImageResult


@dataclass(frozen=True)
class AnswerDone:
    """Event: row ``row`` of the request has its whole answer."""

    row: int
    result: TextResult


def picture_kind(path: Path) -> str:
    """Pillow's name of the file format that the ending of ``path`` asks for.

    Raises:
        ImageError: an ending this package does not write.
    """
    kind = _FILE_KINDS.get(path.suffix.lower())
    if kind is None and path.exists() and not path.is_file():
        return "PNG"
    if kind is None:
        raise ImageError(
            f"{path}: expected a name ending in {', '.join(_FILE_KINDS)}, got {path.suffix or 'no ending'}"
        )
    return kind


def _whole_numbers(value: Any, count: int | None = None) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
        and count in (None, len(value))
    )
