"""Masks, boxes and cell lists become pixels and cells by documented rules; the soft edge stays inside."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llada_uni.errors import ConfigError, ImageError
from llada_uni.grid import Geometry, TokenGrid
from llada_uni.image_tokenizer.images import load_mask
from llada_uni.pipeline.blending import blend, extended, feather
from llada_uni.pipeline.region_cells import ANCHORS, MIN_COVER, placed, read_region, share_of, whole

GEOMETRY = Geometry(patch_size=8, vae_factor=4)  # 16 output pixels per cell
GRID, SIZE = TokenGrid(8, 8), (128, 128)


def region(size: tuple[int, int] = SIZE, grid: TokenGrid = GRID, **where: Any) -> Any:
    return read_region(GEOMETRY, grid, size, **where)


def grey_mask(box: tuple[int, int, int, int], size: tuple[int, int] = (128, 128)) -> Image.Image:
    image = Image.new("L", size, 0)
    image.paste(255, box)
    return image


def test_a_box_is_its_pixels_and_the_cells_it_covers() -> None:
    found = region(box=(32, 16, 64, 48))
    assert found.pixels.sum() == 32 * 32
    assert found.pixels[16:48, 32:64].all()
    assert found.positions == (10, 11, 18, 19)


def test_a_cell_counts_when_more_than_a_tenth_of_it_is_covered() -> None:
    assert MIN_COVER == 0.1
    less, more = region(box=(0, 0, 17, 16)), region(box=(0, 0, 18, 16))  # 1/16 and 2/16 of the second cell
    assert less.positions == (0,)
    assert more.positions == (0, 1)
    assert less.pixels.sum() == 16 * 16, "pixels of a cell that is not touched may not change"
    assert more.pixels.sum() == 18 * 16


@pytest.mark.parametrize("kind", ["L", "1", "RGB", "transparent", "palette", "LA"])
def test_white_or_transparent_is_the_region(kind: str) -> None:
    marks = grey_mask((16, 0, 48, 32))
    if kind in ("transparent", "LA"):
        holes = marks.point(lambda value: 255 - value)
        image = Image.new("RGB", marks.size, (255, 255, 255))
        image.putalpha(holes)
        marks = image.convert("LA") if kind == "LA" else image
    elif kind == "palette":
        marks = marks.convert("P")
    else:
        marks = marks.convert(kind)
    found = region(mask=marks)
    assert found.positions == (1, 2, 9, 10)
    assert found.pixels.sum() == 32 * 32


def test_masks_come_from_anywhere(tmp_path: Path) -> None:
    marks = grey_mask((0, 0, 16, 16))
    marks.save(tmp_path / "mask.png")
    data = (tmp_path / "mask.png").read_bytes()
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    for source in (marks, tmp_path / "mask.png", str(tmp_path / "mask.png"), data, uri):
        assert region(mask=source).positions == (0,)


def test_a_mask_is_not_laid_on_white_and_not_changed() -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert load_mask(image).getextrema() == (255, 255)
    assert image.mode == "RGBA"
    buffer = io.BytesIO()
    Image.new("I;16", (4, 4), 65535).save(buffer, "PNG")
    assert load_mask(buffer.getvalue()).getextrema() == (255, 255)


def test_a_mask_follows_its_picture_through_scaling_and_cropping() -> None:
    wide = region(size=(200, 400), mask=grey_mask((100, 0, 200, 100), (400, 200)))
    assert wide.positions == tuple(row * 8 + column for row in range(4) for column in range(4))
    small_mask = region(size=(1280, 1280), mask=grey_mask((8, 8, 16, 16), (64, 64)))
    assert small_mask.positions == (9,)


def test_cells_and_their_complement() -> None:
    some = [(0, 0), (7, 7), (0, 0)]
    assert region(cells=some).positions == (0, 63)
    assert region(keep_cells=some).positions == tuple(range(1, 63))
    assert region(cells=some).pixels.sum() == 2 * 256
    assert not (region(cells=some).cells & region(keep_cells=some).cells).any()
    assert region(cells={(1, 1)}).positions == (9,)


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ({}, ConfigError, "exactly one of mask, box, cells and keep_cells, got none"),
        ({"box": (0, 0, 9, 9), "cells": [(0, 0)]}, ConfigError, "got box and cells"),
        ({"mask": Image.new("L", (9, 9)), "box": (0, 0, 9, 9)}, ConfigError, "got mask and box"),
        ({"cells": [(0, 0)], "keep_cells": [(0, 1)]}, ConfigError, "got cells and keep_cells"),
        ({"box": (0, 0, 129, 16)}, ConfigError, r"inside the picture of 128x128 .* got 0,0,129,16"),
        ({"box": (-1, 0, 16, 16)}, ConfigError, "inside the picture"),
        ({"box": (16, 16, 16, 32)}, ConfigError, "left < right"),
        ({"box": (1, 2, 3)}, ConfigError, "four whole numbers"),
        ({"box": (0.5, 0, 16, 16)}, ConfigError, "four whole numbers"),
        ({"box": "0,0,16,16"}, ConfigError, "four whole numbers"),
        ({"box": (0, 0, 2, 2)}, ConfigError, r"covers at most 2% of any 16x16 cell .* more than 10%"),
        ({"mask": Image.new("L", (128, 128), 0)}, ImageError, "the mask marks nothing"),
        ({"mask": Image.new("RGBA", (128, 128), (255, 255, 255, 255))}, ImageError, "marks nothing; .* transparent"),
        ({"mask": grey_mask((0, 0, 3, 3))}, ImageError, "the mask marks at most 4%"),
        ({"mask": Image.new("L", (128, 64), 255)}, ImageError, r"shape 128x128 .* got 128x64"),
        ({"mask": "no-such-mask.png"}, ImageError, "no-such-mask"),
        ({"mask": b"not a picture"}, ImageError, "not a picture"),
        ({"mask": 7}, ImageError, "got builtins.int"),
        ({"cells": []}, ConfigError, "cells: expected a list"),
        ({"cells": (1, 2)}, ConfigError, "cells: expected .* pairs"),
        ({"cells": [(8, 0)]}, ConfigError, r"from \(0, 0\) to \(7, 7\), got \(8, 0\)"),
        ({"cells": [(0, -1)]}, ConfigError, r"got \(0, -1\)"),
        ({"keep_cells": [(0, True)]}, ConfigError, "keep_cells: expected"),
        ({"keep_cells": [(r, c) for r in range(8) for c in range(8)]}, ConfigError, "names all 64 cells"),
    ],
)  # fmt: skip
def test_wrong_regions(where: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        region(**where)
    assert "\n" not in str(caught.value)


def test_a_box_in_the_part_that_is_cut_off_touches_nothing() -> None:
    with pytest.raises(ConfigError, match="covers at most 0%"):
        region(size=(200, 400), box=(0, 0, 40, 200))


@pytest.mark.parametrize("count", [1, 7, 64])
def test_the_share_of_a_region_grows_with_the_strength(count: int) -> None:
    positions = tuple(range(10, 10 + count))
    assert share_of(positions, 0, 5) == ()
    assert share_of(positions, 1, 5) == positions
    assert len(share_of(positions, 1e-9, 5)) == 1, "a strength above 0 changes something"
    previous: set[int] = set()
    for strength in (0.1, 0.3, 0.5, 0.9, 1.0):
        taken = share_of(positions, strength, 5)
        assert previous <= set(taken)
        assert list(taken) == sorted(taken)
        previous = set(taken)
    assert len(share_of(tuple(range(64)), 0.25, 1)) == 16
    assert share_of(tuple(range(64)), 0.5, 1) != share_of(tuple(range(64)), 0.5, 2)


def test_part_of_a_region() -> None:
    part = region(box=(32, 16, 64, 40)).only((10, 19))
    assert part.positions == (10, 19)
    assert part.pixels.sum() == 256 + 128
    assert whole(GEOMETRY, GRID).only(()).pixels.sum() == 0


@pytest.mark.parametrize(
    ("anchor", "place"),
    [("center", (0, 2)), ("left", (0, 0)), ("right", (0, 4)), ("top", (0, 2)), ("bottom-right", (0, 4))],
)
def test_anchors(anchor: str, place: tuple[int, int]) -> None:
    surroundings, found = placed(GEOMETRY, GRID, TokenGrid(8, 12), anchor)
    assert found == place
    assert surroundings.cells.sum() == 32
    assert surroundings.cells[:, : place[1]].all()
    assert not surroundings.cells[:, place[1] : place[1] + 8].any()


def test_every_anchor_keeps_the_picture_inside() -> None:
    assert len(ANCHORS) == 9
    for anchor in ANCHORS:
        surroundings, (row, column) = placed(GEOMETRY, TokenGrid(3, 4), TokenGrid(8, 7), anchor)
        assert 0 <= row <= 5
        assert 0 <= column <= 3
        assert surroundings.cells.sum() == 56 - 12
    assert placed(GEOMETRY, TokenGrid(3, 4), TokenGrid(8, 7), "bottom-left")[1] == (5, 0)


# --- blending ---------------------------------------------------------------------------------------------------------


def noise(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def test_blending_changes_no_pixel_outside_and_takes_the_new_one_deep_inside() -> None:
    inside = region(box=(32, 16, 80, 64)).pixels
    old, new = noise(0), noise(1)
    mixed = np.asarray(blend(old, new, inside, 16))
    assert (mixed[~inside] == np.asarray(old)[~inside]).all()
    assert (mixed[21:59, 37:75] == np.asarray(new)[21:59, 37:75]).all()
    edge = (np.asarray(old, int) + 0.2 * (np.asarray(new, int) - np.asarray(old, int)))[16, 40]
    assert np.abs(mixed[16, 40] - edge).max() <= 0.5


def test_the_soft_edge_rises_inward_and_ignores_the_outline_of_the_picture() -> None:
    inside = np.zeros((20, 20), dtype=bool)
    inside[:, :10] = True
    weight = feather(inside, 4)
    assert np.allclose(weight[7], [1] * 6 + [0.8, 0.6, 0.4, 0.2] + [0] * 10)
    assert (weight == weight[0]).all()
    assert (feather(np.ones((8, 8), dtype=bool), 4) == 1).all()
    assert (feather(np.zeros((8, 8), dtype=bool), 4) == 0).all()


def test_a_picture_on_a_larger_one() -> None:
    picture = noise(2, (16, 16))
    larger = np.asarray(extended(picture, (32, 48), (0, 16)))
    assert larger.shape == (32, 48, 3)
    assert (larger[:16, 16:32] == np.asarray(picture)).all()
    assert (larger[20, 20] == np.asarray(picture)[15, 4]).all()
