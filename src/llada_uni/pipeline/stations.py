"""The stations every task is made of: pictures to codes, requests to ids, codes to pictures.

The only file in which the three networks meet. A task (a file beside this one) strings stations together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llada_uni.backbone.denoiser import CachedDenoiser
from llada_uni.grid import TokenGrid
from llada_uni.image_tokenizer.images import ImageSource, for_understanding, load_image
from llada_uni.image_tokenizer.patches import patchify
from llada_uni.pipeline.pixels import to_images
from llada_uni.pipeline.results import EncodedImage
from llada_uni.pipeline.velocity import OneContext
from llada_uni.protocols import Event, Finished, FlowStep, LatentsDone, Request
from llada_uni.sampling.block_sampler import Granularity, generate
from llada_uni.sampling.flow_sampler import sample_latents

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks
    from llada_uni.pipeline.settings import DecodeSettings

__all__ = ["draw", "encode", "prepare", "returned", "write"]


def prepare(networks: Networks, sources: Sequence[Sequence[ImageSource]]) -> list[list[Any]]:
    """Read pictures and bring them to the tokenizer's size; those of one request share its pixel budget.

    Raises:
        ImageError: unreadable, too large or too elongated.
    """
    geometry = networks.geometry
    return [[for_understanding(load_image(one), geometry, len(group)) for one in group] for group in sources]


@torch.inference_mode()
def encode(networks: Networks, sized: Sequence[Any]) -> list[EncodedImage]:
    """PIL pictures already at the tokenizer's size to codes."""
    if not sized:
        return []
    patches, grids = patchify(sized, networks.preprocessor)
    codes = networks.image_tokenizer(patches.to(networks.device), grids).cpu()
    pieces = codes.split([grid.num_tokens for grid in grids])
    return [
        EncodedImage(codes=tuple(part.tolist()), grid=grid, model=networks.name)
        for part, grid in zip(pieces, grids, strict=True)
    ]


def write(networks: Networks, requests: Sequence[Request], granularity: Granularity) -> Iterator[Event]:
    """Run the block sampler; yields its events and returns what every row finished with."""
    finished: dict[int, Finished] = {}
    for event in generate(requests, CachedDenoiser(networks.backbone), granularity=granularity):
        if isinstance(event, Finished):
            finished[event.row] = event
        yield event
    return [finished[row] for row in range(len(requests))]


def draw(
    networks: Networks,
    codes: Tensor,
    grid: TokenGrid,
    seeds: Sequence[int],
    settings: DecodeSettings,
    *,
    at_once: int = 1,
) -> Iterator[FlowStep]:
    """Codes [B, h*w] of one grid to PIL pictures, ``at_once`` at a time; yields flow steps, returns the pictures."""
    images: list[Any] = []
    decoder, vae = networks.decoder(settings.decoder), networks.vae
    latent_shape = (decoder.config.in_channels, *networks.geometry.latent_hw(grid))
    for first in range(0, len(seeds), at_once):
        chunk = slice(first, first + at_once)
        features = _features(networks, codes[chunk].unflatten(1, (grid.grid_h, grid.grid_w)))
        velocity = OneContext(decoder, networks.geometry.condition_grid(grid))
        latents: list[Tensor] = []
        for event in sample_latents(
            velocity, features, latent_shape=latent_shape, seeds=seeds[chunk], settings=settings.flow()
        ):
            if isinstance(event, LatentsDone):
                latents.append(event.latents)
            else:
                yield replace(event, row=event.row + first)
        images += to_images(vae, torch.stack(latents))
    return images


def returned(events: Iterator[Any]) -> Any:
    """Run a generator to its end and give what it returns."""
    while True:
        try:
            next(events)
        except StopIteration as stop:
            return stop.value


@torch.inference_mode()
def _features(networks: Networks, codes: Tensor) -> Tensor:
    """Codes [B, h, w] to semantic features [B, 4hw, F]."""
    return networks.semantic_embedder(codes.to(networks.device))
