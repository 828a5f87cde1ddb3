"""Codes -> semantic features, the decoder's only condition.

Source: LLaDA2.0-Uni paper (arXiv 2604.20796), diffusion decoder, and released ``decoder/sigvq.py``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llada_uni.decoder.config import SemanticEmbedderConfig
from llada_uni.grid import UPSCALE

__all__ = ["SemanticEmbedder"]


class SemanticEmbedder(nn.Module):
    """Embedding table and two linear maps around a SiLU; parameter names are those of the released file."""

    def __init__(self, config: SemanticEmbedderConfig) -> None:
        super().__init__()
        self.config = config
        self.prior_token_embedding = nn.Embedding(config.num_codes, config.width)
        self.prior_projector = _Projector(config.width)

    def forward(self, codes: Tensor) -> Tensor:
        """Integer codes [B, h, w] in [0, num_codes) -> features [B, 4*h*w, width].

        Each code is repeated 2 x 2; rows are in raster order of the 2h x 2w grid. The factor does not depend on the
        size of the picture to be decoded. The condition for "no picture" is zeros of the same shape.
        """
        features = self.prior_projector(self.prior_token_embedding(codes))
        return features.repeat_interleave(UPSCALE, dim=1).repeat_interleave(UPSCALE, dim=2).flatten(1, 2)


class _Projector(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        first = nn.Module()
        first.proj = nn.Linear(width, width)
        self.net = nn.ModuleDict({"0": first, "2": nn.Linear(width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.net["2"](F.silu(self.net["0"].proj(x)))  # type: ignore[operator]
