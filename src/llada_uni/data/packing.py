"""How full packed rows are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llada_uni.data.block_rows import pack

__all__ = ["PackReport", "pack_report"]


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """Samples packed whole into rows of ``capacity`` tokens; a longer sample has a row of its own length.

    ``fill_ratio``: tokens over the room of all rows. ``most``: samples in the fullest row.
    """

    samples: int
    rows: int
    capacity: int
    tokens: int
    fill_ratio: float
    most: int


def pack_report(lengths: Sequence[int], capacity: int) -> PackReport:
    """What ``block_rows.pack`` makes of samples of these lengths."""
    rows = pack(lengths, capacity)
    filled = [sum(lengths[index] for index in row) for row in rows]
    room = sum(max(capacity, tokens) for tokens in filled)
    return PackReport(
        samples=len(lengths),
        rows=len(rows),
        capacity=capacity,
        tokens=sum(filled),
        fill_ratio=sum(filled) / room if room else 0.0,
        most=max((len(row) for row in rows), default=0),
    )
