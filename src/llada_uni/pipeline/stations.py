"""The stations every task is made of: pictures to codes, requests to ids, codes to pictures.

The only file in which the three networks meet. A task (a file beside this one) strings stations together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llada_uni.errors import ConfigError
from llada_uni.grid import TokenGrid
from llada_uni.image_tokenizer.images import for_understanding, load_image
from llada_uni.image_tokenizer.patches import patchify
from llada_uni.pipeline.engines import written
from llada_uni.pipeline.pixels import to_images
from llada_uni.pipeline.results import EncodedImage, ImageResult
from llada_uni.pipeline.velocity import OneContext
from llada_uni.protocols import Event, Finished, FlowStep, LatentsDone, Request
from llada_uni.sampling.block_sampler import Granularity
from llada_uni.sampling.flow_sampler import sample_latents

if TYPE_CHECKING:
    from PIL.Image import Image

    from llada_uni.pipeline.networks import Networks
    from llada_uni.pipeline.region_settings import RegionSettings
    from llada_uni.pipeline.settings import DecodeSettings
    from llada_uni.pipeline.tasks import Picture

__all__ = [
    "Drawing",
    "blank",
    "check_codes",
    "draw",
    "draw_all",
    "encode",
    "numbered",
    "prepare",
    "read",
    "returned",
    "sized",
    "write",
]


def sized(networks: Networks, source: Picture, resize: Callable[[Image], Image]) -> Image | EncodedImage:
    """A picture read and brought to the tokenizer's size by ``resize``; one that is codes already, as codes.

    Raises:
        ImageError: unreadable, too large or too elongated, or a code outside the codebook.
        SizeError: codes on a grid that this checkpoint was not trained on.
    """
    if isinstance(source, ImageResult):
        source = source.encoded
    if isinstance(source, EncodedImage):
        check_codes(networks, source)
        return source
    return resize(load_image(source))


def prepare(networks: Networks, sources: Sequence[Sequence[Picture]]) -> list[list[Any]]:
    """Pictures to be understood, at the tokenizer's size; those of one request share its pixel budget.

    Raises:
        ImageError, SizeError: as :func:`sized`.
    """
    ready: list[list[Any]] = []
    for group in sources:
        resize = partial(for_understanding, geometry=networks.geometry, num_images=len(group))
        ready.append([sized(networks, one, resize) for one in group])
    return ready


def check_codes(networks: Networks, item: EncodedImage) -> None:
    """Is this a picture of this checkpoint?

    Raises:
        ConfigError: not codes at all. ImageError: a code outside the codebook.
        SizeError: a grid that it was not trained on.
    """
    if not isinstance(item, EncodedImage):
        raise ConfigError(f"codes: expected an EncodedImage, got {type(item).__name__}")
    networks.geometry.grid_from_output_px(*networks.geometry.output_px(item.grid))
    networks.vocab.block(item.grid, item.codes)


def blank(networks: Networks, picture: Image | EncodedImage) -> EncodedImage:
    """Stands in for what :func:`read` will make of ``picture``: the right grid, and codes that mean nothing."""
    if isinstance(picture, EncodedImage):
        return picture
    grid = networks.geometry.grid_from_tokenizer_px(picture.height, picture.width)
    return EncodedImage(codes=(0,) * grid.num_tokens, grid=grid, model=networks.name)


def read(networks: Networks, groups: Sequence[Sequence[Image | EncodedImage]]) -> list[list[EncodedImage]]:
    """Codes of every group's pictures; all that are not codes yet are encoded together."""
    pictures = [one for group in groups for one in group if not isinstance(one, EncodedImage)]
    fresh = iter(encode(networks, pictures))
    return [[one if isinstance(one, EncodedImage) else next(fresh) for one in group] for group in groups]


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
    for event in written(networks, requests, granularity):
        if isinstance(event, Finished):
            finished[event.row] = event
        yield event
    return [finished[row] for row in range(len(requests))]


def draw(
    networks: Networks,
    codes: Tensor,
    grid: TokenGrid,
    seeds: Sequence[int],
    settings: DecodeSettings | RegionSettings,
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
        velocity = OneContext(
            decoder,
            networks.geometry.condition_grid(grid),
            shared=networks.shared_work(decoder),
            step_cache=settings.step_cache,
        )
        latents: list[Tensor] = []
        for event in sample_latents(
            velocity, features, latent_shape=latent_shape, seeds=seeds[chunk], settings=settings.flow()
        ):
            if isinstance(event, LatentsDone):
                latents.append(event.latents)
            else:
                yield replace(event, row=event.row + first)
        images += to_images(vae, torch.stack(latents), tile_px=networks.pixels.vae_tile_px)
    return images


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A picture that is written and not drawn yet: what to draw, and what its result will say beside the pixels.

    ``also``: further settings to report. ``finish``: the last hand on the decoder's picture.
    """

    codes: tuple[int, ...]
    grid: TokenGrid
    seed: int
    settings: DecodeSettings | RegionSettings
    prompt: str | None = None
    thinking: str | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    also: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Image], Image] | None = None

    def result(self, image: Any, model: str, timings: Mapping[str, float]) -> ImageResult:
        """With its pixels."""
        return ImageResult(
            image=image if self.finish is None else self.finish(image),
            codes=self.codes,
            grid=self.grid,
            prompt=self.prompt,
            seed=self.seed,
            model=model,
            settings=self.settings.as_dict() | dict(self.also),
            timings=timings,
            usage=self.usage,
            thinking=self.thinking,
        )


def draw_all(networks: Networks, drawings: Mapping[int, Drawing], *, at_once: int = 1) -> Iterator[FlowStep]:
    """Draw pictures of any sizes and settings; those that agree in both go together.

    Yields flow steps numbered like ``drawings`` and returns the PIL pictures by number.
    """
    images: dict[int, Any] = {}
    kinds = {row: (one.grid, *one.settings.drawn_with()) for row, one in drawings.items()}
    for kind in dict.fromkeys(kinds.values()):
        rows = [row for row in drawings if kinds[row] == kind]
        codes = torch.tensor([drawings[row].codes for row in rows])
        seeds, settings = [drawings[row].seed for row in rows], drawings[rows[0]].settings
        steps = draw(networks, codes, kind[0], seeds, settings, at_once=at_once)
        images |= zip(rows, (yield from numbered(steps, rows)), strict=True)
    return images


def numbered(events: Iterator[Any], rows: Sequence[int]) -> Iterator[Any]:
    """Events of a part of a batch with the numbers ``rows`` that its rows have in the whole; returns the same."""
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            return stop.value
        yield event if event.row == rows[event.row] else replace(event, row=rows[event.row])


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
