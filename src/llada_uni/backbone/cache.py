"""Keys and values of positions the backbone has already processed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from llada_uni.backbone.config import BackboneConfig

__all__ = ["KeyValue", "KeyValueCache", "LayerCache", "Past"]

KeyValue = tuple[Tensor, Tensor]
Past = KeyValue | Callable[[Tensor, Tensor], KeyValue]
"""Keys and values that come before the new ones; or what takes in the new ones and returns all there are to see."""


class LayerCache(Protocol):
    """Something with a past for every layer."""

    def layer(self, index: int) -> Past:
        """The past of one layer."""
        ...


@dataclass(frozen=True)
class KeyValueCache:
    """Immutable keys and values, one ``[B, num_key_value_heads, C, head_dim]`` tensor per layer.

    Keys are stored after normalisation and rotation, so they carry their positions and may be dropped or re-ordered
    freely. Every method returns a new cache; the backbone only reads.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def empty(
        cls,
        config: BackboneConfig,
        *,
        batch_size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> KeyValueCache:
        """A cache of length 0 for ``batch_size`` rows."""
        shape = (batch_size, config.num_key_value_heads, 0, config.head_dim)
        blank = tuple(torch.empty(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers))
        return cls(blank, blank)

    @property
    def length(self) -> int:
        """Number of cached positions C."""
        return self.keys[0].shape[2]

    @property
    def batch_size(self) -> int:
        """Number of rows B."""
        return self.keys[0].shape[0]

    @property
    def num_bytes(self) -> int:
        """Memory held by all layers."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def layer(self, index: int) -> KeyValue:
        """Keys and values of one layer."""
        return self.keys[index], self.values[index]

    def append(self, new: KeyValueCache) -> KeyValueCache:
        """This cache followed by the positions of ``new`` (same rows)."""
        return self._pairwise(new, lambda old, fresh: torch.cat((old, fresh), dim=2))

    def truncate(self, length: int) -> KeyValueCache:
        """The first ``length`` positions."""
        return self._each(lambda t: t[:, :, :length])

    def select_positions(self, index: Tensor) -> KeyValueCache:
        """Keep the positions ``index``: int64 ``[K]`` for all rows alike, or ``[B, K]`` row by row, in that order."""
        if index.ndim == 1:
            return self._each(lambda t: t.index_select(2, index))
        return self._each(lambda t: t.gather(2, index[:, None, :, None].expand(-1, t.shape[1], -1, t.shape[3])))

    def select_rows(self, rows: Tensor) -> KeyValueCache:
        """The rows ``rows`` (int64 ``[R]``, repetition allowed), in that order."""
        return self._each(lambda t: t.index_select(0, rows))

    @staticmethod
    def concatenate_rows(caches: Sequence[KeyValueCache]) -> KeyValueCache:
        """The rows of several caches of one length, one after the other."""
        keys = zip(*(cache.keys for cache in caches), strict=True)
        values = zip(*(cache.values for cache in caches), strict=True)
        return KeyValueCache(tuple(torch.cat(k) for k in keys), tuple(torch.cat(v) for v in values))

    def _each(self, change: Callable[[Tensor], Tensor]) -> KeyValueCache:
        return KeyValueCache(tuple(map(change, self.keys)), tuple(map(change, self.values)))

    def _pairwise(self, other: KeyValueCache, join: Callable[[Tensor, Tensor], Tensor]) -> KeyValueCache:
        return KeyValueCache(
            tuple(map(join, self.keys, other.keys)),
            tuple(map(join, self.values, other.values)),
        )
