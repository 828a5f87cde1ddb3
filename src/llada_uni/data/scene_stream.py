"""Endless batches of fresh scenes and their pictures, addressed by a random generator and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llada_uni.scenes.graph import CELL_PX, SceneGraph
from llada_uni.scenes.render import render_array
from llada_uni.scenes.sample import sample_scene

__all__ = [
    "GRID_SHARES",
    "GridShares",
    "draw_grid",
    "draw_scenes",
    "halved",
    "pictures",
    "python_random",
    "random_crops",
    "to_unit",
]

GridShares = tuple[tuple[int, int, float], ...]
GRID_SHARES: GridShares = ((8, 8, 0.7), (8, 12, 0.15), (12, 8, 0.15))


def python_random(rng: np.random.Generator) -> random.Random:
    """A ``random.Random`` whose seed is the next draw of ``rng``."""
    return random.Random(int(rng.integers(2**63)))


def draw_grid(rng: np.random.Generator, shares: GridShares = GRID_SHARES) -> tuple[int, int]:
    """Height and width in cells, drawn by the shares (h, w, share)."""
    weights = np.array([share for _, _, share in shares], dtype=np.float64)
    index = int(rng.choice(len(shares), p=weights / weights.sum()))
    return shares[index][0], shares[index][1]


def draw_scenes(
    rng: np.random.Generator, count: int, grid: tuple[int, int], *, held_out: bool | None = False
) -> list[SceneGraph]:
    """``count`` random scenes on one grid; ``held_out`` as in ``scenes.sample_scene``."""
    source = python_random(rng)
    return [sample_scene(source, grid_h=grid[0], grid_w=grid[1], held_out=held_out) for _ in range(count)]


def pictures(graphs: Sequence[SceneGraph]) -> np.ndarray:
    """Renders uint8 [N, H, W, 3] of scenes on one grid, 16 pixels per cell."""
    return np.stack([render_array(graph) for graph in graphs])


def random_crops(rng: np.random.Generator, images: np.ndarray, side_px: int, *, step_px: int = 1) -> np.ndarray:
    """One square crop of ``side_px`` from each image [N, H, W, 3]; corners at multiples of ``step_px``."""
    height, width = images.shape[1:3]
    rows = rng.integers(0, (height - side_px) // step_px + 1, len(images)) * step_px
    columns = rng.integers(0, (width - side_px) // step_px + 1, len(images)) * step_px
    crops = [
        image[row : row + side_px, column : column + side_px]
        for image, row, column in zip(images, rows, columns, strict=True)
    ]
    return np.stack(crops)


def halved(images: np.ndarray) -> np.ndarray:
    """Area-averaged half-size pictures: uint8 [N, H, W, 3] -> uint8 [N, H/2, W/2, 3], rounded to nearest."""
    count, height, width, channels = images.shape
    sums = images.reshape(count, height // 2, 2, width // 2, 2, channels).sum(axis=(2, 4), dtype=np.uint16)
    return ((sums + 2) // 4).astype(np.uint8)


def to_unit(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 127.5 - 1


assert CELL_PX == 16, "halved() and the crops of this module assume 16 output pixels per cell"
