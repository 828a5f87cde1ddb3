"""The image tokenizer: patches of pictures -> codebook indices, one per patch, in raster order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from llada_uni.errors import ImageError
from llada_uni.image_tokenizer.config import ImageTokenizerConfig
from llada_uni.image_tokenizer.quantizer import VectorQuantizer
from llada_uni.image_tokenizer.vit import VisionTransformer

if TYPE_CHECKING:
    from llada_uni.grid import TokenGrid

__all__ = ["ImageTokenizer"]


class ImageTokenizer(nn.Module):
    """Vision transformer plus cosine codebook; parameter names are those of the released file.

    ``features`` and ``latents`` are differentiable; ``quantise`` and ``forward`` return indices.
    Source: LLaDA2.0-Uni paper (arXiv 2604.20796), image tokenizer, and released ``encoder/image_tokenizer.py``.
    """

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.model = nn.ModuleDict(
            {"visual": VisionTransformer(config.vision_config), "vqmodel": VectorQuantizer(config.vq_config)}
        )

    @property
    def vision(self) -> VisionTransformer:
        """The vision transformer."""
        return self.model["visual"]  # type: ignore[return-value]

    @property
    def quantizer(self) -> VectorQuantizer:
        """The codebook with its two projections."""
        return self.model["vqmodel"]  # type: ignore[return-value]

    @property
    def codebook(self) -> Tensor:
        """[K, embed_dim] code vectors as stored (only their directions matter)."""
        return self.quantizer.codebook

    def features(self, pixel_values: Tensor, grids: Sequence[TokenGrid]) -> Tensor:
        """Encode packed pictures.

        Args:
            pixel_values: [N, C*p*p] normalised patches, picture after picture, raster order inside each.
            grids: the token grid of every picture; their token counts sum to N.

        Returns:
            [N, hidden_size]; each picture's rows do not depend on the others.

        Raises:
            ImageError: N or the patch width does not fit.
        """
        total = sum(grid.grid_h * grid.grid_w for grid in grids)
        width = self.config.vision_config.patch_features
        if total == 0 or tuple(pixel_values.shape) != (total, width):
            raise ImageError(f"expected patches of shape ({total}, {width}) for {len(grids)} grids, "
                             f"got {tuple(pixel_values.shape)}")  # fmt: skip
        return self.vision(pixel_values, grids)

    def latents(self, features: Tensor) -> Tensor:
        """[N, hidden_size] -> [N, embed_dim], the vectors compared with the codebook (not normalised)."""
        return self.quantizer.latents(features)

    def quantise(self, latents: Tensor) -> Tensor:
        """[N, embed_dim] -> int64 codes [N] in [0, K): largest cosine, first index on ties, without gradient."""
        return self.quantizer.nearest(latents)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor, grids: Sequence[TokenGrid]) -> Tensor:
        """[N, C*p*p] patches -> int64 codes [N]; see ``features`` for the layout and the errors."""
        return self.quantise(self.latents(self.features(pixel_values, grids)))
