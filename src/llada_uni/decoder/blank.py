"""The condition "no picture", refined once per size and kept.

Guidance compares the condition with one of zeros. What the decoder makes of zeros depends on the size of the picture
alone, so that one computation serves every step of every picture.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import chain

import torch
from torch import Tensor, nn

from llada_uni.decoder.dit import Decoder, TokenBatch

__all__ = ["BlankConditions", "with_blank_rows"]

_KEPT_SIZES = 4


class BlankConditions:
    """Prepared conditions of zeros, batch 1, of the last few sizes of one decoder.

    One is computed again when the weights it was made with have been changed or exchanged. ``computed`` counts.
    """

    def __init__(self) -> None:
        self.computed = 0
        self._made: OrderedDict[tuple[object, ...], TokenBatch] = OrderedDict()

    def get(self, decoder: Decoder, features: Tensor, grid: tuple[int, int]) -> TokenBatch:
        """The condition for pictures of ``grid`` (rows, columns) whose features are like ``features`` [B, L, F]."""
        key = (features.shape[1:], features.dtype, features.device, grid, _mark(decoder))
        if key not in self._made:
            self.computed += 1
            self._made[key] = decoder.prepare(torch.zeros_like(features[:1]), grid)
        self._made.move_to_end(key)
        while len(self._made) > _KEPT_SIZES:
            self._made.popitem(last=False)
        return self._made[key]


def with_blank_rows(blank: Tensor, shown: TokenBatch, nothing: TokenBatch) -> TokenBatch:
    """One batch out of both.

    Row n is that of ``nothing`` (batch 1) where ``blank`` [B] (bool) is True, else the next one of ``shown``.
    """
    tokens = shown.tokens.new_empty(blank.shape[0], *shown.tokens.shape[1:])
    tokens[blank] = nothing.tokens
    tokens[~blank] = shown.tokens[: int((~blank).sum())]
    return TokenBatch(
        tokens=tokens,
        positions=shown.positions,
        lengths=shown.lengths[:1] * blank.shape[0],
        rotation=shown.rotation,
        grid=shown.grid,
    )


def _mark(decoder: Decoder) -> tuple[tuple[int, int], ...]:
    """Changes when a weight that the condition depends on is written to or exchanged."""
    parts: list[nn.Module] = [decoder.semantic_embedder, decoder.context_refiner]
    parts += [] if decoder.places is None else [decoder.places]
    tensors = chain([decoder.cap_pad_token], *(chain(part.parameters(), part.buffers()) for part in parts))
    return tuple((id(one), 0 if one.is_inference() else one._version) for one in tensors)
