"""What travels along the links: IMAGE [B, H, W, C] and MASK [B, H, W] of floats from 0 to 1, and codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from llada_uni import EncodedImage


@dataclass(frozen=True)
class Codes:
    """A batch of pictures as codes, each with the seed it was written with (0 for encoded pictures)."""

    items: tuple[EncodedImage, ...]
    seeds: tuple[int, ...]


def pictures(image: Tensor) -> list[Image]:
    """IMAGE to PIL, RGB or RGBA; numbers beyond 0..1, which filters leave behind, are cut off."""
    from llada_uni.pipeline.picture_arrays import from_array

    batch = image[None] if image.ndim == 3 else image
    return [from_array(one.detach().float().clamp(0, 1).cpu().numpy()) for one in batch]


def marks(mask: Tensor) -> list[Image]:
    """MASK to PIL, mode L; 255 is the part that may change.

    Raises:
        ImageError: a mask of zeros, such as ComfyUI gives for a picture without one, in whatever shape.
    """
    from llada_uni import ImageError
    from llada_uni.pipeline.picture_arrays import from_array

    batch = mask[None] if mask.ndim == 2 else mask
    if not all(bool((one > 0).any()) for one in batch):
        raise ImageError("the mask marks nothing; paint the part that may change, for example in the mask editor")
    return [from_array(one.detach().float().clamp(0, 1).cpu().numpy()) for one in batch]


def image_tensor(images: Sequence[Image]) -> Tensor:
    """PIL pictures of one size to IMAGE."""
    import torch

    from llada_uni.pipeline.picture_arrays import to_array

    return torch.from_numpy(to_array(images))


def sources(image: Tensor | None, codes: Codes | None) -> list[Any]:
    """The pictures of a node that takes an IMAGE or codes.

    Raises:
        ConfigError: neither or both are linked.
    """
    from llada_uni import ConfigError

    if (image is None) == (codes is None):
        got = "neither" if image is None else "both"
        raise ConfigError(f"expected a link to exactly one of image and codes, got {got}")
    return pictures(image) if codes is None else list(codes.items)


def beside(batch: Sequence[Any], count: int, name: str) -> list[Any]:
    """``batch`` as a list of ``count``: as it is, or its only item for all.

    Raises:
        ConfigError: another number of items.
    """
    from llada_uni import ConfigError

    if len(batch) not in (1, count):
        raise ConfigError(f"{name}: expected a batch of 1 or {count}, as many as there are pictures, got {len(batch)}")
    return list(batch) * count if len(batch) == 1 else list(batch)
