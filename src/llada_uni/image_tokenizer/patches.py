"""8-bit pictures -> normalised patch vectors, the input of the image tokenizer.

Source: released ``encoder/image_tokenizer.py`` (the preprocessor of the released checkpoint has patch 16, merge 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llada_uni.errors import ImageError
from llada_uni.grid import TokenGrid
from llada_uni.image_tokenizer.config import PreprocessorConfig

__all__ = ["patchify"]


def patchify(images: Sequence[Any], preprocessor: PreprocessorConfig) -> tuple[Tensor, list[TokenGrid]]:
    """Normalise pictures and cut them into patches. Nothing is resized here.

    Args:
        images: RGB pictures as 8-bit arrays [H, W, 3] or PIL images of mode RGB; sides are multiples of
            ``patch_size * merge_size``.
        preprocessor: patch size, means and standard deviations.

    Returns:
        float32 [N, 3 * temporal_patch_size * patch_size**2], picture after picture, and the token grid of each. Tokens
        are in raster order (merge groups first when ``merge_size`` exceeds 1); numbers inside a token run over channel,
        frame, row, column.

    Raises:
        ImageError: no pictures, another dtype or shape, or sides that do not fit the patches.
    """
    if not len(images):
        raise ImageError("expected at least one picture, got none")
    arrays = [_pixels(image, preprocessor) for image in images]
    grids = [TokenGrid(a.shape[0] // preprocessor.patch_size, a.shape[1] // preprocessor.patch_size) for a in arrays]
    return torch.cat([_cut(_normalise(array, preprocessor), preprocessor) for array in arrays]), grids


def _pixels(image: Any, preprocessor: PreprocessorConfig) -> np.ndarray:
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ImageError(f"expected an 8-bit RGB picture [H, W, 3], got {array.dtype} of shape {array.shape}")
    factor = preprocessor.patch_size * preprocessor.merge_size
    if array.shape[0] % factor or array.shape[1] % factor or not array.size:
        raise ImageError(
            f"expected sides that are positive multiples of {factor} pixels, got {array.shape[1]}x{array.shape[0]} "
            "(width x height)"
        )
    return array


def _normalise(array: np.ndarray, preprocessor: PreprocessorConfig) -> Tensor:
    """uint8 [H, W, 3] -> float32 [H, W, 3]."""
    pixels = torch.from_numpy(np.array(array, dtype=np.float32))
    if preprocessor.do_rescale:
        pixels = pixels * preprocessor.rescale_factor
    if preprocessor.do_normalize:
        pixels = (pixels - torch.tensor(preprocessor.image_mean)) / torch.tensor(preprocessor.image_std)
    return pixels


def _cut(pixels: Tensor, preprocessor: PreprocessorConfig) -> Tensor:
    """[H, W, 3] -> [tokens, 3 * frames * patch * patch]; the single frame is repeated."""
    patch, merge, frames = preprocessor.patch_size, preprocessor.merge_size, preprocessor.temporal_patch_size
    cells = pixels.unflatten(1, (-1, merge, patch)).unflatten(0, (-1, merge, patch))
    tokens = cells.permute(0, 3, 1, 4, 6, 2, 5).flatten(0, 3)
    return tokens.unsqueeze(2).expand(-1, -1, frames, -1, -1).flatten(1)
