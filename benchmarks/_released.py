"""The released way to generate, re-stated plainly: the baseline of every speed benchmark.

In every denoising step every branch is computed again from its first position to the end of the active block; the
shorter ones are filled up with masks at the left, which nothing sees; logits are made of all these positions over the
whole vocabulary, and those of the active block are used. The experts of a layer run one after the other in a Python
loop. Attention is PyTorch's fused kernel under a dense mask.

Source: released ``generate_bd``, ``generate_bd_image`` and modeling_llada2uni_moe.py, in our own words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _timing import spread, take_turns
from llada_uni.backbone.denoiser import CachedDenoiser
from llada_uni.backbone.model import Backbone
from llada_uni.backbone.slots import SlotBackbone
from llada_uni.layers.moe import Experts, MoE, Routing
from llada_uni.protocols import BranchKey, Denoiser, Finished, Prefix, Request, StepBatch
from llada_uni.sampling.block_sampler import generate
from llada_uni.sampling.captured import CapturedSampler

__all__ = [
    "CAPTURED",
    "LADDER",
    "LoopedExperts",
    "ReleasedDenoiser",
    "Side",
    "batch_rows",
    "denoiser",
    "plain",
    "side",
    "written",
]

CAPTURED = "captured"
"""The engine that keeps a whole block on the device; on CUDA its steps are recorded."""

LADDER = ("reference", "reference, logits of the block", "reference, no expert loop", "ours")
"""From the released way to ours, one change at a time; the last step is the prefix cache."""


class ReleasedDenoiser:
    """Whole windows in every step. ``window_logits``: make logits of the whole window, too, as released."""

    def __init__(self, backbone: Backbone, *, mask_id: int, window_logits: bool = True) -> None:
        self._backbone, self._mask_id, self._window_logits = backbone, mask_id, window_logits
        self._held: dict[BranchKey, Prefix] = {}

    def prefill(self, prefixes: Sequence[Prefix]) -> int:
        """Remember the prompts; nothing is computed."""
        self._held.update((prefix.key, prefix) for prefix in prefixes)
        return 0

    @torch.inference_mode()
    def step(self, batch: StepBatch) -> Tensor:
        """Logits float32 [R, A, V'] of the active block."""
        self.commit(batch)
        rows = [torch.cat((self._held[b.key].ids, b.active_ids)) for b in batch.branches]
        ids, positions, allowed = self._padded(rows, [self._held[b.key] for b in batch.branches])
        block = max(int(b.active_ids.shape[0]) for b in batch.branches)
        if self._window_logits:
            logits = self._backbone(ids, positions, allowed)[:, -block:]
        else:
            logits = self._backbone.logits(self._backbone.hidden(ids, positions, allowed)[:, -block:])
        return logits if batch.id_range is None else logits[..., slice(*batch.id_range)]

    def commit(self, batch: StepBatch) -> int:
        """Remember finished blocks; nothing is computed."""
        for b in batch.branches:
            held = self._held[b.key]
            self._held[b.key] = replace(held, ids=torch.cat((held.ids, b.pending_ids)))
        return 0

    def release(self, keys: Sequence[BranchKey]) -> None:
        """Forget these branches."""
        for key in keys:
            self._held.pop(key, None)

    def _padded(self, rows: list[Tensor], held: list[Prefix]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids and positions [R, T], visibility [R, 1, T, T]: masks at the left, seen by nothing, up to the longest."""
        longest = max(len(row) for row in rows)
        ids = torch.stack([F.pad(row, (longest - len(row), 0), value=self._mask_id) for row in rows])
        pads = torch.tensor([[longest - len(row)] for row in rows])
        place = torch.arange(longest) - pads
        blocks = (place + torch.tensor([[one.shift] for one in held])) // held[0].block_length
        seen = (blocks[:, None, :] <= blocks[:, :, None]) & (place >= 0)[:, None, :]
        device = self._backbone.lm_head.weight.device
        return ids.to(device), place.clamp(min=0).to(device), seen.unsqueeze(1).to(device)


class LoopedExperts(nn.Module):
    """The experts of a layer one after the other, those without tokens skipped; weights are those of ``experts``."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = experts.gate_proj, experts.up_proj, experts.down_proj

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """[N, width] -> [N, width]: sort token copies by expert, run each expert, put back, weigh and add."""
        top_k = routing.ids.shape[1]
        order = routing.ids.flatten().argsort()
        counts = routing.ids.flatten().bincount(minlength=self.gate_proj.shape[0]).tolist()
        parts = x[order // top_k].split(counts)
        done = [self._one(expert, part) for expert, part in enumerate(parts) if len(part)]
        outputs = torch.empty_like(x).repeat(top_k, 1)
        outputs[order] = torch.cat(done)
        weighted = outputs.view(len(x), top_k, -1).to(routing.weights.dtype) * routing.weights.unsqueeze(-1)
        return weighted.sum(1).to(x.dtype)

    def _one(self, expert: int, x: Tensor) -> Tensor:
        hidden = F.silu(F.linear(x, self.gate_proj[expert])) * F.linear(x, self.up_proj[expert])
        return F.linear(hidden, self.down_proj[expert])


def plain(backbone: Backbone, *, loop: bool = True) -> Backbone:
    """The same network, its weights as PyTorch stores them, with fused attention and the released expert loop."""
    with torch.device("meta"):
        twin = Backbone(backbone.config, attention="sdpa")
    twin.load_state_dict({name: one.contiguous() for name, one in backbone.state_dict().items()}, assign=True)
    for module in twin.modules():
        if loop and isinstance(module, MoE):
            module.experts = LoopedExperts(module.experts)  # type: ignore[assignment]
    return twin.eval().requires_grad_(False)


def denoiser(name: str, backbone: Backbone, *, mask_id: int) -> Denoiser:
    """A side of the comparison by its name in ``LADDER``."""
    if name == "ours":
        return CachedDenoiser(backbone)
    twin = plain(backbone, loop="no expert loop" not in name)
    return ReleasedDenoiser(twin, mask_id=mask_id, window_logits=name == "reference")


Side = Denoiser | CapturedSampler


def side(name: str, backbone: Backbone, *, mask_id: int) -> Side:
    """A side of the comparison by its name in ``LADDER``, or ``CAPTURED``."""
    return CapturedSampler(SlotBackbone(backbone)) if name == CAPTURED else denoiser(name, backbone, mask_id=mask_id)


def written(requests: Sequence[Request], side: Side) -> list[Finished]:
    """Run the sampler; what every request finished with."""
    held = isinstance(side, CapturedSampler)
    events = side.generate(requests) if held else generate(requests, side, granularity="block")
    done: Iterator[Any] = (event for event in events if isinstance(event, Finished))
    return sorted(done, key=lambda one: one.row)


def batch_rows(batches: Mapping[int, Sequence[Request]], one: Side, options: Any) -> list[dict[str, Any]]:
    """Requests at once, by their number: seconds each, and times faster than in the first and smallest batch."""
    taken = take_turns(
        {str(count): lambda _, requests=requests: written(requests, one) for count, requests in batches.items()},
        options.rounds,
        options.device,
    )
    each = {count: [total / count for total in taken[str(count)]] for count in batches}
    first = each[next(iter(batches))]
    return [
        {
            "batch": count,
            "seconds_each": spread(each[count]),
            "times_faster_each": spread([a / b for a, b in zip(first, each[count], strict=True)], 3),
        }
        for count in batches
    ]
