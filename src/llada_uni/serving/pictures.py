"""Pictures at the door: in by data URI, upload or, where allowed, address; out as a file without metadata."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from llada_uni.errors import ConfigError, ImageError, SizeError
from llada_uni.grid import Geometry, parse_size
from llada_uni.image_tokenizer.images import load_image, resize_to_cover_and_crop
from llada_uni.pipeline.checks import check_choice, check_number
from llada_uni.serving.fetch import fetch
from llada_uni.serving.limits import Limits

__all__ = ["FORMATS", "Size", "checked_file", "data_uri", "encoded", "read_picture", "wished_size"]

FORMATS = ("png", "webp", "jpeg")
_LOSSY_QUALITY = 90


def read_picture(source: Any, limits: Limits) -> Image.Image:
    """A picture that a request shows, RGB and upright, without metadata.

    Args:
        source: a data URI, an http or https address where ``limits`` allow it, or the bytes of a file; never a path.
        limits: of the server.

    Raises:
        ImageError: anything else, unreadable, or too large.
    """
    if isinstance(source, str) and source[:5].lower() != "data:":
        source = _from_address(source, limits)
    if not isinstance(source, (str, bytes)):
        raise ImageError(f"expected a picture as a data URI, got {type(source).__name__}")
    picture = load_image(source, max_pixels=limits.max_pixels)
    picture.info.clear()
    return picture


def _from_address(address: str, limits: Limits) -> bytes:
    if address[:7].lower() != "http://" and address[:8].lower() != "https://":
        raise ImageError("image_url: expected a data URI (data:image/...;base64,...)")
    if not limits.fetch:
        raise ImageError(
            "image_url: this server does not fetch addresses; send the picture itself as data:image/...;base64,..."
        )
    return fetch(address, max_bytes=limits.body_bytes)


@dataclass(frozen=True, kw_only=True)
class Size:
    """A wished size: what is drawn (None leaves it to the task), and what the result is resized to (None: nothing).

    Both are (height, width) in pixels.
    """

    drawn: tuple[int, int] | None = None
    returned: tuple[int, int] | None = None

    def fit(self, picture: Image.Image) -> Image.Image:
        """The picture as it is returned: resized, and cut where the shape differs."""
        if self.returned is None or (picture.height, picture.width) == self.returned:
            return picture
        return resize_to_cover_and_crop(picture, self.returned)


def wished_size(size: str | None, geometry: Geometry, limits: Limits) -> Size:
    """What ``size`` ("WIDTHxHEIGHT" or "auto") means for this checkpoint: the nearest size it can draw, then a resize.

    Raises:
        SizeError: not a size, or a side beyond the limit.
    """
    if size is None or size.strip().lower() == "auto":
        return Size()
    height, width = parse_size(size[:40])
    if max(height, width) > limits.max_side:
        raise SizeError(f"size: expected sides of at most {limits.max_side} pixels, got {width}x{height}")
    drawn = geometry.output_px(geometry.nearest_grid(height, width))
    return Size(drawn=drawn, returned=(height, width))


def checked_file(kind: str, compression: int | None) -> tuple[str, int]:
    """Kind and quality of a file. ``compression``: 0 to 100 for webp and jpeg, the quality kept.

    Raises:
        ConfigError: an unknown kind or a number out of range.
    """
    check_choice(kind, name="output_format", choices=FORMATS)
    quality = _LOSSY_QUALITY if compression is None else compression
    return kind, check_number(quality, name="output_compression", low=0, high=100, whole=True)


def encoded(picture: Image.Image, kind: str = "png", compression: int | None = None) -> bytes:
    """A file without metadata; see :func:`checked_file` for the values.

    Raises:
        ConfigError: as :func:`checked_file`.
    """
    kind, quality = checked_file(kind, compression)
    clean, buffer = picture.copy(), io.BytesIO()
    clean.info.clear()
    if kind == "png":
        clean.save(buffer, "PNG")
    else:
        clean.save(buffer, kind.upper(), quality=quality)
    return buffer.getvalue()


def data_uri(data: bytes, kind: str = "png") -> str:
    """A file as a data URI."""
    if kind not in FORMATS:
        raise ConfigError(f"expected one of {', '.join(FORMATS)}, got {kind!r}")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
