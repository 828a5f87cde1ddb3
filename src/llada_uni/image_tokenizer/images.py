"""Pictures of any origin -> upright 8-bit RGB, and the two front ends that bring them to the tokenizer's size.

Source: released ``decoder/smart_img_process.py`` (understanding) and ``decoder/utils.py`` (editing).
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from llada_uni.errors import ImageError
from llada_uni.grid import Geometry, ResizePlan

__all__ = [
    "MAX_ASPECT",
    "MAX_PIXELS",
    "ImageSource",
    "for_editing",
    "for_understanding",
    "load_image",
    "load_mask",
    "resize_and_crop",
    "resize_to_cover_and_crop",
    "whiten",
]

ImageSource = Image.Image | str | Path | bytes
"""A PIL image, a path, the bytes of a file, or a ``data:image/...;base64,`` URI."""

MAX_PIXELS = 89_478_485
"""Largest picture decoded by default (9,459 x 9,459); about 270 MB as RGB."""

MAX_ASPECT = 200.0
"""Longest side over shortest side up to which a picture can be brought to the tokenizer's size."""

_FORMATS = (
    "PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "MPO", "AVIF", "HEIF", "JPEG2000", "PPM", "ICO", "TGA", "PCX",
    "SGI", "QOI",
)  # fmt: skip
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture as it is meant to be seen.

    The EXIF orientation is applied, transparency is laid on white, palettes and CMYK become RGB, 16-bit, 32-bit and
    float grey values are scaled to 8 bit, and of an animation the first frame is taken. A PIL image passed in is not
    changed.

    Returns:
        A PIL image of mode RGB without pending file access.

    Raises:
        ImageError: unreadable, truncated, empty, of an unknown kind, or more than ``max_pixels`` pixels (found out
            before the pixels are decoded).
    """
    name, image = _opened(source)
    return _normalised(image, max_pixels, name, whiten)


def load_mask(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture that marks a region: mode L, 255 = inside the region, 0 = outside.

    Where the picture has transparency, its transparent parts are the region; otherwise its white parts are.

    Raises:
        ImageError: as :func:`load_image`.
    """
    name, image = _opened(source)
    return _normalised(image, max_pixels, name, _marked)


def whiten(image: Image.Image, rule: Literal["every", "released"] = "every") -> Image.Image:
    """8-bit picture -> RGB with its transparent parts laid on white.

    ``"every"``: any kind of transparency. ``"released"``: only mode RGBA; elsewhere transparency is dropped, which
    shows colours hidden under transparent parts.
    """
    transparent = image.mode == "RGBA" if rule == "released" else image.has_transparency_data
    if not transparent:
        return image.convert("RGB")
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")


def for_understanding(image: Image.Image, geometry: Geometry, num_images: int = 1) -> Image.Image:
    """RGB picture at the size in which the tokenizer reads it (bicubic, then a centred window).

    ``num_images`` pictures are read together; two or more share a smaller pixel budget.

    Raises:
        ImageError: more elongated than ``MAX_ASPECT``.
    """
    _check_aspect(image)
    plan = geometry.understanding_px(image.height, image.width, num_images)
    return resize_and_crop(image, plan, Image.Resampling.BICUBIC)


