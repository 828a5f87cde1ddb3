"""The backbone behind the block sampler: one that recomputes everything, one that caches finished blocks exactly.

A finished block sees only itself and earlier blocks, so its keys and values never change once its ids are final:
caching them loses nothing. They must come from a pass over the final ids; that pass is merged with the first step of
the next block, in one call over [finished block | active block] under the block-causal mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llada_uni.backbone.cache import KeyValueCache
from llada_uni.backbone.held import HeldPrefix, best_probability
from llada_uni.backbone.model import Backbone
from llada_uni.backbone.packing import Part, PrefixView, pack, side_by_side
from llada_uni.protocols import BranchKey, BranchStep, Prefix, StepBatch

__all__ = ["CachedDenoiser", "ReferenceDenoiser"]

_ROWS_AT_LEAST = 16


class ReferenceDenoiser:
    """Recomputes the whole window of every branch in every step: slow, obvious, what the released model does."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._held: dict[BranchKey, Prefix] = {}

    def prefill(self, prefixes: Sequence[Prefix]) -> int:
        """Remember the prefixes; no backbone call."""
        self._held.update((prefix.key, prefix) for prefix in prefixes)
        return 0

    @torch.inference_mode()
    def step(self, batch: StepBatch) -> Tensor:
        """Logits float32 [R, A, V'] of the active positions, aligned to the right."""
        self.commit(batch)
        device = self._backbone.lm_head.weight.device
        packed = pack([self._whole(b) for b in batch.branches], device)
        hidden = self._backbone.hidden(packed.ids, packed.positions, packed.allowed(None))
        longest = max(int(b.active_ids.shape[0]) for b in batch.branches)
        return self._backbone.logits(hidden[:, -longest:], batch.id_range)

    def _whole(self, branch: BranchStep) -> Part:
        held = self._held[branch.key]
        ids = torch.cat((held.ids, branch.active_ids))
        positions = self._backbone.config.positions(ids)
        return Part(ids=ids, positions=positions, start=0, shift=held.shift, block_length=held.block_length)

    def commit(self, batch: StepBatch) -> int:
        """Remember the finished blocks; no backbone call."""
        for b in batch.branches:
            held = self._held[b.key]
            assert held.ids.shape[0] == b.start, "a step must begin where the prefix ends"
            self._held[b.key] = replace(held, ids=torch.cat((held.ids, b.pending_ids)))
        return 0

    def release(self, keys: Sequence[BranchKey]) -> None:
        """Forget these branches."""
        for key in keys:
            self._held.pop(key, None)


