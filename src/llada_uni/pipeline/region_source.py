"""The picture whose region is edited: its codes, and its pixels at the size of the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from llada_uni.errors import ConfigError
from llada_uni.grid import TokenGrid
from llada_uni.image_tokenizer.images import ImageSource, for_editing, load_image, resize_to_cover_and_crop
from llada_uni.pipeline.results import EncodedImage, ImageResult

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["RegionSource", "Source", "check_codes", "open_source"]

RegionSource = ImageSource | ImageResult | EncodedImage
"""A picture of any origin, or a result or codes of this model, which are taken as they are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A picture to be edited.

    ``codes`` on ``grid`` are None until the picture is encoded (``sized`` is what the image tokenizer reads);
    ``picture`` is RGB at the size the grid decodes to, None when only codes are known. ``size_px`` (height, width) is
    the size as it was given.
    """

    grid: TokenGrid
    size_px: tuple[int, int]
    codes: tuple[int, ...] | None = None
    picture: Image.Image | None = None
    sized: Image.Image | None = None

    @property
    def resized_from(self) -> list[int] | None:
        """[width, height] of a picture that had to be scaled or cropped."""
        height, width = self.size_px
        same = self.picture is None or self.picture.size == (width, height)
        return None if same else [width, height]

    def readable(self, model: str) -> Image.Image | EncodedImage:
        """What the main path reads: codes where they are known, else the picture at the image tokenizer's size."""
        if self.codes is not None:
            return EncodedImage(codes=self.codes, grid=self.grid, model=model)
        assert self.sized is not None
        return self.sized


def open_source(networks: Networks, image: RegionSource) -> Source:
    """Read the picture; nothing is computed yet.

    Raises:
        ImageError: unreadable, too large, too elongated, or codes outside the codebook.
        SizeError: codes on a grid this checkpoint was not trained on.
    """
    geometry = networks.geometry
    if isinstance(image, (ImageResult, EncodedImage)):
        check_codes(networks, image.grid, image.codes)
        size = geometry.output_px(image.grid)
        if isinstance(image, EncodedImage):
            return Source(grid=image.grid, size_px=size, codes=image.codes)
        return Source(grid=image.grid, size_px=size, codes=image.codes, picture=_fitting(image.image, size))
    picture = load_image(image)
    sized = for_editing(picture, geometry)
    grid = geometry.grid_from_tokenizer_px(sized.height, sized.width)
    fitting = _fitting(picture, geometry.output_px(grid))
    return Source(grid=grid, size_px=(picture.height, picture.width), picture=fitting, sized=sized)


def check_codes(networks: Networks, grid: TokenGrid, codes: Sequence[int]) -> None:
    """Refuse what the checkpoint cannot decode.

    Raises:
        ConfigError: not as many codes as the grid has cells.
        SizeError: a grid it was not trained on.
        ImageError: a code outside its codebook.
    """
    if len(codes) != grid.num_tokens:
        raise ConfigError(f"expected {grid.num_tokens} codes for a {grid.grid_h}x{grid.grid_w} grid, got {len(codes)}")
    networks.geometry.grid_from_output_px(*networks.geometry.output_px(grid))
    networks.vocab.to_ids(codes)


def _fitting(picture: Image.Image, size_px: tuple[int, int]) -> Image.Image:
    return resize_to_cover_and_crop(picture.convert("RGB"), size_px)
