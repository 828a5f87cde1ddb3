"""Windows of scenes: a small picture of its own, with its own codes, that cuts no object.

A window costs a third of a picture and half of it is object instead of background, so that what things look like is
learnt from windows first and where they stand from whole pictures afterwards.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from llada_uni.scenes.graph import SceneGraph, SceneObject

__all__ = ["window"]

_TRIES = 16


def window(
    graph: SceneGraph, codes: np.ndarray, source: random.Random, sides: tuple[int, int] = (3, 6)
) -> tuple[SceneGraph, np.ndarray]:
    """A part of a scene and of its codes [h, w], both sides from ``sides``, around a random object.

    Every object is wholly inside or wholly outside. Where no such window is found the scene itself comes back.
    """
    for _ in range(_TRIES if graph.objects else 0):
        height, width = (source.randint(*sides) for _ in range(2))
        item = source.choice(graph.objects)
        top = _start(source, item.row, item.cells[0], height, graph.grid_h)
        left = _start(source, item.column, item.cells[1], width, graph.grid_w)
        if top is None or left is None:
            continue
        inside = [_covered(one, top, left, height, width) for one in graph.objects]
        whole = [one for one, share in zip(graph.objects, inside, strict=True) if share == 1]
        if all(share in (0, 1) for share in inside):
            moved = tuple(replace(one, row=one.row - top, column=one.column - left) for one in whole)
            part = replace(graph, objects=moved, grid_h=height, grid_w=width)
            return part, codes[top : top + height, left : left + width]
    return graph, codes


def _start(source: random.Random, first: int, length: int, side: int, limit: int) -> int | None:
    """First cell of a stretch of ``side`` cells that covers ``length`` cells from ``first`` on, if there is one."""
    low, high = max(first + length - side, 0), min(first, limit - side)
    return source.randint(low, high) if low <= high and side >= length else None


def _covered(item: SceneObject, top: int, left: int, height: int, width: int) -> float:
    """Share of an object's cells inside the window."""
    rows = min(item.row + item.cells[0], top + height) - max(item.row, top)
    columns = min(item.column + item.cells[1], left + width) - max(item.column, left)
    return max(rows, 0) * max(columns, 0) / (item.cells[0] * item.cells[1])
