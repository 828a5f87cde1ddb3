"""Pictures from the true classes of scenes by a decoder that was trained on classes in the place of codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llada_uni.decoder.classes import ClassEmbedder
from llada_uni.decoder.dit import Decoder
from llada_uni.grid import TokenGrid
from llada_uni.pipeline import LladaUni
from llada_uni.pipeline.pixels import to_images
from llada_uni.pipeline.settings import decode_settings
from llada_uni.pipeline.velocity import OneContext
from llada_uni.protocols import LatentsDone
from llada_uni.sampling.flow_sampler import sample_latents
from llada_uni.scenes.classes import class_map
from llada_uni.scenes.graph import SceneGraph

__all__ = ["ClassPictures"]


class ClassPictures:
    """``decoder`` and ``embedder`` (of ``recipes.nano:class_decoder``) with the autoencoder and presets of ``base``."""

    def __init__(self, base: LladaUni, decoder: Decoder, embedder: ClassEmbedder) -> None:
        self._base, self._decoder, self._embedder = base, decoder.eval(), embedder.eval()

    @torch.inference_mode()
    def draw(self, scenes: Sequence[SceneGraph], seeds: Sequence[int], *, num_steps: int | None = None) -> list[Any]:
        """RGB pictures of scenes on one grid, by the many-step sampler with the presets of the normal decoder."""
        base = self._base
        settings = decode_settings(base.networks.package.presets, "normal", num_steps)
        grid = TokenGrid(scenes[0].grid_h, scenes[0].grid_w)
        features = self._embedder(torch.from_numpy(np.stack([class_map(one) for one in scenes]).astype(np.int64)))
        shape = (self._decoder.config.in_channels, *base.geometry.latent_hw(grid))
        velocity = OneContext(self._decoder, base.geometry.condition_grid(grid))
        events = sample_latents(velocity, features, latent_shape=shape, seeds=seeds, settings=settings.flow())
        latents = [event.latents for event in events if isinstance(event, LatentsDone)]
        return to_images(base.networks.vae, torch.stack(latents))
