"""Ids that may be written in each phase."""

from __future__ import annotations

from llada_uni.protocols import IdSet
from llada_uni.sampling.id_sets import image_ids, text_ids
from llada_uni.testing.tiny import tiny_vocab


def members(ids: IdSet) -> set[int]:
    return set(range(ids.start, ids.stop)) - set(ids.forbidden)


def test_phases_write_disjoint_ids() -> None:
    vocab = tiny_vocab()
    assert members(image_ids(vocab)) == set(vocab.to_ids(list(range(vocab.num_codes))))
    text = members(text_ids(vocab))
    assert text == set(range(16)) | {vocab.special.eos}
    headers = members(text_ids(vocab, headers=True))
    assert headers - text == {vocab.special.soi, vocab.special.boi, *vocab.special.reserved.values()}
    assert not headers & members(image_ids(vocab))
    assert vocab.special.mask not in headers
