"""The decoder stage with true classes in the place of codes: what a decoder of this size can do at best. A baseline.

Pictures, windows, loss, law of time and network are those of ``decoder``; the condition of a cell is the sum of
embeddings of what it shows (kind, colour, size, word, place inside the object, background, style).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from llada_uni.data.code_pool import PoolConfig, fingerprint
from llada_uni.data.latent_pool import LatentPool
from llada_uni.decoder.classes import ClassEmbedder, ClassEmbedderConfig
from llada_uni.decoder.config import DecoderConfig
from llada_uni.decoder.dit import Decoder
from llada_uni.decoder.vae import VAE
from llada_uni.diffusion.flow import TimeLaw
from llada_uni.errors import ConfigError
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.scenes.classes import CLASS_SIZES, class_map
from llada_uni.scenes.graph import SceneGraph
from llada_uni.training.export import frozen
from llada_uni.training.objective import Batch, Draw, Metrics, Resources
from llada_uni.training.objectives.decoder import (
    Conditioned,
    DecoderObjective,
    FlowDataConfig,
    Judge,
    decoder_blocks,
)
from llada_uni.weights.save import save_class_embedder, save_decoder

__all__ = ["FOLDER", "ClassData", "ClassDecoderObjective", "ClassDecoderObjectiveConfig"]

FOLDER = "class-decoder"
"""Where both networks lie in a checkpoint directory."""


@dataclass(frozen=True, kw_only=True)
class ClassDecoderObjectiveConfig:
    """As ``DecoderObjectiveConfig``; there is nothing to corrupt, so shares of corrupt codes have no effect.

    Raises:
        ConfigError: pictures that are no scenes: they have no classes.
    """

    decoder: DecoderConfig
    embedder: ClassEmbedderConfig
    data: FlowDataConfig
    time: TimeLaw = field(default_factory=lambda: TimeLaw(shift=1.65))
    eval_pictures: int = 24
    eval_steps: int = 20

    def __post_init__(self) -> None:
        if self.data.pictures is not None or self.data.held_out is not None:
            raise ConfigError("classes are known of scenes alone; leave data.pictures and data.held_out out")
        if self.embedder.sizes != CLASS_SIZES:
            raise ConfigError(f"embedder.sizes: expected those of scenes, {CLASS_SIZES}, got {self.embedder.sizes}")

    def build(self, resources: Resources, seed: int) -> ClassDecoderObjective:
        """Fresh networks and the pool of latents, which is that of the decoder stage."""
        tokenizer, vae = frozen(resources.out, "image_tokenizer"), frozen(resources.out, "vae")
        torch.manual_seed(seed)
        model = Conditioned(Decoder(self.decoder), ClassEmbedder(self.embedder))
        data = ClassData(self.data, resources, tokenizer, vae)
        return ClassDecoderObjective(self, model, data, Judge(tokenizer=tokenizer, vae=vae, given=_classes))


class ClassDecoderObjective:
    """Velocity of the straight path from noise to latents, given true classes."""

    def __init__(self, config: ClassDecoderObjectiveConfig, model: Conditioned, data: ClassData, judge: Judge) -> None:
        self.config, self.model, self._data = config, model, data
        self._flow = DecoderObjective(config, model, data, judge)

    def batch(self, draw: Draw) -> Batch:
        """See :meth:`ClassData.batch`."""
        return self._data.batch(draw)

    def blocks(self) -> Sequence[nn.Module]:
        """The blocks of the decoder."""
        return decoder_blocks(self.model.decoder)

    def weight(self, batch: Batch) -> float:
        """Number of latent numbers."""
        return self._flow.weight(batch)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Mean squared error of the velocity."""
        return self._flow.loss(batch, generator)

    def after_step(self, step: int, horizon: int) -> Metrics:
        """Nothing."""
        return {}

    def conclude(self, seed: int) -> Metrics:
        """Nothing."""
        return {}

    def evaluate(self, seed: int) -> Metrics:
        """Pictures of fresh scenes from their true classes by Euler steps, against their renders."""
        return self._flow.evaluate(seed)

    def samples(self, seed: int, count: int) -> np.ndarray:
        """Renders above pictures from their classes, uint8 [2, count, H, W, 3]."""
        return self._flow.samples(seed, count)

    def export(self, directory: Path) -> None:
        """Writes decoder and embedder into the folder ``class-decoder/`` of the checkpoint directory."""
        (directory / FOLDER).mkdir(parents=True, exist_ok=True)
        save_decoder(directory / FOLDER, self.model.decoder, "normal")
        assert isinstance(self.model.embedder, ClassEmbedder)
        save_class_embedder(directory / FOLDER, self.model.embedder)


class ClassData:
    """Batches of latents with the classes of their cells."""

    def __init__(self, config: FlowDataConfig, resources: Resources, tokenizer: ImageTokenizer, vae: VAE) -> None:
        self.config = config
        source = _ClassPool(config=config.pool, mark=fingerprint(config.pool, tokenizer))
        self._pool = LatentPool(source, vae, resources.cache / "latents", config.num_shards)

    def batch(self, draw: Draw) -> dict[str, Tensor]:
        """``latents`` [n, C, H, W], ``codes`` (classes) [n, h, w, A], ``origin`` [n, 2] in decoder tokens, ``keep``."""
        rng, config = draw.numpy("latents"), self.config
        if draw.progress < 1 - config.full_share:
            latents, classes, origin = self._pool.crops(rng, draw.size, config.crop)
        else:
            latents, classes, origin = self._pool.whole(rng, max(draw.size * config.crop**2 // 64, 1))
        keep = torch.from_numpy(rng.random(len(classes)) >= config.dropout_share)
        return {"latents": latents, "codes": classes, "origin": origin * 2, "keep": keep}


@dataclass(frozen=True, kw_only=True)
class _ClassPool:
    """A pool of codes with classes for codes; ``mark`` is that of the codes, so that both share one pool of latents."""

    config: PoolConfig
    mark: str

    def shard(self, index: int) -> tuple[list[SceneGraph], np.ndarray]:
        scenes = self.config.scenes(index)
        return scenes, np.stack([class_map(graph) for graph in scenes])


def _classes(graphs: Sequence[SceneGraph]) -> np.ndarray:
    return np.stack([class_map(graph) for graph in graphs])
