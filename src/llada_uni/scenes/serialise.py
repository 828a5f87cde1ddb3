"""Scene graphs as small JSON values: ``{"objects": [[kind, colour, size, row, column(, word)]], ...}``.

The grid is written only when it is not 8x8.
"""

from __future__ import annotations

from typing import Any

from llada_uni.errors import ConfigError
from llada_uni.scenes.graph import SceneGraph, SceneObject

__all__ = ["from_json", "to_json"]

_USUAL_GRID = (8, 8)


def _object_row(item: SceneObject) -> list[Any]:
    row: list[Any] = [item.kind, item.colour, item.size, item.row, item.column]
    return row if item.word is None else [*row, item.word]


def to_json(graph: SceneGraph) -> dict[str, Any]:
    """A JSON-ready dictionary that :func:`from_json` turns back into an equal graph."""
    value: dict[str, Any] = {
        "objects": [_object_row(item) for item in graph.objects],
        "background": graph.background,
        "style": graph.style,
    }
    grid = (graph.grid_h, graph.grid_w)
    return value if grid == _USUAL_GRID else value | {"grid": list(grid)}


def from_json(value: dict[str, Any]) -> SceneGraph:
    """The graph written by :func:`to_json`; raises ``ConfigError`` when a field is missing or misshapen."""
    names = ("kind", "colour", "size", "row", "column", "word")
    try:
        grid_h, grid_w = value.get("grid", _USUAL_GRID)
        objects = tuple(SceneObject(**dict(zip(names, row, strict=False))) for row in value["objects"])
        return SceneGraph(
            objects=objects, background=value["background"], style=value["style"], grid_h=grid_h, grid_w=grid_w
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"expected a scene graph with objects, background, style and grid: {error!r}") from error
