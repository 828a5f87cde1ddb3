"""Rotary positions with aligned pictures: what they are, and that training rows count as generation does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from llada_uni.data.block_rows import Branch, Document, Segment, collate, lay_out
from llada_uni.diffusion.masking import MaskRatioLaw, training_allowed
from llada_uni.diffusion.positions import aligned_positions, aligned_row_positions
from llada_uni.testing.tiny import tiny_backbone_config, tiny_vocab
from llada_uni.training.objectives.backbone import noised, row_positions

VOCAB = tiny_vocab()
BOI, EOS, MASK = VOCAB.special.boi, VOCAB.special.eos, VOCAB.special.mask
EVERY = 16
LAW = MaskRatioLaw(low=0.2, high=0.9)


def test_the_first_code_stands_at_a_multiple() -> None:
    ids = torch.tensor([1, 2, BOI, 30, 31, 4, BOI, 32])
    assert aligned_positions(ids, BOI, 8).tolist() == [0, 1, 7, 8, 9, 10, 15, 16]
    assert aligned_positions(ids, BOI, 0).tolist() == list(range(8))
    assert aligned_positions(ids[:1], BOI, 8, first=5).tolist() == [5]


def test_a_header_that_ends_right_is_not_moved() -> None:
    ids = torch.tensor([1, 2, 3, BOI, 30])
    assert aligned_positions(ids, BOI, 4).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", range(1, 12))
def test_counting_goes_on_in_pieces(cut: int) -> None:
    ids = torch.tensor([1, BOI, 30, 31, 4, 5, BOI, 32, 33, BOI, 34, 35])
    whole = aligned_positions(ids, BOI, 8)
    first = aligned_positions(ids[:cut], BOI, 8)
    rest = aligned_positions(ids[cut:], BOI, 8, first=int(first[-1]) + 1)
    assert torch.equal(torch.cat((first, rest)), whole)


def random_document(rng: np.random.Generator) -> Document:
    """Branches on a common prefix, with headers in prefix, prompts and targets."""
    block_length = int(rng.choice([3, 4, 8, 40]))

    def some(most: int) -> tuple[int, ...]:
        return tuple(
            BOI if rng.random() < 0.15 else int(rng.integers(0, 16)) for _ in range(int(rng.integers(1, most)))
        )

    prefix, branches = some(12), []
    for _ in range(int(rng.integers(1, 4))):
        words, codes = some(8), some(14)
        parts = (Segment(length=len(words), is_image=False), Segment(length=len(codes), is_image=True))
        branches.append(Branch(prompt=(*prefix, *some(5)), target=(*words, *codes), segments=parts))
    return Document(branches=tuple(branches), block_length=block_length)


def generated(document: Document, sample: int, block: int, noisy: list[int]) -> list[int]:
    """Positions in a noisy block as generation counts them: everything before the block final, the block as it is."""
    branch = document.branches[sample]
    row = [*branch.prompt, *branch.target]
    row += [EOS] * (-len(row) % document.block_length)
    before = row[: block * document.block_length]
    return aligned_positions(torch.tensor([*before, *noisy]), BOI, EVERY)[len(before) :].tolist()


@pytest.mark.parametrize("seed", range(30))
def test_training_rows_count_as_generation_does(seed: int) -> None:
    document = random_document(np.random.default_rng(seed))
    rows, allowed = noisy_rows([document], seed)
    positions = row_positions(tiny_backbone_config(VOCAB, picture_alignment=EVERY), rows, allowed)
    checked = 0
    for sample in range(len(document.branches)):
        chosen = (rows["sample"] == sample) & (rows["stream"] > 0)
        for block in rows["block"][chosen].unique().tolist():
            here = chosen & (rows["block"] == block)
            assert positions[here].tolist() == generated(document, sample, block, rows["noisy_ids"][here].tolist())
            checked += 1
    assert checked
    assert torch.equal(row_positions(tiny_backbone_config(VOCAB), rows, allowed), rows["position"])


def test_packing_changes_no_position() -> None:
    documents = [random_document(np.random.default_rng(seed)) for seed in range(8)]
    rows, allowed = noisy_rows(documents, 0, capacity=200)
    assert int(rows["document"].max()) > 0, "several documents in a row"
    is_start = rows["noisy_ids"] == BOI
    together = aligned_row_positions(rows["position"], is_start, allowed, EVERY)
    assert bool((together != rows["position"]).any())
    for row in range(len(together)):
        for number in range(int(rows["document"][row].max()) + 1):
            own = (rows["document"][row] == number).nonzero().flatten()
            alone = aligned_row_positions(
                rows["position"][row, own][None], is_start[row, own][None], allowed[row][own][:, own][None], EVERY
            )
            assert torch.equal(together[row, own], alone[0])


def noisy_rows(documents: list[Document], seed: int, capacity: int = 1) -> tuple[dict[str, Tensor], Tensor]:
    """Rows with noise, and who sees whom."""
    rows = collate([lay_out(document, EOS) for document in documents], capacity, EOS)
    rows = noised(rows, LAW, LAW, MASK, torch.Generator().manual_seed(seed))
    return rows, training_allowed(rows["document"], rows["branch"], rows["block"], rows["stream"])
