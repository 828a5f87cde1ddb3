"""Extracted samples in an order that is a function of (seed, epoch), and noise that is one of (seed, epoch, id).

Every epoch holds each sample once. What a sample looks like in an epoch does not depend on the batch it is in, on the
machine, or on what was read before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llada_uni.data.block_rows import Document
from llada_uni.data.compile_rows import DROPPED_WEIGHTS, CompiledSample, Variant
from llada_uni.data.token_shards import Manifest, Shard, read_manifest
from llada_uni.errors import CheckpointError, ConfigError

__all__ = ["Chosen", "PoseRules", "TokenData", "TokenLoader", "is_held_out_id", "sample_generator"]


class TokenData:
    """All samples of a complete extraction, by index."""

    def __init__(self, directory: Path, *, verify: bool = False) -> None:
        """Opens the shards; ``verify`` reads all of them and compares checksums.

        Raises:
            CheckpointError: the extraction is not complete, or a shard is damaged or another one.
        """
        self.manifest: Manifest = read_manifest(directory)
        self._shards = [Shard(directory / entry.file) for entry in self.manifest.shards]
        for shard, entry in zip(self._shards, self.manifest.shards, strict=True):
            if (shard.metadata.get("digest"), len(shard)) != (entry.digest, entry.samples):
                raise CheckpointError(f"{shard.path}: not the shard that the manifest tells of; extract again")
            if verify:
                shard.verify()
        self._ends = np.cumsum([len(shard) for shard in self._shards])

    def __len__(self) -> int:
        return self.manifest.samples

    def __getitem__(self, index: int) -> CompiledSample:
        """Sample ``index``, in the order of the records."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[shard - 1]) if shard else 0
        return self._shards[shard][index - start]

    def facts(self) -> list[dict[str, Any]]:
        """``id``, ``task``, ``source``, ``weight``, ``n_tokens`` and ``n_target`` of every sample; reads no ids."""
        return [facts for shard in self._shards for facts in shard.info]

    @property
    def digest(self) -> str:
        """Digest of all contents."""
        return hashlib.sha256("".join(shard.digest for shard in self.manifest.shards).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A sample and the epoch in which its turn came."""

    sample: CompiledSample
    epoch: int


class TokenLoader:
    """Batches without end. ``at(n)`` is batch n whatever was read before; iterating goes on from ``position``."""

    def __init__(
        self, data: TokenData, *, batch_size: int, seed: int = 0, indices: Sequence[int] | None = None
    ) -> None:
        """``indices``: only these samples of ``data``.

        Raises:
            ConfigError: no samples, or a batch size below 1.
        """
        self._indices = list(range(len(data))) if indices is None else list(indices)
        if batch_size < 1 or not self._indices:
            raise ConfigError(
                f"expected samples and a batch size of at least 1, got {len(self._indices)}, {batch_size}"
            )
        self._data, self._batch_size, self._seed = data, batch_size, seed
        self._order = lru_cache(maxsize=2)(self._order_of)
        self.position = 0

    def _order_of(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._indices))

    def at(self, number: int) -> list[Chosen]:
        """Batch ``number``; batches run across the ends of epochs."""
        chosen = []
        for place in range(number * self._batch_size, (number + 1) * self._batch_size):
            epoch, turn = divmod(place, len(self._indices))
            index = self._indices[int(self._order(epoch)[turn])]
            chosen.append(Chosen(sample=self._data[index], epoch=epoch))
        return chosen

    def __iter__(self) -> Iterator[list[Chosen]]:
        return self

    def __next__(self) -> list[Chosen]:
        self.position += 1
        return self.at(self.position - 1)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, with what it belongs to."""
        return {"position": self.position, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken.

        Raises:
            ConfigError: the state is of other data, another seed or another batch size.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ConfigError(f"the loader's state has {name} {state.get(name)!r}, this loader {value!r}")
        self.position = int(state["position"])

    def _identity(self) -> dict[str, Any]:
        chosen = hashlib.sha256(np.array(self._indices, dtype=np.int64).tobytes()).hexdigest()
        return {"data": self._data.digest, "samples": chosen, "batch_size": self._batch_size, "seed": self._seed}


@dataclass(frozen=True, kw_only=True)
class PoseRules:
    """How a sample is posed: block lengths with their shares, and how often guidance's prompts take its place.

    ``drop_share``: 0.1 makes 10 % of text-to-image samples unconditional, and 10 % of edits lose their words (half of
    these), their pictures, or both. Source: training specification §2.11.

    Raises:
        ConfigError: no block length, or a share outside of [0, 1].
    """

    block_lengths: tuple[tuple[int, float], ...] = ((32, 1.0),)
    drop_share: float = 0.1
    views: int = 1

    def __post_init__(self) -> None:
        if not self.block_lengths or any(length < 1 or share < 0 for length, share in self.block_lengths):
            raise ConfigError(f"block_lengths: expected lengths with shares, got {self.block_lengths}")
        if not 0 <= self.drop_share <= 1:
            raise ConfigError(f"drop_share: expected a number from 0 to 1, got {self.drop_share}")

    def document(self, sample: CompiledSample, generator: torch.Generator) -> Document:
        """The sample as it is learnt this time; three numbers are drawn."""
        drop, kind, length = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        variant = self._variant(sample, kind) if drop < self.drop_share else sample.variants[0]
        lengths, shares = zip(*self.block_lengths, strict=True)
        several = any(len(branch.parts) > 1 for branch in variant.branches)
        return Document(
            branches=variant.branches,
            block_length=lengths[_drawn(shares, length)],
            views=1 if several else self.views,
        )

    @staticmethod
    def _variant(sample: CompiledSample, uniform: float) -> Variant:
        others = sample.variants[1:]
        if not others:
            return sample.variants[0]
        return others[_drawn([DROPPED_WEIGHTS[variant.name] for variant in others], uniform)]


def _drawn(weights: Sequence[float], uniform: float) -> int:
    """Index chosen with these weights by a number in [0, 1)."""
    ends = np.cumsum(weights)
    return min(int(np.searchsorted(ends, uniform * ends[-1], side="right")), len(weights) - 1)


def sample_generator(seed: int, epoch: int, name: str, purpose: str) -> torch.Generator:
    """CPU generator of one sample in one epoch: a function of (seed, epoch, id, purpose) alone."""
    digest = hashlib.sha256(f"{seed}\n{epoch}\n{purpose}\n{name}".encode("utf-8", "surrogatepass")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))


def is_held_out_id(name: str, share: float) -> bool:
    """Whether a sample is kept out of training: always the same ids, about ``share`` of them."""
    digest = hashlib.sha256(f"held out\n{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little") < share * 2**64
