"""The choice from hidden states in slices against the choice from all logits at once."""

from __future__ import annotations

import random

import pytest
import torch
from sampling_helpers import IMAGE, MASK, TEXT, VOCAB
from torch import Tensor

from llada_uni.protocols import Guidance, IdSet, Request, Sampling
from llada_uni.sampling.choose import choose_ids
from llada_uni.sampling.fused import choose_from_hidden

WIDTH = 6


class Projection:
    """A head that remembers the largest table it made."""

    def __init__(self, seed: int) -> None:
        self.weight = torch.randn(
            VOCAB.vocab_size, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        self.largest = 0

    def spread(self, hidden: Tensor, /) -> Tensor:
        return (hidden @ self.weight.T).std(-1, keepdim=True)

    def logits(self, hidden: Tensor, id_range: tuple[int, int] | None = None, /) -> Tensor:
        weight = self.weight if id_range is None else self.weight[slice(*id_range)]
        logits = hidden @ weight.T
        self.largest = max(self.largest, logits.numel())
        return logits


def random_rules(source: random.Random) -> Request:
    guidance = Guidance(
        kind=source.choice(["none", "simple", "editing"]),  # type: ignore[arg-type]
        scale=2.0,
        text=3.0,
        image=source.choice([0.0, 1.5]),
        rescale=source.choice([0.0, 0.7]),
        rescale_over=source.choice(["vocabulary", "allowed"]),  # type: ignore[arg-type]
    )
    sampling = Sampling(
        temperature=source.choice([0.0, 0.0, 0.8]),
        top_k=source.choice([None, 5]),
        top_p=source.choice([None, 0.7]),
    )
    forbidden = tuple(source.sample(range(VOCAB.image_offset), 3))
    allowed = source.choice([IMAGE, TEXT, IdSet(start=0, stop=VOCAB.image_offset, forbidden=forbidden)])
    return Request(
        prompts=((1,),) * 3, num_tokens=4, mask_id=MASK, allowed=allowed, guidance=guidance, sampling=sampling
    )


@pytest.mark.parametrize("at_once", [1, 40, 10**9])
def test_the_same_ids_and_confidences_whatever_the_slices(at_once: int) -> None:
    for seed in range(60):
        source, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        rules, head = random_rules(source), Projection(seed)
        shape = (source.randint(1, 3), rules.guidance.num_branches, source.randint(1, 5))
        hidden = torch.randn(*shape, WIDTH, dtype=torch.float64, generator=generator)
        draws = torch.rand(shape[0], shape[2], generator=generator) if rules.sampling.temperature else None
        expected = choose_ids(head.logits(hidden), 0, rules, draws)
        head.largest = 0
        found = choose_from_hidden(hidden, head, rules, draws, at_once=at_once)
        assert torch.equal(found.ids, expected.ids), seed
        torch.testing.assert_close(found.confidence, expected.confidence)
        assert head.largest <= max(at_once, shape[0] * shape[1] * max(VOCAB.vocab_size, shape[2])), seed


def test_of_equal_logits_the_first_id_wins_across_slices() -> None:
    rules = Request(prompts=((1,),), num_tokens=4, mask_id=MASK, allowed=IMAGE)
    head = Projection(0)
    head.weight[:] = 1.0
    hidden = torch.ones(1, 1, 2, WIDTH, dtype=torch.float64)
    for at_once in (2, 10, 10**9):
        found = choose_from_hidden(hidden, head, rules, None, at_once=at_once)
        assert found.ids.tolist() == [[IMAGE.start] * 2]
        torch.testing.assert_close(found.confidence, torch.full((1, 2), 1 / (IMAGE.stop - IMAGE.start)).double())
