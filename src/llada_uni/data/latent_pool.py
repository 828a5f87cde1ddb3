"""Latents of pool pictures, made once by the frozen autoencoder from whole pictures, and windows of them with codes."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from llada_uni.data.scene_stream import pictures, to_unit
from llada_uni.decoder.vae import VAE
from llada_uni.scenes.graph import SceneGraph

__all__ = ["CodeShards", "LatentPool", "encode_latents"]

_PER_CALL = 8


@torch.no_grad()
def encode_latents(vae: VAE, images: np.ndarray) -> np.ndarray:
    """Model latents float16 [N, C, H/f, W/f] (means, scaled) of pictures uint8 [N, H, W, 3]."""
    device = next(vae.parameters()).device
    parts = np.array_split(images, max(len(images) // _PER_CALL, 1))
    latents = [vae.to_model(vae.encode(to_unit(part).to(device))[0]).cpu() for part in parts]
    return torch.cat(latents).to(torch.float16).numpy()


@dataclass(frozen=True, kw_only=True)
class _Shard:
    latents: np.ndarray
    codes: np.ndarray
    scenes: list[SceneGraph]


class CodeShards(Protocol):
    """What pictures to make latents of, shard by shard, and what to give beside them: a code pool, or one like it."""

    @property
    def mark(self) -> str:
        """Tells pools apart; latents of another mark are made again."""
        ...

    def shard(self, index: int) -> tuple[list[SceneGraph], np.ndarray]:
        """All scenes of a shard and their codes [N, h, w] (or classes [N, h, w, A])."""
        ...


class LatentPool:
    """Latents and codes of the first ``num_shards`` shards of a code pool, in memory; missing files are made."""

    def __init__(self, codes: CodeShards, vae: VAE, directory: Path, num_shards: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        mark = f"{codes.mark} {_digest(vae)}"
        self._shards = [
            _shard(codes, vae, directory / f"latents-{index:05d}.npz", index, mark) for index in range(num_shards)
        ]

    def crops(self, rng: np.random.Generator, count: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Random windows of ``side`` x ``side`` codes, most of them over an object.

        Returns latents [n, C, side * f, side * f], codes [n, side, side] and the window's first row and column in codes
        [n, 2]; f is the number of latent cells per code.
        """
        picked = []
        for shard_index, place in zip(rng.integers(0, len(self._shards), count), rng.random(count), strict=True):
            shard = self._shards[shard_index]
            index = int(place * len(shard.codes))
            row, column = _window(rng, shard.scenes[index], side)
            factor = shard.latents.shape[2] // shard.codes.shape[1]
            rows, columns = slice(row * factor, (row + side) * factor), slice(column * factor, (column + side) * factor)
            codes = shard.codes[index, row : row + side, column : column + side]
            picked.append((shard.latents[index, :, rows, columns], codes, (row, column)))
        return _tensors(*zip(*picked, strict=True))

    def whole(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Whole pictures of one grid, as :meth:`crops`; about ``count`` times 64 codes."""
        shard = self._shards[int(rng.integers(len(self._shards)))]
        height, width = shard.codes.shape[1:3]
        indices = rng.integers(0, len(shard.codes), max(round(count * 64 / (height * width)), 1))
        return _tensors(shard.latents[indices], shard.codes[indices], [(0, 0)] * len(indices))


def _shard(codes: CodeShards, vae: VAE, path: Path, index: int, mark: str) -> _Shard:
    scenes, shard_codes = codes.shard(index)
    if path.exists():
        with np.load(path) as stored:
            if str(stored["mark"]) == mark:
                return _Shard(latents=stored["latents"], codes=shard_codes, scenes=scenes)
    latents = encode_latents(vae, pictures(scenes))
    partial = path.with_name(f".{path.name}.{os.getpid()}.npz")
    np.savez(partial, latents=latents, mark=np.array(mark))
    os.replace(partial, path)
    return _Shard(latents=latents, codes=shard_codes, scenes=scenes)


def _window(rng: np.random.Generator, graph: SceneGraph, side: int) -> tuple[int, int]:
    """First row and column of a window; four in five overlap a random object as far as the picture allows."""
    limits = (graph.grid_h - side, graph.grid_w - side)
    if rng.random() > 0.8 or not graph.objects:
        return int(rng.integers(limits[0] + 1)), int(rng.integers(limits[1] + 1))
    item = graph.objects[int(rng.integers(len(graph.objects)))]
    found = []
    for start, size, limit in zip((item.row, item.column), item.cells, limits, strict=True):
        low, high = max(start + size - side, 0), min(start, limit)
        found.append(int(rng.integers(min(low, high), max(low, high) + 1)))
    return min(found[0], limits[0]), min(found[1], limits[1])


def _tensors(latents: object, codes: object, origins: object) -> tuple[Tensor, Tensor, Tensor]:
    stacked = np.asarray(latents, dtype=np.float32)
    return (
        torch.from_numpy(stacked),
        torch.from_numpy(np.asarray(codes, dtype=np.int64)),
        torch.tensor(np.asarray(origins, dtype=np.int64)),
    )


def _digest(vae: VAE) -> str:
    digest = hashlib.sha256(f"{vae.config.scaling_factor} {vae.config.shift_factor}".encode())
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
