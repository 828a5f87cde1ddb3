"""The only conversions between pixels, token cells and latent cells.

One token cell is ``patch_size`` pixels of the image tokenizer's picture, ``2 * patch_size`` pixels of the decoded
picture, and a square of ``2 * dit_patch`` latent cells. A released checkpoint has patch 16 and a VAE of factor 8, so
a cell is 32 output pixels and 4 latent cells on each side; other checkpoints state other numbers and the same relations
hold.

Source: released decoder/smart_img_process.py (understanding), decoder/utils.py (editing), decoder/decode.py (sizes).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache

from llada_uni.errors import ConfigError, SizeError

__all__ = ["UPSCALE", "Geometry", "ResizePlan", "TokenGrid", "parse_size"]

UPSCALE = 2
"""Output pixels per tokenizer pixel; also the nearest-neighbour repetition of codes into condition tokens."""


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """A picture's codes as ``grid_h`` rows of ``grid_w`` cells, row-major.

    Raises:
        SizeError: a side is not a positive whole number.
    """

    grid_h: int
    grid_w: int

    def __post_init__(self) -> None:
        for side in (self.grid_h, self.grid_w):
            if not _is_positive(side):
                raise SizeError(f"expected a token grid with positive whole sides, got {self.grid_h} x {self.grid_w}")

    @property
    def num_tokens(self) -> int:
        return self.grid_h * self.grid_w


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizePlan:
    """What to do with an input picture: resize to ``(resize_h, resize_w)``, then cut out a centred window.

    ``(target_h, target_w)`` is the size the rule aimed at; the window ``(crop_h, crop_w)`` may be larger for extreme
    aspect ratios. The window lies inside the resized picture. All in pixels.
    """

    target_h: int
    target_w: int
    resize_h: int
    resize_w: int
    top: int
    left: int
    crop_h: int
    crop_w: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """Sizes of one checkpoint. Defaults are the released constants; pixel budgets count tokenizer pixels.

    ``trained_grids``: the only grids the checkpoint was trained on, or ``None`` when every grid is usable.
    ``resize_factor``: input pictures are snapped to multiples of ``resize_factor * patch_size`` pixels.

    Raises:
        ConfigError: numbers that contradict each other.
    """

    patch_size: int = 16
    resize_factor: int = 2
    vae_factor: int = 8
    dit_patch: int = 2
    trained_grids: tuple[TokenGrid, ...] | None = None
    min_pixels_single: int = 128 * 128
    max_pixels_single: int = 800 * 800
    min_pixels_multi: int = 128 * 128
    max_pixels_multi: int = 448 * 448
    edit_pixels: int = 512 * 512
    edit_max_aspect: float = 4.0

    def __post_init__(self) -> None:
        if UPSCALE * self.patch_size != 2 * self.dit_patch * self.vae_factor:
            raise ConfigError(
                f"a token cell covers {UPSCALE * self.patch_size} output pixels but 2 x {self.dit_patch} latent cells "
                f"of {self.vae_factor} pixels; patch_size must equal dit_patch * vae_factor"
            )
        if self.trained_grids is not None and not self.trained_grids:
            raise ConfigError("trained_grids is empty; leave it out when every grid is usable")
        for low, high in self._budgets():
            if not 0 < low <= high:
                raise ConfigError(f"pixel budget {low}..{high} is empty; expected 0 < minimum <= maximum")

    @property
    def cell_px(self) -> int:
        """Output pixels per token cell side."""
        return UPSCALE * self.patch_size

    def output_px(self, grid: TokenGrid) -> tuple[int, int]:
        """(height, width) of the decoded picture."""
        return grid.grid_h * self.cell_px, grid.grid_w * self.cell_px

    def tokenizer_px(self, grid: TokenGrid) -> tuple[int, int]:
        """(height, width) of the picture the image tokenizer reads."""
        return grid.grid_h * self.patch_size, grid.grid_w * self.patch_size

    def condition_grid(self, grid: TokenGrid) -> tuple[int, int]:
        """Rows and columns of the decoder's condition tokens: each code repeated 2 x 2."""
        return UPSCALE * grid.grid_h, UPSCALE * grid.grid_w

    def latent_hw(self, grid: TokenGrid) -> tuple[int, int]:
        """Rows and columns of the VAE latent of the decoded picture."""
        height, width = self.output_px(grid)
        return height // self.vae_factor, width // self.vae_factor

    def grid_from_output_px(self, height: int, width: int) -> TokenGrid:
        """Grid whose decoded picture has exactly this size.

        Raises:
            SizeError: no such grid; the message names the allowed sizes.
        """
        if not (_is_positive(height) and _is_positive(width)) or height % self.cell_px or width % self.cell_px:
            raise self._size_error(height, width)
        grid = TokenGrid(height // self.cell_px, width // self.cell_px)
        if self.trained_grids is not None and grid not in self.trained_grids:
            raise self._size_error(height, width)
        return grid

    def grid_from_tokenizer_px(self, height: int, width: int) -> TokenGrid:
        """Grid of a picture already prepared for the image tokenizer.

        Raises:
            SizeError: a side is not a positive multiple of the patch size.
        """
        if not (_is_positive(height) and _is_positive(width)) or height % self.patch_size or width % self.patch_size:
            raise SizeError(
                f"expected a picture whose sides are positive multiples of {self.patch_size} pixels, "
                f"got {width}x{height} (width x height)"
            )
        return TokenGrid(height // self.patch_size, width // self.patch_size)

    def nearest_grid(self, height: int, width: int) -> TokenGrid:
        """Usable grid closest to a wished output size: by aspect ratio first, then by area.

        Without trained grids each side is rounded to whole cells, at least one.

        Raises:
            SizeError: a side is not a positive whole number.
        """
        if not (_is_positive(height) and _is_positive(width)):
            raise self._size_error(height, width)
        if self.trained_grids is None:
            return TokenGrid(max(1, round(height / self.cell_px)), max(1, round(width / self.cell_px)))
        return min(self.trained_grids, key=lambda grid: self._distance(grid, height, width))

    def understanding_px(self, height: int, width: int, num_images: int = 1) -> ResizePlan:
        """How to prepare a picture that is read (not edited), given how many are read together.

        Released geometry: sides snapped to ``patch_size * resize_factor``, inside the pixel budget of one or of several
        pictures, covered and centre-cropped; the window keeps every whole multiple left after covering, so that it can
        exceed the target (and the budget) at extreme aspect ratios. With trained grids: the nearest by aspect ratio.

        Raises:
            SizeError: a side or the number of pictures is not positive.
        """
        if not (_is_positive(height) and _is_positive(width) and _is_positive(num_images)):
            raise SizeError(f"expected a picture with positive sides, got {width}x{height} (width x height)")
        if self.trained_grids is not None:
            target = self.tokenizer_px(self.nearest_grid(height, width))
            return _cover(height, width, target, target)
        low, high = self._budgets()[min(num_images, 2) - 1]
        factor = self.patch_size * self.resize_factor
        target = _smart_resize(height, width, factor, low, high)
        return _cover_snapped(height, width, target, factor)

    def edit_crop_px(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the window cut from a picture that is edited.

        Of the sizes with about ``edit_pixels`` pixels, the one whose aspect ratio matches best; with trained grids, the
        nearest of those.

        Raises:
            SizeError: a side is not a positive whole number.
        """
        if not (_is_positive(height) and _is_positive(width)):
            raise SizeError(f"expected a picture with positive sides, got {width}x{height} (width x height)")
        if self.trained_grids is not None:
            return self.tokenizer_px(self.nearest_grid(height, width))
        factor = self.patch_size * self.resize_factor
        sizes = _edit_sizes(self.edit_pixels // factor**2, factor, self.edit_max_aspect)
        crop_w, crop_h = max(sizes, key=lambda size: (_aspect_match(size, height, width), size))
        return crop_h, crop_w

    def edit_px(self, height: int, width: int) -> ResizePlan:
        """How to prepare a picture that is edited: scaled to cover :meth:`edit_crop_px`, then centre-cropped.

        The released code cuts the window at native resolution instead, without scaling first.
        """
        target = self.edit_crop_px(height, width)
        return _cover(height, width, target, target)

    def allowed_sizes(self) -> str:
        """The usable output sizes in words, for messages."""
        if self.trained_grids is None:
            return f"sides that are multiples of {self.cell_px} pixels"
        sizes = (self.output_px(grid) for grid in self.trained_grids)
        return ", ".join(f"{width}x{height}" for height, width in sizes) + " (width x height)"

    def _size_error(self, height: object, width: object) -> SizeError:
        return SizeError(f"no picture of {width}x{height} (width x height); allowed: {self.allowed_sizes()}")

    def _distance(self, grid: TokenGrid, height: int, width: int) -> tuple[float, float]:
        own_h, own_w = self.output_px(grid)
        aspect = abs(math.log(own_w / own_h) - math.log(width / height))
        return round(aspect, 9), abs(math.log(own_w * own_h) - math.log(width * height))

    def _budgets(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return (self.min_pixels_single, self.max_pixels_single), (self.min_pixels_multi, self.max_pixels_multi)


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of a size written ``WIDTHxHEIGHT``, such as ``"128x192"``.

    Raises:
        SizeError: the text is not of that form or a side is zero.
    """
    match = re.fullmatch(r"\s*([0-9]{1,6})\s*[xX×]\s*([0-9]{1,6})\s*", text)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (width and height):
        raise SizeError(f"expected a size such as 128x128 (width x height), got {text!r}")
    return height, width


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _smart_resize(height: int, width: int, factor: int, low: int, high: int) -> tuple[int, int]:
    """Sides snapped to ``factor`` (halves to even) with low <= area <= high where the aspect ratio allows it."""
    target_h = max(round(height / factor) * factor, factor)
    target_w = max(round(width / factor) * factor, factor)
    if target_h * target_w > high:
        scale = math.sqrt(high / (height * width))
        target_h = max(math.floor(height * scale / factor) * factor, factor)
        target_w = max(math.floor(width * scale / factor) * factor, factor)
    elif target_h * target_w < low:
        scale = math.sqrt(low / (height * width))
        target_h = math.ceil(height * scale / factor) * factor
        target_w = math.ceil(width * scale / factor) * factor
    return target_h, target_w


def _cover_snapped(height: int, width: int, target: tuple[int, int], factor: int) -> ResizePlan:
    scale = max(target[0] / height, target[1] / width)
    new_h, new_w = round(height * scale), round(width * scale)
    crop = (max(new_h // factor * factor, target[0]), max(new_w // factor * factor, target[1]))
    return _plan(target, (new_h, new_w), crop)


def _cover(height: int, width: int, target: tuple[int, int], crop: tuple[int, int]) -> ResizePlan:
    scale = max(target[0] / height, target[1] / width)
    return _plan(target, (max(round(height * scale), crop[0]), max(round(width * scale), crop[1])), crop)


def _plan(target: tuple[int, int], resized: tuple[int, int], crop: tuple[int, int]) -> ResizePlan:
    return ResizePlan(
        target_h=target[0],
        target_w=target[1],
        resize_h=resized[0],
        resize_w=resized[1],
        top=(resized[0] - crop[0]) // 2,
        left=(resized[1] - crop[1]) // 2,
        crop_h=crop[0],
        crop_w=crop[1],
    )


@cache
def _edit_sizes(num_cells: int, factor: int, max_aspect: float) -> tuple[tuple[int, int], ...]:
    """(width, height) candidates: along the staircase of at most ``num_cells`` cells, aspect at most ``max_aspect``."""
    sizes: list[tuple[int, int]] = []
    cells_w, cells_h = num_cells, 1
    while cells_w > 0:
        if max(cells_w, cells_h) / min(cells_w, cells_h) <= max_aspect:
            sizes.append((cells_w * factor, cells_h * factor))
        if (cells_h + 1) * cells_w <= num_cells:
            cells_h += 1
        else:
            cells_w -= 1
    return tuple(sizes)


def _aspect_match(size: tuple[int, int], height: int, width: int) -> float:
    """1 for equal aspect ratios, smaller the more they differ. ``size`` is (width, height)."""
    across, down = size[0] / width, size[1] / height
    return min(across, down) / max(across, down)
