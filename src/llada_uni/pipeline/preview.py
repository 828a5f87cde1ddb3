"""Pictures of what is known so far: partly committed codes, and a canvas that follows the samplers' events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from llada_uni.grid import TokenGrid
from llada_uni.pipeline.pixels import to_images
from llada_uni.pipeline.region_source import check_codes
from llada_uni.pipeline.results import ImageDone
from llada_uni.pipeline.settings import decode_settings
from llada_uni.pipeline.stations import draw, returned
from llada_uni.protocols import BlockDone, FlowStep, Started, StepDone

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["Canvas", "Snapshot", "checker", "estimate_image", "nearest_known", "preview_image"]

PREVIEW_STEPS = 2
_GREYS = (168, 200)


def preview_image(
    networks: Networks,
    codes: Sequence[int | None],
    grid: TokenGrid,
    *,
    seed: int = 0,
    num_steps: int = PREVIEW_STEPS,
    decoder: str = "turbo",
) -> Image.Image:
    """RGB picture of the codes that are known, a grey checker where a code is None.

    While it draws, the decoder is given the nearest known code for an unknown cell. Without any known code it is not
    run at all.

    Raises:
        ConfigError: not as many codes as the grid has cells, or a value out of range.
        SizeError: a grid this checkpoint was not trained on.
        ImageError: a code outside the codebook.
        CheckpointError: the checkpoint has no such decoder.
    """
    settings = decode_settings(networks.package.presets, decoder, num_steps)
    networks.require_decoder(settings.decoder)
    known = np.array([code is not None for code in codes], dtype=bool)
    check_codes(networks, grid, [code or 0 for code in codes])
    size = networks.geometry.cell_px
    cover = checker(grid, size)
    if not known.any():
        return cover
    filled = torch.tensor([nearest_known(codes, grid)])
    (picture,) = returned(draw(networks, filled, grid, [seed], settings))
    hidden = np.where(known, 0, 255).astype(np.uint8).reshape(grid.grid_h, grid.grid_w)
    picture.paste(cover, (0, 0), Image.fromarray(hidden).resize(picture.size, Image.Resampling.NEAREST))
    return picture


def checker(grid: TokenGrid, cell_px: int) -> Image.Image:
    """The pattern for cells that are not known: two greys, four squares to a cell."""
    rows, columns = np.indices((grid.grid_h * cell_px, grid.grid_w * cell_px)) * 2 // cell_px
    grey = np.where((rows + columns) % 2 == 0, *_GREYS).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The token grid at one moment, row-major: ``codes`` (None = open), ``confidence`` (None = open or given)."""

    grid: TokenGrid
    codes: tuple[int | None, ...]
    confidence: tuple[float | None, ...]

    @property
    def num_known(self) -> int:
        """Cells with a code."""
        return sum(code is not None for code in self.codes)


class Canvas:
    """Follows one row: feed it every event of a stream and ask for the state or a picture whenever you like.

    ``grid``: of the picture being written, None before it begins. ``codes`` and ``confidence`` as in
    :class:`Snapshot`. With events of granularity "block" the confidences stay unknown.
    """

    def __init__(self, networks: Networks, row: int = 0) -> None:
        self.row = row
        self.grid: TokenGrid | None = None
        self.codes: list[int | None] = []
        self.confidence: list[float | None] = []
        self.flow: FlowStep | None = None
        self.result: Image.Image | None = None
        self._networks = networks

    def feed(self, event: Any) -> bool:
        """Take note of an event; returns whether the canvas looks different now."""
        if getattr(event, "row", None) != self.row:
            return False
        if isinstance(event, Started):
            return self._start(event)
        if self.grid is None:
            return False
        if isinstance(event, StepDone):
            return self._write(event.positions, event.ids, event.confidence)
        if isinstance(event, BlockDone):
            return self._write(range(event.start, event.start + len(event.ids)), event.ids)
        if isinstance(event, FlowStep):
            self.flow = event
            return True
        if isinstance(event, ImageDone):
            self.result = event.result.image
            return True
        return False

    def snapshot(self) -> Snapshot | None:
        """The token grid as it is now, None before a picture begins."""
        if self.grid is None:
            return None
        return Snapshot(grid=self.grid, codes=tuple(self.codes), confidence=tuple(self.confidence))

    def picture(self, *, seed: int = 0, num_steps: int = PREVIEW_STEPS, decoder: str = "turbo") -> Image.Image | None:
        """The best picture there is: the result, the decoder's current estimate, or a preview of the codes.

        None before a picture begins. Arguments and errors as in :func:`preview_image`.
        """
        if self.result is not None or self.grid is None:
            return self.result
        if self.flow is not None:
            return estimate_image(self._networks, self.flow)
        return preview_image(self._networks, self.codes, self.grid, seed=seed, num_steps=num_steps, decoder=decoder)

    def _start(self, event: Started) -> bool:
        self.grid, self.flow, self.result = event.grid, None, None
        count = 0 if event.grid is None else event.grid.num_tokens
        self.codes, self.confidence = [None] * count, [None] * count
        self._write(list(event.given), list(event.given.values()))
        return event.grid is not None

    def _write(self, positions: Sequence[int], ids: Sequence[int], confidence: Sequence[float] | None = None) -> bool:
        """Codes of image ids; positions behind the last code are no part of the picture."""
        changed = False
        for index, (position, number) in enumerate(zip(positions, ids, strict=True)):
            if position >= len(self.codes) or self.codes[position] is not None:
                continue
            (self.codes[position],) = self._networks.vocab.to_codes([number])
            self.confidence[position] = None if confidence is None else confidence[index]
            changed = True
        return changed


def estimate_image(networks: Networks, step: FlowStep) -> Image.Image:
    """What the picture would become from here, through the VAE."""
    latents = step.data_estimate[None].to(networks.device)
    (picture,) = to_images(networks.vae, latents, tile_px=networks.pixels.vae_tile_px)
    return picture


def nearest_known(codes: Sequence[int | None], grid: TokenGrid) -> list[int]:
    """Every cell's own code or that of the nearest cell that has one, the first in raster order of equally near.

    At least one code must be known.
    """
    places = np.stack(np.unravel_index(np.arange(len(codes)), (grid.grid_h, grid.grid_w)), axis=1)
    known = [index for index, code in enumerate(codes) if code is not None]
    distance = ((places[:, None] - places[known][None]) ** 2).sum(axis=2)
    found = [codes[known[index]] for index in distance.argmin(axis=1).tolist()]
    return [code for code in found if code is not None]
