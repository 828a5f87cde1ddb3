"""Requests, scripted denoisers and a literal transcription of the released loop, for the sampling tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from llada_uni.backbone.model import Backbone
from llada_uni.grid import TokenGrid
from llada_uni.protocols import (
    BranchKey,
    Event,
    Finished,
    Guidance,
    IdSet,
    Prefix,
    Request,
    Sampling,
    StepBatch,
    StepDone,
)
from llada_uni.testing.tiny import tiny_vocab

VOCAB = tiny_vocab()
MASK, EOS = VOCAB.special.mask, VOCAB.special.eos
IMAGE = IdSet(start=VOCAB.image_offset, stop=VOCAB.vocab_size)
TEXT = IdSet(start=0, stop=VOCAB.image_offset)


def prompt(source: random.Random, length: int) -> tuple[int, ...]:
    return tuple(source.randrange(16) for _ in range(length))


def image_request(
    source: random.Random,
    grid: TokenGrid,
    lengths: Sequence[int],
    *,
    changes: Mapping[str, object] = {},
    **others: object,
) -> Request:
    """A picture request with random prompts of these lengths; ``changes`` win."""
    fields: dict[str, object] = {
        "prompts": tuple(prompt(source, n) for n in lengths),
        "num_tokens": grid.num_tokens,
        "mask_id": MASK,
        "allowed": IMAGE,
        "grid": grid,
    }
    return Request(**(fields | others | dict(changes)))  # type: ignore[arg-type]


def random_request(source: random.Random) -> Request:
    """Any kind of request, small."""
    grid = TokenGrid(source.randint(1, 3), source.randint(2, 4))
    guidance = Guidance(
        kind=source.choice(["none", "simple", "editing"]),  # type: ignore[arg-type]
        scale=2.0,
        text=3.0,
        image=source.choice([0.0, 1.5]),
        rescale_over=source.choice(["vocabulary", "allowed"]),  # type: ignore[arg-type]
    )
    sampling = Sampling(
        block_length=source.choice([1, 4, 4, 8, 8, 8]),
        steps_per_block=source.choice([1, 2, 3, 3, 40]),
        confidence_threshold=0.9,
        temperature=source.choice([0.0, 0.0, 0.8]),
    )
    text: dict[str, object] = {"allowed": TEXT, "grid": None, "stop_ids": frozenset({EOS, 3})}
    lengths = [source.randint(1, 12) for _ in range(3)]
    changes = text if source.random() < 0.4 else {}
    seed = source.randrange(100)
    return image_request(source, grid, lengths, guidance=guidance, sampling=sampling, seed=seed, changes=changes)


def finished(events: Iterable[Event]) -> dict[int, Finished]:
    return {e.row: e for e in events if isinstance(e, Finished)}


def outputs(events: Iterable[Event]) -> dict[int, tuple[str, tuple[int, ...]]]:
    return {row: (e.reason, e.output_ids) for row, e in finished(events).items()}


def commits(events: Iterable[Event]) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    return [(e.row, e.positions, e.ids) for e in events if isinstance(e, StepDone)]


class ScriptedDenoiser:
    """A denoiser whose logits are a function of (row, position): no network, no cache."""

    def __init__(self, score: Callable[[int, int], Tensor]) -> None:
        self.score = score
        self.released: list[BranchKey] = []
        self.batches: list[StepBatch] = []

    def prefill(self, prefixes: Sequence[Prefix]) -> int:
        return 0

    def step(self, batch: StepBatch) -> Tensor:
        self.batches.append(batch)
        longest = max(b.active_ids.shape[0] for b in batch.branches)
        low, high = batch.id_range or (0, VOCAB.vocab_size)
        logits = torch.zeros(len(batch.branches), longest, high - low)
        for row, b in enumerate(batch.branches):
            first = b.start + b.pending_ids.shape[0]
            for column in range(b.active_ids.shape[0]):
                scores = self.score(b.key.row, first + column)[low:high]
                logits[row, longest - b.active_ids.shape[0] + column] = scores
        return logits

    def commit(self, batch: StepBatch) -> int:
        return 0

    def release(self, keys: Sequence[BranchKey]) -> None:
        self.released += keys


def writes(token: int, margin: float = 10.0) -> Tensor:
    """Logits that favour one id by ``margin`` nats."""
    scores = torch.zeros(VOCAB.vocab_size)
    scores[token] = margin
    return scores


@torch.no_grad()
def released_picture(
    model: Backbone, cond: Sequence[int], uncond: Sequence[int], num_tokens: int, *, scale: float, sampling: Sampling
) -> list[int]:
    """The released picture loop, literally: padded twin, physical blocks, the whole window in every step."""
    length, start = sampling.block_length, len(cond)
    window = -(-(start + num_tokens) // length) * length
    ids = torch.full((2, window), MASK)
    ids[0, :start], ids[1, start - len(uncond) : start] = torch.tensor(cond), torch.tensor(uncond)
    pad = start - len(uncond)
    positions = torch.arange(window).repeat(2, 1)
    positions[1] = (positions[1] - pad).clamp_min(0)
    block = torch.arange(window) // length
    allowed = (block[None, :] <= block[:, None]).repeat(2, 1, 1)
    allowed[1, :, :pad] = False
    allowed |= torch.eye(window, dtype=torch.bool)
    steps = min(sampling.steps_per_block, length)
    quota = [length // steps + (i < length % steps) for i in range(steps)]
    for b in range(start // length, window // length):
        end, here = (b + 1) * length, slice(b * length, (b + 1) * length)
        for t in range(steps):
            is_open = ids[0, here] == MASK
            if not is_open.any():
                break
            logits = model(ids[:, :end], positions[:, :end], allowed[:, None, :end, :end])[:, here]
            guided = logits[1] + scale * (logits[0] - logits[1])
            if scale != 1:
                ratio = logits[0].std(-1, keepdim=True) / (guided.std(-1, keepdim=True) + 1e-6)
                guided = 0.7 * guided * ratio + 0.3 * guided
            guided[:, : VOCAB.image_offset] = -torch.inf
            confidence, best = guided.softmax(-1).max(-1)
            confidence[~is_open] = -torch.inf
            high = confidence > sampling.confidence_threshold
            if high.sum() < quota[t]:
                count = min(quota[t], int(is_open.sum()))
                high = torch.zeros_like(is_open).index_fill(0, confidence.topk(count).indices, True)
            ids[:, here] = torch.where(high, best, ids[:, here])
    return ids[0, start : start + num_tokens].tolist()
