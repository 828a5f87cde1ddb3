"""Codes of many scenes, extracted once by the frozen tokenizer. Scenes are remade from the seed, codes are stored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from llada_uni.data.scene_stream import GRID_SHARES, GridShares, draw_grid, draw_scenes, pictures
from llada_uni.data.tokenizer_pixels import reduced, to_patches
from llada_uni.errors import CheckpointError
from llada_uni.grid import TokenGrid
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.scenes.graph import WORLD_VERSION, SceneGraph

__all__ = ["CodePool", "PoolConfig", "encode_pictures", "extract"]


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
    config: PoolConfig, tokenizer: ImageTokenizer, directory: Path, *, report: Callable[[int], None] | None = None
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


def fingerprint(config: PoolConfig, tokenizer: ImageTokenizer) -> str:
    """Digest of everything a shard depends on: world version, sizes and seed, tokenizer weights."""
    digest = hashlib.sha256(f"{WORLD_VERSION} {config.shard_size} {config.seed} {config.grids}".encode())
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
        self._codes: list[np.ndarray] = []
        for shard in range(config.num_shards):
            path = _path(directory, shard)
            if _mark_of(path) != mark:
                raise CheckpointError(f"{path}: missing or made by another tokenizer; extract the pool again")
            with np.load(path) as stored:
                self._codes.append(stored["codes"])

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


def _path(directory: Path, shard: int) -> Path:
    return directory / f"codes-{shard:05d}.npz"


def _mark_of(path: Path) -> str | None:
    if not path.exists():
        return None
    with np.load(path) as stored:
        return str(stored["mark"])
