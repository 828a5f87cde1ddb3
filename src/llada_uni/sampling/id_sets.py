"""Which ids a row may write in its text and picture phases."""

from __future__ import annotations

from llada_uni.protocols import IdSet
from llada_uni.vocab import Vocab

__all__ = ["image_ids", "text_ids"]


def image_ids(vocab: Vocab) -> IdSet:
    """Image ids only: a picture never contains anything else."""
    return IdSet(start=vocab.image_offset, stop=vocab.vocab_size)


def text_ids(vocab: Vocab, *, headers: bool = False) -> IdSet:
    """Text and the end id, no structural control ids; with ``headers`` also those that announce a picture.

    The released text loop forbids nothing.
    """
    special = vocab.special
    structure = {special.mask, special.eoi, special.role_open, special.role_close}
    if not headers:
        structure |= {special.soi, special.boi, *special.reserved.values()}
    forbidden = tuple(sorted(i for i in structure if i is not None))
    return IdSet(start=0, stop=vocab.text_vocab_size, forbidden=forbidden)
