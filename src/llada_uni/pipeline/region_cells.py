"""Which part of a picture may change: a mask, a box or a list of cells -> pixels and token cells.

A region has two resolutions. *Pixels* of the output picture that lie in the region may change their colour; token
*cells* of which the region covers more than ``MIN_COVER`` are written anew. No networks here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from llada_uni.errors import ConfigError, ImageError
from llada_uni.grid import Geometry, TokenGrid
from llada_uni.image_tokenizer.images import ImageSource, load_mask, resize_to_cover_and_crop
from llada_uni.sampling.seeds import stream

__all__ = ["ANCHORS", "MIN_COVER", "Region", "placed", "read_region", "share_of", "whole"]

MIN_COVER = 0.1
"""A cell is touched when the region covers more than this share of its pixels."""

_SIDES = {"top": (0, 1), "bottom": (2, 1), "left": (1, 0), "right": (1, 2)}
ANCHORS: dict[str, tuple[int, int]] = {
    "center": (1, 1),
    **_SIDES,
    **{f"{a}-{b}": (_SIDES[a][0], _SIDES[b][1]) for a in ("top", "bottom") for b in ("left", "right")},
}
"""Where a smaller picture lies in a larger one, as (vertical, horizontal) halves of the free space."""

_ASPECT_TOLERANCE = 0.01
_Cell = tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """``pixels`` bool [H, W] of the output picture and ``cells`` bool [grid_h, grid_w]; True = may change."""

    pixels: np.ndarray
    cells: np.ndarray

    @property
    def positions(self) -> tuple[int, ...]:
        """Raster numbers of the cells."""
        return tuple(np.flatnonzero(self.cells).tolist())

    def only(self, positions: Sequence[int]) -> Region:
        """The part of the region that lies in these cells."""
        cells = np.zeros(self.cells.size, dtype=bool)
        cells[list(positions)] = True
        cells = cells.reshape(self.cells.shape)
        return Region(pixels=self.pixels & _enlarged(cells, self.pixels.shape), cells=cells)


def read_region(
    geometry: Geometry,
    grid: TokenGrid,
    source_px: tuple[int, int],
    *,
    mask: ImageSource | None = None,
    box: Sequence[int] | None = None,
    cells: Sequence[_Cell] | None = None,
    keep_cells: Sequence[_Cell] | None = None,
) -> Region:
    """The region that exactly one of the four arguments describes.

    ``source_px`` (height, width) is the size of the picture as it was given; ``mask`` and ``box`` (left, top, right,
    bottom; right and bottom excluded) are drawn on that picture and follow it through scaling and cropping. ``cells``
    and ``keep_cells`` (the cells that stay) are (row, column) pairs on ``grid``, counted from 0.

    Raises:
        ConfigError: none or several of the arguments, a box or a cell outside the picture, or nothing to change.
        ImageError: an unreadable mask, one of another shape than the picture, or one that marks nothing.
    """
    given = {"mask": mask, "box": box, "cells": cells, "keep_cells": keep_cells}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        got = " and ".join(named) if named else "none"
        raise ConfigError(f"expected exactly one of mask, box, cells and keep_cells, got {got}")
    if mask is not None:
        return _from_marks(geometry, grid, _mask(mask, source_px), ImageError, "the mask marks")
    if box is not None:
        return _from_marks(geometry, grid, _box(box, source_px), ConfigError, f"box {tuple(box)} covers")
    listed = _listed(cells if cells is not None else keep_cells, grid, named[0])
    wanted = listed if cells is not None else ~listed
    if not wanted.any():
        raise ConfigError(f"keep_cells names all {grid.num_tokens} cells; leave out those that may change")
    return Region(pixels=_enlarged(wanted, geometry.output_px(grid)), cells=wanted)


def whole(geometry: Geometry, grid: TokenGrid) -> Region:
    """Every cell of the picture."""
    cells = np.ones((grid.grid_h, grid.grid_w), dtype=bool)
    return Region(pixels=_enlarged(cells, geometry.output_px(grid)), cells=cells)


def placed(geometry: Geometry, source: TokenGrid, grid: TokenGrid, anchor: str) -> tuple[Region, _Cell]:
    """What surrounds a picture of ``source`` cells inside a larger ``grid``, and its top-left cell there."""
    down, across = ANCHORS[anchor]
    row, column = (grid.grid_h - source.grid_h) * down // 2, (grid.grid_w - source.grid_w) * across // 2
    cells = np.ones((grid.grid_h, grid.grid_w), dtype=bool)
    cells[row : row + source.grid_h, column : column + source.grid_w] = False
    return Region(pixels=_enlarged(cells, geometry.output_px(grid)), cells=cells), (row, column)


def share_of(positions: Sequence[int], strength: float, seed: int) -> tuple[int, ...]:
    """A random share ``strength`` of the positions, in ascending order: none at 0, all at 1, else at least one.

    With the same seed a greater strength takes the same positions and more.
    """
    count = 0 if strength == 0 else max(1, math.floor(strength * len(positions) + 0.5))
    order = torch.rand(len(positions), generator=stream(seed, "cells")).argsort()
    return tuple(sorted(positions[i] for i in order[:count].tolist()))


def _from_marks(
    geometry: Geometry, grid: TokenGrid, marks: Image.Image, error: type[ImageError | ConfigError], what: str
) -> Region:
    """Region of a mode L picture that has the shape of the source."""
    scaled = resize_to_cover_and_crop(marks, geometry.output_px(grid), Image.Resampling.BOX)
    pixels = np.asarray(scaled) >= 128
    size = geometry.cell_px
    cover = pixels.reshape(grid.grid_h, size, grid.grid_w, size).mean(axis=(1, 3))
    touched = cover > MIN_COVER
    if not touched.any():
        raise error(
            f"{what} at most {cover.max():.0%} of any {size}x{size} cell of the {grid.grid_h}x{grid.grid_w} grid, "
            f"expected more than {MIN_COVER:.0%} of at least one; mark a larger part"
        )
    return Region(pixels=pixels & _enlarged(touched, pixels.shape), cells=touched)


def _mask(source: ImageSource, source_px: tuple[int, int]) -> Image.Image:
    marks = load_mask(source)
    height, width = source_px
    if abs(math.log(marks.width / marks.height) - math.log(width / height)) > _ASPECT_TOLERANCE:
        raise ImageError(
            f"expected a mask of the picture's shape {width}x{height} (width x height), "
            f"got {marks.width}x{marks.height}"
        )
    if not marks.getextrema()[1]:
        raise ImageError(
            "the mask marks nothing; make the part to change transparent or, in a mask without transparency, white"
        )
    return marks


def _box(box: Any, source_px: tuple[int, int]) -> Image.Image:
    height, width = source_px
    whole_numbers = isinstance(box, (list, tuple)) and all(_is_whole(side) for side in box)
    if not whole_numbers or len(box) != 4:
        raise ConfigError(f"box: expected four whole numbers (left, top, right, bottom), got {box!r}")
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ConfigError(
            f"box: expected left < right and top < bottom inside the picture of {width}x{height} (width x height), "
            f"got {left},{top},{right},{bottom}"
        )
    marks = Image.new("L", (width, height), 0)
    marks.paste(255, (left, top, right, bottom))
    return marks


def _listed(cells: Any, grid: TokenGrid, name: str) -> np.ndarray:
    """Bool [grid_h, grid_w] of a list of (row, column) pairs."""
    listed = np.zeros((grid.grid_h, grid.grid_w), dtype=bool)
    if not isinstance(cells, (list, tuple, set, frozenset)) or not cells:
        raise ConfigError(f"{name}: expected a list of (row, column) pairs, got {cells!r}")
    for cell in cells:
        pair = isinstance(cell, (list, tuple)) and len(cell) == 2 and all(_is_whole(side) for side in cell)
        if not pair or not (0 <= cell[0] < grid.grid_h and 0 <= cell[1] < grid.grid_w):
            raise ConfigError(
                f"{name}: expected (row, column) pairs from (0, 0) to ({grid.grid_h - 1}, {grid.grid_w - 1}), "
                f"got {cell!r}"
            )
        listed[cell[0], cell[1]] = True
    return listed


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _enlarged(cells: np.ndarray, pixels: tuple[int, ...]) -> np.ndarray:
    """Cells as pixels [H, W]."""
    size = pixels[0] // cells.shape[0]
    return cells.repeat(size, axis=0).repeat(size, axis=1)
