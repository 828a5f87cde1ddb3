"""Keys and values at fixed addresses, one slot per branch, so that a step has fixed shapes and can be recorded.

Position n of a branch lies at place n of its slot. A step writes the keys of all its ids there, masks included, and
the next step of the block writes over them: nothing is joined or moved, and who sees whom is a comparison of block
numbers. One more place at the end of every slot takes what padding writes; nothing ever looks at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from llada_uni.backbone.cache import KeyValue
from llada_uni.backbone.model import Backbone
from llada_uni.diffusion.positions import aligned_batch_positions
from llada_uni.layers.moe import ExpertBackend, Experts, static_expert_backend
from llada_uni.layers.precision import at_least_float32

__all__ = ["SlotBackbone"]

_ROWS_AT_ONCE = 2**14


@dataclass(frozen=True, kw_only=True, eq=False)
class _SlotCache:
    """Slots as the backbone's layers see them: new keys go to ``places`` [R, S], the first ``visible`` are read."""

    keys: Tensor
    values: Tensor
    places: Tensor
    visible: int

    def layer(self, index: int) -> Callable[[Tensor, Tensor], KeyValue]:
        def extended(keys: Tensor, values: Tensor) -> KeyValue:
            return self._seen(self.keys[index], keys), self._seen(self.values[index], values)

        return extended

    def _seen(self, held: Tensor, new: Tensor) -> Tensor:
        rows = held[: new.shape[0]]
        rows.scatter_(2, self.places[:, None, :, None].expand_as(new), new)
        return rows[:, :, : self.visible]


class SlotBackbone:
    """A backbone over slots; see ``sampling.captured`` for the driver.

    Args:
        backbone: the network, in evaluation mode.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        weight = backbone.lm_head.weight
        self.device, self._dtype = weight.device, weight.dtype
        self._keys = self._values = torch.empty(0, 0, 0, 0, 0)
        self._covariance: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Memory of all slots."""
        return self._keys.nbytes + self._values.nbytes

    @torch.inference_mode()
    def reserve(self, num_slots: int, length: int) -> bool:
        """Make room for so many branches of so many positions; True if the slots moved, and lost what they held."""
        _, slots, _, places, _ = self._keys.shape
        if slots >= num_slots and places > length:
            return False
        config = self._backbone.config
        shape = (
            config.num_hidden_layers,
            max(slots, num_slots),
            config.num_key_value_heads,
            max(places, length + 1),
            config.head_dim,
        )
        self._keys = self._values = torch.empty(0, 0, 0, 0, 0)  # free the old ones first
        self._keys = torch.zeros(shape, dtype=self._dtype, device=self.device)
        self._values = torch.zeros_like(self._keys)
        return True

    @torch.inference_mode()
    def reseat(self, slots: Sequence[int]) -> None:
        """Slot n now holds what slot ``slots[n]`` held."""
        index = torch.tensor(slots, device=self.device)
        for held in (self._keys, self._values):
            for layer in held.unbind(0):
                layer[: len(slots)] = layer.index_select(0, index)

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor,
        start: Tensor,
        count: Tensor,
        shift: Tensor,
        *,
        block_length: int,
        visible: int,
    ) -> Tensor:
        """Final hidden states [R, S, width]; keys and values of all valid ids are in slots 0..R-1 afterwards.

        Args:
            ids, positions: int64 [R, S], aligned to the right; ``positions`` are the rotary ones.
            start, count: int64 [R], the last ``count`` ids are valid and lie at places from ``start`` on.
            shift: int64 [R]; place n lies in block ``(n + shift) // block_length``.
            visible: how many places may be seen, at least ``start + count`` of every row.
        """
        place = (start + count - ids.shape[1])[:, None] + torch.arange(ids.shape[1], device=ids.device)
        trash = self._keys.shape[3] - 1
        cache = _SlotCache(
            keys=self._keys,
            values=self._values,
            places=torch.where(place >= start[:, None], place, trash),
            visible=visible,
        )
        seen = torch.arange(visible, device=ids.device) + shift[:, None]
        own = place.clamp_min(0) + shift[:, None]  # padding looks at something, too: an empty row would give NaN
        allowed = seen.div(block_length, rounding_mode="floor")[:, None, :] <= own.div(
            block_length, rounding_mode="floor"
        ).unsqueeze(-1)
        return self._backbone.hidden(ids, positions, allowed.unsqueeze(1), cache)

    def logits(self, hidden: Tensor, id_range: tuple[int, int] | None = None, /) -> Tensor:
        """Logits [..., V'] of ``hidden`` [..., width], float32 or float64."""
        return self._backbone.logits(hidden, id_range)

    def spread(self, hidden: Tensor, /) -> Tensor:
        """Standard deviation (unbiased) over the whole vocabulary of the logits of ``hidden`` [..., width]: [..., 1].

        Logits are products with the head's rows, so it follows from the rows' covariance, and no logit is computed.
        """
        if self._covariance is None:
            self._covariance = _covariance(self._backbone.lm_head.weight)
        wide = hidden.to(self._covariance.dtype)
        return torch.linalg.vecdot(wide @ self._covariance, wide).clamp_min(0).sqrt().unsqueeze(-1)

    def host_positions(self, ids: Tensor, first: int) -> Tensor:
        """Rotary positions int64 [T] of consecutive ids [T] on the CPU; see ``BackboneConfig.positions``."""
        return self._backbone.config.positions(ids, first)

    def positions_depend_on(self, start: int, stop: int) -> bool:
        """Whether writing one of the ids ``start <= id < stop`` moves what stands behind it."""
        config = self._backbone.config
        moving = config.picture_start_id
        return config.picture_alignment > 0 and moving is not None and start <= moving < stop

    def positions(self, ids: Tensor, valid: Tensor, first: Tensor) -> Tensor:
        """Rotary positions [R, S] on the device; rows as in :meth:`hidden`, ``first`` [R] as in ``host_positions``."""
        config = self._backbone.config
        assert config.picture_start_id is not None, "only asked for where positions depend on ids"
        return aligned_batch_positions(ids, valid, first, config.picture_start_id, config.picture_alignment)

    @contextmanager
    def recordable(self) -> Iterator[None]:
        """Inside, no step reads a value back to the host: what a CUDA graph may record."""
        experts = [module for module in self._backbone.modules() if isinstance(module, Experts)]
        before: list[ExpertBackend] = [module.backend for module in experts]
        for module in experts:
            module.backend = static_expert_backend(module.gate_proj)
        try:
            yield
        finally:
            for module, backend in zip(experts, before, strict=True):
                module.backend = backend


def _covariance(weight: Tensor) -> Tensor:
    """Covariance [width, width] of the rows of ``weight``, in float32 or wider, a slice of them at a time."""
    kind = at_least_float32(weight[:0]).dtype
    mean = weight.mean(0, dtype=torch.float64).to(kind)
    total = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64, device=weight.device)
    for rows in weight.split(_ROWS_AT_ONCE):
        centred = rows.to(kind) - mean
        total += centred.T @ centred
    return (total / (weight.shape[0] - 1)).to(kind)
