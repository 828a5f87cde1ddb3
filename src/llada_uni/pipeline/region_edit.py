"""Edits on the token grid as jobs: open cells -> a request in which all other codes are given -> a picture.

The model writes a picture in blocks, and a block sees only the blocks before it and itself. With a reference the source
picture stands in the prompt (the editing prompt, the words are an instruction), so that new cells also see what lies
behind their block; without it the words describe the whole picture, as in text to image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from llada_uni import prompts
from llada_uni.grid import TokenGrid
from llada_uni.pipeline.blending import blend, extended
from llada_uni.pipeline.jobs import Job, Script
from llada_uni.pipeline.region_cells import Region
from llada_uni.pipeline.region_settings import RegionSettings
from llada_uni.pipeline.region_source import Source
from llada_uni.pipeline.requests import check_budget, image_tail
from llada_uni.pipeline.results import EncodedImage
from llada_uni.pipeline.stations import Drawing, draw, returned
from llada_uni.protocols import Request
from llada_uni.sampling.id_sets import image_ids

if TYPE_CHECKING:
    from PIL import Image

    from llada_uni.pipeline.networks import Networks

__all__ = ["RegionEdit", "region_job", "region_request"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionEdit:
    """One edit: ``source`` lies in ``grid`` with its top-left cell at ``place``, and ``region`` is predicted.

    ``details`` are reported with the settings.
    """

    prompt: str
    seed: int
    source: Source
    grid: TokenGrid
    region: Region
    settings: RegionSettings
    place: tuple[int, int] = (0, 0)
    details: Mapping[str, Any] = field(default_factory=dict)


def region_job(networks: Networks, edit: RegionEdit) -> Job:
    """The edit on the main path."""

    def script(images: Sequence[EncodedImage]) -> Script:
        (source,) = images
        block = prompts.ImageBlock(grid=source.grid, codes=source.codes) if edit.settings.reference else None
        kept = _kept(edit, source.codes)
        written = yield region_request(networks, edit.prompt, edit.seed, edit.grid, kept, edit.settings, block)
        return Drawing(
            codes=tuple(networks.vocab.to_codes(written.output_ids)),
            grid=edit.grid,
            seed=edit.seed,
            settings=edit.settings,
            prompt=edit.prompt,
            usage=asdict(written.usage),
            also=_report(edit),
            finish=lambda drawn: _blended(networks, edit, source.codes, drawn),
        )

    return Job(pictures=(edit.source.readable(networks.name),), script=script)


def region_request(
    networks: Networks,
    prompt: str,
    seed: int,
    grid: TokenGrid,
    kept: Mapping[int, int],
    settings: RegionSettings,
    reference: prompts.ImageBlock | None,
) -> Request:
    """The picture of ``grid`` in which the positions of ``kept`` have these codes from the start.

    ``reference``: the picture shown in an editing prompt; None for the text-to-image prompt.

    Raises:
        BudgetError: prompt and picture exceed the context.
    """
    vocab, sampling = networks.vocab, settings.image.sampling()
    if reference is None:
        rows = prompts.t2i(vocab, networks.tokenizer, prompt, grid)
        branches = (rows.cond, rows.uncond)
    else:
        rows = prompts.edit(vocab, networks.tokenizer, prompt, [reference], grid)
        branches = (rows.cond, rows.no_text, rows.no_image)
    check_budget(networks, len(rows.cond), grid.num_tokens, "the picture")
    given = dict(zip(kept, vocab.to_ids(list(kept.values())), strict=True))
    return Request(
        prompts=tuple(branch for branch in branches if branch is not None),
        num_tokens=grid.num_tokens,
        mask_id=vocab.special.mask,
        allowed=image_ids(vocab),
        guidance=settings.guidance,
        sampling=sampling,
        seed=seed,
        grid=grid,
        given=given | image_tail(networks, len(rows.cond), grid, sampling.block_length),
    )


def _kept(edit: RegionEdit, codes: tuple[int, ...]) -> dict[int, int]:
    """Positions in the new grid that keep a code of the source."""
    (row, column), width = edit.place, edit.source.grid.grid_w
    placed = {(row + i // width) * edit.grid.grid_w + column + i % width: code for i, code in enumerate(codes)}
    opened = set(edit.region.positions)
    return {position: code for position, code in placed.items() if position not in opened}


def _blended(networks: Networks, edit: RegionEdit, codes: tuple[int, ...], drawn: Image.Image) -> Image.Image:
    """The new part in the old picture; a source known by its codes alone is drawn first, with the same seed."""
    if not edit.settings.blend:
        return drawn
    source, geometry = edit.source, networks.geometry
    picture = source.picture
    if picture is None:
        (picture,) = returned(draw(networks, torch.tensor([codes]), source.grid, [edit.seed], edit.settings.image))
    if edit.grid != source.grid:
        top_left = edit.place[0] * geometry.cell_px, edit.place[1] * geometry.cell_px
        picture = extended(picture, geometry.output_px(edit.grid), top_left)
    return blend(picture, drawn, edit.region.pixels, geometry.cell_px)


def _report(edit: RegionEdit) -> dict[str, Any]:
    width = edit.grid.grid_w
    cells = [[position // width, position % width] for position in edit.region.positions]
    return {**edit.details, "cells": cells, "resized_from": edit.source.resized_from}
