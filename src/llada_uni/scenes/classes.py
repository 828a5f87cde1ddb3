"""What a scene shows cell by cell, as class numbers: the true answer to what codes of a picture have to say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llada_uni.scenes.graph import BACKGROUNDS, COLOURS, KINDS, SIGN_WORDS, STYLES, SceneGraph

__all__ = ["CLASS_NAMES", "CLASS_SIZES", "class_map"]

_ALL_KINDS = (*KINDS, "sign")
_SIZES = ("small", "large")
_SIDES = (3, max(len(word) for word in SIGN_WORDS))  # the largest boxes: 3 rows of an object, as many letters
CLASS_NAMES: tuple[str, ...] = ("kind", "colour", "size", "word", "row", "column", "background", "style")
"""What the classes of a cell say; ``row`` and ``column`` count inside the object's box."""
CLASS_SIZES: tuple[int, ...] = (
    len(_ALL_KINDS) + 1,
    len(COLOURS) + 1,
    len(_SIZES) + 1,
    len(SIGN_WORDS) + 1,
    _SIDES[0] + 1,
    max(_SIDES) + 1,
    len(BACKGROUNDS),
    len(STYLES),
)
"""Number of values of each; 0 is "none" where a cell may show no object, no colour or no word."""


def class_map(graph: SceneGraph) -> NDArray[np.uint8]:
    """Class numbers uint8 [grid_h, grid_w, len(CLASS_NAMES)] of every cell of a scene."""
    classes = np.zeros((graph.grid_h, graph.grid_w, len(CLASS_NAMES)), dtype=np.uint8)
    classes[..., 6], classes[..., 7] = BACKGROUNDS.index(graph.background), STYLES.index(graph.style)
    for item in graph.objects:
        height, width = item.cells
        box = classes[item.row : item.row + height, item.column : item.column + width]
        box[..., 0] = 1 + _ALL_KINDS.index(item.kind)
        box[..., 1] = 0 if item.colour is None else 1 + COLOURS.index(item.colour)
        box[..., 2] = 1 + _SIZES.index(item.size)
        box[..., 3] = 0 if item.word is None else 1 + SIGN_WORDS.index(item.word)
        box[..., 4], box[..., 5] = 1 + np.arange(height)[:, None], 1 + np.arange(width)[None]
    return classes
