"""Rules, scripts and a denoiser that makes a random backbone write stories of a given outline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llada_uni import prompts
from llada_uni.grid import Geometry, TokenGrid
from llada_uni.protocols import (
    BranchKey,
    Denoiser,
    Finished,
    FinishReason,
    Guidance,
    Prefix,
    Sampling,
    StepBatch,
    Timings,
    Usage,
)
from llada_uni.sampling.interleaved import StoryRules
from llada_uni.testing.checkpoint import tiny_text_tokenizer

TOKENIZER = tiny_text_tokenizer()
VOCAB = TOKENIZER.vocab(text_vocab_size=TOKENIZER.num_ids, num_codes=24)
SPECIAL = VOCAB.special
GRIDS = (TokenGrid(2, 2), TokenGrid(2, 3), TokenGrid(3, 2))
PROMPT = prompts.interleaved(TOKENIZER, "two red apples").cond
Script = Mapping[int, int]
"""Absolute position in a story -> id that is written there."""
Part = int | TokenGrid | tuple[TokenGrid, TokenGrid] | str


def frame_rows(ids: Sequence[int]) -> prompts.PromptRows:
    return prompts.interleaved_frame(VOCAB, TOKENIZER, ids)


def rules(**changes: Any) -> StoryRules:
    """Rules for the tiny vocabulary with three trained grids; ``changes`` win."""
    fields: dict[str, Any] = {
        "vocab": VOCAB,
        "geometry": Geometry(trained_grids=GRIDS),
        "frame_rows": frame_rows,
        "text": Sampling(block_length=8, steps_per_block=4),
        "picture": Sampling(block_length=8, steps_per_block=3, confidence_threshold=0.6),
        "first": Guidance(kind="simple", scale=2.0),
        "later": Guidance(kind="editing", text=2.0, image=1.5),
        "max_positions": 512,
        "max_frames": 4,
        "max_new_tokens": 40,
    }
    return StoryRules(**(fields | changes))


OFF = {"first": Guidance(kind="simple", scale=1.0), "later": Guidance(kind="editing", text=1.0, image=0.0)}


def script(*parts: Part, start: int = len(PROMPT)) -> Script:
    """A number is so many free text tokens, a grid a picture, a pair of grids one announced as the first and drawn as
    the second, "end" the end of text, "boi" a lone begin of codes."""
    told: dict[int, int] = {}
    place = start
    for part in parts:
        if isinstance(part, int):
            place += part
        elif isinstance(part, str):
            told[place] = {"end": SPECIAL.eos, "boi": SPECIAL.boi}[part]
        else:
            announced, drawn = part if isinstance(part, tuple) else (part, part)
            told |= dict(enumerate(VOCAB.header(announced), place))
            place += 4 + drawn.num_tokens + 1
    return told


class Director:
    """A denoiser between the sampler and ``inner`` that makes each row's main sequence follow its script.

    Where nothing is told, no control id is written.
    """

    def __init__(self, inner: Denoiser, scripts: Mapping[int, Script]) -> None:
        self.inner, self.scripts = inner, scripts
        self.batches: list[StepBatch] = []
        self.prefilled: list[list[Prefix]] = []
        self.released: list[BranchKey] = []

    def prefill(self, prefixes: Sequence[Prefix]) -> int:
        self.prefilled.append(list(prefixes))
        return self.inner.prefill(prefixes)

    def step(self, batch: StepBatch) -> Tensor:
        self.batches.append(batch)
        logits = self.inner.step(batch).clone()
        low, high = batch.id_range or (0, VOCAB.vocab_size)
        for row, branch in enumerate(batch.branches):
            if branch.key.branch:
                continue
            size, first = branch.active_ids.shape[0], branch.start + branch.pending_ids.shape[0]
            for column in range(size):
                bias = self.bias(branch.key.row, first + column)[low:high]
                logits[row, logits.shape[1] - size + column] += bias
        return logits

    def bias(self, row: int, position: int) -> Tensor:
        scores = torch.zeros(VOCAB.vocab_size, dtype=torch.float64)
        scores[[SPECIAL.eos, SPECIAL.boi, SPECIAL.soi, *SPECIAL.reserved.values()]] = -100.0
        if position in self.scripts[row]:
            scores[self.scripts[row][position]] = 100.0
        return scores

    def commit(self, batch: StepBatch) -> int:
        return self.inner.commit(batch)

    def release(self, keys: Sequence[BranchKey]) -> None:
        self.released += keys
        self.inner.release(keys)


def wrote(*ids: int, reason: FinishReason = "stop") -> Finished:
    """A finished phase with these ids."""
    usage = Usage(prompt_tokens=1, output_tokens=len(ids), num_blocks=1, num_steps=1, num_calls=1)
    return Finished(row=0, reason=reason, output_ids=ids, usage=usage, timings=Timings())
