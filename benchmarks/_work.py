"""Requests and single steps whose amount of work is fixed: so many ids, so many steps, nothing committed early."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from _sizes import Shapes, random_ids
from llada_uni.grid import TokenGrid
from llada_uni.layers.moe import Router
from llada_uni.protocols import BranchKey, BranchStep, Denoiser, Guidance, IdSet, Prefix, Request, Sampling, StepBatch

__all__ = ["BLOCK", "Step", "agreement", "distinct_experts", "picture_request", "text_request"]

BLOCK = 32
_NEVER = 1.0  # as confidence threshold: every step commits its quota and no more


def picture_request(
    shapes: Shapes,
    side: int,
    *,
    steps: int = 8,
    guided: bool = True,
    prompt_length: int = 40,
    seed: int = 0,
    num_tokens: int | None = None,
) -> Request:
    """A picture of ``side`` x ``side`` codes after random words; the twin's prompt is 8 ids shorter."""
    prompt = tuple(random_ids(prompt_length, 0, shapes.mask_id, seed).tolist())
    return Request(
        prompts=(prompt, prompt[8:]),
        num_tokens=side * side if num_tokens is None else num_tokens,
        mask_id=shapes.mask_id,
        allowed=IdSet(start=shapes.first_code, stop=shapes.backbone.vocab_size),
        guidance=Guidance(kind="simple", scale=2.0) if guided else Guidance(),
        sampling=Sampling(block_length=BLOCK, steps_per_block=steps, confidence_threshold=_NEVER),
        grid=TokenGrid(side, side) if num_tokens is None else None,
        seed=seed,
    )


def text_request(
    shapes: Shapes,
    *,
    num_tokens: int,
    pictures: int = 0,
    side: int = 8,
    steps: int = 32,
    words: int = 27,
    seed: int = 0,
) -> Request:
    """``num_tokens`` text ids, no stop id, after ``words`` random ids and ``pictures`` of ``side`` x ``side`` codes."""
    codes = random_ids(pictures * side * side, shapes.first_code, shapes.backbone.vocab_size, seed)
    block = side * side
    parts: list[int] = []
    for index in range(pictures):  # header, codes, end: five control ids around every picture
        parts += [*range(4), *codes[index * block : (index + 1) * block].tolist(), 4]
    prompt = (*parts, *random_ids(words, 0, shapes.mask_id, seed + 1).tolist())
    return Request(
        prompts=(prompt,),
        num_tokens=num_tokens,
        mask_id=shapes.mask_id,
        allowed=IdSet(start=0, stop=shapes.mask_id),
        sampling=Sampling(block_length=BLOCK, steps_per_block=steps, confidence_threshold=_NEVER),
        seed=seed,
    )


class Step:
    """One denoising step of ``branches`` blocks behind ``context`` ids each, with other ids at every call."""

    def __init__(
        self, shapes: Shapes, side: Denoiser, *, branches: int, context: int, variants: int = 4, seed: int = 0
    ) -> None:
        self._side, self._keys = side, [BranchKey(row, 0) for row in range(branches)]
        blank = torch.empty(0, dtype=torch.int64)
        ids = random_ids(branches * context, shapes.first_code, shapes.backbone.vocab_size, seed).view(branches, -1)
        side.prefill([
            Prefix(key=key, ids=row, shift=0, block_length=BLOCK) for key, row in zip(self._keys, ids, strict=True)
        ])  # fmt: skip
        self._batches = []
        for variant in range(variants):
            active = random_ids(branches * BLOCK, shapes.first_code, shapes.backbone.vocab_size, seed + 1 + variant)
            active = active.masked_fill(torch.arange(branches * BLOCK) % 2 == 0, shapes.mask_id).view(branches, BLOCK)
            self._batches.append(StepBatch(
                branches=tuple(
                    BranchStep(key=key, pending_ids=blank, active_ids=row, start=context)
                    for key, row in zip(self._keys, active, strict=True)
                ),
                id_range=(shapes.first_code, shapes.backbone.vocab_size),
            ))  # fmt: skip

    def __call__(self, turn: int) -> Tensor:
        return self._side.step(self._batches[turn % len(self._batches)])

    def close(self) -> None:
        """Free the prefixes."""
        self._side.release(self._keys)


def distinct_experts(routers: Sequence[Router], step: Step) -> float:
    """Mean over layers of the experts that at least one position of a step chooses."""
    found: list[int] = []
    hooks = [
        router.register_forward_hook(lambda _, __, routing: found.append(int(routing.ids.unique().numel())))
        for router in routers
    ]
    try:
        step(0)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(found) / max(len(found), 1)


def agreement(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> float:
    """Share of equal ids."""
    pairs = [(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)
