"""What an edit must leave behind, and whether a scene read from a picture is exactly that.

A change lists the objects that must still be there **unchanged** (kind, colour, size, word and cell), and what must be
there besides: each wanted object with the attributes the instruction fixes and one rule about its place. Nothing else
may be in the picture; background and style must be the expected ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

from llada_uni.scenes.geometry import Box, box_of, place_holds, relation_holds
from llada_uni.scenes.graph import SceneGraph, SceneObject
from llada_uni.scenes.referring import centre_of

__all__ = ["ANYWHERE", "Change", "Wanted", "Where", "change_from_json", "change_to_json", "is_made", "untouched_share"]

_NEAR_CELLS = 1.0
_STEP_CELLS = 1.0
_AXES = {"left": (1, -1), "right": (1, 1), "up": (0, -1), "down": (0, 1)}

Rule = Literal["anywhere", "at", "near", "place", "relation", "towards"]


@dataclass(frozen=True, kw_only=True)
class Where:
    """A rule about a box.

    ``anywhere``; ``at``: its top-left cell is ``point``; ``near``: its centre is within a cell of ``point`` on both
    axes; ``place``: it lies in the place ``name``; ``relation``: it stands in relation ``name`` to box ``other``;
    ``towards``: seen from ``point`` its centre went ``name`` (left, right, up, down) by at least a cell and moved by
    less than a cell across. Points are (row, column) in cells.
    """

    rule: Rule = "anywhere"
    name: str = ""
    point: tuple[float, float] = (0.0, 0.0)
    other: Box = (0, 0, 0, 0)

    def holds(self, box: Box, grid: tuple[int, int]) -> bool:
        """Whether ``box`` keeps the rule, by the lenient tests of :mod:`llada_uni.scenes.geometry`."""
        row, column = centre_of(box)
        down, right = row - self.point[0], column - self.point[1]
        if self.rule == "at":
            return (float(box[0]), float(box[1])) == self.point
        if self.rule == "near":
            return max(abs(down), abs(right)) <= _NEAR_CELLS
        if self.rule == "place":
            return place_holds(box, *grid, self.name)
        if self.rule == "relation":
            return relation_holds(box, self.other, self.name)
        if self.rule == "towards":
            axis, sign = _AXES[self.name]
            along, across = ((down, right), (right, down))[axis]
            return along * sign >= _STEP_CELLS and abs(across) < _STEP_CELLS
        return True


ANYWHERE = Where()


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An object an edit must put into the picture; ``size`` None is free."""

    kind: str
    colour: str | None
    size: str | None = None
    word: str | None = None
    where: Where = ANYWHERE

    def fits(self, item: SceneObject, grid: tuple[int, int]) -> bool:
        """Whether ``item`` is such an object at such a place."""
        same = (item.kind, item.colour, item.word) == (self.kind, self.colour, self.word)
        return same and self.size in (None, item.size) and self.where.holds(box_of(item), grid)


@dataclass(frozen=True, kw_only=True)
class Change:
    """The whole picture after an edit; ``grid`` is (grid_h, grid_w)."""

    kept: tuple[SceneObject, ...]
    wanted: tuple[Wanted, ...] = ()
    background: str = "white"
    style: str = "flat"
    grid: tuple[int, int] = (8, 8)


def is_made(change: Change, graph: SceneGraph | None) -> bool:
    """Whether ``graph`` is the picture after the edit; ``None`` (the verifier abstained) is not."""
    if graph is None or untouched_share(change, graph) < 1.0:
        return False
    if (graph.grid_h, graph.grid_w, graph.background, graph.style) != (*change.grid, change.background, change.style):
        return False
    rest = [item for item in graph.objects if item not in change.kept]
    if len(rest) != len(change.wanted):
        return False
    return any(_all_fit(order, change) for order in permutations(rest))


def untouched_share(change: Change, graph: SceneGraph | None) -> float:
    """Share of the objects an edit must leave alone that are in ``graph`` exactly as before (1 when there are none)."""
    if graph is None:
        return 0.0
    found = sum(item in graph.objects for item in change.kept)
    return found / len(change.kept) if change.kept else 1.0


def _all_fit(order: Sequence[SceneObject], change: Change) -> bool:
    return all(wanted.fits(item, change.grid) for wanted, item in zip(change.wanted, order, strict=True))


def change_to_json(change: Change, sources: Sequence[SceneGraph]) -> dict[str, Any]:
    """A compact value that :func:`change_from_json` turns back; kept objects are [source, index] pairs."""
    kept = [_address(item, sources) for item in change.kept]
    return {
        "kept": kept,
        "wanted": [_wanted_row(wanted) for wanted in change.wanted],
        "background": change.background,
        "style": change.style,
    }


def change_from_json(value: dict[str, Any], sources: Sequence[SceneGraph]) -> Change:
    """The change written by :func:`change_to_json` about the same sources."""
    return Change(
        kept=tuple(sources[source].objects[index] for source, index in value["kept"]),
        wanted=tuple(_wanted_of(row) for row in value["wanted"]),
        background=value["background"],
        style=value["style"],
        grid=(sources[0].grid_h, sources[0].grid_w),
    )


def _address(item: SceneObject, sources: Sequence[SceneGraph]) -> list[int]:
    return next([number, graph.objects.index(item)] for number, graph in enumerate(sources) if item in graph.objects)


def _wanted_row(wanted: Wanted) -> list[Any]:
    where = wanted.where
    detail: dict[Rule, Any] = {
        "at": list(where.point),
        "near": list(where.point),
        "place": where.name,
        "relation": [where.name, list(where.other)],
        "towards": [where.name, list(where.point)],
    }
    row = [wanted.kind, wanted.colour, wanted.size, wanted.word]
    return row if where.rule == "anywhere" else [*row, where.rule, detail[where.rule]]


def _wanted_of(row: Sequence[Any]) -> Wanted:
    kind, colour, size, word, *rest = row
    return Wanted(kind=kind, colour=colour, size=size, word=word, where=_where_of(*rest) if rest else ANYWHERE)


def _where_of(rule: Rule, detail: Any) -> Where:
    if rule in ("at", "near"):
        return Where(rule=rule, point=(float(detail[0]), float(detail[1])))
    if rule == "place":
        return Where(rule=rule, name=detail)
    if rule == "relation":
        return Where(rule=rule, name=detail[0], other=_box(detail[1]))
    return Where(rule=rule, name=detail[0], point=(float(detail[1][0]), float(detail[1][1])))


def _box(values: Sequence[int]) -> Box:
    row, column, height, width = values
    return row, column, height, width
