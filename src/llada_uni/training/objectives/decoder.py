"""Decoder stage: flow matching from noise to latents, conditioned on codes only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada_uni.data.code_pool import CodePool, PoolConfig, encode_pictures, extract, fingerprint
from llada_uni.data.latent_pool import LatentPool
from llada_uni.data.picture_pool import PicturePool
from llada_uni.data.record_pictures import load_pictures
from llada_uni.data.scene_stream import draw_scenes, pictures, to_unit
from llada_uni.decoder.classes import ClassEmbedder
from llada_uni.decoder.config import DecoderConfig, SemanticEmbedderConfig
from llada_uni.decoder.dit import Decoder
from llada_uni.decoder.semantic import SemanticEmbedder
from llada_uni.decoder.vae import VAE
from llada_uni.diffusion.flow import TimeLaw, interpolate, path_velocity, sample_time, time_grid
from llada_uni.diffusion.losses import flow_squared_error
from llada_uni.diffusion.solvers import euler, renoise
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.scenes.graph import SceneGraph
from llada_uni.scenes.verify import verify
from llada_uni.training.export import frozen, warm_start
from llada_uni.training.objective import Batch, Draw, Metrics, Resources
from llada_uni.training.objectives.codebook import renew_rows
from llada_uni.training.objectives.vae import psnr, to_pixels
from llada_uni.weights.catalog import resolve
from llada_uni.weights.save import save_decoder, save_semantic_embedder

__all__ = [
    "Conditioned",
    "DecoderObjective",
    "DecoderObjectiveConfig",
    "FlowBatches",
    "FlowData",
    "FlowDataConfig",
    "FlowRules",
    "Judge",
    "Sampler",
    "decoder_blocks",
]


@dataclass(frozen=True, kw_only=True)
class FlowDataConfig:
    """Latents with codes. Windows of ``crop`` x ``crop`` codes until the last ``full_share`` of the run.

    ``dropout_share`` of the samples have no condition; in ``corrupt_share`` of them each code is replaced by a random
    one with probability ``corrupt_ratio``. ``pictures_share`` of what is seen are pictures of the records in
    ``pictures`` ("cache:NAME" or a folder) instead of scenes; ``held_out`` names records to evaluate on.
    """

    pool: PoolConfig
    num_shards: int = 24
    crop: int = 4
    full_share: float = 0.2
    dropout_share: float = 0.1
    corrupt_share: float = 0.3
    corrupt_ratio: float = 0.05
    pictures: str | None = None
    held_out: str | None = None
    pictures_share: float = 0.5


class FlowData:
    """Batches of latents, codes and origins for both decoder stages."""

    def __init__(self, config: FlowDataConfig, resources: Resources, tokenizer: ImageTokenizer, vae: VAE) -> None:
        self.config = config
        self.num_codes = len(tokenizer.codebook)
        directory = resources.cache / "codes"
        extract(config.pool, tokenizer, directory)
        codes = CodePool(config.pool, directory, fingerprint(config.pool, tokenizer))
        self._pool = LatentPool(codes, vae, resources.cache / "latents", config.num_shards)
        self._pictures = None
        if config.pictures is not None:
            seen = load_pictures(resources.find(config.pictures))
            self._pictures = PicturePool(seen, tokenizer, vae, resources.cache / "latents")
        self.held_out = None if config.held_out is None else load_pictures(resources.find(config.held_out)).images

    def batch(self, draw: Draw) -> dict[str, Tensor]:
        """``latents`` [n, C, H, W], ``codes`` [n, h, w], ``origin`` [n, 2] in decoder tokens, ``keep`` bool [n]."""
        rng = draw.numpy("latents")
        config = self.config
        whole = max(draw.size * config.crop**2 // 64, 1)
        if self._pictures is not None:
            latents, codes, origin = self._mixed(self._pictures, draw, rng, whole)
        elif draw.progress < 1 - config.full_share:
            latents, codes, origin = self._pool.crops(rng, draw.size, config.crop)
        else:
            latents, codes, origin = self._pool.whole(rng, whole)
        count = len(codes)
        hit = rng.random(codes.shape) < config.corrupt_ratio * (rng.random((count, 1, 1)) < config.corrupt_share)
        random_codes = torch.from_numpy(rng.integers(0, self.num_codes, codes.shape))
        keep = torch.from_numpy(rng.random(count) >= config.dropout_share)
        codes = torch.where(torch.from_numpy(hit), random_codes, codes)
        return {"latents": latents, "codes": codes, "origin": origin * 2, "keep": keep}

    def _mixed(
        self, beside: PicturePool, draw: Draw, rng: np.random.Generator, whole: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Windows of scenes and pictures side by side; at the end whole ones of one kind."""
        config = self.config
        if draw.progress >= 1 - config.full_share:
            source = beside if rng.random() < config.pictures_share else self._pool
            return source.whole(rng, whole)
        number = int(rng.binomial(draw.size, config.pictures_share))
        parts = [
            source.crops(rng, count, config.crop)
            for source, count in ((self._pool, draw.size - number), (beside, number))
            if count
        ]
        latents, codes, origin = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return latents, codes, origin


