"""Sampling from a causal model, one id after the other, under the rules of the block sampler's requests.

The maths of a choice is shared with block diffusion (``sampling.choose``): guidance, allowed ids, temperature. Block
lengths, steps, thresholds and ids that are given in advance have no meaning here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from llada_uni.protocols import Request
from llada_uni.sampling.choose import choose_ids
from llada_uni.sampling.seeds import stream

__all__ = ["CausalModel", "write_next"]


class CausalModel(Protocol):
    """Rows of ids that grow by one at a time."""

    def start(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Logits [R, V] of the id after each prompt."""
        ...

    def step(self, ids: Tensor) -> Tensor:
        """Logits [R, V] of the id after ``ids`` int64 [R], which are appended to the rows."""
        ...


def write_next(requests: Sequence[Request], model: CausalModel) -> list[tuple[int, ...]]:
    """The ids of every request: ``num_tokens`` of them, or up to and without the first of its ``stop_ids``.

    Each request takes one row per guidance branch; the id chosen for it is appended to all of them. Randomness is one
    uniform number per id from the request's own seed: a request writes the same whatever stands beside it.
    """
    logits = model.start([p for request in requests for p in request.prompts[: request.guidance.num_branches]])
    draws = [torch.rand(r.num_tokens, generator=stream(r.seed, "tokens")) for r in requests]
    written: list[list[int]] = [[] for _ in requests]
    ended = [False for _ in requests]
    place = 0
    while not all(ended):
        chosen: list[int] = []
        first = 0
        for row, request in enumerate(requests):
            count = request.guidance.num_branches
            if not ended[row]:
                own = logits[first : first + count, None].unsqueeze(0)
                number = int(choose_ids(own, 0, request, draws[row][place].view(1, 1).to(own.device)).ids)
                ended[row] = number in request.stop_ids or place + 1 == request.num_tokens
                if number not in request.stop_ids:
                    written[row].append(number)
            chosen += [written[row][-1] if written[row] else request.prompts[0][-1]] * count
            first += count
        place += 1
        if not all(ended):
            logits = model.step(torch.tensor(chosen, dtype=torch.int64))
    return [tuple(ids) for ids in written]
