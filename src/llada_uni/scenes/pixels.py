"""Small picture measurements in numpy that the verifier is built from."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Picture",
    "cell_blocks",
    "contrast_gain",
    "gaussian",
    "halve",
    "luma",
    "opponent",
    "patch_means",
    "patch_rms",
    "spread",
]

Picture = NDArray[Any]


# Colour is compared more coarsely than brightness, as cameras, JPEG and autoencoders keep it.
CHROMA_BLUR_PX = 1.5
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_CHROMA = np.array([[0.7, 0.0], [0.0, 0.0], [0.0, 0.7]], dtype=np.float32) - 0.7 * _LUMA[:, None]


def luma(picture: Picture) -> Picture:
    """Brightness [..., H, W, 1] of RGB levels [..., H, W, 3]."""
    return (picture @ _LUMA)[..., None]


def opponent(picture: Picture) -> Picture:
    """RGB levels [..., H, W, 3] -> brightness and two slightly blurred colour differences, in comparable levels."""
    return np.concatenate([luma(picture), gaussian(picture @ _CHROMA, CHROMA_BLUR_PX)], axis=-1)


def gaussian(pictures: Picture, sigma: float) -> Picture:
    """Gaussian blur of [..., H, W, C] with edge replication; sigma in pixels, 0 returns the input itself."""
    if sigma <= 0:
        return pictures
    rows, columns = _blur_matrix(pictures.shape[-3], sigma), _blur_matrix(pictures.shape[-2], sigma)
    planes = np.moveaxis(pictures, -1, -3)
    return np.moveaxis(rows @ planes @ columns.T, -3, -1)


@lru_cache(maxsize=128)
def _blur_matrix(size: int, sigma: float) -> Picture:
    """[size, size] matrix that blurs a column of pixels; rows sum to 1."""
    radius = max(1, int(3 * sigma + 0.5))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((size, size))
    for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
        sources = np.clip(np.arange(size) + offset, 0, size - 1)
        np.add.at(matrix, (np.arange(size), sources), weight)
    return matrix.astype(np.float32)


def halve(picture: Picture) -> Picture:
    """Mean over 2x2 pixels: [..., H, W, C] -> [..., H/2, W/2, C]."""
    return 0.25 * (
        picture[..., ::2, ::2, :]
        + picture[..., 1::2, ::2, :]
        + picture[..., ::2, 1::2, :]
        + picture[..., 1::2, 1::2, :]
    )


def cell_blocks(picture: Picture, cell: int) -> Picture:
    """[H, W, C] -> [H/cell, W/cell, cell*cell, C]: the pixels of each cell."""
    height, width, channels = picture.shape
    blocks = picture.reshape(height // cell, cell, width // cell, cell, channels).swapaxes(1, 2)
    return blocks.reshape(height // cell, width // cell, cell * cell, channels)


def patch_means(values: Picture, patch: int, stride: int) -> Picture:
    """Means over square patches of planes [..., H, W], one patch every ``stride`` pixels."""
    padding = [(0, 0)] * (values.ndim - 2) + [(1, 0), (1, 0)]
    total = np.pad(values, padding).cumsum(axis=-2, dtype=np.float64).cumsum(axis=-1)
    sums = (
        total[..., patch:, patch:]
        - total[..., :-patch, patch:]
        - total[..., patch:, :-patch]
        + total[..., :-patch, :-patch]
    )
    return sums[..., ::stride, ::stride] / patch**2


def patch_rms(difference: Picture, patch: int, stride: int) -> Picture:
    """Root mean square of [H, W, C] over the channels and over square patches, [rows, columns]."""
    return np.sqrt(np.maximum(patch_means((difference**2).mean(axis=-1), patch, stride), 0.0))


def contrast_gain(seen: Picture, expected: Picture) -> float:
    """Least-squares factor g with seen = g * expected; 1 for a perfect picture, 0.5 for a ghost."""
    return float((seen * expected).sum() / max(float((expected**2).sum()), 1e-6))


def spread(plane: Picture, radius: int) -> Picture:
    """Largest value within a square of the given radius around every pixel of a plane (wrapping at the edges)."""
    reach = range(-radius, radius + 1)
    return np.max([np.roll(plane, (dy, dx), axis=(0, 1)) for dy in reach for dx in reach], axis=0)