class Conditioned(nn.Module):
    """Embedder and decoder as one trained thing; the embedder reads codes, or classes in their place."""

    def __init__(self, decoder: Decoder, embedder: SemanticEmbedder | ClassEmbedder) -> None:
        super().__init__()
        self.decoder, self.embedder = decoder, embedder

    def features(self, batch: Batch) -> Tensor:
        """Condition [n, 4hw, F]; zeros where ``keep`` is False."""
        return self.embedder(batch["codes"]) * batch["keep"][:, None, None]


@dataclass(frozen=True, kw_only=True)
class DecoderObjectiveConfig:
    """The two networks, their data, and the law of the training time.

    ``renew``: rows of codes that the tokenizer of ``warm`` did not use start from those of similar codes.
    """

    decoder: DecoderConfig
    embedder: SemanticEmbedderConfig
    data: FlowDataConfig
    time: TimeLaw = field(default_factory=lambda: TimeLaw(shift=1.65))
    codebook_start: bool = True
    eval_pictures: int = 24
    eval_steps: int = 20
    warm: str | None = None
    renew: bool = False

    def build(self, resources: Resources, seed: int) -> DecoderObjective:
        """Fresh networks (or those of checkpoint ``warm``) and the pool of latents."""
        tokenizer, vae = frozen(resources.out, "image_tokenizer"), frozen(resources.out, "vae")
        torch.manual_seed(seed)
        decoder, embedder = Decoder(self.decoder), SemanticEmbedder(self.embedder)
        if self.codebook_start:
            start_embedder(embedder, tokenizer.codebook)
        warm_start(decoder, self.warm, "decoder", resources)
        warm_start(embedder, self.warm, "semantic_embedder", resources)
        if self.renew and self.warm is not None:
            old = frozen(resources.out if self.warm == "out" else resolve(self.warm), "image_tokenizer")
            renew_rows(embedder.prior_token_embedding.weight, old.codebook, tokenizer.codebook)
        data, model = FlowData(self.data, resources, tokenizer, vae), Conditioned(decoder, embedder)
        return DecoderObjective(self, model, data, Judge(tokenizer=tokenizer, vae=vae, held_out=data.held_out))


class FlowRules(Protocol):
    """What this objective reads of its configuration: the law of the training time, and how it is evaluated."""

    @property
    def time(self) -> TimeLaw: ...
    @property
    def eval_pictures(self) -> int: ...
    @property
    def eval_steps(self) -> int: ...


class FlowBatches(Protocol):
    """Batches of latents with what conditions them, see :meth:`FlowData.batch`."""

    def batch(self, draw: Draw) -> dict[str, Tensor]: ...


