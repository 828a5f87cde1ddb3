"""The causal sampler: cached = recomputed from the start, alone = in a batch, the rules of requests are kept."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from llada_uni.backbone.causal import CausalRows
from llada_uni.backbone.model import Backbone
from llada_uni.diffusion.positions import aligned_positions
from llada_uni.protocols import Guidance, IdSet, Request, Sampling
from llada_uni.sampling.causal import write_next
from llada_uni.testing.tiny import tiny_backbone, tiny_vocab

VOCAB = tiny_vocab()
BOI = VOCAB.special.boi
CODES = IdSet(start=VOCAB.image_offset, stop=VOCAB.vocab_size)


class Recomputing:
    """The literal way: every row by itself, from its first id, at every step."""

    def __init__(self, model: Backbone) -> None:
        self._model, self.rows = model, list[list[int]]()

    def start(self, prompts) -> Tensor:
        self.rows = [list(prompt) for prompt in prompts]
        self._first = [len(prompt) for prompt in prompts]
        return self._logits()

    def step(self, ids: Tensor) -> Tensor:
        for row, number in zip(self.rows, ids.tolist(), strict=True):
            row.append(number)
        return self._logits()

    def _logits(self) -> Tensor:
        found = []
        for row in self.rows:
            ids = torch.tensor(row)
            positions = aligned_positions(ids, BOI, self._model.config.picture_alignment)
            allowed = torch.ones(len(row), len(row), dtype=torch.bool).tril()
            found.append(self._model(ids[None], positions[None], allowed[None, None])[0, -1])
        return torch.stack(found)


def request(prompts: tuple[tuple[int, ...], ...], seed: int = 0, **changes: object) -> Request:
    guidance = Guidance(kind="simple", scale=1.7) if len(prompts) > 1 else Guidance()
    values: dict = {
        "prompts": prompts, "num_tokens": 9, "mask_id": VOCAB.special.mask, "allowed": CODES, "guidance": guidance,
        "sampling": Sampling(temperature=0.8), "seed": seed,
    }  # fmt: skip
    return Request(**(values | changes))


REQUESTS = [
    request(((1, 2, 3, 4, BOI), (7, BOI)), 3),
    request(((5, BOI), (7, BOI)), 4),
    request(((9, 9, 8, 1, 2, 3, 6, BOI),), 5, num_tokens=4),
    request(((2, 4),), 6, allowed=IdSet(start=0, stop=16), sampling=Sampling(temperature=0.0)),
]


@pytest.mark.parametrize("alignment", [0, 32])
def test_cached_rows_write_what_recomputed_rows_write(alignment: int) -> None:
    model = tiny_backbone(3, dtype=torch.float64, picture_alignment=alignment)
    plain, cached = Recomputing(model), CausalRows(model)
    prompts = [prompt for one in REQUESTS for prompt in one.prompts]
    torch.testing.assert_close(cached.start(prompts), plain.start(prompts), rtol=1e-10, atol=1e-10)
    ids = torch.arange(len(prompts)) + VOCAB.image_offset
    for _ in range(3):
        torch.testing.assert_close(cached.step(ids), plain.step(ids), rtol=1e-10, atol=1e-10)
    assert write_next(REQUESTS, CausalRows(model)) == write_next(REQUESTS, Recomputing(model))


def test_a_request_does_not_depend_on_its_neighbours() -> None:
    model = tiny_backbone(1, dtype=torch.float64)
    together = write_next(REQUESTS, CausalRows(model))
    assert [write_next([one], CausalRows(model))[0] for one in REQUESTS] == together
    assert [len(ids) for ids in together] == [9, 9, 4, 9]
    assert all(i >= VOCAB.image_offset for ids in together[:3] for i in ids)
    assert max(together[3]) < 16
    other = write_next([dataclasses.replace(REQUESTS[0], seed=99)], CausalRows(model))
    assert other[0] != together[0], "the seed decides"


def test_it_stops_at_a_stop_id_without_writing_it() -> None:
    model = tiny_backbone(2, dtype=torch.float64)
    (free,) = write_next([REQUESTS[3]], CausalRows(model))
    stop = free[-1]
    (ended,) = write_next([dataclasses.replace(REQUESTS[3], stop_ids=frozenset((stop,)))], CausalRows(model))
    assert ended == free[: free.index(stop)]
