"""Stop after the codes: the first half of the main path, for those who decode later or elsewhere."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

from llada_uni.grid import TokenGrid
from llada_uni.pipeline.results import EncodedImage
from llada_uni.protocols import Finished, Started

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["until_written"]


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
