"""What a scene is: the exact description that pictures, captions, questions and the verifier share.

Lengths are whole token cells (16 output pixels), so every object sits on the lattice that codes live on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "KINDS",
    "MAX_OBJECTS",
    "SIGN_WORDS",
    "STYLES",
    "WORLD_VERSION",
    "SceneGraph",
    "SceneObject",
    "object_cells",
]

WORLD_VERSION = "scenes-v1"
CELL_PX = 16
MAX_OBJECTS = 4

COLOURS: tuple[str, ...] = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
KINDS: tuple[str, ...] = (
    "ball", "apple", "tree", "house", "car", "fish", "cat", "cup", "boat", "umbrella",
    "star", "heart", "key", "hat", "flower", "bird", "mushroom", "balloon", "book", "bell",
)  # fmt: skip
BACKGROUNDS: tuple[str, ...] = ("white", "sky", "grass", "sand", "dusk", "night")
STYLES: tuple[str, ...] = ("flat", "outline")
SIGN_WORDS: tuple[str, ...] = (
    "HI", "GO", "NO", "UP", "ZOO", "BUS", "TEA", "CAT", "FUN", "OPEN", "STOP", "CAFE",
    "EXIT", "PARK", "SALE", "TAXI", "LOVE", "MENU", "FISH", "BOOK",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object; ``row`` and ``column`` are the top-left cell of its box (0-based).

    ``kind`` is one of ``KINDS`` or ``"sign"``. A sign carries a ``word`` from ``SIGN_WORDS``, has no colour
    (``colour is None``) and is always ``"small"``; every other object has one of ``COLOURS`` and no word.
    """

    kind: str
    colour: str | None
    size: Literal["small", "large"]
    row: int
    column: int
    word: str | None = None

    @property
    def cells(self) -> tuple[int, int]:
        """Height and width of the box in cells."""
        return object_cells(self.kind, self.size, self.word)

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box in cells, as (row, column)."""
        height, width = self.cells
        return self.row + height / 2, self.column + width / 2


@dataclass(frozen=True, kw_only=True)
class SceneGraph:
    """A whole scene on a ``grid_h`` x ``grid_w`` lattice of cells."""

    objects: tuple[SceneObject, ...] = field(default=())
    background: str = "white"
    style: str = "flat"
    grid_h: int = 8
    grid_w: int = 8


def object_cells(kind: str, size: str, word: str | None = None) -> tuple[int, int]:
    """Box in cells, (height, width): small 2x2, large 3x3, a sign 2 x len(word) with one letter per cell."""
    if kind == "sign":
        return 2, len(word or "")
    return (2, 2) if size == "small" else (3, 3)
