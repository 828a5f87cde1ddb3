"""Branches of different lengths side by side in one backbone call: padding, block numbers and the visibility mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llada_uni.backbone.cache import KeyValue
from llada_uni.diffusion.masking import block_causal_allowed

__all__ = ["Packed", "Part", "PrefixView", "pack", "side_by_side"]


@dataclass(frozen=True, kw_only=True, eq=False)
class PrefixView:
    """Prefixes of several branches padded on the right to C positions; ``valid`` [R, C], None when all are as long."""

    cache: _Filled | None
    length: int
    valid: Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Filled:
    """``kv`` [2, layers, R, kv heads, C + S, head dim]: prefixes, and room for what a step computes, anew in each."""

    kv: Tensor
    length: int

    @property
    def room(self) -> int:
        """S, the positions behind the prefixes."""
        return self.kv.shape[4] - self.length

    def layer(self, index: int) -> Callable[[Tensor, Tensor], KeyValue]:
        """Takes in the new keys and values of a layer."""
        held = self.kv[:, index]

        def extended(keys: Tensor, values: Tensor) -> KeyValue:
            held[0, :, :, self.length :] = keys
            held[1, :, :, self.length :] = values
            return held[0], held[1]

        return extended


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """New ids [S] of one branch from position ``start`` on, and its block grid.

    ``positions`` int64 [S] are the rotary ones; ``start`` counts ids, for the block grid. The first ``hidden`` ids are
    seen by nothing, not even by themselves, and stand at position 0; their ``start`` is negative.
    """

    ids: Tensor
    positions: Tensor
    start: int
    shift: int
    block_length: int
    hidden: int = 0

    @property
    def length(self) -> int:
        return int(self.ids.shape[0])

    @property
    def spans_blocks(self) -> bool:
        """Whether the ids lie in more than one block."""
        first, last = self.start + self.shift, self.start + self.shift + self.length - 1
        return first // self.block_length != last // self.block_length


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """Parts padded on the left to [R, S]. ``valid`` None = no padding, ``blocks`` None = one block each.

    ``hidden`` [R, S]: hidden ids of a part, None = there are none; for others they are padding.
    """

    ids: Tensor
    positions: Tensor
    blocks: Tensor | None
    valid: Tensor | None
    hidden: Tensor | None = None

    def allowed(self, view: PrefixView | None) -> Tensor | None:
        """Visibility bool [R, 1, S, C + S], or None when everything sees everything. Padding sees itself."""
        ragged = view.valid if view is not None else None
        if self.blocks is None and self.valid is None and ragged is None:
            return None
        rows, size = self.ids.shape
        new = torch.ones(rows, size, size, dtype=torch.bool, device=self.ids.device)
        if self.blocks is not None:
            new = block_causal_allowed(self.blocks, self.blocks)
        if self.valid is not None:
            itself = torch.eye(size, dtype=torch.bool, device=self.ids.device)
            new = new & self.valid[:, None, :] | (itself if self.hidden is None else itself & ~self.hidden[:, :, None])
        if view is None or view.length == 0:
            return new.unsqueeze(1)
        old = new.new_ones(rows, view.length) if ragged is None else ragged
        return torch.cat((old[:, None, :].expand(-1, size, -1), new), dim=-1).unsqueeze(1)


def pack(parts: Sequence[Part], device: torch.device) -> Packed:
    """Parts of any lengths in one batch, aligned to the right."""
    size = max(p.length for p in parts)
    starts = torch.tensor([[p.start + p.hidden] for p in parts])
    indices = torch.tensor([[p.start + p.length - size] for p in parts]) + torch.arange(size)
    some_hidden = any(p.hidden for p in parts)
    valid = indices >= starts if some_hidden or any(p.length < size for p in parts) else None
    hidden = None
    if some_hidden:
        hidden = (indices >= starts - torch.tensor([[p.hidden] for p in parts])) & (indices < starts)
    blocks = None
    if any(p.spans_blocks for p in parts):
        shifts, block_lengths = torch.tensor([[[p.shift] for p in parts], [[p.block_length] for p in parts]])
        blocks = (indices + shifts) // block_lengths
    return Packed(
        ids=_to_the_right([p.ids for p in parts], size).to(device),
        positions=_to_the_right([p.positions for p in parts], size).to(device),
        blocks=None if blocks is None else blocks.to(device),
        valid=None if valid is None else valid.to(device),
        hidden=None if hidden is None else hidden.to(device),
    )


def _to_the_right(values: Sequence[Tensor], size: int) -> Tensor:
    """Integers [S] of every part in one table [R, size], zeros before them."""
    return torch.stack([one if len(one) == size else F.pad(one, (size - len(one), 0)) for one in values])


def side_by_side(prefixes: Sequence[Tensor], room: int) -> PrefixView:
    """Keys and values [2, layers, kv heads, T, head dim] of several branches, padded on the right to the longest.

    ``room``: positions of the steps that will look at them.
    """
    lengths = [int(kv.shape[3]) for kv in prefixes]
    length = max(lengths)
    if length == 0:
        return PrefixView(cache=None, length=0, valid=None)
    layers, heads, width = prefixes[0].shape[1], prefixes[0].shape[2], prefixes[0].shape[4]
    stacked = prefixes[0].new_empty(2, layers, len(prefixes), heads, length + room, width)
    for row, kv in enumerate(prefixes):
        stacked[:, :, row, :, : kv.shape[3]] = kv
        stacked[:, :, row, :, kv.shape[3] : length] = 0
    valid = None
    if min(lengths) < length:
        valid = torch.arange(length, device=stacked.device) < torch.tensor(lengths, device=stacked.device)[:, None]
    return PrefixView(cache=_Filled(kv=stacked, length=length), length=length, valid=valid)
