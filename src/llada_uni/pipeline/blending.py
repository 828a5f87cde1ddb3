"""Puts the new part of a picture into the old one without touching a pixel outside of it."""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["blend", "extended", "feather"]

_FEATHER_SHARE = 4


def blend(source: Image.Image, drawn: Image.Image, pixels: np.ndarray, cell_px: int) -> Image.Image:
    """``drawn`` inside the region, ``source`` outside, with a soft edge that lies inside the region.

    Args:
        source, drawn: RGB pictures [H, W].
        pixels: bool [H, W], True = inside.
        cell_px: side of a token cell; the soft edge is a quarter of it wide.

    Returns:
        RGB picture whose pixels outside the region are those of ``source``, bit for bit.
    """
    weight = feather(pixels, max(1, cell_px // _FEATHER_SHARE))[..., None]
    old, new = np.asarray(source, dtype=np.float32), np.asarray(drawn, dtype=np.float32)
    mixed = np.rint(old + weight * (new - old)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.where(pixels[..., None], mixed, np.asarray(source)))


def feather(pixels: np.ndarray, width: int) -> np.ndarray:
    """Weights float32 [H, W]: 0 outside the region, rising over ``width`` pixels inside it to 1.

    The outline of the picture is no edge: there the region is taken to go on.
    """
    inner, weight = pixels, pixels.astype(np.float32)
    for _ in range(width):
        inner = _eroded(inner)
        weight = weight + inner
    return weight / np.float32(width + 1)


def extended(picture: Image.Image, size_px: tuple[int, int], top_left: tuple[int, int]) -> Image.Image:
    """A picture on a larger one of ``size_px`` (height, width), its outermost pixels continued to all sides."""
    (height, width), (top, left) = size_px, top_left
    around = ((top, height - top - picture.height), (left, width - left - picture.width), (0, 0))
    return Image.fromarray(np.pad(np.asarray(picture), around, mode="edge"))


def _eroded(inside: np.ndarray) -> np.ndarray:
    """Pixels whose eight neighbours are inside too."""
    rows = np.pad(inside, ((1, 1), (0, 0)), mode="edge")
    rows = rows[:-2] & rows[1:-1] & rows[2:]
    columns = np.pad(rows, ((0, 0), (1, 1)), mode="edge")
    return columns[:, :-2] & columns[:, 1:-1] & columns[:, 2:]
