"""Carries out edits on the token grid: open cells -> a request in which all other codes are given -> a picture.

The model writes a picture in blocks, and a block sees only the blocks before it and itself. With a reference the source
picture stands in the prompt (the editing prompt, the words are an instruction), so that new cells also see what lies
behind their block; without it the words describe the whole picture, as in text to image.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from llada_uni import prompts
from llada_uni.grid import TokenGrid
from llada_uni.pipeline.blending import blend, extended
from llada_uni.pipeline.clock import Clock
from llada_uni.pipeline.region_cells import Region
from llada_uni.pipeline.region_settings import RegionSettings
from llada_uni.pipeline.region_source import Source, with_codes
from llada_uni.pipeline.requests import check_budget, image_tail
from llada_uni.pipeline.results import ImageDone, ImageResult
from llada_uni.pipeline.stations import draw, returned, write
from llada_uni.protocols import Event, FlowStep, Request
from llada_uni.sampling.block_sampler import Granularity
from llada_uni.sampling.id_sets import image_ids

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["Job", "region_request", "run"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
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


def run(networks: Networks, jobs: Sequence[Job], at_once: int, granularity: Granularity) -> Iterator[Event | ImageDone]:
    """Yield the samplers' events, then ``ImageDone`` for every job; row n is ``jobs[n]``."""
    clock = Clock(networks)
    sources = with_codes(networks, [job.source for job in jobs])
    clock.lap("encode")
    requests = [_request(networks, job, codes) for job, codes in zip(jobs, sources, strict=True)]
    finished = yield from write(networks, requests, granularity)
    codes = [tuple(networks.vocab.to_codes(row.output_ids)) for row in finished]
    clock.lap("tokens")
    drawn = yield from _draw(networks, jobs, codes, at_once)
    images = [_blended(networks, *each) for each in zip(jobs, sources, drawn, strict=True)]
    clock.lap("pixels")
    for row, job in enumerate(jobs):
        result = ImageResult(
            image=images[row],
            codes=codes[row],
            grid=job.grid,
            prompt=job.prompt,
            seed=job.seed,
            model=networks.name,
            settings=_report(job),
            timings=clock.timings(),
            usage=asdict(finished[row].usage),
        )
        yield ImageDone(row=row, result=result)


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


def _request(networks: Networks, job: Job, codes: tuple[int, ...]) -> Request:
    block = prompts.ImageBlock(grid=job.source.grid, codes=codes) if job.settings.reference else None
    return region_request(networks, job.prompt, job.seed, job.grid, _kept(job, codes), job.settings, block)


def _kept(job: Job, codes: tuple[int, ...]) -> dict[int, int]:
    """Positions in the new grid that keep a code of the source."""
    (row, column), width = job.place, job.source.grid.grid_w
    placed = {(row + i // width) * job.grid.grid_w + column + i % width: code for i, code in enumerate(codes)}
    opened = set(job.region.positions)
    return {position: code for position, code in placed.items() if position not in opened}


def _draw(
    networks: Networks, jobs: Sequence[Job], codes: Sequence[tuple[int, ...]], at_once: int
) -> Generator[FlowStep, None, list[Image.Image]]:
    """Pictures of all codes, those of one grid together; the decoder's settings are the same for all jobs."""
    images: dict[int, Image.Image] = {}
    for grid in dict.fromkeys(job.grid for job in jobs):
        rows = [row for row, job in enumerate(jobs) if job.grid == grid]
        events = draw(
            networks,
            _stacked([codes[row] for row in rows]),
            grid,
            [jobs[row].seed for row in rows],
            jobs[rows[0]].settings.image,
            at_once=at_once,
        )
        drawn = yield from _renumbered(events, rows)
        images |= zip(rows, drawn, strict=True)
    return [images[row] for row in range(len(jobs))]


def _renumbered(events: Iterator[FlowStep], rows: Sequence[int]) -> Generator[FlowStep, None, list[Image.Image]]:
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            return stop.value
        yield replace(event, row=rows[event.row])


def _blended(networks: Networks, job: Job, codes: tuple[int, ...], drawn: Image.Image) -> Image.Image:
    """The new part in the old picture; a source known by its codes alone is drawn first, with the same seed."""
    if not job.settings.blend:
        return drawn
    source, geometry = job.source, networks.geometry
    picture = source.picture
    if picture is None:
        (picture,) = returned(draw(networks, _stacked([codes]), source.grid, [job.seed], job.settings.image))
    if job.grid != source.grid:
        top_left = job.place[0] * geometry.cell_px, job.place[1] * geometry.cell_px
        picture = extended(picture, geometry.output_px(job.grid), top_left)
    return blend(picture, drawn, job.region.pixels, geometry.cell_px)


def _stacked(codes: Sequence[tuple[int, ...]]) -> Tensor:
    return torch.tensor(codes)


def _report(job: Job) -> dict[str, Any]:
    width = job.grid.grid_w
    cells = [[position // width, position % width] for position in job.region.positions]
    return {**job.settings.as_dict(), **job.details, "cells": cells, "resized_from": job.source.resized_from}
