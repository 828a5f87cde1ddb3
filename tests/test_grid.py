"""Sizes: released resize tables, exact conversions, and the grids a small checkpoint was trained on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_fixtures import load_case
from llada_uni.errors import ConfigError, SizeError
from llada_uni.grid import Geometry, TokenGrid, parse_size

RELEASED = Geometry()
SMALL = Geometry(patch_size=8, vae_factor=4, trained_grids=(TokenGrid(8, 8), TokenGrid(8, 12), TokenGrid(12, 8)))
SIDES = st.integers(1, 6000)


def test_released_smart_resize_table() -> None:
    tensors, _ = load_case("preproc_smart_resize_a")
    rows = tensors["in.h_w_min_max_factor"].tolist()
    targets, finals = tensors["out.target_hw"].tolist(), tensors["out.final_hw"].tolist()
    seen = set()
    for (height, width, low, high, factor), target, final in zip(rows, targets, finals, strict=True):
        num_images = 1 if high == RELEASED.max_pixels_single else 2
        seen.add(num_images)
        assert (low, high, factor) == (16384, 640000 if num_images == 1 else 200704, 32)
        plan = RELEASED.understanding_px(height, width, num_images)
        assert [plan.target_h, plan.target_w] == target, (height, width)
        assert [plan.crop_h, plan.crop_w] == final, (height, width)
    assert seen == {1, 2}


def test_released_edit_crop_sizes() -> None:
    tensors, _ = load_case("preproc_edit_crop_a")
    for (width, height), crop in zip(
        tensors["in.choose.wh"].tolist(), tensors["out.choose.crop_wh"].tolist(), strict=True
    ):
        assert list(reversed(RELEASED.edit_crop_px(height, width))) == crop
    candidates = {tuple(size) for size in tensors["out.list.edit512.wh"].tolist()}
    for width, height in candidates:
        assert RELEASED.edit_crop_px(height, width) == (height, width)
    reached = {RELEASED.edit_crop_px(h, w)[::-1] for h in range(20, 400, 7) for w in range(20, 400, 7)}
    assert reached <= candidates


def test_released_sizes() -> None:
    grid = RELEASED.grid_from_output_px(1024, 512)
    assert grid == TokenGrid(32, 16)
    assert grid.num_tokens == 512
    assert RELEASED.output_px(grid) == (1024, 512)
    assert RELEASED.tokenizer_px(grid) == (512, 256)
    assert RELEASED.condition_grid(grid) == (64, 32)
    assert RELEASED.latent_hw(grid) == (128, 64)


def test_small_sizes() -> None:
    grid = SMALL.grid_from_output_px(128, 192)
    assert grid == TokenGrid(8, 12)
    assert SMALL.tokenizer_px(grid) == (64, 96)
    assert SMALL.condition_grid(grid) == (16, 24)
    assert SMALL.latent_hw(grid) == (32, 48)


@given(st.integers(1, 300), st.integers(1, 300))
def test_output_sizes_invert(grid_h: int, grid_w: int) -> None:
    grid = TokenGrid(grid_h, grid_w)
    assert RELEASED.grid_from_output_px(*RELEASED.output_px(grid)) == grid
    assert RELEASED.grid_from_tokenizer_px(*RELEASED.tokenizer_px(grid)) == grid
    assert RELEASED.nearest_grid(*RELEASED.output_px(grid)) == grid
    latent_h, latent_w = RELEASED.latent_hw(grid)
    assert (latent_h // 2, latent_w // 2) == RELEASED.condition_grid(grid)


@pytest.mark.parametrize("size", [(0, 32), (-32, 32), (33, 32), (32, 48), (32.0, 32), (True, 32), ("32", 32)])
def test_sizes_off_the_grid_raise(size: tuple[int, int]) -> None:
    with pytest.raises(SizeError, match=r"multiples of 32 pixels"):
        RELEASED.grid_from_output_px(*size)


@pytest.mark.parametrize("size", [(128, 129), (192, 192), (64, 64), (512, 512), (0, 0)])
def test_untrained_sizes_raise_and_name_the_trained_ones(size: tuple[int, int]) -> None:
    with pytest.raises(SizeError, match=r"allowed: 128x128, 192x128, 128x192 \(width x height\)"):
        SMALL.grid_from_output_px(*size)


@pytest.mark.parametrize(
    ("size", "grid"),
    [((512, 512), (8, 8)), ((1000, 10), (12, 8)), ((10, 1000), (8, 12)), ((100, 130), (8, 12)), ((110, 128), (8, 8))],
)
def test_nearest_trained_grid_follows_the_aspect_ratio(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert SMALL.nearest_grid(*size) == TokenGrid(*grid)


def test_equal_aspect_ratios_are_decided_by_area() -> None:
    both = Geometry(patch_size=8, vae_factor=4, trained_grids=(TokenGrid(4, 4), TokenGrid(8, 8)))
    assert both.nearest_grid(60, 60) == TokenGrid(4, 4)
    assert both.nearest_grid(400, 400) == TokenGrid(8, 8)


@given(SIDES, SIDES)
def test_any_picture_is_mapped_to_a_trained_grid(height: int, width: int) -> None:
    for plan in (SMALL.understanding_px(height, width), SMALL.edit_px(height, width)):
        assert SMALL.grid_from_tokenizer_px(plan.crop_h, plan.crop_w) in (SMALL.trained_grids or ())
        assert_plan_covers(plan, height, width)


@given(SIDES, SIDES, st.integers(1, 3))
def test_released_plans_cover_and_crop_whole_cells(height: int, width: int, num_images: int) -> None:
    plan = RELEASED.understanding_px(height, width, num_images)
    assert plan.crop_h % 32 == 0
    assert plan.crop_w % 32 == 0
    assert plan.crop_h >= plan.target_h > 0
    assert plan.crop_w >= plan.target_w > 0
    assert_plan_covers(plan, height, width)
    high = RELEASED.max_pixels_single if num_images == 1 else RELEASED.max_pixels_multi
    if max(height, width) / min(height, width) < 8:
        assert plan.target_h * plan.target_w <= high


def assert_plan_covers(plan, height: int, width: int) -> None:
    """The window is centred inside the resized picture, whose aspect ratio is that of the input to one pixel."""
    assert plan.resize_h >= plan.crop_h
    assert plan.resize_w >= plan.crop_w
    assert plan.top == (plan.resize_h - plan.crop_h) // 2
    assert plan.left == (plan.resize_w - plan.crop_w) // 2
    scale = max(plan.resize_h / height, plan.resize_w / width)
    assert abs(plan.resize_h - height * scale) <= max(1.0, height / width)
    assert abs(plan.resize_w - width * scale) <= max(1.0, width / height)


def test_edit_plan_scales_before_cropping() -> None:
    plan = RELEASED.edit_px(3000, 4000)
    assert (plan.crop_h, plan.crop_w) == RELEASED.edit_crop_px(3000, 4000) == (448, 576)
    assert plan.resize_h == 448


@pytest.mark.parametrize("call", ["understanding_px", "edit_crop_px", "edit_px", "nearest_grid"])
@pytest.mark.parametrize("geometry", [RELEASED, SMALL])
def test_empty_pictures_raise(call: str, geometry: Geometry) -> None:
    with pytest.raises(SizeError):
        getattr(geometry, call)(0, 10)


@pytest.mark.parametrize("size", [(15, 16), (0, 16), (16, -16)])
def test_pictures_for_the_tokenizer_need_whole_patches(size: tuple[int, int]) -> None:
    with pytest.raises(SizeError, match=r"multiples of 16 pixels"):
        RELEASED.grid_from_tokenizer_px(*size)


@pytest.mark.parametrize("sides", [(0, 1), (1, -1), (1.5, 2), (True, 1)])
def test_grids_need_positive_whole_sides(sides: tuple[int, int]) -> None:
    with pytest.raises(SizeError, match=r"positive whole sides"):
        TokenGrid(*sides)


@pytest.mark.parametrize(
    "values",
    [
        {"patch_size": 8},
        {"vae_factor": 4},
        {"trained_grids": ()},
        {"min_pixels_multi": 10**9},
        {"min_pixels_single": 0},
    ],
)
def test_contradicting_numbers_raise(values: dict) -> None:
    with pytest.raises(ConfigError):
        Geometry(**values)


@pytest.mark.parametrize(
    ("text", "size"), [("128x192", (192, 128)), (" 64 X 32 ", (32, 64)), ("1024×512", (512, 1024))]
)
def test_parse_size(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "128", "128x", "x128", "0x128", "-1x2", "1.5x2", "1e3x2", "١x2", "9999999x1", "1x2x3"]
)
def test_parse_size_rejects(text: str) -> None:
    with pytest.raises(SizeError, match=r"expected a size such as 128x128"):
        parse_size(text)
