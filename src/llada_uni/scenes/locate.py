"""First half of reading a picture: its grid, its background, and the boxes of cells that are not background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llada_uni.errors import ImageError
from llada_uni.scenes.graph import BACKGROUNDS, CELL_PX
from llada_uni.scenes.palette import background_array
from llada_uni.scenes.pixels import Picture, cell_blocks, gaussian, spread
from llada_uni.scenes.templates import Box

__all__ = ["GRIDS", "UnreadableError", "View", "boxes", "pixels_on_grid", "recognise_background"]

GRIDS: tuple[tuple[int, int], ...] = ((8, 8), (8, 12), (12, 8))

# Sides may differ from a grid's aspect by this factor before the picture counts as none of ours.
ASPECT_TOLERANCE = 1.02
# Share of cells that are free in every legal scene (four large objects leave 28 of 64).
FREE_CELL_SHARE = 0.35
# Largest global colour shift that is corrected, in levels; mild degradations stay below 9.
MAX_COLOUR_SHIFT = 16.0
# Root mean square of the free cells against the background, in levels; degraded renders reach 7.
BACKGROUND_TOLERANCE = 14.0
# Largest channel difference from the background that makes a pixel foreground, in levels; noise and JPEG stay
# below 20 after the light blur, the weakest contour (yellow on sand) is above 60.
FOREGROUND_LEVEL = 26.0
# A cell counts as occupied from this many foreground pixels on, not counting its outer EDGE_PX pixels, which an
# object of a neighbouring cell may reach into when it is drawn a little off the lattice.
OCCUPIED_PIXELS = 5
EDGE_PX = 3


class UnreadableError(ImageError):
    """Internal to the reader: why a picture cannot be read. Never leaves ``verify``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """A picture whose grid and background are known; pixel arrays are float32 levels [H, W, 3]."""

    pixels: Picture
    background_name: str
    background: Picture
    grid: tuple[int, int]

    @property
    def light_contour(self) -> bool:
        """True where the renderer draws light contours."""
        return self.background_name == "night"


def pixels_on_grid(
    image: Image.Image | NDArray[np.uint8], grid: tuple[int, int] | None
) -> tuple[Picture, tuple[int, int]]:
    """The picture as float32 levels [16 * grid_h, 16 * grid_w, 3] and its (grid_h, grid_w)."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image, dtype=np.uint8))
    picture = picture.convert("RGB")
    grid = grid or _grid_of(picture.width, picture.height)
    size = (grid[1] * CELL_PX, grid[0] * CELL_PX)
    if picture.size != size:
        shrink = picture.width > size[0]
        picture = picture.resize(size, Image.Resampling.BOX if shrink else Image.Resampling.BICUBIC)
    return np.asarray(picture).astype(np.float32), grid


def _grid_of(width: int, height: int) -> tuple[int, int]:
    for grid_h, grid_w in GRIDS:
        stretch = width * grid_h / (height * grid_w)
        if max(stretch, 1 / stretch) <= ASPECT_TOLERANCE:
            return grid_h, grid_w
    raise UnreadableError(f"a picture of {width}x{height} pixels has the aspect of none of the grids")


def recognise_background(pixels: Picture, grid: tuple[int, int]) -> View:
    """Picks the background that the calmest cells fit best and removes a small global colour shift."""
    fits = []
    for name in BACKGROUNDS:
        ground = background_array(name, *pixels.shape[:2]).astype(np.float32)
        residual, shift = _background_fit(pixels, ground)
        fits.append((residual + 0.5 * float(np.abs(shift).max()), residual, name, shift))
    _, residual, name, shift = min(fits, key=lambda fit: fit[0])
    if residual > BACKGROUND_TOLERANCE or float(np.abs(shift).max()) > MAX_COLOUR_SHIFT:
        raise UnreadableError(f"no background fits, the closest is {name!r}")
    ground = background_array(name, *pixels.shape[:2]).astype(np.float32)
    return View(pixels=pixels - shift, background_name=name, background=ground, grid=grid)


def _background_fit(pixels: Picture, ground: Picture) -> tuple[float, Picture]:
    """Root mean square of the calmest cells after a common colour shift, and that shift [3]."""
    difference = cell_blocks(pixels - ground, CELL_PX).reshape(-1, CELL_PX * CELL_PX, 3)
    power = (difference**2).mean(axis=(1, 2))
    calm = difference[np.argsort(power)[: max(1, int(FREE_CELL_SHARE * len(power)))]]
    shift = np.median(calm.mean(axis=1), axis=0)
    return float(np.sqrt(((calm - shift) ** 2).mean())), shift


def boxes(view: View) -> list[Box]:
    """Bounding boxes of the groups of touching occupied cells, top to bottom."""
    occupied = _occupied(view)
    found = []
    while occupied.any():
        cells = np.array(_take_component(occupied))
        low, high = cells.min(axis=0), cells.max(axis=0)
        size = (int(high[0] - low[0]) + 1, int(high[1] - low[1]) + 1)
        found.append(Box(int(low[0]), int(low[1]), size))
    return sorted(found, key=lambda box: (box.row, box.column))


def _occupied(view: View) -> NDArray[np.bool_]:
    difference = np.abs(gaussian(view.pixels - view.background, 0.7)).max(axis=-1)
    brightest = view.background.max(axis=-1, keepdims=True)
    stars = spread(np.abs(brightest - gaussian(brightest, 3.0))[..., 0], 1)  # they may be dimmed or blurred away
    foreground = difference > FOREGROUND_LEVEL + stars
    blocks = foreground.reshape(view.grid[0], CELL_PX, view.grid[1], CELL_PX)
    return blocks[:, EDGE_PX:-EDGE_PX, :, EDGE_PX:-EDGE_PX].sum(axis=(1, 3)) >= OCCUPIED_PIXELS


def _take_component(occupied: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Removes one 8-connected component from ``occupied`` and returns its cells."""
    row, column = (int(v) for v in np.argwhere(occupied)[0])
    waiting, cells = [(row, column)], []
    occupied[row, column] = False
    while waiting:
        row, column = waiting.pop()
        cells.append((row, column))
        for r in range(max(0, row - 1), min(occupied.shape[0], row + 2)):
            for c in range(max(0, column - 1), min(occupied.shape[1], column + 2)):
                if occupied[r, c]:
                    occupied[r, c] = False
                    waiting.append((r, c))
    return cells
