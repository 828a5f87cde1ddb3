"""The decoder as the flow sampler sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from llada_uni.decoder.dit import Decoder

__all__ = ["OneContext"]


class OneContext:
    """A velocity field that refines the condition once per batch of pictures instead of at every step.

    ``grid``: rows and columns of condition tokens. The same numbers as calling the decoder directly.
    """

    def __init__(self, decoder: Decoder, grid: tuple[int, int]) -> None:
        self._decoder, self._grid = decoder, grid
        self._features: Tensor | None = None

    @torch.inference_mode()
    def __call__(self, latents: Tensor, time: Tensor, semantic_features: Tensor) -> Tensor:
        if self._features is not semantic_features:
            self._features = semantic_features
            self._context = self._decoder.context(semantic_features, self._grid)
        return self._decoder(latents, time, self._context)
