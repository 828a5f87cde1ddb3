"""Trains the byte-level text tokenizer of a small checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from llada_uni.errors import ConfigError
from llada_uni.prompts import ROLE_NAMES, SYSTEM_PROMPTS, UNCONDITION
from llada_uni.vocab import CONTROL_STRINGS

__all__ = ["NUM_TEXT_ENTRIES", "train_text_tokenizer"]

NUM_TEXT_ENTRIES = 1536 - len(CONTROL_STRINGS)
"""Entries of the text part, so that text and control strings together are 1,536 ids."""

_PROMPT_WEIGHT = 1000  # every training sample holds one of these strings, whatever the corpus looks like


def train_text_tokenizer(corpus: Iterable[str], num_entries: int = NUM_TEXT_ENTRIES) -> Tokenizer:
    """Byte-level BPE with ``num_entries`` text ids, then the control strings in the order of ``CONTROL_STRINGS``.

    Digits are always single; no prefix space; every byte sequence round-trips. The fixed prompts of the protocol are
    part of the corpus. The result depends on the corpus alone. Save it with ``tokenizer.save(path)``.

    Raises:
        ConfigError: fewer than 256 entries asked for, or the corpus is too small for that many.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if num_entries < len(alphabet):
        raise ConfigError(f"num_entries: expected at least {len(alphabet)} (one per byte), got {num_entries}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(vocab_size=num_entries, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_weighted(corpus), trainer)
    if tokenizer.get_vocab_size() != num_entries:
        raise ConfigError(
            f"the corpus yields only {tokenizer.get_vocab_size()} text entries, expected {num_entries}; "
            "give more text or ask for fewer entries"
        )
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in CONTROL_STRINGS])
    return tokenizer


def _weighted(corpus: Iterable[str]) -> Iterator[str]:
    for text in (*SYSTEM_PROMPTS, UNCONDITION):
        yield from [f" {text} ", text] * _PROMPT_WEIGHT
    yield from [*ROLE_NAMES.values()] * _PROMPT_WEIGHT
    yield from corpus