class DecoderObjective:
    """Velocity of the straight path from noise to latents."""

    def __init__(self, config: FlowRules, model: Conditioned, data: FlowBatches, judge: Judge) -> None:
        self.config, self.model, self._data, self._judge = config, model, data, judge

    def batch(self, draw: Draw) -> Batch:
        """See :meth:`FlowData.batch`."""
        return self._data.batch(draw)

    def blocks(self) -> Sequence[nn.Module]:
        """The blocks of the decoder."""
        return decoder_blocks(self.model.decoder)

    def weight(self, batch: Batch) -> float:
        """Number of latent numbers."""
        return float(batch["latents"].numel())

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Mean squared error of the velocity."""
        data = batch["latents"]
        noise = torch.randn(data.shape, generator=generator).to(data)
        time = sample_time(self.config.time, len(data), generator, num_tokens=data[0, 0].numel() // 4).to(data)
        features = self.model.features(batch)
        output = self.model.decoder(interpolate(data, noise, time), time, features, origin=batch["origin"])
        error = flow_squared_error(output, path_velocity(data, noise))
        seen = error.detach()[batch["keep"]]
        return error.mean(), {"error": seen.mean() if len(seen) else float("nan")}

    def after_step(self, step: int, horizon: int) -> Metrics:
        """Nothing."""
        return {}

    def conclude(self, seed: int) -> Metrics:
        """Nothing."""
        return {}

    @torch.no_grad()
    def evaluate(self, seed: int) -> Metrics:
        """Pictures decoded from true codes by Euler steps, against their renders."""
        self.model.eval()
        return self._judge.score(self._sampler, seed, self.config.eval_pictures)

    def samples(self, seed: int, count: int) -> np.ndarray:
        """Renders above pictures decoded from their codes, uint8 [2, count, H, W, 3]."""
        self.model.eval()
        return self._judge.samples(self._sampler, seed, count)

    @property
    def _sampler(self) -> Sampler:
        return Sampler(model=self.model, num_steps=self.config.eval_steps, shift=3.0, renoise_ratio=0.0)

    def export(self, directory: Path) -> None:
        """Writes ``decoder/`` and the semantic embedder."""
        save_decoder(directory, self.model.decoder, "normal")
        assert isinstance(self.model.embedder, SemanticEmbedder)
        save_semantic_embedder(directory, self.model.embedder)


def decoder_blocks(decoder: Decoder) -> list[nn.Module]:
    """The refiners of condition and image, and the joint layers."""
    return [*decoder.context_refiner, *decoder.noise_refiner, *decoder.layers]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Codes to latents without guidance: Euler (``renoise_ratio`` 0) or the few-step sampler."""

    model: Conditioned
    num_steps: int
    shift: float
    renoise_ratio: float

    def __call__(self, codes: Tensor, latent_channels: int, factor: int, seed: int) -> Tensor:
        """Codes [n, h, w] -> latents [n, C, h * factor, w * factor]."""
        generator = torch.Generator().manual_seed(seed)
        shape = (len(codes), latent_channels, codes.shape[1] * factor, codes.shape[2] * factor)
        noise = torch.randn(shape, generator=generator).to(codes.device)
        grid = (2 * codes.shape[1], 2 * codes.shape[2])
        context = self.model.decoder.context(self.model.embedder(codes), grid)

        def velocity(state: Tensor, time: Tensor) -> Tensor:
            now = time.to(torch.float32).expand(len(codes)).to(codes.device)
            return self.model.decoder(state.float(), now, context)

        steps = time_grid(self.num_steps, self.shift)
        if self.renoise_ratio == 0:
            return list(euler(velocity, noise, steps))[-1].state
        draws = lambda index: torch.randn(shape, generator=generator)  # noqa: E731
        return list(renoise(velocity, noise, steps, renoise_ratio=self.renoise_ratio, draw=draws))[-1].state.float()


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Compares decoded pictures of fresh scenes with their renders, and of ``held_out`` pictures with themselves.

    ``given`` makes what the sampler gets of scenes [N, h, w, ...]; None = the codes of their renders.
    """

    tokenizer: ImageTokenizer
    vae: VAE
    held_out: np.ndarray | None = None
    given: Callable[[Sequence[SceneGraph]], np.ndarray] | None = None

    @torch.no_grad()
    def score(self, sampler: Sampler, seed: int, count: int) -> Metrics:
        """PSNR in dB and share read back exactly by the verifier, of pictures decoded from true codes; beside each the
        ceiling, which is the autoencoder alone."""
        rng = Draw(seed=seed, step=0, size=count).numpy("evaluation")
        graphs = draw_scenes(rng, count, (8, 8), held_out=None)
        images = pictures(graphs)
        device = next(sampler.model.parameters()).device
        self.vae.to(device)
        target = to_unit(images).to(device)
        codes = self._codes(graphs, images).to(device)
        factor = target.shape[-1] // self.vae.config.factor // codes.shape[2]
        latents = sampler(codes, self.vae.config.latent_channels, factor, seed)
        ceiling = self.vae.decode(self.vae.encode(target)[0])
        output = self.vae.decode(self.vae.from_model(latents))
        return {
            "psnr": self._psnr(output, target),
            "psnr_ceiling": self._psnr(ceiling, target),
            "verified": _verified(output, graphs),
            "verified_ceiling": _verified(ceiling, graphs),
            **self._unseen_score(sampler, seed, count),
        }

    def _unseen_score(self, sampler: Sampler, seed: int, count: int) -> Metrics:
        """PSNR in dB of held-out pictures that are no scenes, decoded from their codes, and that of the autoencoder."""
        if self.held_out is None:
            return {}
        images = self.held_out[:: max(len(self.held_out) // count, 1)][:count]
        target = to_unit(images).to(next(sampler.model.parameters()).device)
        ceiling = self.vae.decode(self.vae.encode(target)[0])
        output = self._decoded(sampler, self._codes((), images), images, seed)
        return {"psnr_pictures": self._psnr(output, target), "psnr_pictures_ceiling": self._psnr(ceiling, target)}

    def _codes(self, graphs: Sequence[SceneGraph], images: np.ndarray) -> Tensor:
        """Codes [N, h, w] of renders uint8 [N, H, W, 3], or what ``given`` makes of the scenes they show."""
        found = encode_pictures(self.tokenizer, images) if self.given is None else self.given(graphs)
        return torch.from_numpy(found.astype("int64"))

    def _decoded(self, sampler: Sampler, codes: Tensor, images: np.ndarray, seed: int) -> Tensor:
        """Pictures [N, 3, H, W] from the codes of pictures uint8 [N, H, W, 3]."""
        device = next(sampler.model.parameters()).device
        factor = images.shape[1] // self.vae.config.factor // codes.shape[1]
        latents = sampler(codes.to(device), self.vae.config.latent_channels, factor, seed)
        return self.vae.to(device).decode(self.vae.from_model(latents))

    @torch.no_grad()
    def samples(self, sampler: Sampler, seed: int, count: int) -> np.ndarray:
        """Renders of fresh scenes above pictures decoded from their codes, uint8 [2, count, H, W, 3]."""
        rng = Draw(seed=seed, step=1, size=count).numpy("evaluation")
        graphs = draw_scenes(rng, count, (8, 8), held_out=None)
        images = pictures(graphs)
        if self.held_out is not None:
            images = self.held_out[:: max(len(self.held_out) // count, 1)][:count]
        return np.stack([images, to_pixels(self._decoded(sampler, self._codes(graphs, images), images, seed))])

    @staticmethod
    def _psnr(output: Tensor, target: Tensor) -> float:
        return float(psnr((output.clamp(-1, 1) - target).square().flatten(1).mean(1)).mean())


def _verified(output: Tensor, graphs: Sequence[SceneGraph]) -> float:
    """Share of pictures [N, 3, H, W] whose scene the verifier reads back without a difference."""
    right = [_same(verify(image), graph) for image, graph in zip(to_pixels(output), graphs, strict=True)]
    return sum(right) / len(right)


def _same(found: SceneGraph | None, graph: SceneGraph) -> bool:
    if found is None or (found.background, found.style) != (graph.background, graph.style):
        return False
    return Counter(found.objects) == Counter(graph.objects)


@torch.no_grad()
def start_embedder(embedder: SemanticEmbedder, codebook: Tensor) -> None:
    """Rows start as one random rotation of the code vectors, so that similar codes start with similar features."""
    rows = F.normalize(codebook.detach().float(), dim=-1)
    width = embedder.config.width
    basis = torch.linalg.qr(torch.randn(max(width, rows.shape[1]), min(width, rows.shape[1]))).Q
    turned = rows @ (basis.T if width >= rows.shape[1] else basis)
    embedder.prior_token_embedding.weight.copy_(turned * width**0.5)
