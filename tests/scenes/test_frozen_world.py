"""The world is frozen: pictures, words, held-out combinations and the meaning of places and relations.

Trained weights and published scores depend on all of them; a change needs a new ``WORLD_VERSION`` and a new sheet.
``python tests/scenes/test_frozen_world.py`` writes the contact sheet and prints the checksums.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from llada_uni.scenes import geometry, words
from llada_uni.scenes.graph import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    MAX_OBJECTS,
    SIGN_WORDS,
    STYLES,
    WORLD_VERSION,
    SceneGraph,
    SceneObject,
)
from llada_uni.scenes.render import render_array
from llada_uni.scenes.split import HELD_OUT_COUNTS, HELD_OUT_PAIRS

SHEET = Path(__file__).with_name("world_v1.png")
SHEET_WIDTH_PX = 640
MAX_SHEET_BYTES = 150_000
TOLERANCE = 2
WORD_LISTS = (
    "BACKGROUND_PHRASES", "COUNT_WORDS", "EDIT_TEMPLATES", "EDIT_VERBS", "LEADS", "PLACE_PHRASES", "PLURALS",
    "RELATION_PHRASES", "RIDDLES", "SCENE_LEADS", "SIGN_PHRASES", "SIZE_WORDS", "STORY_TEMPLATES", "STYLE_LEADS",
    "STYLE_PHRASES",
)  # fmt: skip
WORDS_SHA256 = "8beca937b5b10285257a9d876fd9b73bfc7f16c7e9f2b68be6833e2fad5a41ad"
SPLIT_SHA256 = "64c723850aea8aaca5954caff9690e637d394a7687c61e5ac03a88d7073489e1"
MEANING_SHA256 = "88cc9df58d6dbd27a522d7de6eb0897902f6762559cb7fddb67b3e62a678a01e"

Pixels = NDArray[np.uint8]


# --- pictures ---------------------------------------------------------------------------------------------------


def tiles() -> Iterator[tuple[str, Pixels]]:
    """Pictures that together show every drawing rule, each with a name."""
    for grid in ((8, 8), (8, 12), (12, 8)):
        for background in BACKGROUNDS:
            empty = SceneGraph(background=background, grid_h=grid[0], grid_w=grid[1])
            yield f"{background} {grid}", pooled(render_array(empty), 4)
    for style in STYLES:
        for size in ("small", "large"):
            yield from icons(style, size)
        yield from signs(style)
    yield from icons("flat", "small", only="night")
    for style in STYLES:
        yield from every_pair(style)


def icons(style: str, size: str, only: str | None = None) -> Iterator[tuple[str, Pixels]]:
    """Every kind once, four to a tile, the colours and backgrounds in turn; the large ones at half resolution."""
    colours = islice(cycle(COLOURS), 3 * len(size), None)
    backgrounds = cycle([only] if only else BACKGROUNDS)
    step = 3 if size == "small" else 4
    for start in range(0, len(KINDS), MAX_OBJECTS):
        objects = tuple(
            SceneObject(kind=kind, colour=next(colours), size=size, row=step * (index // 2), column=step * (index % 2))
            for index, kind in enumerate(KINDS[start : start + MAX_OBJECTS])
        )
        name, pixels = tile(objects, next(backgrounds), style, 2 * step - 1, 2 * step - 1)
        yield name, pixels if size == "small" else pooled(pixels, 2)


def signs(style: str) -> Iterator[tuple[str, Pixels]]:
    """Every word once, four to a tile."""
    backgrounds = cycle(BACKGROUNDS)
    for start in range(0, len(SIGN_WORDS), MAX_OBJECTS):
        objects = tuple(
            SceneObject(kind="sign", colour=None, size="small", word=word, row=3 * index, column=0)
            for index, word in enumerate(SIGN_WORDS[start : start + MAX_OBJECTS])
        )
        yield tile(objects, next(backgrounds), style, 3 * len(objects) - 1, max(len(o.word or "") for o in objects))


def every_pair(style: str) -> Iterator[tuple[str, Pixels]]:
    """Every kind in every colour, each 8x8 pixels pooled to one, four kinds of one colour to a tile."""
    for start in range(0, len(KINDS), MAX_OBJECTS):
        for colour in COLOURS:
            objects = tuple(
                SceneObject(kind=kind, colour=colour, size="small", row=3 * (index // 2), column=3 * (index % 2))
                for index, kind in enumerate(KINDS[start : start + MAX_OBJECTS])
            )
            name, pixels = tile(objects, "white", style, 5, 5)
            yield f"{colour} {name}", pooled(pixels, 8)


def tile(objects: tuple[SceneObject, ...], background: str, style: str, rows: int, columns: int) -> tuple[str, Pixels]:
    """One small scene and its name."""
    graph = SceneGraph(objects=objects, background=background, style=style, grid_h=rows, grid_w=columns)
    shown = " ".join(item.word or item.kind for item in objects)
    return f"{style} {objects[0].size} {shown} on {background}", render_array(graph)


def pooled(pixels: Pixels, side: int) -> Pixels:
    """Means of ``side`` x ``side`` pixels."""
    height, width, _ = pixels.shape
    means = pixels.reshape(height // side, side, width // side, side, 3).mean(axis=(1, 3))
    return np.rint(means).astype(np.uint8)


@cache
def placed() -> tuple[tuple[str, Pixels, int, int], ...]:
    """The tiles with their top and left pixel on the sheet: rows of tiles, the tallest first."""
    found, top, left, height = [], 0, 0, 0
    for name, pixels in sorted(tiles(), key=lambda item: -item[1].shape[0]):
        if left + pixels.shape[1] > SHEET_WIDTH_PX:
            top, left, height = top + height, 0, 0
        found.append((name, pixels, top, left))
        left, height = left + pixels.shape[1], max(height, pixels.shape[0])
    return tuple(found)


def contact_sheet() -> Image.Image:
    """All tiles on one picture."""
    height = max(top + pixels.shape[0] for _, pixels, top, _ in placed())
    sheet = np.full((height, SHEET_WIDTH_PX, 3), 255, dtype=np.uint8)
    for _, pixels, top, left in placed():
        sheet[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return Image.fromarray(sheet)


# --- words, split, meaning --------------------------------------------------------------------------------------


def word_lists() -> dict[str, Any]:
    """Every list of words, the order included: training data is drawn from them by position."""
    lists = {name: getattr(words, name) for name in WORD_LISTS}
    world = {"colours": COLOURS, "kinds": KINDS, "backgrounds": BACKGROUNDS, "styles": STYLES, "signs": SIGN_WORDS}
    return {**lists, **world, "max_objects": MAX_OBJECTS, "version": WORLD_VERSION}


def held_out_split() -> dict[str, Any]:
    """The combinations kept from training."""
    return {"pairs": sorted(HELD_OUT_PAIRS), "counts": sorted(HELD_OUT_COUNTS)}


def meaning() -> dict[str, Any]:
    """For boxes all over an 8x8 grid: their places, and their relations to one box in the middle, lenient and clear."""
    boxes = [(row, column, side, side) for side in (2, 3) for row in range(9 - side) for column in range(9 - side)]
    anchor = (3, 3, 2, 2)
    return {
        "places": [
            [geometry.place_holds(box, 8, 8, place, clear=clear) for place in words.PLACE_PHRASES]
            for box in boxes
            for clear in (False, True)
        ],
        "relations": [
            [geometry.relation_holds(box, anchor, relation, clear=clear) for relation in words.RELATION_PHRASES]
            for box in boxes
            for clear in (False, True)
        ],
    }


def sha256(value: Any) -> str:
    """Checksum of ``value`` as JSON without spaces, keys in the order of the source."""
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


# --- tests ------------------------------------------------------------------------------------------------------


def test_the_sheet_is_small_and_shows_everything() -> None:
    assert SHEET.stat().st_size < MAX_SHEET_BYTES
    names = " ".join(name for name, *_ in placed())
    assert all(name in names for name in (*KINDS, *COLOURS, *BACKGROUNDS, *STYLES, *SIGN_WORDS))


def test_the_pictures_are_frozen() -> None:
    stored = np.asarray(Image.open(SHEET).convert("RGB")).astype(int)
    assert stored.shape == np.asarray(contact_sheet()).shape
    changed = []
    for name, pixels, top, left in placed():
        window = stored[top : top + pixels.shape[0], left : left + pixels.shape[1]]
        difference = int(np.abs(window - pixels).max())
        if difference > TOLERANCE:
            changed.append(f"{name}: {difference} grey levels")
    assert not changed, f"{len(changed)} pictures of {WORLD_VERSION} changed: {'; '.join(changed[:5])}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(word_lists, WORDS_SHA256), (held_out_split, SPLIT_SHA256), (meaning, MEANING_SHA256)],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_words_split_and_meaning_are_frozen(value: Any, expected: str) -> None:
    assert sha256(value()) == expected, f"{value.__name__} changed: that is another world than {WORLD_VERSION}"


def main() -> None:
    """Write the sheet, print the checksums."""
    contact_sheet().save(SHEET, optimize=True)
    sys.stdout.write(f"{SHEET.name} {SHEET.stat().st_size} bytes\n")
    for value in (word_lists, held_out_split, meaning):
        sys.stdout.write(f"{value.__name__} {sha256(value())}\n")


if __name__ == "__main__":
    main()
