"""The decoder as the flow sampler sees it.

The plain way is the decoder itself, which refines the condition in every evaluation. :class:`OneContext` does so once
per picture, and for "no picture" once per size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llada_uni.decoder.blank import BlankConditions, with_blank_rows
from llada_uni.decoder.graphs import DecoderGraphs
from llada_uni.decoder.step_cache import StepCache

if TYPE_CHECKING:
    from llada_uni.decoder.dit import Decoder, TokenBatch

__all__ = ["OneContext", "SharedWork"]


class SharedWork:
    """What the pictures of one decoder share: conditions of "no picture", and captured evaluations where ``graph``."""

    def __init__(self, *, graph: bool = False) -> None:
        self.blank = BlankConditions()
        self.graphs = DecoderGraphs() if graph else None


class OneContext:
    """A velocity field for one run of the sampler that prepares the condition once instead of at every step.

    Without ``step_cache`` these are the numbers of the decoder called directly: bit for bit where no row of the
    condition is blank; with blank rows (the guidance branch) up to the rounding of products of another batch size.

    Args:
        decoder: the network.
        grid: rows and columns of condition tokens.
        shared: what is kept beyond this run; None keeps nothing.
        step_cache: threshold of :class:`~llada_uni.decoder.step_cache.StepCache`; None computes every step in full.
            Such evaluations are not captured.
    """

    def __init__(
        self,
        decoder: Decoder,
        grid: tuple[int, int],
        *,
        shared: SharedWork | None = None,
        step_cache: float | None = None,
    ) -> None:
        self._decoder, self._grid, self._shared = decoder, grid, shared or SharedWork()
        self.steps = None if step_cache is None else StepCache(decoder, step_cache)
        self._known: list[tuple[Tensor, TokenBatch]] = []

    @torch.inference_mode()
    def __call__(self, latents: Tensor, time: Tensor, semantic_features: Tensor) -> Tensor:
        context = self._context(semantic_features)
        if self.steps is not None:
            return self.steps(latents, time, context)
        if self._shared.graphs is not None:
            return self._shared.graphs(self._decoder, latents, time, context)
        return self._decoder(latents, time, context)

    def _context(self, features: Tensor) -> TokenBatch:
        """The prepared condition of ``features``; a run has two of them at most, with and without guidance branch."""
        for known, context in self._known:
            if known is features:
                return context
        context = self._prepared(features)
        self._known = [*self._known[-1:], (features, context)]
        return context

    def _prepared(self, features: Tensor) -> TokenBatch:
        blank = ~features.flatten(1).any(1)
        if not bool(blank.any()):
            return self._matching(features, lambda: self._decoder.prepare(features, self._grid))
        nothing = self._shared.blank.get(self._decoder, features, self._grid)
        if bool(blank.all()):
            return with_blank_rows(blank, nothing, nothing)
        shown = features[~blank]
        own = self._matching(shown, lambda: self._decoder.prepare(shown, self._grid))
        return with_blank_rows(blank, own, nothing)

    def _matching(self, features: Tensor, prepare: Callable[[], TokenBatch]) -> TokenBatch:
        """What is prepared already for features of the same numbers, or ``prepare()``."""
        found = (one for known, one in self._known if known.shape == features.shape and torch.equal(known, features))
        return next(found, None) or prepare()
