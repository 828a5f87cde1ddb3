"""The pictures of the micro-world: rules, determinism, legibility, separable kinds and colours."""

from __future__ import annotations

import zlib
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from llada_uni.errors import ConfigError
from llada_uni.scenes.font import GLYPHS, glyph
from llada_uni.scenes.graph import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    MAX_OBJECTS,
    SIGN_WORDS,
    STYLES,
    SceneGraph,
    SceneObject,
)
from llada_uni.scenes.palette import BODY_RGB, background_array
from llada_uni.scenes.render import render, render_array, render_batch, validate
from llada_uni.scenes.sprites import icon_sprite

# CRC-32 of all pictures of the test below.
EXPECTED_CHECKSUM = 2126126720


def icon(kind: str = "cat", colour: str = "red", size: str = "small", row: int = 0, column: int = 0) -> SceneObject:
    return SceneObject(kind=kind, colour=colour, size=size, row=row, column=column)


def sign(word: str = "CAFE", row: int = 0, column: int = 0) -> SceneObject:
    return SceneObject(kind="sign", colour=None, size="small", row=row, column=column, word=word)


def scene(*objects: SceneObject, **fields: object) -> SceneGraph:
    return SceneGraph(objects=objects, **fields)


@pytest.mark.parametrize("grid", [(8, 8), (8, 12), (12, 8)])
@pytest.mark.parametrize("scale", [1, 2])
def test_size_and_mode(grid: tuple[int, int], scale: int) -> None:
    picture = render(scene(icon(), grid_h=grid[0], grid_w=grid[1]), scale=scale)
    assert picture.mode == "RGB"
    assert picture.size == (grid[1] * 16 * scale, grid[0] * 16 * scale)


def test_every_picture_of_the_world_is_unchanged() -> None:
    """Trained weights depend on these bytes: a change needs a new WORLD_VERSION."""
    check = 0
    for style in STYLES:
        for background in BACKGROUNDS:
            for kind, colour in zip(KINDS, COLOURS * 3, strict=False):
                graph = scene(icon(kind, colour, "large", 1, 2), sign("TAXI", 5, 3), style=style, background=background)
                check = zlib.crc32(render_array(graph).tobytes(), check)
    assert check == EXPECTED_CHECKSUM


def test_objects_only_paint_inside_their_box() -> None:
    for kind in KINDS:
        for style in STYLES:
            graph = scene(icon(kind, "blue", "large", 2, 3), style=style, background="sand")
            changed = (render_array(graph) != background_array("sand", 128, 128)).any(axis=-1)
            changed[2 * 16 : 5 * 16, 3 * 16 : 6 * 16] = False
            assert not changed.any(), kind


@pytest.mark.parametrize("cells", [2, 3])
def test_icons_fill_their_box(cells: int) -> None:
    for kind in KINDS:
        painted = icon_sprite(kind, "red", cells, "flat", False).clear[..., 0] < 128
        rows, columns = np.flatnonzero(painted.any(axis=1)), np.flatnonzero(painted.any(axis=0))
        side = 16 * cells
        assert rows[-1] - rows[0] >= 0.65 * side, kind
        assert columns[-1] - columns[0] >= 0.55 * side, kind
        assert painted.mean() > 0.2, kind


@pytest.mark.parametrize("style", STYLES)
def test_kinds_differ_in_their_silhouette_or_inside(style: str) -> None:
    """Two kinds of one colour differ clearly, also in the half-size picture the image tokenizer sees."""
    pictures = {}
    for kind in KINDS:
        picture = render(scene(icon(kind, "green", "small"), style=style)).resize((64, 64), Image.Resampling.BOX)
        pictures[kind] = np.asarray(picture, dtype=float)[:16, :16]
    for first, second in combinations(KINDS, 2):
        assert np.abs(pictures[first] - pictures[second]).mean() > 10, (first, second)


def test_body_colours_are_far_apart() -> None:
    for first, second in combinations(COLOURS, 2):
        distance = np.linalg.norm(np.subtract(BODY_RGB[first], BODY_RGB[second]))
        assert distance > 75, (first, second)


def test_body_colour_covers_the_largest_part_of_flat_icons() -> None:
    for kind in KINDS:
        sprite = icon_sprite(kind, "red", 3, "flat", False)
        painted = sprite.clear[..., 0] == 0
        red, green, blue = (sprite.colour[painted].astype(float) / 255).T
        assert ((red > 1.5 * green) & (red > 1.5 * blue)).mean() > 0.45, kind


def test_letters_are_distinct_and_survive_halving() -> None:
    picture = render(scene(sign("CAFE", 2, 1))).resize((64, 64), Image.Resampling.BOX)
    halved = np.asarray(picture.convert("L"), dtype=float)
    for index, letter in enumerate("CAFE"):
        area = halved[16 + 1 : 16 + 8, 8 * (1 + index) + 1 : 8 * (1 + index) + 6]
        ink = glyph(letter)
        assert area[ink].max() + 100 < area[~ink].min()
    for first, second in combinations(GLYPHS, 2):
        assert (glyph(first) != glyph(second)).sum() >= 2, (first, second)
    assert set("".join(SIGN_WORDS)) <= set(GLYPHS)


def test_batch_equals_single_pictures() -> None:
    graphs = [scene(icon(kind)) for kind in KINDS[:3]]
    batch = render_batch(graphs)
    assert batch.shape == (3, 128, 128, 3)
    assert all((batch[k] == render_array(graph)).all() for k, graph in enumerate(graphs))
    with pytest.raises(ConfigError, match="common grid"):
        render_batch([graphs[0], replace(graphs[1], grid_w=12)])


def test_rendering_does_not_change_the_cached_background() -> None:
    before = background_array("sky", 128, 128).copy()
    render_array(scene(icon(), background="sky"))
    assert (background_array("sky", 128, 128) == before).all()


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (scene(background="moon"), "unknown background 'moon'"),
        (scene(style="oil"), "unknown style 'oil'"),
        (scene(icon(kind="dog")), "unknown kind 'dog'"),
        (scene(icon(colour="cyan")), "unknown colour 'cyan'"),
        (scene(icon(size="huge")), "unknown size 'huge'"),
        (scene(sign("HOTEL")), "unknown sign word 'HOTEL'"),
        (scene(replace(sign(), colour="red")), "sign has no colour"),
        (scene(replace(sign(), size="large")), "sign has no colour"),
        (scene(replace(icon(), word="HI")), "only a sign carries a word"),
        (scene(icon(row=-1)), "leaves the 8x8 grid"),
        (scene(icon(column=7)), "leaves the 8x8 grid"),
        (scene(sign("CAFE", 0, 5)), "leaves the 8x8 grid"),
        (scene(icon(), icon(row=1)), "free cell"),
        (scene(icon(), icon(row=2)), "free cell"),
        (scene(icon(), icon(row=2, column=2)), "free cell"),
        (scene(*[icon(row=3 * (k % 3), column=3 * (k // 3)) for k in range(MAX_OBJECTS + 1)]), "at most"),
        (scene(grid_h=1), "at least 2x2"),
    ],
)
def test_broken_rules_are_named(graph: SceneGraph, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(graph)
    with pytest.raises(ConfigError, match=message):
        render(graph)


@pytest.mark.parametrize(
    "graph",
    [
        scene(),
        scene(icon(), icon(row=3)),
        scene(icon(), icon(row=2, column=3)),
        scene(icon(row=6, column=6), icon(size="large", row=5, column=2)),
        scene(sign("CAFE", 6, 8), grid_w=12),
    ],
)
def test_legal_scenes_pass(graph: SceneGraph) -> None:
    validate(graph)
