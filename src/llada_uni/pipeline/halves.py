"""The two halves of the main path, for those who stop at the codes and draw them later or elsewhere."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llada_uni.grid import TokenGrid
from llada_uni.pipeline.clock import Clock
from llada_uni.pipeline.results import EncodedImage, ImageDone
from llada_uni.pipeline.settings import decode_settings
from llada_uni.pipeline.stations import Drawing, check_codes, draw_all
from llada_uni.protocols import Finished, FlowStep, Started

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["draw_codes", "until_written"]


def until_written(networks: Networks, events: Iterator[Any], num_rows: int) -> Generator[Any, None, list[EncodedImage]]:
    """Pass events of picture tasks on until the codes of all ``num_rows`` rows are written; returns these codes.

    The stream is left there: no decoder is loaded and nothing is drawn. The codes are those of the whole stream's
    results.
    """
    grids: dict[int, TokenGrid] = {}
    written: dict[int, EncodedImage] = {}
    for event in events:
        yield event
        if isinstance(event, Started) and event.grid is not None:
            grids[event.row] = event.grid
        elif isinstance(event, Finished) and event.reason == "image":
            codes = tuple(networks.vocab.to_codes(event.output_ids))
            written[event.row] = EncodedImage(codes=codes, grid=grids[event.row], model=networks.name)
            if len(written) == num_rows:
                break
    if isinstance(events, Generator):
        events.close()
    return [written[row] for row in range(num_rows)]


def draw_codes(
    networks: Networks,
    items: Sequence[EncodedImage],
    seeds: Sequence[int],
    *,
    decoder: str | None = None,
    num_steps: int | None = None,
    decoder_guidance: float | None = None,
    guidance_interval: Sequence[float] | None = None,
    step_cache: float | None = None,
    at_once: int = 1,
) -> Iterator[FlowStep | ImageDone]:
    """Draw codes, each with its seed; yields the decoder's steps and then ``ImageDone`` for each, rows in order.

    Raises:
        SizeError: a grid this checkpoint was not trained on. ImageError: a code outside the codebook.
        ConfigError: not codes, or another argument out of range. All before anything is computed.
    """
    settings = decode_settings(
        networks.package.presets,
        decoder,
        num_steps,
        decoder_guidance=decoder_guidance,
        guidance_interval=guidance_interval,
        step_cache=step_cache,
    )
    networks.require_decoder(settings.decoder)
    for item in items:
        check_codes(networks, item)
    drawings = {
        row: Drawing(codes=item.codes, grid=item.grid, seed=seed, settings=settings)
        for row, (item, seed) in enumerate(zip(items, seeds, strict=True))
    }
    return _drawn(networks, drawings, at_once)


def _drawn(networks: Networks, drawings: dict[int, Drawing], at_once: int) -> Iterator[FlowStep | ImageDone]:
    clock = Clock(networks)
    images = yield from draw_all(networks, drawings, at_once=at_once)
    clock.lap("pixels")
    for row, one in drawings.items():
        yield ImageDone(row=row, result=one.result(images[row], networks.name, clock.timings()))
