"""Evaluations that leave most layers out where little has changed since the last full one.

Neighbouring steps of the sampler give the decoder nearly the same tokens, and what the deep layers add to them changes
slowly. The first shared layer is always computed: how much its own contribution has changed since the last full
evaluation tells how much the others would. Below a threshold their contribution is taken over as it was.

The idea is that of the first-block caches in use for diffusion transformers, which simplify TeaCache (Liu et al. 2024,
arXiv 2411.19108: predict from a cheap signal when a step may be reused). Comparing with the last full evaluation, not
with the previous one, keeps slow drift from adding up unseen.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from llada_uni.decoder.dit import Decoder, JointTokens, TokenBatch, TrunkOutput

__all__ = ["StepCache", "relative_change"]


class StepCache:
    """Velocities of one batch of pictures over the steps of one sampling run; an approximation.

    Every row decides for itself, so that no picture depends on its batch. Where no row reuses anything the numbers are
    those of the decoder. ``full`` and ``reused`` count rows so far.

    Args:
        decoder: the network.
        threshold: largest relative change, above 0, at which the deep layers are left out.
    """

    def __init__(self, decoder: Decoder, threshold: float) -> None:
        self.full = self.reused = 0
        self._decoder, self._threshold = decoder, threshold
        self._time = self._change = self._rest = torch.empty(0)

    @torch.no_grad()
    def __call__(self, latents: Tensor, time: Tensor, context: TokenBatch) -> Tensor:
        """As ``Decoder.forward`` with a prepared condition."""
        decoder, entered = self._decoder, self._decoder.begin(latents, time, context)
        first = decoder.first_layer(entered)
        cells = entered.grid[0] * entered.grid[1]
        change = first.tokens[:, :cells] - entered.tokens[:, :cells]
        fresh = self._fresh(change, time)
        tokens = self._tokens(first, fresh, cells)
        self._remember(fresh, time, change, tokens - first.tokens[:, :cells])
        output = TrunkOutput(tokens=tokens, modulation=entered.modulation, grid=entered.grid)
        return decoder.head(output).to(latents.dtype)

    def _fresh(self, change: Tensor, time: Tensor) -> Tensor:
        """Bool [B], True for the rows whose deep layers are computed."""
        rows, known = change.shape[0], self._change.shape[0]
        fresh = torch.ones(rows, dtype=torch.bool, device=change.device)
        if known and change.shape[1:] == self._change.shape[1:]:
            old = slice(0, min(rows, known))
            near = relative_change(change[old], self._change[old]) < self._threshold
            fresh[old] = ~near | (time[old] < self._time[old])
        return fresh

    def _tokens(self, first: JointTokens, fresh: Tensor, cells: int) -> Tensor:
        """Image tokens [B, cells, dim] after all layers, computed or carried on."""
        count, rows = int(fresh.sum()), fresh.shape[0]
        self.full, self.reused = self.full + count, self.reused + rows - count
        if count == rows:
            return self._decoder.finish(first, start=1).tokens
        tokens = first.tokens[:, :cells].clone()
        old = ~fresh
        tokens[old] += self._rest[:rows][old[: self._rest.shape[0]]]
        if count:
            tokens[fresh] = self._decoder.finish(_picked(first, fresh), start=1).tokens
        return tokens

    def _remember(self, fresh: Tensor, time: Tensor, change: Tensor, rest: Tensor) -> None:
        """What full evaluations gave. A row that reused keeps what it had, and so does one that is not there now."""
        known = self._change.shape[0] if change.shape[1:] == self._change.shape[1:] else 0
        if known == 0:
            self._time, self._change, self._rest = time.clone(), change, rest
            return
        self._time = torch.cat((self._time, time[known:]))
        self._change = torch.cat((self._change, change[known:]))
        self._rest = torch.cat((self._rest, rest[known:]))
        places = fresh.nonzero()[:, 0]
        for kept, now in ((self._time, time), (self._change, change), (self._rest, rest)):
            kept[places] = now[places]


def relative_change(now: Tensor, before: Tensor) -> Tensor:
    """Mean absolute difference of tensors [B, ...] over the mean absolute value of ``before``: float32 or wider [B].

    Not a number where ``before`` and ``now`` are zero, which is below no threshold.
    """
    wide = torch.promote_types(now.dtype, torch.float32)
    now, before = now.to(wide).flatten(1), before.to(wide).flatten(1)
    return (now - before).abs().mean(1) / before.abs().mean(1)


def _picked(joint: JointTokens, rows: Tensor) -> JointTokens:
    """Some rows of a batch. ``rotation`` and ``mask`` are those of all."""
    return replace(joint, tokens=joint.tokens[rows], modulation=joint.modulation[rows])