class CachedDenoiser:
    """Keeps keys and values of every finished block; a step computes the active block only. Same logits, less work.

    ``separate_shapes``: rows whose blocks differ in shape get a call of their own instead of padding, which saves work
    where arithmetic is the limit (default on a CPU), while one padded call saves reading the weights twice (default
    elsewhere). Branches of one row always share a call.
    """

    def __init__(self, backbone: Backbone, *, separate_shapes: bool | None = None) -> None:
        self._backbone = backbone
        self._device = backbone.lm_head.weight.device
        self._separate = self._device.type == "cpu" if separate_shapes is None else separate_shapes
        self._entries: dict[BranchKey, HeldPrefix] = {}
        self._views: dict[tuple[BranchKey, ...], PrefixView] = {}

    @torch.inference_mode()
    def prefill(self, prefixes: Sequence[Prefix]) -> int:
        """Compute what is not held yet of these prefixes; a branch held on another block grid starts anew."""
        work: list[BranchStep] = []
        for prefix in prefixes:
            entry = self._entry(prefix)
            self._entries[prefix.key] = entry
            length = int(entry.ids.shape[0])
            work.append(
                BranchStep(key=prefix.key, pending_ids=prefix.ids[length:], active_ids=prefix.ids[:0], start=length)
            )
        self._views.clear()
        return self._extend(work)

    @torch.inference_mode()
    def step(self, batch: StepBatch) -> Tensor:
        """Logits float32 [R, A, V'] of the active positions, aligned to the right."""
        groups = self._groups(batch.branches)
        if len(groups) == 1:
            return self._logits(self._run(batch.branches), batch)
        longest = max(int(b.active_ids.shape[0]) for b in batch.branches)
        parts = [self._run([batch.branches[i] for i in group]) for group in groups]
        hidden = parts[0].new_zeros(len(batch.branches), longest, parts[0].shape[-1])
        for group, part in zip(groups, parts, strict=True):
            hidden[group, longest - part.shape[1] :] = part
        return self._logits(hidden, batch)

    def _logits(self, hidden: Tensor, batch: StepBatch) -> Tensor:
        """Logits [R, A, V'] of ``hidden`` [R, A, width]; on a CPU, where arithmetic is the limit, only wanted ones.

        Never few rows at a time: products of fewer take another path in the library and round differently.
        """
        if batch.wanted is None or hidden.device.type != "cpu" or not bool(batch.wanted.any()):
            return self._backbone.logits(hidden, batch.id_range)
        places = batch.wanted.flatten().nonzero().squeeze(-1)
        places = places.repeat(-(-_ROWS_AT_LEAST // places.shape[0]))
        values = self._backbone.logits(hidden.flatten(0, 1).index_select(0, places), batch.id_range)
        logits = values.new_empty(hidden.shape[0] * hidden.shape[1], values.shape[-1])
        return logits.index_copy_(0, places, values).unflatten(0, hidden.shape[:2])

    @torch.inference_mode()
    def commit(self, batch: StepBatch) -> int:
        """Cache the finished blocks in a call of their own."""
        return self._extend([replace(b, active_ids=b.active_ids[:0]) for b in batch.branches])

    def release(self, keys: Sequence[BranchKey]) -> None:
        """Free what these branches hold."""
        for key in keys:
            self._entries.pop(key, None)
        self._views.clear()

    def key_norms(self, key: BranchKey) -> Tensor:
        """Mean over heads of the length of the cached keys, float32 [layers, T]."""
        return self._entries[key].key_norms

    def confidence(self, key: BranchKey) -> Tensor:
        """Probability of the likeliest id of the whole vocabulary at every position of a scored prefix, float32 [T].

        It comes from the pass that computed the keys, which saw the final ids: a pass over the whole window would give
        the same numbers.
        """
        found = self._entries[key].confidence
        assert found is not None, "only a prefix that was announced as scored has confidences"
        return found

    def is_image(self, key: BranchKey) -> Tensor:
        """Which positions hold picture codes, bool [T] on the CPU."""
        entry, offset = self._entries[key], self._backbone.config.image_token_offset
        first_code = self._backbone.config.vocab_size if offset is None else offset
        return torch.cat((torch.zeros_like(entry.pad_ids, dtype=torch.bool), entry.ids >= first_code))

    @torch.inference_mode()
    def prune(self, key: BranchKey, keep: Tensor) -> None:
        """Attend only to the prefix positions ``keep`` int64 [layers, K] until the next block is committed."""
        self._entries[key] = self._entries[key].thinned(keep)
        self._views.clear()

    @property
    def num_bytes(self) -> int:
        """Memory held by cached keys and values of all branches."""
        return sum(entry.kv.numel() * entry.kv.element_size() for entry in self._entries.values())

    def _entry(self, prefix: Prefix) -> HeldPrefix:
        """What is held of this prefix already."""
        old = self._entries.get(prefix.key)
        if old is None or not old.serves(prefix):
            return HeldPrefix.nothing(prefix, self._backbone)
        return old.beginning(prefix, self._backbone)

    def _extend(self, branches: Sequence[BranchStep]) -> int:
        work = [b for b in branches if self._num_new(b)]
        for group in self._groups(work):
            self._run([work[i] for i in group])
        return int(bool(work))

    def _num_new(self, branch: BranchStep) -> int:
        """Positions of this step that join the prefix: pending ids, and padding not computed yet."""
        entry = self._entries[branch.key]
        return int(branch.pending_ids.shape[0]) + (entry.num_pads if entry.lacks_pads else 0)

    def _groups(self, branches: Sequence[BranchStep]) -> list[list[int]]:
        """Indices of the branches that share a call."""
        if not self._separate:
            return [list(range(len(branches)))] if branches else []
        shapes: dict[int, tuple[int, int]] = {}
        for b in branches:
            pending, active = shapes.get(b.key.row, (0, 0))
            shapes[b.key.row] = (max(pending, b.pending_ids.shape[0]), max(active, b.active_ids.shape[0]))
        groups: dict[tuple[int, int], list[int]] = {}
        for index, b in enumerate(branches):
            groups.setdefault(shapes[b.key.row], []).append(index)
        return list(groups.values())

    def _run(self, branches: Sequence[BranchStep]) -> Tensor:
        """One backbone call: hidden states [r, A, width] of the active positions; pending ids join the prefix."""
        self._unprune(branches)
        parts = [self._part(b) for b in branches]
        packed = pack(parts, self._device)
        view = self._view(branches, packed.ids.shape[1])
        longest = max(int(b.active_ids.shape[0]) for b in branches)
        keep = self._keep(branches, packed.ids.shape[1], longest)
        hidden, new = self._backbone.hidden(
            packed.ids, packed.positions, packed.allowed(view), view.cache, keep=keep, return_kv=True
        )
        if any(self._num_new(b) for b in branches):
            self._append(branches, hidden, new, packed.positions)
        if keep is not None:
            return hidden.unflatten(0, (len(branches), -1))
        return hidden[:, hidden.shape[1] - longest :]

    def _keep(self, branches: Sequence[BranchStep], size: int, longest: int) -> Tensor | None:
        """Of ``size`` positions those [r, size] that the end of the last layer is computed for; None = all.

        Of pending ids only keys and values are needed, unless a scored prefix wants to know how sure they are.
        """
        if self._device.type != "cpu" or size == longest:
            return None
        if any(self._entries[b.key].confidence is not None for b in branches):
            return None
        keep = torch.zeros(len(branches), size, dtype=torch.bool)
        keep[:, size - max(longest, 1) :] = True
        return keep

    def _part(self, branch: BranchStep) -> Part:
        entry = self._entries[branch.key]
        assert entry.ids.shape[0] == branch.start, "a step must begin where the prefix ends"
        ids = torch.cat((branch.pending_ids, branch.active_ids)) if branch.pending_ids.numel() else branch.active_ids
        hidden = entry.num_pads if entry.lacks_pads else 0
        positions = self._backbone.config.positions(ids, entry.next_position)
        return Part(
            ids=torch.cat((entry.pad_ids, ids)) if hidden else ids,
            positions=F.pad(positions, (hidden, 0)) if hidden else positions,
            start=branch.start - hidden,
            shift=entry.shift,
            block_length=entry.block_length,
            hidden=hidden,
        )

    def _append(self, branches: Sequence[BranchStep], hidden: Tensor, new: KeyValueCache, positions: Tensor) -> None:
        fresh = torch.stack((torch.stack(new.keys), torch.stack(new.values)))
        for row, b in enumerate(branches):
            count, entry = self._num_new(b), self._entries[b.key]
            if not count:
                continue
            end = fresh.shape[4] - b.active_ids.shape[0]
            here = slice(end - count, end)
            sure = None if entry.confidence is None else best_probability(self._backbone, hidden[row, here])
            position = int(positions[row, end - 1]) + 1
            self._entries[b.key] = entry.extended(b.pending_ids, fresh[:, :, row, :, here], position, sure)
        self._views.clear()

    def _unprune(self, branches: Sequence[BranchStep]) -> None:
        for b in branches:
            if b.pending_ids.numel() and self._entries[b.key].pruned is not None:
                self._entries[b.key] = replace(self._entries[b.key], pruned=None)
                self._views.clear()

    def _view(self, branches: Sequence[BranchStep], size: int) -> PrefixView:
        """The prefixes of these branches side by side, with room for ``size`` ids; kept until one of them changes."""
        keys = tuple(b.key for b in branches)
        held = self._views.get(keys)
        if held is None or (held.cache is not None and held.cache.room != size):
            self._views[keys] = side_by_side([self._entries[key].visible for key in keys], size)
        return self._views[keys]
