"""Latents and codes of pictures that are no scenes, made once by the frozen networks, and windows of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llada_uni.data.code_pool import encode_pictures
from llada_uni.data.latent_pool import encode_latents
from llada_uni.data.record_pictures import RecordPictures
from llada_uni.decoder.vae import VAE
from llada_uni.image_tokenizer.model import ImageTokenizer

__all__ = ["PicturePool"]


class PicturePool:
    """Latents and codes of every picture and of its mirror image, in memory; a file in ``directory`` keeps them."""

    def __init__(self, pictures: RecordPictures, tokenizer: ImageTokenizer, vae: VAE, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path, mark = directory / "pictures.npz", _mark(pictures, tokenizer, vae)
        if not _fits(path, mark):
            both = np.concatenate([pictures.images, pictures.images[:, :, ::-1]])
            partial = path.with_name(f".{path.name}.{os.getpid()}.npz")
            codes, latents = encode_pictures(tokenizer, both), encode_latents(vae, both)
            np.savez(partial, codes=codes, latents=latents, mark=np.array(mark))
            os.replace(partial, path)
        with np.load(path) as stored:
            self._codes, self._latents = stored["codes"], stored["latents"]

    def __len__(self) -> int:
        return len(self._codes)

    def crops(self, rng: np.random.Generator, count: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Random windows of ``side`` x ``side`` codes, as ``latent_pool.LatentPool.crops``."""
        factor = self._latents.shape[2] // self._codes.shape[1]
        limits = (self._codes.shape[1] - side + 1, self._codes.shape[2] - side + 1)
        origins = rng.integers(0, limits, (count, 2))
        latents, codes = [], []
        for index, (row, column) in zip(rng.integers(0, len(self), count), origins, strict=True):
            codes.append(self._codes[index, row : row + side, column : column + side])
            rows, columns = (slice(start * factor, (start + side) * factor) for start in (row, column))
            latents.append(self._latents[index, :, rows, columns])
        return _tensors(np.stack(latents), np.stack(codes), origins)

    def whole(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """``count`` whole pictures, as ``latent_pool.LatentPool.whole``."""
        chosen = rng.integers(0, len(self), count)
        return _tensors(self._latents[chosen], self._codes[chosen], np.zeros((count, 2)))


def _tensors(latents: np.ndarray, codes: np.ndarray, origins: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.from_numpy(latents.astype(np.float32)),
        torch.from_numpy(codes.astype(np.int64)),
        torch.from_numpy(origins.astype(np.int64)),
    )


def _mark(pictures: RecordPictures, tokenizer: ImageTokenizer, vae: VAE) -> str:
    shape = f"{pictures.digest} {vae.config.scaling_factor} {vae.config.shift_factor}"
    digest = hashlib.sha256(shape.encode())
    for module in (tokenizer, vae):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _fits(path: Path, mark: str) -> bool:
    if not path.is_file():
        return False
    with np.load(path) as stored:
        return str(stored["mark"]) == mark
