"""Image tokenizer goes on from a trained one: codes that it left unused learn pictures that are no scenes.

A scene keeps its codes: on scenes the features are held where the tokenizer at the start had them, and codes in use are
not moved. On pictures the features must tell what every cell looks like at the tokenizer's own resolution, through the
code and one hidden layer that is discarded. They stay continuous at first, then the free codes are placed on them.
Source: ours. The paper trains its tokenizer on understanding alone; a few thousand pictures with short names do not
teach a small one what a cell shows, so that here it is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada_uni.data.record_pictures import RecordPictures, load_pictures
from llada_uni.data.scene_stream import draw_scenes, pictures
from llada_uni.data.tokenizer_pixels import jittered, reduced, to_patches
from llada_uni.errors import ConfigError
from llada_uni.grid import TokenGrid
from llada_uni.image_tokenizer.config import ImageTokenizerConfig, PreprocessorConfig
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.training.export import frozen, warm_start
from llada_uni.training.group import gathered
from llada_uni.training.objective import Batch, Draw, Metrics, Resources
from llada_uni.training.objectives.codebook import CodebookTrainer, kmeans_plus_plus, unused_codes
from llada_uni.training.objectives.vae import psnr
from llada_uni.weights.catalog import resolve
from llada_uni.weights.save import save_image_tokenizer

__all__ = ["PictureTokenizerObjective", "PictureTokenizerObjectiveConfig"]


@dataclass(frozen=True, kw_only=True)
class PictureTokenizerObjectiveConfig:
    """``pictures``, ``held_out``: folders of records ("cache:NAME" or a path); ``warm``: the tokenizer to go on from.

    ``scenes_share`` of a batch are scenes. ``anchor_weight`` holds their features, ``pixel_weight`` scales the squared
    error of the cells of pictures in [-1, 1].
    """

    tokenizer: ImageTokenizerConfig
    pictures: str
    held_out: str | None = None
    warm: str = "nano"
    scenes_share: float = 0.4
    hidden: int = 512
    pixel_weight: float = 10.0
    anchor_weight: float = 10.0
    commitment_weight: float = 0.5
    feature_noise: float = 0.1
    continuous_share: float = 0.3
    unquantised_share: float = 0.1
    codebook_decay: float = 0.99
    idle_limit: int = 200
    init_batches: int = 12
    eval_pictures: int = 128

    def build(self, resources: Resources, seed: int) -> PictureTokenizerObjective:
        """The tokenizer of ``warm`` with a fresh head.

        Raises:
            ConfigError: the codebook of ``warm`` has no unused codes.
        """
        torch.manual_seed(seed)
        teacher = frozen(resources.out if self.warm == "out" else resolve(self.warm), "image_tokenizer")
        tokenizer = ImageTokenizer(self.tokenizer)
        warm_start(tokenizer, self.warm, "image_tokenizer", resources)
        free = unused_codes(teacher.codebook).nonzero().flatten()
        if not len(free):
            raise ConfigError(f"{self.warm}: every code of the tokenizer is in use; none is left for pictures")
        seen = load_pictures(resources.find(self.pictures))
        unseen = None if self.held_out is None else load_pictures(resources.find(self.held_out))
        return PictureTokenizerObjective(self, _Model(self, tokenizer, free), teacher, seen, unseen)


class _Model(nn.Module):
    free: Tensor

    def __init__(self, config: PictureTokenizerObjectiveConfig, tokenizer: ImageTokenizer, free: Tensor) -> None:
        super().__init__()
        shape = config.tokenizer
        cell = shape.vision_config.patch_features
        self.tokenizer = tokenizer
        self.head = nn.Sequential(
            nn.Linear(shape.vq_config.latent_channels, config.hidden), nn.GELU(), nn.Linear(config.hidden, cell)
        )
        self.trainer = CodebookTrainer(
            len(free), shape.vq_config.embed_dim, decay=config.codebook_decay, idle_limit=config.idle_limit
        )
        self.register_buffer("free", free)
        tokenizer.codebook.requires_grad_(False)


class PictureTokenizerObjective:
    """Codes that tell what a cell of a picture looks like, beside those that tell what a cell of a scene shows."""

    def __init__(
        self,
        config: PictureTokenizerObjectiveConfig,
        model: _Model,
        teacher: ImageTokenizer,
        seen: RecordPictures,
        unseen: RecordPictures | None,
    ) -> None:
        self.config, self.model = config, model
        self._teacher, self._pictures, self._unseen = teacher, seen, unseen
        self._seen: list[tuple[Tensor, Tensor]] = []

    def batch(self, draw: Draw) -> Batch:
        """``patches`` of scenes, then of pictures; ``anchors``: the scenes' first features; ``cells`` of pictures."""
        rng = draw.numpy("pictures")
        count = min(max(round(draw.size * self.config.scenes_share), 1), draw.size - 1) if draw.size > 1 else 0
        chosen = self._pictures.draw(rng, draw.size - count)
        parts = [self._patches(jittered(rng, chosen))]
        anchors = torch.zeros(0, self.config.tokenizer.vq_config.embed_dim)
        if count:
            scenes = self._patches(jittered(rng, pictures(draw_scenes(rng, count, self._grid))))
            parts, anchors = [scenes, *parts], self._anchors(scenes)
        return {"patches": torch.cat(parts), "anchors": anchors, "cells": self._patches(reduced(chosen))}

    @property
    def _grid(self) -> tuple[int, int]:
        patch = 2 * self.config.tokenizer.vision_config.patch_size
        height, width = self._pictures.images.shape[1:3]
        return height // patch, width // patch

    def _patches(self, small: np.ndarray) -> Tensor:
        return to_patches(small, self.config.tokenizer.vision_config.patch_size)

    @torch.no_grad()
    def _anchors(self, patches: Tensor) -> Tensor:
        return _unit_features(self._teacher, patches, self._grid)

    def weight(self, batch: Batch) -> float:
        """Number of cells."""
        return float(len(batch["patches"]))

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Squared error of the cells, distance of the scenes' features from where they were, and commitment."""
        config, held = self.config, len(batch["anchors"])
        unit = _unit_features(self.model.tokenizer, batch["patches"], self._grid)
        anchor = (unit[:held] - batch["anchors"]).square().sum(-1).mean() if held else unit.new_zeros(())
        cells, commitment, told = self._quantised(unit[held:], generator)
        error = F.mse_loss(self.model.head(self.model.tokenizer.quantizer.restore(cells)), batch["cells"])
        total = config.pixel_weight * error + config.anchor_weight * anchor + config.commitment_weight * commitment
        return total, {"psnr_cells": psnr(error.detach()), "anchor": anchor.detach(), **told}

    def _quantised(self, unit: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor | float]]:
        if not int(self.model.trainer.active):
            noise = torch.randn(unit.shape, generator=generator).to(unit) * self.config.feature_noise
            return unit + noise, unit.new_zeros(()), {}
        tokenizer = self.model.tokenizer
        codes = tokenizer.quantise(unit)
        nearest = F.normalize(tokenizer.codebook[codes], dim=-1)
        if self.model.training:
            self._seen.append((unit.detach(), codes))
        commitment = (unit - nearest.detach()).square().sum(-1).mean()
        free = (torch.rand(len(unit), generator=generator) < self.config.unquantised_share).to(unit.device)[:, None]
        straight = unit + (nearest - unit).detach()
        return torch.where(free, unit, straight), commitment, {"commitment": commitment.detach()}

    def after_step(self, step: int, horizon: int) -> Metrics:
        """Places the free codes when the continuous part ends; afterwards moves them after every step."""
        model, codebook = self.model, self.model.tokenizer.codebook
        own = codebook[model.free]
        if not int(model.trainer.active):
            if step >= round(self.config.continuous_share * horizon):
                model.trainer.start(own, self._initial_centres(step))
                self._put(own)
            return {}
        seen, self._seen = gathered(self._seen), []
        unit, codes = (torch.cat(parts).to(codebook.device) for parts in zip(*seen, strict=True))
        place = torch.full((len(codebook),), -1, device=codebook.device)
        place[model.free] = torch.arange(len(model.free), device=codebook.device)
        mine = place[codes] >= 0
        restarts = model.trainer.update(own, unit[mine], place[codes][mine])
        self._put(own)
        return {"restarts": float(restarts), "own_codes": float(mine.float().mean())}

    @torch.no_grad()
    def _put(self, own: Tensor) -> None:
        self.model.tokenizer.codebook[self.model.free] = own

    @torch.no_grad()
    def _initial_centres(self, step: int) -> Tensor:
        device, points = self.model.free.device, []
        for index in range(self.config.init_batches):
            rng = Draw(seed=step, step=index, size=64).numpy("centres")
            patches = self._patches(jittered(rng, self._pictures.draw(rng, 64))).to(device)
            points.append(_unit_features(self.model.tokenizer, patches, self._grid).cpu())
        generator = Draw(seed=step, step=0, size=1).torch("centres")
        return kmeans_plus_plus(torch.cat(points), len(self.model.free), generator).to(device)

    def conclude(self, seed: int) -> Metrics:
        """Nothing."""
        return {}

    @torch.no_grad()
    def evaluate(self, seed: int) -> Metrics:
        """PSNR of cells told from codes, of pictures seen and held out; codes in use; share of scene cells that keep
        their code."""
        self.model.eval()
        rng = Draw(seed=seed, step=0, size=1).numpy("evaluation")
        count, numbers = self.config.eval_pictures, dict[str, float]()
        for name, found in (("seen", self._pictures), ("held_out", self._unseen)):
            if found is not None:
                images = found.images[rng.permutation(len(found))[:count]]
                numbers |= {f"{key}_{name}": value for key, value in self._told(images).items()}
        scenes = self._patches(reduced(pictures(draw_scenes(rng, count, self._grid, held_out=None))))
        old, new = (self._codes(one, scenes) for one in (self._teacher, self.model.tokenizer))
        return {**numbers, "scene_codes_kept": float((old == new).float().mean())}

    def _told(self, images: np.ndarray) -> Metrics:
        patches = self._patches(reduced(images))
        codes = self._codes(self.model.tokenizer, patches)
        cells = F.normalize(self.model.tokenizer.codebook[codes], dim=-1)
        output = self.model.head(self.model.tokenizer.quantizer.restore(cells)).clamp(-1, 1)
        error = (output - patches.to(output)).square().view(len(images), -1).mean(1)
        return {"psnr_cells": float(psnr(error).mean()), "codes": float(len(codes.unique()))}

    def _codes(self, tokenizer: ImageTokenizer, patches: Tensor) -> Tensor:
        device = next(tokenizer.parameters()).device
        return tokenizer(patches.to(device), _grids(patches, self._grid)).to(self.model.free.device)

    def export(self, directory: Path) -> None:
        """Writes ``image_tokenizer/``."""
        patch = self.config.tokenizer.vision_config.patch_size
        save_image_tokenizer(directory, self.model.tokenizer, PreprocessorConfig(patch_size=patch))


def _unit_features(tokenizer: ImageTokenizer, patches: Tensor, grid: tuple[int, int]) -> Tensor:
    return F.normalize(tokenizer.latents(tokenizer.features(patches, _grids(patches, grid))), dim=-1)


def _grids(patches: Tensor, grid: tuple[int, int]) -> list[TokenGrid]:
    return [TokenGrid(*grid)] * (len(patches) // (grid[0] * grid[1]))
