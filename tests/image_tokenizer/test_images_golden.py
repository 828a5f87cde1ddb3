"""Size rules and whole-picture preprocessing against recorded outputs of the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from golden_fixtures import assert_close, load_case
from llada_uni.grid import Geometry
from llada_uni.image_tokenizer import ImageTokenizer, ImageTokenizerConfig, PreprocessorConfig, patchify
from llada_uni.image_tokenizer.images import for_editing, for_understanding, whiten

GEOMETRY = Geometry()


def formula_picture(height: int, width: int, k: int) -> Image.Image:
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return Image.fromarray(((3 * x + 5 * y + 70 * c + x * y // 64 + 11 * k) % 256).astype(np.uint8))


def assert_pixels_close(actual: np.ndarray, expected: torch.Tensor, grey_levels: int) -> None:
    difference = np.abs(actual.astype(int) - expected.numpy().astype(int))
    assert difference.max() <= grey_levels


def block_means(picture: Image.Image) -> torch.Tensor:
    array = np.asarray(picture, dtype=np.float32)
    blocks = array.reshape(array.shape[0] // 32, 32, array.shape[1] // 32, 32, 3)
    return torch.from_numpy(blocks.mean(axis=(1, 3)))


def understanding_input(tensors: dict, name: str) -> Image.Image:
    stored = tensors.get(f"in.{name}.image")
    if stored is None:
        return formula_picture(*tensors[f"in.{name}.h_w_k"].tolist())
    return Image.fromarray(stored.numpy()).convert("RGB")


@pytest.mark.parametrize("name", ["rgb_37x61", "rgba_90x131", "formula_140x160"])
def test_pixels_and_patches_of_small_pictures(name):
    tensors, meta = load_case("preproc_understanding_a")
    picture = for_understanding(understanding_input(tensors, name), GEOMETRY)
    assert_pixels_close(np.asarray(picture), tensors[f"out.{name}.resized"], meta["tolerance"]["uint8_pixels"])
    preprocessor = PreprocessorConfig.from_mapping(meta["config"], source="fixture", foreign=True)
    values, grids = patchify([picture], preprocessor)
    assert [[1, g.grid_h, g.grid_w] for g in grids] == tensors[f"out.{name}.grid_thw"].tolist()
    rows = tensors[f"out.{name}.patch_index"]
    expected = tensors[f"out.{name}.patches"]
    torch.testing.assert_close(values[rows], expected, atol=2 / 255 + 1e-5, rtol=0)


@pytest.mark.parametrize("name", ["big_1000x701", "tall_33x400"])
def test_samples_of_large_and_elongated_pictures(name):
    tensors, meta = load_case("preproc_understanding_a")
    picture = for_understanding(understanding_input(tensors, name), GEOMETRY)
    assert [picture.height, picture.width] == tensors[f"out.{name}.final_hw"].tolist()
    y, x = tensors[f"out.{name}.sample_yx"].T.numpy()
    expected = tensors[f"out.{name}.sample_rgb"]
    assert_pixels_close(np.asarray(picture)[y, x], expected, meta["tolerance"]["uint8_pixels"])
    torch.testing.assert_close(block_means(picture), tensors[f"out.{name}.blockmean32"], atol=0.3, rtol=0)


def test_several_pictures_share_the_smaller_budget():
    tensors, _ = load_case("preproc_understanding_a")
    pictures = [
        for_understanding(formula_picture(*row), GEOMETRY, num_images=3) for row in tensors["in.multi.h_w_k"].tolist()
    ]
    assert [[p.height, p.width] for p in pictures] == tensors["out.multi.final_hw"].tolist()
    for i, picture in enumerate(pictures):
        torch.testing.assert_close(block_means(picture), tensors[f"out.multi.{i}.blockmean32"], atol=0.3, rtol=0)
    values, grids = patchify(pictures, PreprocessorConfig())
    assert len(values) == int(tensors["out.multi.num_patches"])
    assert [[1, g.grid_h, g.grid_w] for g in grids] == tensors["out.multi.grid_thw"].tolist()


@pytest.mark.parametrize("name", ["big", "too_small"])
def test_released_edit_crop(name):
    tensors, _ = load_case("preproc_edit_crop_a")
    cells, cell_px = tensors[f"in.{name}.list_args"].tolist()
    geometry = Geometry(
        patch_size=cell_px // 2, vae_factor=cell_px // 4, edit_pixels=cells * cell_px**2, edit_max_aspect=4.0
    )
    picture = Image.fromarray(tensors[f"in.{name}.image"].numpy())
    cropped = for_editing(picture, geometry, crop="released")
    assert np.array_equal(np.asarray(cropped), tensors[f"out.{name}.cropped"].numpy())


@pytest.mark.parametrize(("mode", "rule"), [("RGBA", "every"), ("RGB", "every"), ("L", "every"), ("LA", "released")])
def test_whitening(mode, rule):
    tensors, meta = load_case("preproc_whiten_a")
    picture = Image.fromarray(tensors[f"in.{mode}.image"].numpy(), mode=None)
    assert picture.mode == mode
    actual = np.asarray(whiten(picture, rule))
    assert_pixels_close(actual, tensors[f"out.{mode}.rgb"], meta["tolerance"]["uint8_pixels"])


@pytest.mark.parametrize("name", ["vision_a", "vision_b_patch16"])
def test_from_pixels_to_codes(name):
    tensors, meta = load_case(name)
    model = ImageTokenizer(
        ImageTokenizerConfig.from_mapping(meta["config"]["image_tokenizer_config"], source="fixture", foreign=True)
    )
    model.load_state_dict({k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")})
    preprocessor = PreprocessorConfig.from_mapping(
        meta["config"]["preprocessor_config"], source="fixture", foreign=True
    )
    images = [tensors[key] for key in sorted(tensors) if key.startswith("in.image")]
    values, grids = patchify(images, preprocessor)
    assert_close(values, tensors["in.pixel_values"], meta["tolerance"])
    assert torch.equal(model(values, grids), tensors["out.token_ids"])