def for_editing(image: Image.Image, geometry: Geometry, crop: Literal["cover", "released"] = "cover") -> Image.Image:
    """RGB picture at the size in which the tokenizer reads it when it is to be edited.

    ``"cover"`` scales the picture to cover the window, then cuts the centre out. ``"released"`` cuts the centre out at
    native resolution: of a large photo only the middle is left, and a small picture sits in the upper left of black.

    Raises:
        ImageError: more elongated than ``MAX_ASPECT``.
    """
    _check_aspect(image)
    if crop == "cover":
        plan = geometry.edit_px(image.height, image.width)
        return resize_and_crop(image, plan, Image.Resampling.LANCZOS)
    height, width = geometry.edit_crop_px(image.height, image.width)
    top, left = max(0, (image.height - height) // 2), max(0, (image.width - width) // 2)
    return image.crop((left, top, left + width, top + height))


def resize_and_crop(image: Image.Image, plan: ResizePlan, resampling: Image.Resampling) -> Image.Image:
    """Carry out a plan made by :class:`llada_uni.grid.Geometry`."""
    resized = image.resize((plan.resize_w, plan.resize_h), resampling)
    return resized.crop((plan.left, plan.top, plan.left + plan.crop_w, plan.top + plan.crop_h))


def resize_to_cover_and_crop(
    image: Image.Image, target_px: tuple[int, int], resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """Scale a picture until it covers ``target_px`` (height, width), then cut the centre out."""
    height, width = target_px
    scale = max(height / image.height, width / image.width)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.resize(size, resampling).crop((left, top, left + width, top + height))


def _opened(source: ImageSource) -> tuple[str, Image.Image]:
    """A short name for messages and the picture, its pixels not decoded yet."""
    if isinstance(source, Image.Image):
        return "the picture", source
    name, data = _contents(source)
    try:
        return name, Image.open(io.BytesIO(data), formats=_known_formats())
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has too many pixels to be decoded safely; reduce it first") from error
    except Exception as error:  # decoders raise almost anything on malformed files
        raise ImageError(f"{name} is not a picture that can be read ({_hint(data)})") from error


def _marked(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("L")
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return rgba.getchannel("A").point([255 - alpha for alpha in range(256)])


def _contents(source: object) -> tuple[str, bytes]:
    """A short name for messages and the bytes of the file."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        name, data = "the picture", bytes(source)
    elif isinstance(source, str) and source[:5].lower() == "data:":
        name, data = "the data URI", _decode_uri(source)
    elif isinstance(source, (str, Path)):
        name, data = _shortened(str(source)), _read(source)
    else:
        raise ImageError(
            f"expected a PIL image, a path, bytes or a data URI, got {type(source).__module__}.{type(source).__name__}"
        )
    if not data:
        raise ImageError(f"{name} is empty")
    return name, data


def _decode_uri(uri: str) -> bytes:
    header, separator, payload = uri.partition(",")
    if not separator or not header.lower().endswith(";base64"):
        raise ImageError(f"expected data:image/...;base64,..., got {_shortened(header)}")
    try:
        return base64.b64decode(re.sub(r"\s+", "", payload), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"the data URI holds no valid base64 ({error})") from error


def _read(path: str | Path) -> bytes:
    if re.match(r"[a-z][a-z0-9+.-]*://", str(path), re.IGNORECASE):
        raise ImageError(f"expected a local file, got the address {_shortened(str(path))}; download it first")
    try:
        return Path(path).expanduser().read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot read the picture {_shortened(str(path))}: {reason}") from error


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def _known_formats() -> list[str]:
    """The pixel formats of photos, screenshots and drawings; formats that start another program are left out."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _hint(data: bytes) -> str:
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"):
        return "a HEIC photo: convert it to JPEG, or install and register pillow-heif"
    if data.lstrip()[:5].lower() in (b"<?xml", b"<svg ", b"<html", b"<!doc"):
        return "it is XML or HTML text: export it as PNG"
    return "expected PNG, JPEG, WebP, GIF, TIFF, BMP or another pixel format"


def _normalised(
    image: Image.Image, max_pixels: int, name: str, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    width, height = image.size
    if not (width and height):
        raise ImageError(f"{name} is empty ({width}x{height})")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} has {width}x{height} = {width * height:,} pixels, at most {max_pixels:,} are accepted; "
            "reduce it first"
        )
    try:
        image.load()
        return convert(_eight_bit(_upright(image)))
    except ImageError:
        raise
    except Exception as error:  # decoders raise almost anything on malformed files
        raise ImageError(f"{name} cannot be decoded ({str(error) or type(error).__name__})") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # broken metadata says nothing about orientation; the pixels are fine
        orientation = 1
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey pictures of more than 8 bit scaled to 8 bit; others as they are."""
    if image.mode == "F" or image.mode.startswith("I"):
        full = 65535.0 if image.mode.startswith("I;16") else None
        return Image.fromarray(_scaled(np.asarray(image, dtype=np.float32), full, image.mode == "F"))
    return image


def _scaled(values: np.ndarray, full: float | None, unit: bool) -> np.ndarray:
    """Grey values -> uint8. Without a known full scale: the smallest of 1 (floats), 255 and 65535 that holds all."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).clip(min=0.0)
    if full is None:
        scales = (1.0, 255.0, 65535.0) if unit else (255.0, 65535.0)
        full = next((scale for scale in scales if values.max() <= scale), float(values.max()))
    return np.rint(values * (255.0 / full)).clip(0, 255).astype(np.uint8)


def _check_aspect(image: Image.Image) -> None:
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError(
            f"a picture of {image.width}x{image.height} is more elongated than {MAX_ASPECT:g}:1; cut it first"
        )
