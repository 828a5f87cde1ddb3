"""Training rows: layout, packing, and equality with the plain ways of computing the same thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llada_uni.data.block_rows import Branch, Document, Segment, collate, lay_out, pack
from llada_uni.diffusion.masking import IMAGE_LAW, TEXT_LAW, MaskRatioLaw, block_causal_allowed
from llada_uni.errors import ConfigError
from llada_uni.testing.tiny import tiny_backbone, tiny_vocab
from llada_uni.training.objectives.backbone import masked_losses, noised

VOCAB = tiny_vocab()
EOS, MASK = VOCAB.special.eos, VOCAB.special.mask
FULL = MaskRatioLaw(low=1.0, high=1.0, full_share=0.0)


def ids(rng: np.random.Generator, count: int) -> tuple[int, ...]:
    return tuple(int(i) for i in rng.integers(0, 16, count))


def shared_document(seed: int, num_branches: int = 3, block_length: int = 4, views: int = 1) -> Document:
    rng = np.random.default_rng(seed)
    prefix = ids(rng, 11)
    branches = tuple(
        Branch(prompt=(*prefix, *ids(rng, int(rng.integers(1, 6)))), target=ids(rng, int(rng.integers(1, 7))))
        for _ in range(num_branches)
    )
    return Document(branches=branches, block_length=block_length, views=views)


def separate(document: Document) -> list[Document]:
    return [
        Document(branches=(branch,), block_length=document.block_length, views=document.views)
        for branch in document.branches
    ]


def rows(documents: list[Document], capacity: int = 1, seed: int = 0, law: MaskRatioLaw = FULL) -> dict[str, Tensor]:
    table = collate([lay_out(document, EOS) for document in documents], capacity, EOS)
    return noised(table, law, law, MASK, torch.Generator().manual_seed(seed))


def losses_by_token(document_rows: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> dict[tuple, float]:
    found = masked_losses(tiny_backbone(dtype=dtype), document_rows)
    masked = document_rows["masked"]
    position = document_rows["position"][masked].tolist()
    clean = document_rows["ids"][masked].tolist()
    sample = document_rows["sample"][masked].tolist()
    return dict(zip(zip(sample, position, clean, strict=True), found.losses.tolist(), strict=True))


def test_a_document_holds_each_needed_token_once() -> None:
    document = Document(branches=(Branch(prompt=tuple(range(6)), target=(1, 2, 3)),), block_length=4)
    layout = lay_out(document, EOS)
    clean = layout.stream == 0
    assert layout.position[clean].tolist() == list(range(8))  # the last block has no clean copy
    assert layout.position[~clean].tolist() == list(range(4, 12))  # blocks 1 and 2 hold targets
    assert layout.position[layout.maskable].tolist() == list(range(6, 12))
    assert layout.position[layout.fill].tolist() == [9, 10, 11]
    assert layout.ids[layout.fill].tolist() == [EOS] * 3


def test_common_blocks_stand_once() -> None:
    document = shared_document(0)
    layout = lay_out(document, EOS)
    assert (layout.branch == 0).sum() == 8  # two whole blocks of the eleven common tokens
    assert len(layout) < sum(len(lay_out(single, EOS)) for single in separate(document))


@pytest.mark.parametrize("seed", range(4))
def test_branches_give_the_losses_of_separate_samples(seed: int) -> None:
    document = shared_document(seed)
    together = losses_by_token(rows([document]))
    alone: dict[tuple, float] = {}
    for index, single in enumerate(separate(document)):
        alone |= {(index, *key[1:]): value for key, value in losses_by_token(rows([single])).items()}
    assert together.keys() == alone.keys()
    for key, value in alone.items():
        assert together[key] == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_packed_rows_give_the_losses_of_single_rows(seed: int) -> None:
    documents = [shared_document(seed * 10 + i, num_branches=1 + i % 2) for i in range(5)]
    packed, single = rows(documents, capacity=10_000), rows(documents, capacity=1)
    assert packed["ids"].shape[0] == 1 < single["ids"].shape[0]
    a = sorted(round(v, 9) for v in losses_by_token(packed).values())
    b = sorted(round(v, 9) for v in losses_by_token(single).values())
    assert a == pytest.approx(b, rel=1e-8)


def mixed_document(seed: int, block_length: int = 8, lengths: tuple[int, ...] = (9, 12, 5, 12, 3)) -> Document:
    """Words, a picture, words, a picture, words, after a prompt that ends inside a block."""
    rng = np.random.default_rng(seed)
    parts = tuple(Segment(length=length, is_image=bool(i % 2)) for i, length in enumerate(lengths))
    branch = Branch(prompt=ids(rng, 5), target=ids(rng, sum(lengths)), segments=parts)
    return Document(branches=(branch,), block_length=block_length)


@pytest.mark.parametrize("block_length", [1, 4, 8])
@pytest.mark.parametrize(
    "make", [lambda n: shared_document(7, num_branches=1, block_length=n), lambda n: mixed_document(7, n)]
)
def test_a_noisy_block_has_the_logits_of_a_generation_step(make: Callable[[int], Document], block_length: int) -> None:
    model = tiny_backbone()
    document = make(block_length)
    table = rows([document], law=MaskRatioLaw(low=0.6, high=0.6, full_share=0.0), seed=3)
    masked = table["masked"][0]
    from llada_uni.diffusion.masking import training_allowed

    layout = (table[name] for name in ("document", "branch", "block", "stream"))
    allowed = training_allowed(*layout).unsqueeze(1)
    logits = model(table["noisy_ids"], table["position"], allowed)[0]
    row = [*document.branches[0].prompt, *document.branches[0].target]
    row += [EOS] * (-len(row) % block_length)
    for block in table["block"][0][masked].unique().tolist():
        start, end = block * block_length, (block + 1) * block_length
        own = (table["stream"][0] == 1) & (table["block"][0] == block)
        step = torch.tensor([[*row[:start], *table["noisy_ids"][0][own].tolist()]])
        blocks = torch.arange(end) // block_length
        expected = model(step, torch.arange(end)[None], block_causal_allowed(blocks, blocks)[None, None])[0, start:]
        torch.testing.assert_close(logits[own], expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_two_views_cover_each_target_once(seed: int) -> None:
    documents = [shared_document(seed + i, num_branches=2, views=2) for i in range(2)]
    table = rows(documents, capacity=10_000, seed=seed, law=TEXT_LAW)
    maskable, masked, stream = table["maskable"], table["masked"], table["stream"]
    key = (table["noise"] * 1000 + table["position"])[0]
    for view in (1, 2):
        assert not (masked & ~maskable).any()
        assert (stream[masked & (stream == view)] == view).all()
    first = set(key[(masked & (stream == 1))[0]].tolist())
    second = set(key[(masked & (stream == 2))[0]].tolist())
    assert first.isdisjoint(second)
    assert first | second == set(key[(maskable & (stream == 1))[0]].tolist())


def test_only_masked_targets_change() -> None:
    table = rows([shared_document(i) for i in range(4)], capacity=60, law=IMAGE_LAW)
    changed = table["noisy_ids"] != table["ids"]
    assert (table["masked"] == changed).all()
    assert (table["noisy_ids"][table["masked"]] == MASK).all()
    assert not (table["masked"] & ~table["maskable"]).any()
    assert (table["sample"][table["masked"]] >= 0).all()


def test_one_ratio_per_block_and_law_by_modality() -> None:
    rng = np.random.default_rng(0)
    picture = Document(branches=(Branch(prompt=ids(rng, 4), target=ids(rng, 60), is_image=True),), block_length=8)
    text = Document(branches=(Branch(prompt=ids(rng, 4), target=ids(rng, 60)),), block_length=8)
    table = collate([lay_out(d, EOS) for d in (picture, text)], 1, EOS)
    nothing = MaskRatioLaw(low=0.0, high=0.0, full_share=0.0)
    result = noised(table, FULL, nothing, MASK, torch.Generator().manual_seed(0))
    assert (result["masked"] == (result["maskable"] & result["image"])).all()


def test_segments_have_ratios_of_their_own_and_turns_within_their_block() -> None:
    layout = lay_out(mixed_document(0), EOS)
    noisy = layout.stream == 1
    position, noise, turn, image = (
        values[noisy] for values in (layout.position, layout.noise, layout.turn, layout.image)
    )
    place = position - 5
    assert (image == (((place >= 9) & (place < 21)) | ((place >= 26) & (place < 38)))).all()
    assert (np.diff(noise) >= 0).all()
    for number in np.unique(noise):
        own = noise == number
        assert len(set(image[own])) == len(set(position[own] // 8)) == len(set(turn[own])) == 1
    for block in np.unique(position // 8):
        own = position // 8 == block
        assert sorted(set(turn[own])) == list(range(len(set(noise[own]))))
    assert set(turn) == {0, 1, 2}, "the block of the short words holds two pictures too"
    assert (layout.image[layout.fill] == 0).all()


def test_targets_of_one_segment_have_no_turns() -> None:
    for segments in ((), (Segment(length=10, is_image=True),)):
        branch = Branch(prompt=(1, 2, 3), target=(4,) * 10, is_image=True, segments=segments)
        layout = lay_out(Document(branches=(branch,), block_length=4, views=2), EOS)
        assert not layout.turn.any()
        assert layout.image[layout.stream > 0].all()
        assert layout.num_noises == 4


def test_in_a_mixed_block_earlier_segments_stand_and_later_ones_are_hidden() -> None:
    half = MaskRatioLaw(low=0.5, high=0.5, full_share=0.0)
    at_work: dict[int, int] = {}
    for seed in range(60):
        table = rows([mixed_document(seed)], law=half, seed=seed)
        fields = (table[name][0] for name in ("position", "noise", "turn", "maskable"))
        position, noise, turn, maskable = fields
        masked, asked = table["noisy_ids"][0] == MASK, table["masked"][0]
        assert not (asked & ~masked).any()
        for block in position[noise >= 0].unique().div(8, rounding_mode="floor").unique().tolist():
            own = (position // 8 == block) & maskable
            shares = [float(masked[own & (turn == k)].float().mean()) for k in turn[own].unique().tolist()]
            if len(shares) > 1:
                state = [0.0 if share == 0 else 1.0 if share == 1 else 0.5 for share in shares]
                assert state == sorted(state)
                assert sum(value == 0.5 for value in state) <= 1
                first = state.index(0.5) if 0.5 in state else None
                for k in turn[own].unique().tolist() if first is not None else ():
                    here = own & (turn == k)
                    assert (asked[here] == (masked[here] if k == first else False)).all(), "only what is at work"
                at_work[state.count(0.0)] = at_work.get(state.count(0.0), 0) + 1
    assert len(at_work) >= 3, "every segment has its turn"


def test_the_law_of_a_ratio_follows_its_segment() -> None:
    nothing = MaskRatioLaw(low=0.0, high=0.0, full_share=0.0)
    table = collate([lay_out(mixed_document(3, block_length=1), EOS)], 1, EOS)
    for image_law, text_law, wanted in ((FULL, nothing, table["image"]), (nothing, FULL, ~table["image"])):
        result = noised(table, image_law, text_law, MASK, torch.Generator().manual_seed(0))
        assert (result["masked"] == (result["maskable"] & wanted)).all()


def test_segments_must_cover_the_target_and_take_one_view() -> None:
    with pytest.raises(ConfigError, match="segments of 3 ids for a target of 4"):
        Branch(prompt=(), target=(1, 2, 3, 4), segments=(Segment(length=3, is_image=False),))
    with pytest.raises(ConfigError, match="takes one view, got 2"):
        Document(branches=mixed_document(0).branches, views=2)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 60))
def test_packing_neither_splits_nor_loses(lengths: list[int], capacity: int) -> None:
    packed = pack(lengths, capacity)
    assert sorted(index for row in packed for index in row) == list(range(len(lengths)))
    for row in packed:
        assert len(row) == 1 or sum(lengths[i] for i in row) <= capacity


def test_hidden_ids_are_masked_and_their_neighbours_less() -> None:
    half = MaskRatioLaw(low=0.5, high=0.5, full_share=0.0)
    hidden = [n in (1, 2, 7) for n in range(10)]
    branches = [Branch(prompt=(1, 2, 3), target=(9,) * 10, is_image=True, hidden=hidden) for _ in range(300)]
    branches += [Branch(prompt=(1, 2, 3), target=(9,) * 10, is_image=True) for _ in range(300)]
    table = collate([lay_out(Document(branches=(one,), block_length=13), EOS) for one in branches], 1, EOS)
    masked = noised(table, half, half, MASK, torch.Generator().manual_seed(0))["masked"][:, 3:].float()
    marked = torch.tensor(hidden)
    assert (masked[:300][:, marked] == 1).all()
    assert abs(float(masked[:300][:, ~marked].mean()) - 0.2) < 0.03
    assert abs(float(masked[300:].mean()) - 0.5) < 0.03


def test_what_stands_clean_or_wholly_masked_stays_so_beside_hidden_ids() -> None:
    parts = (Segment(length=4, is_image=True), Segment(length=4, is_image=False))
    branch = Branch(prompt=(), target=(9,) * 8, segments=parts, hidden=(True, True, *[False] * 6))
    half = MaskRatioLaw(low=0.5, high=0.5, full_share=0.0)
    table = collate([lay_out(Document(branches=(branch,), block_length=8), EOS) for _ in range(40)], 1, EOS)
    masked = noised(table, half, half, MASK, torch.Generator().manual_seed(0))["noisy_ids"] == MASK
    at_work = masked[:, 4:8].all(1) & masked[:, :2].all(1)
    assert at_work.any()
    assert not masked[~at_work][:, :4].any(), "the words are at work, the picture before them stands"
    table = collate([lay_out(Document(branches=(replace(branch, segments=()),), block_length=8), EOS)], 1, EOS)
    assert noised(table, FULL, FULL, MASK, torch.Generator().manual_seed(0))["masked"].all()


def test_hidden_needs_one_mark_per_id() -> None:
    with pytest.raises(ConfigError, match="hidden marks 2 ids of a target of 4; give one per id"):
        Branch(prompt=(), target=(1, 2, 3, 4), hidden=(True, False))
