"""The backbone as a causal model behind a cache: prompts of any lengths in, the logits of the next id out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llada_uni.backbone.cache import KeyValueCache
from llada_uni.backbone.model import Backbone

__all__ = ["CausalRows"]


class CausalRows:
    """Rows that grow by one id at a time. A backbone trained on masks answers nonsense here: train it causally.

    Positions are those of :meth:`BackboneConfig.positions` for the prompt and go on one by one.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._device = next(backbone.parameters()).device
        self._cache: KeyValueCache | None = None
        self._valid = torch.empty(0, 0, dtype=torch.bool)
        self._last = torch.empty(0, dtype=torch.int64)

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Forget what was, read ``prompts`` (at least one id each): logits [R, V] of the id after each of them."""
        config, device = self._backbone.config, self._device
        rows = [torch.tensor(list(prompt), dtype=torch.int64) for prompt in prompts]
        places = [config.positions(row) for row in rows]
        size = max(len(row) for row in rows)
        ids, positions = (_to_the_right(values, size).to(device) for values in (rows, places))
        lengths = torch.tensor([len(row) for row in rows], device=device)
        self._valid = torch.arange(size, device=device) >= size - lengths[:, None]
        seen = torch.ones(size, size, dtype=torch.bool, device=device).tril() & self._valid[:, None, :]
        allowed = seen | torch.eye(size, dtype=torch.bool, device=device)
        hidden, self._cache = self._backbone.hidden(ids, positions, allowed.unsqueeze(1), return_kv=True)
        self._last = positions[:, -1]
        return self._backbone.logits(hidden[:, -1])

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """Append ``ids`` int64 [R], one to each row: logits [R, V] of the ids after them."""
        assert self._cache is not None, "start() comes first"
        self._last = self._last + 1
        self._valid = F.pad(self._valid, (0, 1), value=True)
        hidden, new = self._backbone.hidden(
            ids.to(self._device).unsqueeze(1),
            self._last.unsqueeze(1),
            self._valid[:, None, None, :],
            self._cache,
            return_kv=True,
        )
        self._cache = self._cache.append(new)
        return self._backbone.logits(hidden[:, -1])


def _to_the_right(values: Sequence[Tensor], size: int) -> Tensor:
    return torch.stack([F.pad(one, (size - len(one), 0)) for one in values])
