"""Autoencoder stage: pixels -> latents -> pixels, trained on crops first and on whole pictures at the end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llada_uni.data.record_pictures import RecordPictures, load_pictures
from llada_uni.data.scene_stream import GRID_SHARES, GridShares, draw_grid, draw_scenes, pictures, random_crops, to_unit
from llada_uni.decoder.config import VAEConfig
from llada_uni.decoder.vae import VAE
from llada_uni.training.export import warm_start
from llada_uni.training.objective import Batch, Draw, Metrics, Resources
from llada_uni.weights.save import save_vae

__all__ = ["VaeObjective", "VaeObjectiveConfig", "edge_l1", "psnr", "quiet_latents", "to_pixels"]


@dataclass(frozen=True, kw_only=True)
class VaeObjectiveConfig:
    """L1 + ``edge_weight`` * L1 of neighbouring differences + ``kl_weight`` * KL per latent number.

    ``pictures_share`` of what is seen are pictures of the records in ``pictures`` ("cache:NAME" or a folder) instead of
    scenes; ``held_out`` names records to evaluate on.
    """

    vae: VAEConfig = field(default_factory=VAEConfig)
    crop_px: int = 64
    full_share: float = 0.2
    edge_weight: float = 0.1
    squared_weight: float = 0.5
    kl_weight: float = 1e-6
    grids: GridShares = GRID_SHARES
    eval_pictures: int = 128
    warm: str | None = None
    pictures: str | None = None
    held_out: str | None = None
    pictures_share: float = 0.5

    def build(self, resources: Resources, seed: int) -> VaeObjective:
        """A freshly initialised autoencoder (or the one of checkpoint ``warm``)."""
        torch.manual_seed(seed)
        vae = VAE(self.vae)
        quiet_latents(vae)
        warm_start(vae, self.warm, "vae", resources)
        seen, unseen = (
            None if name is None else load_pictures(resources.find(name)) for name in (self.pictures, self.held_out)
        )
        return VaeObjective(self, vae, seen, unseen)


class VaeObjective:
    """Reconstruction of scene pictures, and of others beside them."""

    def __init__(
        self,
        config: VaeObjectiveConfig,
        vae: VAE,
        pictures: RecordPictures | None = None,
        held_out: RecordPictures | None = None,
    ) -> None:
        self.config = config
        self.model = vae
        self._pictures, self._unseen = pictures, held_out

    def batch(self, draw: Draw) -> Batch:
        """``images`` float32 [n, 3, H, W]: crops, or at the end whole pictures at the same number of pixels."""
        if self._pictures is not None:
            return {"images": to_unit(self._mixed(draw, self._pictures))}
        rng = draw.numpy("scenes")
        if draw.progress < 1 - self.config.full_share:
            scenes = draw_scenes(rng, draw.size, draw_grid(rng, self.config.grids))
            return {
                "images": to_unit(
                    random_crops(rng, pictures(scenes), self.config.crop_px, step_px=self.config.vae.factor)
                )
            }
        grid = draw_grid(rng, self.config.grids)
        area = (16 * grid[0]) * (16 * grid[1]) / self.config.crop_px**2
        return {"images": to_unit(pictures(draw_scenes(rng, max(round(draw.size / area), 1), grid)))}

    def _mixed(self, draw: Draw, pictures_beside: RecordPictures) -> np.ndarray:
        """Crops of scenes and pictures side by side; at the end whole ones of one kind."""
        rng, config = draw.numpy("mixture"), self.config
        step, grid = config.vae.factor, draw_grid(rng, config.grids)
        if draw.progress < 1 - config.full_share:
            beside = rng.binomial(draw.size, config.pictures_share)
            scenes = pictures(draw_scenes(rng, draw.size - beside, grid)) if beside < draw.size else None
            kinds = (scenes, pictures_beside.draw(rng, beside) if beside else None)
            crops = [random_crops(rng, kind, config.crop_px, step_px=step) for kind in kinds if kind is not None]
            return np.concatenate(crops)
        whole = max(round(draw.size * config.crop_px**2 / (16 * grid[0] * 16 * grid[1])), 1)
        if rng.random() < config.pictures_share:
            return pictures_beside.draw(rng, whole)
        return pictures(draw_scenes(rng, whole, grid))

    def weight(self, batch: Batch) -> float:
        """Number of pixels."""
        return float(batch["images"].numel())

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Mean loss and its parts."""
        images = batch["images"]
        mean, logvar = self.model.encode(images)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        output = self.model.decode(mean + (0.5 * logvar).exp() * noise)
        absolute, squared, edges = (output - images).abs().mean(), F.mse_loss(output, images), edge_l1(output, images)
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        config = self.config
        total = absolute + config.squared_weight * squared + config.edge_weight * edges + config.kl_weight * divergence
        parts = {"l1": absolute.detach(), "edges": edges.detach(), "kl": divergence.detach()}
        return total, {**parts, "psnr": psnr(squared.detach())}

    def after_step(self, step: int, horizon: int) -> Metrics:
        """Nothing."""
        return {}

    def conclude(self, seed: int) -> Metrics:
        """Nothing."""
        return {}

    @torch.no_grad()
    def evaluate(self, seed: int) -> Metrics:
        """PSNR of whole held-out pictures (any combination) through mean latents, and the latents' statistics."""
        errors, latents = [], []
        self.model.eval()
        for images in self._held_out(seed):
            mean, _ = self.model.encode(images)
            output = (self.model.decode(mean).clamp(-1, 1) * 127.5).round() / 127.5
            errors.append((output - images).square().flatten(1).mean(1))
            latents.append(mean.flatten())
        error, values = torch.cat(errors), torch.cat(latents)
        return {
            "psnr": float(psnr(error).mean()),
            "psnr_worst": float(psnr(error).min()),
            "latent_mean": float(values.mean()),
            "latent_std": float(values.std()),
            **self._unseen_score(),
        }

    def _unseen_score(self) -> Metrics:
        """PSNR of held-out pictures that are no scenes."""
        if self._unseen is None:
            return {}
        device, errors = next(self.model.parameters()).device, []
        for part in np.array_split(self._unseen.images, max(len(self._unseen) // 16, 1)):
            images = to_unit(part).to(device)
            output = self.model.decode(self.model.encode(images)[0]).clamp(-1, 1)
            errors.append((output - images).square().flatten(1).mean(1))
        return {"psnr_pictures": float(psnr(torch.cat(errors)).mean())}

    def _held_out(self, seed: int) -> list[Tensor]:
        device = next(self.model.parameters()).device
        batches = []
        for index in range(max(self.config.eval_pictures // 16, 1)):
            rng = Draw(seed=seed, step=index, size=16).numpy("evaluation")
            scenes = draw_scenes(rng, 16, draw_grid(rng, self.config.grids), held_out=None)
            batches.append(to_unit(pictures(scenes)).to(device))
        return batches

    @torch.no_grad()
    def samples(self, seed: int, count: int) -> np.ndarray:
        """Held-out pictures above what the autoencoder makes of them, uint8 [2, count, H, W, 3]."""
        self.model.eval()
        unseen = None if self._unseen is None else to_unit(self._unseen.images[:count])
        images = self._held_out(seed)[0][:count] if unseen is None else unseen.to(next(self.model.parameters()).device)
        return np.stack([to_pixels(images), to_pixels(self.model.decode(self.model.encode(images)[0]))])

    def export(self, directory: Path) -> None:
        """Writes ``vae/`` with scaling and shift that give its latents mean 0 and variance 1."""
        numbers = self.evaluate(seed=1)
        self.model.config = replace(
            self.config.vae,
            scaling_factor=round(1 / numbers["latent_std"], 5),
            shift_factor=round(numbers["latent_mean"], 5),
        )
        save_vae(directory, self.model)


@torch.no_grad()
def quiet_latents(vae: VAE, logvar: float = -7.0) -> None:
    """Starts with little latent noise: with unit variance the encoder spends its first steps outgrowing it."""
    last = vae.encoder.conv_out
    half = vae.config.latent_channels
    last.weight[half:].zero_()
    assert last.bias is not None
    last.bias[half:].fill_(logvar)


def to_pixels(images: Tensor) -> np.ndarray:
    """Pictures [N, 3, H, W] in [-1, 1] -> uint8 [N, H, W, 3]."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def edge_l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbouring pixels, images [B, C, H, W]."""
    error = output - target
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    right = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    return down + right


def psnr(squared_error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], from their mean squared error."""
    return 10 * torch.log10(4 / squared_error.clamp_min(1e-10))
