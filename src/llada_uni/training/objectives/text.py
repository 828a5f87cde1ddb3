"""Text tokenizer stage: byte-pair merges from the world's own sentences. Seconds, nothing to resume."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

from llada_uni.data.bpe import NUM_TEXT_ENTRIES, train_text_tokenizer
from llada_uni.scenes.corpus import corpus
from llada_uni.training.objective import Resources

__all__ = ["TextTokenizerConfig"]


@dataclass(frozen=True, kw_only=True)
class TextTokenizerConfig:
    """Trains ``tokenizer.json`` on ``num_lines`` lines of the scenes corpus."""

    name: str
    num_lines: int = 60000
    num_entries: int = NUM_TEXT_ENTRIES
    seed: int = 0

    def run(self, resources: Resources) -> dict[str, Any]:
        """Writes ``tokenizer.json`` and returns its size and the mean length of captions in ids."""
        tokenizer = train_text_tokenizer(corpus(random.Random(self.seed), self.num_lines), self.num_entries)
        resources.out.mkdir(parents=True, exist_ok=True)
        partial = resources.out / f".tokenizer.json.{os.getpid()}"
        tokenizer.save(str(partial))
        os.replace(partial, resources.out / "tokenizer.json")
        fresh = list(corpus(random.Random(self.seed + 1), 500))
        lengths = [len(tokenizer.encode(line).ids) for line in fresh]
        return {"name": self.name, "ids": tokenizer.get_vocab_size(), "mean_ids": sum(lengths) / len(lengths)}
