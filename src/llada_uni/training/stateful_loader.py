"""Packed rows of extracted samples through ``torchdata``: worker processes, and a state that resumes exactly.

Our own loop needs none of this (batch n is a function of n, and one thread makes it ahead of time); it is for loops of
other people, and for machines on which making rows keeps several processes busy. The batches are those of
``objectives.records``. ``torchdata`` comes with the extra ``[train]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, Sampler

from llada_uni.data.token_loader import TokenData
from llada_uni.errors import ConfigError
from llada_uni.training.objectives.records import RecordRows, RecordsObjectiveConfig
from llada_uni.vocab import SpecialIds
from llada_uni.weights.catalog import resolve
from llada_uni.weights.load import load_vocab

__all__ = ["PackedBatches", "stateful_loader"]


@dataclass(kw_only=True)
class PackedBatches(Dataset[dict[str, Tensor]]):
    """Batch n of an extraction, packed, with noise. Opened where it is first read, so that it travels to workers."""

    config: RecordsObjectiveConfig
    special: SpecialIds
    batch_size: int
    seed: int = 0
    _rows: RecordRows | None = field(default=None, repr=False)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """See ``RecordRows.batch``."""
        if self._rows is None:
            self._rows = RecordRows(self.config, TokenData(Path(str(self.config.data))), self.special, self.seed)
        return self._rows.batch(number, self.batch_size)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_rows": None}


class _Numbers(Sampler[int]):
    """Every ``step``-th number from ``first`` on, without end; its state says whose numbers these are."""

    def __init__(self, first: int, step: int, identity: Mapping[str, Any]) -> None:
        self._first, self._step, self._identity = first, step, dict(identity)
        self._done = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self._done += 1
        return self._first + (self._done - 1) * self._step

    def state_dict(self) -> dict[str, Any]:
        return {"done": self._done, **self._identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise ConfigError(f"the loader's state has {name} {state.get(name)!r}, this loader {value!r}")
        self._done = int(state["done"])


def stateful_loader(
    config: RecordsObjectiveConfig,
    *,
    batch_size: int,
    seed: int = 0,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Any:
    """A ``torchdata.stateful_dataloader.StatefulDataLoader`` without end over the samples in ``config.data``.

    Process ``rank`` of ``world`` gets every ``world``-th batch. ``state_dict()`` and ``load_state_dict()`` go on with
    the next batch, with the same number of ``workers`` (a rule of torchdata's); a state of other data, another seed,
    batch size or world is refused when iteration begins.

    Raises:
        ConfigError: ``torchdata`` is not installed, no data named, or a number out of range.
        CheckpointError: the data cannot be read.
    """
    library = _library()
    if config.data is None:
        raise ConfigError("data: name the folder that llada-uni data extract wrote")
    if batch_size < 1 or workers < 0 or not 0 <= rank < world:
        raise ConfigError(
            f"expected a batch size of at least 1, workers of at least 0 and a rank below {world}, "
            f"got {batch_size}, {workers} and {rank}"
        )
    special = load_vocab(resolve(config.warm)).special
    identity = {"data": TokenData(Path(config.data)).digest, "batch_size": batch_size, "seed": seed, "world": world}
    batches = PackedBatches(config=config, special=special, batch_size=batch_size, seed=seed)
    numbers = _Numbers(rank, world, identity)
    return library.StatefulDataLoader(batches, batch_size=None, sampler=numbers, num_workers=workers)


def _library() -> Any:
    try:
        from torchdata import stateful_dataloader  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(f"this loader needs torchdata ({error}): pip install 'llada-uni[train]'") from error
    return stateful_dataloader
