"""Rendered pictures as the image tokenizer reads them: half size, normalised, cut into patches."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llada_uni.data.scene_stream import halved

__all__ = ["jittered", "reduced", "to_patches"]

_FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS)


def reduced(images: np.ndarray, filter_index: int = 0) -> np.ndarray:
    """Half-size pictures uint8 [N, H/2, W/2, 3]: bicubic (0, as in inference), bilinear, Lanczos or area means (3)."""
    if filter_index == len(_FILTERS):
        return halved(images)
    size = (images.shape[2] // 2, images.shape[1] // 2)
    return np.stack([np.asarray(Image.fromarray(image).resize(size, _FILTERS[filter_index])) for image in images])


def jittered(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Half-size pictures by a random filter, half of them with slight noise and a slight shift of brightness."""
    small = reduced(images, int(rng.integers(len(_FILTERS) + 1))).astype(np.float32)
    amount = rng.uniform(0, 5, (len(images), 1, 1, 1)) * rng.integers(0, 2, (len(images), 1, 1, 1))
    noise = rng.standard_normal(small.shape, dtype=np.float32) * amount
    shift = rng.uniform(-4, 4, (len(images), 1, 1, 3)) * (amount > 0)
    return np.clip(np.rint(small + noise + shift), 0, 255).astype(np.uint8)


def to_patches(images: np.ndarray, patch_px: int) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N * cells, 3 * patch_px ** 2] in [-1, 1], raster order, (channel, row, column)."""
    count, height, width, _ = images.shape
    rows, columns = height // patch_px, width // patch_px
    cells = images.reshape(count, rows, patch_px, columns, patch_px, 3).transpose(0, 1, 3, 5, 2, 4)
    flat = np.ascontiguousarray(cells).reshape(count * rows * columns, 3 * patch_px**2)
    return torch.from_numpy(flat).float() / 127.5 - 1
