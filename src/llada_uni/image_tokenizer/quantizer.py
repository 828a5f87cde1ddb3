"""Cosine vector quantiser: feature vectors -> indices of the nearest codebook direction.

Source: released ``encoder/image_tokenizer.py``. The released code searches in bfloat16; here the search is always done
in at least float32, so that a near-tie does not depend on the storage type of the weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada_uni.image_tokenizer.config import VQConfig

__all__ = ["VectorQuantizer"]

_ROWS_PER_SEARCH = 1024


class VectorQuantizer(nn.Module):
    """``quant_conv`` into codebook space, nearest code by cosine, ``post_quant_conv`` back to feature space."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.quantize = _Codebook(config)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.latent_channels, 1)

    @property
    def codebook(self) -> Tensor:
        """[num_embeddings, embed_dim] as stored, rows not normalised."""
        return self.quantize.embedding.weight

    def latents(self, features: Tensor) -> Tensor:
        """[..., latent_channels] -> [..., embed_dim]."""
        return _pointwise(self.quant_conv, features)

    def restore(self, latents: Tensor) -> Tensor:
        """[..., embed_dim] -> [..., latent_channels]; used in training, unused when encoding."""
        return _pointwise(self.post_quant_conv, latents)

    @torch.no_grad()
    def nearest(self, latents: Tensor) -> Tensor:
        """[N, embed_dim] -> int64 [N]: index of the codebook row of largest cosine, the first one on ties."""
        wide = torch.promote_types(latents.dtype, torch.float32)
        with torch.autocast(latents.device.type, enabled=False):
            directions = F.normalize(self.codebook.to(wide), dim=-1)
            queries = F.normalize(latents.to(wide), dim=-1)
            parts = queries.split(_ROWS_PER_SEARCH)
            return torch.cat([(part @ directions.T).argmax(dim=-1) for part in parts])


class _Codebook(nn.Module):
    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.num_embeddings, config.embed_dim)


def _pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution to vectors in the last dimension."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)
