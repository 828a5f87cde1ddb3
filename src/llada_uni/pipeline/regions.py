"""Edits on the token grid: some cells of a picture are masked and predicted again, all other codes stay as they are.

Three tasks that differ only in which cells are open; :mod:`llada_uni.pipeline.region_edit` makes jobs of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llada_uni.errors import ConfigError, PromptError, SizeError
from llada_uni.grid import TokenGrid
from llada_uni.pipeline.checks import as_items, as_list, check_choice, check_number, check_text, resolve_seeds
from llada_uni.pipeline.jobs import Job
from llada_uni.pipeline.region_cells import ANCHORS, Region, placed, read_region, share_of, whole
from llada_uni.pipeline.region_edit import RegionEdit, region_job
from llada_uni.pipeline.region_settings import RegionOptions, region_settings
from llada_uni.pipeline.region_source import Source, open_source
from llada_uni.pipeline.tasks import InpaintTask, OutpaintTask, RegionTask, VaryTask

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["inpaint_job", "outpaint_job", "region_tasks", "vary_job"]


def region_tasks(kind: type[RegionTask], image: Any, prompt: Any, seed: Any, options: Mapping[str, Any]) -> list[Any]:
    """One task of ``kind`` for every picture; one prompt may serve a list of pictures.

    Raises:
        PromptError: no picture, or neither one prompt nor one for each.
    """
    images, many = as_list(image)
    if not images:
        raise PromptError("image: expected at least one, got an empty list")
    words = as_items(prompt, "prompt")
    if isinstance(prompt, (list, tuple)) and (not many or len(words) != len(images)):
        pictures = f"{len(images)} pictures" if many else "one picture"
        raise PromptError(f"prompt: expected one for all pictures or one for each, got {len(words)} for {pictures}")
    texts = words if isinstance(prompt, (list, tuple)) else words * len(images)
    seeds = resolve_seeds(seed, len(images))
    return [
        kind(image=one, prompt=text, seed=each, **options) for one, text, each in zip(images, texts, seeds, strict=True)
    ]


def inpaint_job(networks: Networks, task: InpaintTask) -> Job:
    """Cells of a mask, box or list."""
    check_number(task.strength, name="strength", low=0, high=1)
    source = open_source(networks, task.image)
    region = read_region(
        networks.geometry,
        source.grid,
        source.size_px,
        mask=task.mask,
        box=task.box,
        cells=task.cells,
        keep_cells=task.keep_cells,
    )
    return _share(networks, task, source, region, "inpaint")


def vary_job(networks: Networks, task: VaryTask) -> Job:
    """A random share of all cells."""
    check_number(task.strength, name="strength", low=0, high=1)
    source = open_source(networks, task.image)
    return _share(networks, task, source, whole(networks.geometry, source.grid), "vary")


def outpaint_job(networks: Networks, task: OutpaintTask) -> Job:
    """Cells around the picture on a larger grid."""
    check_choice(task.anchor, name="anchor", choices=tuple(ANCHORS))
    source = open_source(networks, task.image)
    grid = _larger(networks, source.grid, task.height, task.width)
    region, place = placed(networks.geometry, source.grid, grid, task.anchor)
    (seed,) = resolve_seeds(task.seed, 1)
    details = {"task": "outpaint", "anchor": task.anchor}
    return _job(networks, task, source, grid=grid, place=place, region=region, details=details, seed=seed)


def _share(networks: Networks, task: InpaintTask | VaryTask, source: Source, region: Region, name: str) -> Job:
    (seed,) = resolve_seeds(task.seed, 1)
    chosen = region.only(share_of(region.positions, task.strength, seed))
    details = {"task": name, "strength": float(task.strength)}
    return _job(networks, task, source, grid=source.grid, region=chosen, details=details, seed=seed)


def _job(
    networks: Networks,
    task: RegionTask,
    source: Source,
    *,
    grid: TokenGrid,
    seed: int,
    **rest: Any,
) -> Job:
    options = {name: getattr(task, name) for name in RegionOptions.__annotations__}
    settings = region_settings(networks.package.presets, networks.geometry.output_px(grid), options)
    networks.require_decoder(settings.decoder)
    prompt = check_text(task.prompt, name="prompt")
    edit = RegionEdit(prompt=prompt, seed=seed, source=source, grid=grid, settings=settings, **rest)
    return region_job(networks, edit)


def _larger(networks: Networks, grid: TokenGrid, height: int | None, width: int | None) -> TokenGrid:
    """Grid of the wished size; a side left out stays as it is.

    Raises:
        ConfigError: no side at all.
        SizeError: no such size, or one that does not hold the picture and something new.
    """
    old_h, old_w = networks.geometry.output_px(grid)
    if height is None and width is None:
        raise ConfigError(f"expected a height or a width to grow to from {old_w}x{old_h} (width x height), got neither")
    wished = old_h if height is None else height, old_w if width is None else width
    found = networks.geometry.grid_from_output_px(*wished)
    if found.grid_h < grid.grid_h or found.grid_w < grid.grid_w or found == grid:
        raise SizeError(
            f"the picture is {old_w}x{old_h} (width x height), it cannot grow to {wished[1]}x{wished[0]}; "
            f"choose one that is at least as large on both sides and larger on one of: "
            f"{networks.geometry.allowed_sizes()}"
        )
    return found
