"""What a denoiser holds of one branch: ids, keys and values of its prefix, and what is known about their importance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llada_uni.backbone.model import Backbone
from llada_uni.protocols import Prefix

__all__ = ["HeldPrefix", "best_probability"]

_LOGITS_AT_ONCE = 2**25


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldPrefix:
    """Everything final of one branch that has been computed; never changed, only replaced.

    ``ids`` int64 [T]; ``next_position`` is the rotary position of an id behind them. ``kv`` [2, layers, kv heads,
    N + T, head dim]: those of the N ``pad_ids`` first, which nothing sees unless ``pruned``, the thinned copy in use,
    contains them. ``confidence`` float32 [N + T], None = not wanted.
    """

    ids: Tensor
    kv: Tensor
    shift: int
    block_length: int
    pad_ids: Tensor
    next_position: int = 0
    confidence: Tensor | None = None
    pruned: Tensor | None = None

    @classmethod
    def nothing(cls, prefix: Prefix, backbone: Backbone) -> HeldPrefix:
        """Nothing yet of ``prefix``."""
        config, weight = backbone.config, backbone.lm_head.weight
        shape = (2, config.num_hidden_layers, config.num_key_value_heads, 0, config.head_dim)
        return cls(
            ids=prefix.ids[:0],
            kv=torch.empty(shape, dtype=weight.dtype, device=weight.device),
            shift=prefix.shift,
            block_length=prefix.block_length,
            pad_ids=prefix.pad_ids,
            confidence=torch.empty(0, dtype=torch.float32, device=weight.device) if prefix.scored else None,
        )

    @property
    def num_pads(self) -> int:
        return int(self.pad_ids.shape[0])

    @property
    def lacks_pads(self) -> bool:
        """Whether the padding has still to be computed, together with the first ids."""
        return self.kv.shape[3] < self.num_pads

    @property
    def visible(self) -> Tensor:
        """Keys and values that the next step sees."""
        return self.kv[:, :, :, self.num_pads :] if self.pruned is None else self.pruned

    @property
    def key_norms(self) -> Tensor:
        """Mean over heads of the length of the keys, float32 [layers, N + T]."""
        return self.kv[0].float().norm(dim=-1).mean(1)

    def serves(self, prefix: Prefix) -> bool:
        """Whether a beginning of ``prefix`` may be taken from here."""
        return (
            (self.shift, self.block_length) == (prefix.shift, prefix.block_length)
            and torch.equal(self.pad_ids, prefix.pad_ids)
            and (self.confidence is not None or not prefix.scored)
        )

    def beginning(self, prefix: Prefix, backbone: Backbone) -> HeldPrefix:
        """The part that agrees with ``prefix``, cut at a block boundary, nothing of it thinned out."""
        shared = min(int(self.ids.shape[0]), int(prefix.ids.shape[0]))
        differ = (self.ids[:shared] != prefix.ids[:shared]).nonzero()
        if differ.numel():
            first = int(differ[0])
            shared = max(0, first - (first + self.shift) % self.block_length)
        length = shared + self.num_pads
        confidence = self.confidence[:length] if self.confidence is not None and prefix.scored else None
        ids = self.ids[:shared]
        position = int(backbone.config.positions(ids)[-1]) + 1 if shared else 0
        kv = self.kv[:, :, :, :length]
        return replace(self, ids=ids, kv=kv, next_position=position, confidence=confidence, pruned=None)

    def extended(self, ids: Tensor, kv: Tensor, next_position: int, confidence: Tensor | None) -> HeldPrefix:
        """With further ``ids`` and the keys, values and confidences computed for them."""
        if self.confidence is not None:
            assert confidence is not None, "a scored prefix needs the confidences of what joins it"
            confidence = torch.cat((self.confidence, confidence))
        ids, kv = torch.cat((self.ids, ids)), torch.cat((self.kv, kv), dim=3)
        return replace(self, ids=ids, kv=kv, next_position=next_position, confidence=confidence)

    def thinned(self, keep: Tensor) -> HeldPrefix:
        """Only the positions ``keep`` int64 [layers, K] visible, counted from the first of the padding."""
        _, _, heads, _, width = self.kv.shape
        index = keep.to(self.kv.device)[None, :, None, :, None].expand(2, -1, heads, -1, width)
        return replace(self, pruned=self.kv.gather(3, index))


def best_probability(backbone: Backbone, hidden: Tensor) -> Tensor:
    """Probability of the likeliest id of the whole vocabulary, float32 [N], at hidden states [N, width]."""
    rows = max(1, _LOGITS_AT_ONCE // backbone.config.vocab_size)
    return torch.cat([_best_probability(backbone.logits(part)) for part in hidden.split(rows)])


def _best_probability(logits: Tensor) -> Tensor:
    return (logits.amax(-1) - logits.logsumexp(-1)).exp().float()
