"""Edits on the token grid: some cells of a picture are masked and predicted again, all other codes stay as they are.

Three tasks that differ only in which cells are open; :mod:`llada_uni.pipeline.region_run` carries them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llada_uni.errors import ConfigError, PromptError, SizeError
from llada_uni.grid import TokenGrid
from llada_uni.pipeline.checks import as_items, as_list, check_choice, check_number, check_text, resolve_seeds
from llada_uni.pipeline.region_cells import ANCHORS, placed, read_region, share_of, whole
from llada_uni.pipeline.region_run import Job, run
from llada_uni.pipeline.region_settings import region_settings
from llada_uni.pipeline.region_source import Source, open_source
from llada_uni.pipeline.results import ImageDone
from llada_uni.protocols import Event
from llada_uni.sampling.block_sampler import Granularity

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["inpaint", "outpaint", "vary"]


def inpaint(
    networks: Networks,
    image: Any,
    prompt: Any,
    *,
    at_once: int = 1,
    granularity: Granularity = "step",
    mask: Any = None,
    box: Any = None,
    cells: Any = None,
    keep_cells: Any = None,
    strength: float = 1.0,
    reference: bool = True,
    blend: bool = True,
    seed: int | Sequence[int] | None = None,
    **sampling: Any,
) -> Iterator[Event | ImageDone]:
    """``LladaUni.stream_inpaint``; everything is checked before it returns."""
    check_number(strength, name="strength", low=0, high=1)
    options = sampling | {"reference": reference, "blend": blend}
    jobs: list[Job] = []
    for source, words, one_seed in _items(networks, image, prompt, seed):
        region = read_region(
            networks.geometry, source.grid, source.size_px, mask=mask, box=box, cells=cells, keep_cells=keep_cells
        )
        jobs.append(
            Job(
                prompt=words,
                seed=one_seed,
                source=source,
                grid=source.grid,
                region=region.only(share_of(region.positions, strength, one_seed)),
                settings=_settings(networks, source.grid, options),
                details={"task": "inpaint", "strength": float(strength)},
            )
        )
    return run(networks, jobs, at_once, granularity)


def outpaint(
    networks: Networks,
    image: Any,
    prompt: Any,
    *,
    at_once: int = 1,
    granularity: Granularity = "step",
    height: int | None = None,
    width: int | None = None,
    anchor: str = "center",
    reference: bool = True,
    blend: bool = True,
    seed: int | Sequence[int] | None = None,
    **sampling: Any,
) -> Iterator[Event | ImageDone]:
    """``LladaUni.stream_outpaint``; everything is checked before it returns."""
    check_choice(anchor, name="anchor", choices=tuple(ANCHORS))
    options = sampling | {"reference": reference, "blend": blend}
    jobs: list[Job] = []
    for source, words, one_seed in _items(networks, image, prompt, seed):
        grid = _larger(networks, source.grid, height, width)
        region, place = placed(networks.geometry, source.grid, grid, anchor)
        jobs.append(
            Job(
                prompt=words,
                seed=one_seed,
                source=source,
                grid=grid,
                place=place,
                region=region,
                settings=_settings(networks, grid, options),
                details={"task": "outpaint", "anchor": anchor},
            )
        )
    return run(networks, jobs, at_once, granularity)


def vary(
    networks: Networks,
    image: Any,
    prompt: Any,
    *,
    at_once: int = 1,
    granularity: Granularity = "step",
    strength: float = 0.5,
    reference: bool = False,
    blend: bool = False,
    seed: int | Sequence[int] | None = None,
    **sampling: Any,
) -> Iterator[Event | ImageDone]:
    """``LladaUni.stream_vary``; everything is checked before it returns."""
    check_number(strength, name="strength", low=0, high=1)
    options = sampling | {"reference": reference, "blend": blend}
    jobs: list[Job] = []
    for source, words, one_seed in _items(networks, image, prompt, seed):
        region = whole(networks.geometry, source.grid)
        jobs.append(
            Job(
                prompt=words,
                seed=one_seed,
                source=source,
                grid=source.grid,
                region=region.only(share_of(region.positions, strength, one_seed)),
                settings=_settings(networks, source.grid, options),
                details={"task": "vary", "strength": float(strength)},
            )
        )
    return run(networks, jobs, at_once, granularity)


def _items(networks: Networks, image: Any, prompt: Any, seed: Any) -> list[tuple[Source, str, int]]:
    """Picture, words and seed of every row; one prompt may serve a list of pictures."""
    images, many = as_list(image)
    if not images:
        raise PromptError("image: expected at least one, got an empty list")
    words = as_items(prompt, "prompt")
    if isinstance(prompt, (list, tuple)) and (not many or len(words) != len(images)):
        pictures = f"{len(images)} pictures" if many else "one picture"
        raise PromptError(f"prompt: expected one for all pictures or one for each, got {len(words)} for {pictures}")
    texts = [check_text(one, name="prompt") for one in words]
    texts = texts if isinstance(prompt, (list, tuple)) else texts * len(images)
    seeds = resolve_seeds(seed, len(images))
    return [(open_source(networks, one), text, each) for one, text, each in zip(images, texts, seeds, strict=True)]


def _settings(networks: Networks, grid: TokenGrid, options: dict[str, Any]) -> Any:
    settings = region_settings(networks.package.presets, networks.geometry.output_px(grid), options)
    networks.require_decoder(settings.image.decoder)
    return settings


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
