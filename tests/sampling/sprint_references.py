"""Slow counterparts of SPRINT: a denoiser that masks instead of dropping, and the released picture loop, literally."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from sampling_helpers import MASK, VOCAB
from torch import Tensor

from llada_uni.backbone.cache import KeyValueCache
from llada_uni.backbone.model import Backbone
from llada_uni.diffusion.sprint import Sprint
from llada_uni.protocols import BranchKey, Prefix, Sampling, StepBatch


class MaskingDenoiser:
    """Computes the whole window of one branch at a time and hides what was pruned, layer by layer, with a mask."""

    def __init__(self, model: Backbone) -> None:
        self.model = model
        self.held: dict[BranchKey, Prefix] = {}
        self.kept: dict[BranchKey, Tensor] = {}

    def prefill(self, prefixes: Sequence[Prefix]) -> int:
        self.held.update((prefix.key, prefix) for prefix in prefixes)
        return 0

    @torch.no_grad()
    def step(self, batch: StepBatch) -> Tensor:
        self.commit(batch)
        longest = max(int(b.active_ids.shape[0]) for b in batch.branches)
        rows = []
        for b in batch.branches:
            logits = self._logits(b.key, b.active_ids)
            low, high = batch.id_range or (0, logits.shape[-1])
            rows.append(torch.nn.functional.pad(logits[:, low:high], (0, 0, longest - logits.shape[0], 0)))
        return torch.stack(rows)

    def commit(self, batch: StepBatch) -> int:
        for b in batch.branches:
            if b.pending_ids.numel():
                held = self.held[b.key]
                self.held[b.key] = replace(held, ids=torch.cat((held.ids, b.pending_ids)))
                self.kept.pop(b.key, None)
        return 0

    def release(self, keys: Sequence[BranchKey]) -> None:
        for key in keys:
            self.held.pop(key, None)

    @torch.no_grad()
    def key_norms(self, key: BranchKey) -> Tensor:
        held = self.held[key]
        _, kv = self.model.hidden(held.ids[None], _places(held.ids), self._causal(key, held.ids), return_kv=True)
        return torch.stack([k[0].norm(dim=-1).mean(0) for k in kv.keys])

    @torch.no_grad()
    def confidence(self, key: BranchKey) -> Tensor:
        ids = self.held[key].ids
        return self.model(ids[None], _places(ids), self._causal(key, ids))[0].softmax(-1).amax(-1)

    def is_image(self, key: BranchKey) -> Tensor:
        return self.held[key].ids >= VOCAB.image_offset

    def prune(self, key: BranchKey, keep: Tensor) -> None:
        self.kept[key] = keep

    def _logits(self, key: BranchKey, active: Tensor) -> Tensor:
        ids = torch.cat((self.held[key].ids, active))
        allowed = self._causal(key, ids)
        masks = [allowed.clone() for _ in self.model.model.layers]
        if key in self.kept:
            start = ids.shape[0] - active.shape[0]
            for mask, keep in zip(masks, self.kept[key], strict=True):
                hidden = torch.ones(start, dtype=torch.bool).index_fill(0, keep, False)
                mask[:, :, start:, :start] &= ~hidden
        with _layer_masks(self.model, masks):
            return self.model(ids[None], _places(ids), allowed)[0, -active.shape[0] :]

    def _causal(self, key: BranchKey, ids: Tensor) -> Tensor:
        block = (torch.arange(ids.shape[0]) + self.held[key].shift) // self.held[key].block_length
        return (block[None, :] <= block[:, None])[None, None]


def _places(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[0])[None]


@contextmanager
def _layer_masks(model: Backbone, masks: list[Tensor]) -> Iterator[None]:
    """Every layer sees its own mask."""
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, mask=mask: (args[0], args[1], mask, *args[3:]))
        for layer, mask in zip(model.model.layers, masks, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def released_sprint_picture(
    model: Backbone,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    *,
    scale: float,
    sampling: Sampling,
    rules: Sprint,
) -> list[int]:
    """The released picture loop with ``use_sprint``: padded twin, warm-up on the whole window, then pruned caches.

    Pruning normalises after pinning (D1), counts the padding as pinned text and then sees it (D2), and takes ratios of
    one kind for un-pinning only (D3).
    """
    cond, uncond = prompts
    length, start = sampling.block_length, len(cond)
    window = -(-(start + num_tokens) // length) * length
    pad = start - len(uncond)
    ids = torch.full((2, window), MASK)
    ids[0, :start], ids[1, pad:start] = torch.tensor(cond), torch.tensor(uncond)
    positions = torch.arange(window).repeat(2, 1)
    positions[1] = (positions[1] - pad).clamp_min(0)
    block = torch.arange(window) // length
    allowed = (block[None, :] <= block[:, None]).repeat(2, 1, 1)
    allowed[1, :, :pad] = False
    steps = min(sampling.steps_per_block, length)
    for b in range(start // length, window // length):
        first, end = b * length, (b + 1) * length
        caches: list[KeyValueCache] = []
        for t in range(steps):
            is_open = ids[0, first:end] == MASK
            if not is_open.any():
                break
            if caches:
                here = slice(first, end)
                logits = torch.cat(
                    [model(ids[r, None, here], positions[r, None, here], None, caches[r]) for r in (0, 1)]
                )
            else:
                hidden, kv = model.hidden(
                    ids[:, :end], positions[:, :end], allowed[:, None, :end, :end], return_kv=True
                )
                logits = model.logits(hidden)
                if t == rules.warmup_steps - 1 and first > 0:
                    caches = [_pruned(kv, r, ids[r, :first], logits[r, :first], rules) for r in (0, 1)]
                logits = logits[:, first:end]
            guided = logits[1] + scale * (logits[0] - logits[1])
            ratio = logits[0].std(-1, keepdim=True) / (guided.std(-1, keepdim=True) + 1e-6)
            guided = 0.7 * guided * ratio + 0.3 * guided
            guided[:, : VOCAB.image_offset] = -torch.inf
            confidence, best = guided.softmax(-1).max(-1)
            confidence[~is_open] = -torch.inf
            count = max(1, math.ceil(int(is_open.sum()) / max(1, steps - t)))
            chosen = (confidence > sampling.confidence_threshold).index_fill(0, confidence.topk(count).indices, True)
            ids[:, first:end] = torch.where(chosen, best, ids[:, first:end])
    return ids[0, start : start + num_tokens].tolist()


def _pruned(kv: KeyValueCache, row: int, ids: Tensor, logits: Tensor, rules: Sprint) -> KeyValueCache:
    is_image, total = ids >= VOCAB.image_offset, ids.shape[0]
    text, image = rules.text_keep_ratio, rules.image_keep_ratio
    pinned = torch.zeros_like(is_image)
    pinned |= ~is_image & (text is None or text >= 1)
    pinned |= is_image & (image is not None and image >= 1)
    keys, values = [], []
    for k, v in zip(kv.keys, kv.values, strict=True):
        k, v = k[row : row + 1, :, :total], v[row : row + 1, :, :total]
        if rules.keep_ratio < 1 and not pinned.all():
            importance = k[0].norm(dim=-1).mean(0).float().masked_fill(pinned, math.inf)
            if rules.alpha < 1:
                sure = (logits.amax(-1) - logits.logsumexp(-1)).exp().float()
                importance = rules.alpha * importance / importance.mean().clamp_min(1e-6) + (1 - rules.alpha) * sure
            # NaN ranks first in topk; close scores tie here as they do in the package
            ranked = (importance.nan_to_num(nan=math.inf, posinf=math.inf) * 2**12).round()
            count = max(1, int(total * rules.keep_ratio), int(pinned.sum()))
            keep = ranked.argsort(descending=True, stable=True)[:count].sort().values
            k, v = k[:, :, keep], v[:, :, keep]
        keys.append(k)
        values.append(v)
    return KeyValueCache(tuple(keys), tuple(values))
