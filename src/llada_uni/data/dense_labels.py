"""What every cell of a scene shows, as class indices: the dense half of the tokenizer's understanding tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llada_uni.scenes.graph import BACKGROUNDS, COLOURS, KINDS, SIGN_WORDS, STYLES, SceneGraph, SceneObject

__all__ = ["HEADS", "IGNORED", "LETTERS", "cell_labels"]

IGNORED = -100
LETTERS: tuple[str, ...] = tuple(sorted(set("".join(SIGN_WORDS))))
HEADS: dict[str, int] = {
    "kind": len(KINDS) + 2,
    "colour": len(COLOURS),
    "size": 2,
    "row": 3,
    "column": 3,
    "style": len(STYLES),
    "letter": len(LETTERS),
    "background": len(BACKGROUNDS),
}
"""Name and number of classes of every attribute. Kind 0 is "no object here", the last kind is a sign."""


def cell_labels(graphs: Sequence[SceneGraph]) -> dict[str, np.ndarray]:
    """int64 [N, h * w] per attribute, raster order, ``IGNORED`` where the attribute means nothing.

    ``row`` and ``column`` say which part of its object a cell is: 0 first, 1 inner, 2 last. ``background`` is asked in
    free cells only, everything else but ``kind`` in covered cells only.
    """
    height, width = graphs[0].grid_h, graphs[0].grid_w
    labels = {name: np.full((len(graphs), height, width), IGNORED, dtype=np.int64) for name in HEADS}
    labels["kind"][:] = 0
    for index, graph in enumerate(graphs):
        labels["background"][index] = BACKGROUNDS.index(graph.background)
        for item in graph.objects:
            _fill(labels, index, item, STYLES.index(graph.style))
    return {name: values.reshape(len(graphs), height * width) for name, values in labels.items()}


def _fill(labels: dict[str, np.ndarray], index: int, item: SceneObject, style: int) -> None:
    height, width = item.cells
    box = (index, slice(item.row, item.row + height), slice(item.column, item.column + width))
    labels["background"][box] = IGNORED
    labels["style"][box] = style
    labels["row"][box] = _roles(height)[:, None]
    labels["column"][box] = _roles(width)[None, :]
    if item.word is not None:
        labels["kind"][box] = len(KINDS) + 1
        upper = (index, item.row, slice(item.column, item.column + width))
        labels["letter"][upper] = [LETTERS.index(letter) for letter in item.word]
        return
    labels["kind"][box] = KINDS.index(item.kind) + 1
    labels["colour"][box] = COLOURS.index(item.colour or "")
    labels["size"][box] = int(item.size == "large")


def _roles(length: int) -> np.ndarray:
    roles = np.ones(length, dtype=np.int64)
    roles[0], roles[-1] = 0, 2
    return roles
