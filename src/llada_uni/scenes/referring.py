"""Naming one object of a scene so that nobody can mean another, and finding free room for a new one."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from llada_uni.scenes import words
from llada_uni.scenes.captions import thing_phrase
from llada_uni.scenes.geometry import Box, box_of, place_holds, place_name
from llada_uni.scenes.graph import SceneGraph, SceneObject

__all__ = ["centre_of", "free_boxes", "nearest_free", "plain_phrase", "referable", "reference", "stands_in", "steps"]

_SHORTEST_SHARE = 0.6
_ADJECTIVES: tuple[tuple[str, ...], ...] = ((), ("colour",), ("size",), ("size", "colour"))


def plain_phrase(item: SceneObject, *, size: bool = False) -> str:
    """An object with its article, colour and, on request, size: ``"a small red cat"``."""
    return words.with_article(thing_phrase(item, size=size and item.kind != "sign"))


def reference(graph: SceneGraph, item: SceneObject, rng: random.Random, *, without: str = "") -> str | None:
    """A description without article that fits ``item`` alone: ``"red cat"``, ``"cat on the left"``, or ``None``.

    Mostly the shortest one. ``without`` names an attribute that must not be used (``"colour"`` or ``"size"``). A place
    is named only for things that nothing else tells apart, and only when no other such thing is near it.
    """
    options = [text for text in _descriptions(item, without) if _num_fitting(graph, text, without) == 1]
    if options:
        return options[0] if rng.random() < _SHORTEST_SHARE else rng.choice(options)
    text = _descriptions(item, without)[-1] if item.kind == "sign" else _descriptions(item, without)[0]
    place = place_name(box_of(item), graph.grid_h, graph.grid_w)
    rivals = [other for other in graph.objects if text in _descriptions(other, without)]
    if sum(place_holds(box_of(other), graph.grid_h, graph.grid_w, place) for other in rivals) != 1:
        return None
    return f"{text} {words.PLACE_PHRASES[place][0]}"


def referable(graph: SceneGraph, rng: random.Random, *, without: str = "") -> list[tuple[SceneObject, str]]:
    """Objects in random order, each with its :func:`reference`; those without one are left out."""
    items = list(graph.objects)
    rng.shuffle(items)
    named = [(item, reference(graph, item, rng, without=without)) for item in items]
    return [(item, text) for item, text in named if text is not None]


def centre_of(box: Box) -> tuple[float, float]:
    """Centre of a box in cells, (row, column)."""
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def stands_in(box: Box, grid: tuple[int, int], place: str, *, clear: bool = False) -> bool:
    """Whether a box lies in the named one of the nine thirds on **both** axes.

    :func:`~llada_uni.scenes.geometry.place_holds` leaves the other axis of ``top``, ``bottom``, ``left`` and ``right``
    free, as captions do; here ``top`` means top and in the middle between left and right.
    """
    holds = place_holds(box, *grid, place, clear=clear)
    if place in ("left", "right"):
        return holds and place_holds((box[0], 0, box[2], grid[1]), *grid, "centre", clear=clear)
    if place in ("top", "bottom"):
        return holds and place_holds((0, box[1], grid[0], box[3]), *grid, "centre", clear=clear)
    return holds


def steps(a: Box, b: Box, place_a: str, place_b: str) -> float:
    """Cells by which ``b`` lies further on than ``a`` in the way from one of the nine thirds to another.

    The smaller of the two axes where both differ; infinite when the places are the same.
    """
    ways = [there - here for here, there in zip(_thirds(place_a), _thirds(place_b), strict=True)]
    moved = [after - before for before, after in zip(centre_of(a), centre_of(b), strict=True)]
    return min((far * (1 if way > 0 else -1) for way, far in zip(ways, moved, strict=True) if way), default=math.inf)


def _thirds(place: str) -> tuple[int, int]:
    """Row and column of a place among the nine thirds, -1, 0 or 1."""
    said = place.split()
    return ("bottom" in said) - ("top" in said), ("right" in said) - ("left" in said)


def free_boxes(objects: Sequence[SceneObject], cells: tuple[int, int], grid: tuple[int, int]) -> list[Box]:
    """Boxes of ``cells`` (height, width) inside the grid that keep a free cell from every box of ``objects``."""
    height, width = cells
    taken = [box_of(item) for item in objects]
    return [
        (row, column, height, width)
        for row in range(grid[0] - height + 1)
        for column in range(grid[1] - width + 1)
        if not any(_close((row, column, height, width), box) for box in taken)
    ]


def nearest_free(objects: Sequence[SceneObject], item: SceneObject, grid: tuple[int, int]) -> SceneObject | None:
    """``item`` at its own place when that is free among ``objects``, else at the nearest free one, else ``None``."""
    free = free_boxes(objects, item.cells, grid)
    if not free:
        return None
    row, column, *_ = min(free, key=lambda box: ((box[0] - item.row) ** 2 + (box[1] - item.column) ** 2, box))
    return SceneObject(kind=item.kind, colour=item.colour, size=item.size, row=row, column=column, word=item.word)


def _close(a: Box, b: Box) -> bool:
    apart_rows = a[0] + a[2] < b[0] or b[0] + b[2] < a[0]
    apart_columns = a[1] + a[3] < b[1] or b[1] + b[3] < a[1]
    return not (apart_rows or apart_columns)


def _descriptions(item: SceneObject, without: str) -> list[str]:
    if item.kind == "sign":
        return ["sign", thing_phrase(item)]
    return [
        thing_phrase(item, colour="colour" in names, size="size" in names)
        for names in _ADJECTIVES
        if without not in names
    ]


def _num_fitting(graph: SceneGraph, text: str, without: str) -> int:
    return sum(text in _descriptions(other, without) for other in graph.objects)
