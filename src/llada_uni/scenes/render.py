"""Scene graph -> picture: validation, compositing of cached sprites over static backgrounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llada_uni.errors import ConfigError
from llada_uni.scenes.graph import (
    BACKGROUNDS,
    CELL_PX,
    COLOURS,
    KINDS,
    MAX_OBJECTS,
    SIGN_WORDS,
    STYLES,
    SceneGraph,
    SceneObject,
)
from llada_uni.scenes.palette import background_array
from llada_uni.scenes.sprites import Sprite, icon_sprite, paste, sign_sprite

__all__ = ["render", "render_array", "render_batch", "validate"]


def render(graph: SceneGraph, *, scale: int = 1) -> Image.Image:
    """Picture of a scene, RGB, ``grid_w * 16 * scale`` x ``grid_h * 16 * scale`` pixels.

    Deterministic: the same graph gives the same bytes. Raises ``ConfigError`` for a graph that breaks the rules
    of the world (see :func:`validate`).
    """
    return Image.fromarray(render_array(graph, scale=scale))


def render_array(graph: SceneGraph, *, scale: int = 1) -> NDArray[np.uint8]:
    """As :func:`render`, as an array uint8 [grid_h * 16 * scale, grid_w * 16 * scale, 3]."""
    validate(graph)
    unit = CELL_PX * scale
    canvas = background_array(graph.background, graph.grid_h * unit, graph.grid_w * unit).copy()
    for item in graph.objects:
        paste(canvas, _sprite_of(item, graph, scale), item.row * unit, item.column * unit)
    return canvas


def render_batch(graphs: Sequence[SceneGraph]) -> NDArray[np.uint8]:
    """Pictures of scenes on one common grid, uint8 [N, H, W, 3]. Raises ``ConfigError`` when the grids differ."""
    grids = {(graph.grid_h, graph.grid_w) for graph in graphs}
    if len(grids) != 1:
        raise ConfigError(f"a batch needs scenes on one common grid, got {sorted(grids)}; group the scenes by grid")
    return np.stack([render_array(graph) for graph in graphs])


def _sprite_of(item: SceneObject, graph: SceneGraph, scale: int) -> Sprite:
    light = graph.background == "night"
    if item.kind == "sign":
        return sign_sprite(item.word or "", graph.style, scale)
    return icon_sprite(item.kind, item.colour or "", item.cells[0], graph.style, light, scale)


def validate(graph: SceneGraph) -> None:
    """Checks the rules of the world and raises ``ConfigError`` with one line on the first one broken.

    Rules: known background, style, kinds, colours and words; at most ``MAX_OBJECTS`` objects; every box inside the
    lattice; no two boxes overlap or come closer than one free cell in both axes.
    """
    _known("background", graph.background, BACKGROUNDS)
    _known("style", graph.style, STYLES)
    if graph.grid_h < 2 or graph.grid_w < 2:
        raise ConfigError(f"a scene needs a grid of at least 2x2 cells, got {graph.grid_h}x{graph.grid_w}")
    if len(graph.objects) > MAX_OBJECTS:
        raise ConfigError(f"a scene holds at most {MAX_OBJECTS} objects, got {len(graph.objects)}; remove some")
    for item in graph.objects:
        _validate_fields(item)
        _validate_place(item, graph)
    for index, first in enumerate(graph.objects):
        for second in graph.objects[index + 1 :]:
            if _too_close(first, second):
                raise ConfigError(
                    f"{_name(first)} and {_name(second)} need a free cell between their boxes; move one of them"
                )


def _known(what: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"unknown {what} {value!r}; expected one of {', '.join(allowed)}")


def _validate_fields(item: SceneObject) -> None:
    if item.kind == "sign":
        _known("sign word", item.word, SIGN_WORDS)
        if item.colour is not None or item.size != "small":
            raise ConfigError(f"a sign has no colour and size 'small', got {item.colour!r} and {item.size!r}")
        return
    _known("kind", item.kind, (*KINDS, "sign"))
    _known("colour", item.colour, COLOURS)
    _known("size", item.size, ("small", "large"))
    if item.word is not None:
        raise ConfigError(f"only a sign carries a word, got word {item.word!r} on a {item.kind}")


def _validate_place(item: SceneObject, graph: SceneGraph) -> None:
    height, width = item.cells
    inside_rows = 0 <= item.row <= graph.grid_h - height
    inside_columns = 0 <= item.column <= graph.grid_w - width
    if not (inside_rows and inside_columns):
        raise ConfigError(
            f"{_name(item)} covers {height}x{width} cells and leaves the {graph.grid_h}x{graph.grid_w} grid; "
            "move it inside"
        )


def _too_close(first: SceneObject, second: SceneObject) -> bool:
    height_a, width_a = first.cells
    height_b, width_b = second.cells
    apart_rows = first.row + height_a < second.row or second.row + height_b < first.row
    apart_columns = first.column + width_a < second.column or second.column + width_b < first.column
    return not (apart_rows or apart_columns)


def _name(item: SceneObject) -> str:
    text = f"sign {item.word!r}" if item.kind == "sign" else f"{item.colour} {item.kind}"
    return f"{text} at row {item.row}, column {item.column}"
