"""Where things are in words: relations between boxes and named places on the grid.

A box is ``(row, column, height, width)`` in cells. Each test has two strengths. *Clear* is what captions and
questions may state; *lenient* is what counts when a sentence is checked against a picture.
"""

from __future__ import annotations

from llada_uni.scenes.graph import SceneObject

__all__ = ["DIRECTIONS", "Box", "box_of", "opposite", "place_holds", "place_name", "relation_holds"]

Box = tuple[int, int, int, int]
DIRECTIONS: tuple[str, ...] = ("left of", "right of", "above", "below")
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_SIDE_SHARE = 0.1
_LENIENT_SHARE, _CLEAR_SHARE = 0.5, 0.6
_NEAR_LENIENT, _NEAR_CLEAR = 3, 2
_PLACE_SLACK = 0.5


def box_of(item: SceneObject) -> Box:
    """Box of an object in cells, (row, column, height, width)."""
    return item.row, item.column, *item.cells


def opposite(relation: str) -> str:
    """The relation that the other object has (``next to`` is its own)."""
    return _OPPOSITE.get(relation, relation)


def _shrunk(offset: float, sides: int) -> float:
    rest = max(abs(offset) - _SIDE_SHARE * sides, 0.0)
    return rest if offset > 0 else -rest


def relation_holds(a: Box, b: Box, relation: str, *, clear: bool = False) -> bool:
    """Whether box ``a`` is ``relation`` box ``b``.

    The centres' offset, shortened on each axis by a tenth of the two sides, must make up more than half of the
    distance on the relation's axis, as in GenEval. Clear: more than 0.6 of it, and the boxes do not overlap on
    that axis. ``next to``: left or right of, with at most 3 free columns in between (clear: 2).

    Source: GenEval (arXiv 2310.11513), position task.
    """
    if relation == "next to":
        gap = max(a[1], b[1]) - (b[1] + b[3] if a[1] > b[1] else a[1] + a[3])
        beside = any(relation_holds(a, b, side, clear=clear) for side in ("left of", "right of"))
        return beside and gap <= (_NEAR_CLEAR if clear else _NEAR_LENIENT)
    if relation in ("right of", "below"):
        return relation_holds(b, a, _OPPOSITE[relation], clear=clear)
    down = (b[0] + b[2] / 2) - (a[0] + a[2] / 2)
    right = (b[1] + b[3] / 2) - (a[1] + a[3] / 2)
    distance = (down * down + right * right) ** 0.5
    if distance == 0:
        return False
    across = relation == "left of"
    share = (_shrunk(right, a[3] + b[3]) if across else _shrunk(down, a[2] + b[2])) / distance
    if not clear:
        return share > _LENIENT_SHARE
    apart = a[1] + a[3] <= b[1] if across else a[0] + a[2] <= b[0]
    return share > _CLEAR_SHARE and apart


def _band(centre: float, length: int, name: str, slack: float) -> bool:
    low, high = length / 3, 2 * length / 3
    if name in ("top", "left"):
        return centre < low + slack
    if name in ("bottom", "right"):
        return centre > high - slack
    return low - slack <= centre <= high + slack


def place_holds(box: Box, grid_h: int, grid_w: int, place: str, *, clear: bool = False) -> bool:
    """Whether the centre of ``box`` lies in the named place.

    Rows and columns are cut into thirds. A corner and ``centre`` bind both axes, ``top``, ``bottom``, ``left`` and
    ``right`` only their own. Lenient tests allow half a cell beyond the third.
    """
    slack = 0.0 if clear else _PLACE_SLACK
    row, column = box[0] + box[2] / 2, box[1] + box[3] / 2
    if place == "centre":
        return _band(row, grid_h, "middle", slack) and _band(column, grid_w, "middle", slack)
    rows = [word for word in place.split() if word in ("top", "bottom")]
    columns = [word for word in place.split() if word in ("left", "right")]
    return all(_band(row, grid_h, word, slack) for word in rows) and all(
        _band(column, grid_w, word, slack) for word in columns
    )


def place_name(box: Box, grid_h: int, grid_w: int) -> str:
    """The one of the nine named places that holds the centre of ``box``."""
    row, column = box[0] + box[2] / 2, box[1] + box[3] / 2
    rows = [word for word in ("top", "bottom") if _band(row, grid_h, word, 0.0)]
    columns = [word for word in ("left", "right") if _band(column, grid_w, word, 0.0)]
    return " ".join((*rows, *columns)) or "centre"
