"""Pictures as arrays and tensors of numbers from 0 to 1, the way other libraries pass them, to PIL and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llada_uni.errors import ImageError, SizeError

__all__ = ["from_array", "to_array", "to_tensor", "unbatched"]

_CHANNELS = (1, 3, 4)
_ROUNDING = 1e-3


def unbatched(value: Any) -> Any:
    """A batch (tensor [B, C, H, W], array [B, H, W, C]) as the list of its pictures, or as its only one; others as
    they are."""
    if not isinstance(value, (Tensor, np.ndarray)) or value.ndim != 4:
        return value
    return value[0] if len(value) == 1 else list(value)


def from_array(value: Any) -> Any:
    """A tensor [C, H, W] or [H, W], or an array [H, W, C] or [H, W], as a PIL picture; anything else as it is.

    C is 1, 3 or 4 (RGBA); numbers are floats from 0 to 1 or uint8, and are rounded to 8 bit.

    Raises:
        ImageError: another shape, or numbers out of that range.
    """
    if isinstance(value, Tensor):
        shape, layout = tuple(value.shape), "[C, H, W]"
        moved = value.detach().movedim(0, -1) if value.ndim == 3 else value.detach()
        array = (moved.float() if moved.is_floating_point() else moved).cpu().numpy()
    elif isinstance(value, np.ndarray):
        shape, layout, array = value.shape, "[H, W, C]", value
    else:
        return value
    if array.ndim not in (2, 3) or not array.size or (array.ndim == 3 and array.shape[2] not in _CHANNELS):
        raise ImageError(f"expected a picture of shape {layout} with C = 1, 3 or 4, got {list(shape)}")
    return Image.fromarray(_eight_bit(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array))


def to_array(pictures: Sequence[Image.Image]) -> np.ndarray:
    """RGB pictures of one size as float32 [B, H, W, 3] from 0 to 1.

    Raises:
        SizeError: they differ in size.
    """
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) > 1:
        got = ", ".join(f"{width}x{height}" for width, height in sizes)
        raise SizeError(f"one array holds pictures of one size, got {got}; give height and width, or take them as PIL")
    return np.stack([np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in pictures]) / np.float32(255)


def to_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """The same as float32 [B, 3, H, W] on the CPU.

    Raises:
        SizeError: they differ in size.
    """
    return torch.from_numpy(to_array(pictures)).movedim(-1, 1).contiguous()


def _eight_bit(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    low, high = float(array.min()), float(array.max())
    if not np.issubdtype(array.dtype, np.floating) or not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise ImageError(
            f"expected a picture of floats from 0 to 1 or of uint8, got {array.dtype} from {low:g} to {high:g}"
        )
    return np.rint(array.clip(0, 1) * 255).astype(np.uint8)
