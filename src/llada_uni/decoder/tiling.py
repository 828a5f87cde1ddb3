"""The autoencoder on large pictures, tile by tile: memory of one tile instead of the whole picture.

Tiles overlap, and where they do the results are blended: each fades out linearly while its neighbour fades in. A tile
by itself would be normalised by its own mean and spread, which shifts colours from tile to tile; instead all tiles are
normalised as a small version of the whole picture is, of which every few cells are taken. Attention covers the tile
alone and its borders are padded, so that the result is close to the whole computation, not equal to it; one tile that
covers everything is the whole computation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llada_uni.decoder.vae import VAE
from llada_uni.errors import ConfigError, SizeError

__all__ = ["AUTO_PIXELS", "Tiling", "blend_tiles", "decode", "encode", "spans", "tiling_for"]

AUTO_PIXELS = 1600 * 1600
"""Pictures with more pixels than this are computed in tiles unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """``tile_px``: largest side of a tile. ``overlap_ratio``: share of a side that neighbours have in common.

    Raises:
        ConfigError: no positive side, or a ratio outside (0, 1/3].
    """

    tile_px: int = 1280
    overlap_ratio: float = 0.25

    def __post_init__(self) -> None:
        if self.tile_px < 1 or not 0 < self.overlap_ratio <= 1 / 3:
            raise ConfigError(
                f"expected tile_px >= 1 and overlap_ratio above 0 to 1/3, got {self.tile_px} and {self.overlap_ratio}"
            )

    def cells(self, factor: int) -> tuple[int, int]:
        """Side and overlap in latent cells of ``factor`` pixels.

        Raises:
            SizeError: a tile has no room for an overlap.
        """
        side = self.tile_px // factor
        overlap = max(1, round(side * self.overlap_ratio))
        if overlap * 3 > side:
            raise SizeError(f"tile_px: expected at least {3 * factor} for this autoencoder, got {self.tile_px}")
        return side, overlap


def tiling_for(height: int, width: int, tile_px: int | None) -> Tiling | None:
    """How a picture of ``height`` x ``width`` pixels is computed; None = whole.

    ``tile_px``: None decides by :data:`AUTO_PIXELS`, 0 never tiles, other numbers are the largest side of a tile.
    """
    if tile_px is None:
        return Tiling() if height * width > AUTO_PIXELS else None
    return Tiling(tile_px=tile_px) if tile_px and max(height, width) > tile_px else None


def decode(vae: VAE, latents: Tensor, tiling: Tiling | None) -> Tensor:
    """``vae.decode`` of raw latents [B, C, h, w], in tiles (float32 or wider then) unless ``tiling`` is None."""
    factor = vae.config.factor
    side, overlap = (0, 0) if tiling is None else tiling.cells(factor)
    if tiling is None or max(latents.shape[-2:]) <= side:
        return vae.decode(latents)
    with _normalised_like(vae.decoder, lambda: vae.decode(_sampled(latents, side, 1))):
        return blend_tiles(vae.decode, latents, side, overlap, scale_out=factor)


def encode(vae: VAE, images: Tensor, tiling: Tiling | None) -> tuple[Tensor, Tensor]:
    """``vae.encode`` of [B, 3, H, W], in tiles (float32 or wider then) unless ``tiling`` is None.

    Raises:
        SizeError: a side is not a multiple of the autoencoder's factor.
    """
    factor = vae.config.factor
    side, overlap = (0, 0) if tiling is None else tiling.cells(factor)
    ragged = images.shape[-2] % factor or images.shape[-1] % factor
    if tiling is None or ragged or max(images.shape[-2:]) <= side * factor:
        return vae.encode(images)
    with _normalised_like(vae.encoder, lambda: vae.encode(_sampled(images, side * factor, factor))):
        moments = blend_tiles(lambda part: torch.cat(vae.encode(part), dim=1), images, side, overlap, scale_in=factor)
    mean, logvar = moments.chunk(2, dim=1)
    return mean, logvar


