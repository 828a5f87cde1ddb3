"""Codes of many scenes, extracted once by the frozen tokenizer. Scenes are remade from the seed, codes are stored.

Two kinds of pools: single scenes, and groups of scenes that belong together (an edit, a story, pictures to compare).
Both are kept the same way, each in a directory of its own.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from llada_uni.data.scene_stream import GRID_SHARES, GridShares, draw_grid, draw_scenes, pictures, python_random
from llada_uni.data.tokenizer_pixels import reduced, to_patches
from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.grid import TokenGrid
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.scenes.graph import WORLD_VERSION, SceneGraph
from llada_uni.scenes.tasks import GROUP_TASKS, TASKS_VERSION, Group, sample_group

__all__ = ["CodePool", "PoolConfig", "TaskPool", "TaskPoolConfig", "encode_pictures", "extract", "fingerprint"]


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """``num_shards`` files of ``shard_size`` scenes, one grid per shard."""

    num_shards: int = 100
    shard_size: int = 512
    seed: int = 0
    grids: GridShares = GRID_SHARES

    def scenes(self, shard: int) -> list[SceneGraph]:
        """The scenes of one shard, a function of the seed and the shard's number."""
        rng = np.random.default_rng([self.seed, shard])
        return draw_scenes(rng, self.shard_size, draw_grid(rng, self.grids))

    @property
    def identity(self) -> str:
        """What a shard depends on besides the tokenizer."""
        return f"{WORLD_VERSION} {self.shard_size} {self.seed} {self.grids}"


@dataclass(frozen=True, kw_only=True)
class TaskPoolConfig:
    """``num_shards`` files of ``shard_size`` groups, one grid and one task per shard, tasks in the order of ``turns``.

    Raises:
        ConfigError: an unknown task, or fewer shards than turns (some task would be missing).
    """

    num_shards: int = 40
    shard_size: int = 256
    seed: int = 0
    grids: GridShares = GRID_SHARES
    turns: tuple[str, ...] = ("edit", "story", "edit", "comparison")

    def __post_init__(self) -> None:
        unknown = [name for name in self.turns if name not in GROUP_TASKS]
        if unknown:
            raise ConfigError(f"turns: unknown task {unknown[0]!r}; expected some of {', '.join(GROUP_TASKS)}")
        if self.num_shards < len(self.turns):
            raise ConfigError(f"num_shards: expected at least {len(self.turns)}, one per turn, got {self.num_shards}")

    def task(self, shard: int) -> str:
        """The task of one shard."""
        return self.turns[shard % len(self.turns)]

    def groups(self, shard: int) -> list[Group]:
        """The groups of one shard, a function of the seed and the shard's number."""
        rng = np.random.default_rng([self.seed, shard])
        grid_h, grid_w = draw_grid(rng, self.grids)
        source, task = python_random(rng), self.task(shard)
        return [sample_group(source, task, grid_h=grid_h, grid_w=grid_w) for _ in range(self.shard_size)]

    def scenes(self, shard: int) -> list[SceneGraph]:
        """The scenes of all groups of one shard, one group after the other."""
        return [graph for group in self.groups(shard) for graph in group.graphs]

    @property
    def identity(self) -> str:
        """What a shard depends on besides the tokenizer."""
        return f"{WORLD_VERSION} {TASKS_VERSION} {self.shard_size} {self.seed} {self.grids} {self.turns}"