def blend_tiles(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    side: int,
    overlap: int,
    *,
    scale_in: int = 1,
    scale_out: int = 1,
) -> Tensor:
    """``function`` of overlapping tiles of ``x`` [B, C, H, W], blended into one result, float32 or wider.

    ``side`` and ``overlap`` count cells, of which each is ``scale_in`` squared elements of the input and ``scale_out``
    squared of the output. A function that treats every cell by itself gives what it gives on the whole.
    """
    height, width = x.shape[-2] // scale_in, x.shape[-1] // scale_in
    blended: Tensor | None = None
    for rows, fade_rows in _faded(height, side, overlap, scale_out):
        for columns, fade_columns in _faded(width, side, overlap, scale_out):
            part = function(x[..., _scaled(rows, scale_in), _scaled(columns, scale_in)])
            part = part.to(torch.promote_types(part.dtype, torch.float32))
            if blended is None:
                blended = part.new_zeros(*part.shape[:-2], height * scale_out, width * scale_out)
            weight = fade_rows[:, None] * fade_columns
            blended[..., _scaled(rows, scale_out), _scaled(columns, scale_out)] += part * weight.to(part)
    assert blended is not None
    return blended


def spans(size: int, side: int, overlap: int) -> list[tuple[int, int]]:
    """(start, stop) of tiles of one length, at most ``side``, that cover ``size`` cells.

    Neighbours have at least ``overlap`` cells in common; no more tiles than needed, evenly spread.
    """
    if size <= side:
        return [(0, size)]
    count = math.ceil((size - overlap) / (side - overlap))
    length = math.ceil((size + (count - 1) * overlap) / count)
    starts = [index * (size - length) // (count - 1) for index in range(count)]
    return [(start, start + length) for start in starts]


def _faded(size: int, side: int, overlap: int, scale: int) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Spans with their weights, float64 [length * scale]; the weights of all spans add up to 1 everywhere."""
    found = spans(size, side, overlap)
    for index, (start, stop) in enumerate(found):
        weight = torch.ones((stop - start) * scale, dtype=torch.float64)
        if index:
            shared = (found[index - 1][1] - start) * scale
            weight[:shared] *= _rise(shared)
        if index + 1 < len(found):
            shared = (stop - found[index + 1][0]) * scale
            weight[-shared:] *= _rise(shared).flip(0)
        yield (start, stop), weight


def _rise(length: int) -> Tensor:
    return (torch.arange(length, dtype=torch.float64) + 0.5) / length


def _scaled(span: tuple[int, int], scale: int) -> slice:
    return slice(span[0] * scale, span[1] * scale)


def _sampled(x: Tensor, side: int, multiple: int) -> Tensor:
    """Every few rows and columns of [..., H, W], so that both are at most ``side`` and multiples of ``multiple``."""
    down, across = (math.ceil(size / side) for size in x.shape[-2:])
    small = x[..., ::down, ::across]
    height, width = (max(size // multiple, 1) * multiple for size in small.shape[-2:])
    return small[..., :height, :width]


@contextmanager
def _normalised_like(network: nn.Module, example: Callable[[], Any]) -> Iterator[None]:
    """Inside, the group norms of ``network`` use the means and variances that they have in ``example()``."""
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    noted: dict[nn.GroupNorm, tuple[Tensor, Tensor]] = {}
    noting = [norm.register_forward_pre_hook(partial(_note, noted)) for norm in norms]
    try:
        example()
    finally:
        for hook in noting:
            hook.remove()
    using = [norm.register_forward_hook(partial(_apply, noted)) for norm in norms]
    try:
        yield
    finally:
        for hook in using:
            hook.remove()


def _grouped(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, groups, C / groups, H, W], float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, (norm.num_groups, -1))


def _note(noted: dict[nn.GroupNorm, tuple[Tensor, Tensor]], norm: nn.GroupNorm, inputs: tuple[Tensor]) -> None:
    groups = _grouped(norm, inputs[0])
    over = {"dim": (2, 3, 4), "keepdim": True}
    noted[norm] = groups.mean(**over), groups.var(**over, unbiased=False)


def _apply(
    noted: dict[nn.GroupNorm, tuple[Tensor, Tensor]], norm: nn.GroupNorm, inputs: tuple[Tensor], _: Tensor
) -> Tensor:
    mean, variance = noted[norm]
    flat = ((_grouped(norm, inputs[0]) - mean) * (variance + norm.eps).rsqrt()).flatten(1, 2)
    return (flat * norm.weight[:, None, None] + norm.bias[:, None, None]).to(inputs[0].dtype)