@torch.no_grad()
def encode_pictures(tokenizer: ImageTokenizer, images: np.ndarray) -> np.ndarray:
    """Codes uint16 [N, h, w] of full-size pictures uint8 [N, H, W, 3]."""
    patch = tokenizer.config.vision_config.patch_size
    small = reduced(images)
    height, width = small.shape[1] // patch, small.shape[2] // patch
    device = next(tokenizer.parameters()).device
    codes = [
        tokenizer(to_patches(part, patch).to(device), [TokenGrid(height, width)] * len(part)).cpu().numpy()
        for part in np.array_split(small, max(len(small) // 64, 1))
    ]
    return np.concatenate(codes).astype(np.uint16).reshape(-1, height, width)


def extract(
    config: PoolConfig | TaskPoolConfig,
    tokenizer: ImageTokenizer,
    directory: Path,
    *,
    report: Callable[[int], None] | None = None,
) -> None:
    """Writes the missing shards of the pool into ``directory``; shards of other weights are made again."""
    directory.mkdir(parents=True, exist_ok=True)
    mark = fingerprint(config, tokenizer)
    for shard in range(config.num_shards):
        path = _path(directory, shard)
        if _mark_of(path) == mark:
            continue
        codes = encode_pictures(tokenizer, pictures(config.scenes(shard)))
        partial = path.with_name(f".{path.name}.{os.getpid()}.npz")
        np.savez(partial, codes=codes, mark=np.array(mark))
        os.replace(partial, path)
        if report is not None:
            report(shard)


def fingerprint(config: PoolConfig | TaskPoolConfig, tokenizer: ImageTokenizer) -> str:
    """Digest of everything a shard depends on: versions, sizes and seed, tokenizer weights."""
    digest = hashlib.sha256(config.identity.encode())
    for name, tensor in sorted(tokenizer.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class CodePool:
    """Scenes with their codes, by index. Scenes of a shard are made when first asked for."""

    def __init__(self, config: PoolConfig, directory: Path, mark: str) -> None:
        """Reads all shards.

        Raises:
            CheckpointError: a shard is missing or was made by another tokenizer.
        """
        self._config = config
        self.mark = mark
        self._scenes: dict[int, list[SceneGraph]] = {}
        self._codes = _stored_codes(config, directory, mark)

    def __len__(self) -> int:
        return self._config.num_shards * self._config.shard_size

    def __getitem__(self, index: int) -> tuple[SceneGraph, np.ndarray]:
        """Scene and its codes [h, w]."""
        shard, place = divmod(index, self._config.shard_size)
        scenes, codes = self.shard(shard)
        return scenes[place], codes[place]

    def shard(self, index: int) -> tuple[list[SceneGraph], np.ndarray]:
        """All scenes of a shard and their codes [N, h, w]."""
        if index not in self._scenes:
            self._scenes[index] = self._config.scenes(index)
        return self._scenes[index], self._codes[index]


class TaskPool:
    """Groups with the codes of their scenes, by task. Groups of a shard are made when first asked for."""

    def __init__(self, config: TaskPoolConfig, directory: Path, mark: str) -> None:
        """Reads all shards.

        Raises:
            CheckpointError: a shard is missing or was made by another tokenizer.
        """
        self._config = config
        self.mark = mark
        self._codes = _stored_codes(config, directory, mark)
        self._made: dict[int, tuple[list[Group], list[int]]] = {}

    def pick(self, task: str, source: random.Random) -> tuple[Group, list[np.ndarray]]:
        """A random group of ``task`` and the codes [h, w] of its scenes, in order.

        Raises:
            ConfigError: the pool holds no groups of that task.
        """
        shards = [shard for shard in range(self._config.num_shards) if self._config.task(shard) == task]
        if not shards:
            raise ConfigError(f"the task pool holds no {task} groups; add {task!r} to its turns")
        return self.group(source.choice(shards), source.randrange(self._config.shard_size))

    def group(self, shard: int, index: int) -> tuple[Group, list[np.ndarray]]:
        """One group of a shard and the codes [h, w] of its scenes, in order."""
        if shard not in self._made:
            made = self._config.groups(shard)
            self._made[shard] = (made, [0, *accumulate(len(group.graphs) for group in made)])
        groups, starts = self._made[shard]
        assert starts[-1] == len(self._codes[shard]), "other groups than were extracted; TASKS_VERSION must change"
        return groups[index], list(self._codes[shard][starts[index] : starts[index + 1]])


def _stored_codes(config: PoolConfig | TaskPoolConfig, directory: Path, mark: str) -> list[np.ndarray]:
    codes: list[np.ndarray] = []
    for shard in range(config.num_shards):
        path = _path(directory, shard)
        if _mark_of(path) != mark:
            raise CheckpointError(f"{path}: missing or made by another tokenizer; extract the pool again")
        with np.load(path) as stored:
            codes.append(stored["codes"])
    return codes


def _path(directory: Path, shard: int) -> Path:
    return directory / f"codes-{shard:05d}.npz"


def _mark_of(path: Path) -> str | None:
    if not path.exists():
        return None
    with np.load(path) as stored:
        return str(stored["mark"])
