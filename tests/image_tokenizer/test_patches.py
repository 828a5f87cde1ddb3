"""Patch vectors against recorded outputs of the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from golden_fixtures import assert_close, load_case
from llada_uni.errors import ImageError
from llada_uni.grid import TokenGrid
from llada_uni.image_tokenizer import PreprocessorConfig, patchify


@pytest.mark.parametrize("name", ["p4", "p4_merge2", "real16"])
def test_patches_match_released_code(name):
    tensors, meta = load_case("preproc_patchify_a")
    preprocessor = PreprocessorConfig.from_mapping(meta["config"][name], source="fixture", foreign=True)
    images = [tensors[key] for key in sorted(tensors) if key.startswith(f"in.{name}.image")]
    values, grids = patchify(images, preprocessor)
    assert_close(values, tensors[f"out.{name}.pixel_values"], meta["tolerance"])
    assert [[1, g.grid_h, g.grid_w] for g in grids] == tensors[f"out.{name}.grid_thw"].tolist()


def test_pil_images_and_arrays_give_the_same_patches():
    array = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    config = PreprocessorConfig(patch_size=8)
    from_array, grids = patchify([array], config)
    from_pil, _ = patchify([Image.fromarray(array)], config)
    assert torch.equal(from_array, from_pil)
    assert grids == [TokenGrid(2, 4)]
    assert from_array.min() >= -1.0
    assert from_array.max() <= 1.0


def test_a_patch_holds_channel_then_row_then_column():
    array = np.zeros((8, 8, 3), np.uint8)
    array[5, 6, 1] = 255
    values, _ = patchify([array], PreprocessorConfig(patch_size=4))
    assert (values > 0).nonzero().tolist() == [[3, 16 + 1 * 4 + 2]]


def test_frames_are_repeated():
    array = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    values, _ = patchify([array], PreprocessorConfig(patch_size=4, temporal_patch_size=2))
    frames = values.view(3, 2, 16)
    assert torch.equal(frames[:, 0], frames[:, 1])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 9, 3), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        "picture.png",
    ],
    ids=["side", "empty", "rgba", "grey", "float", "text"],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ImageError):
        patchify([image], PreprocessorConfig(patch_size=4))


def test_no_pictures_are_refused():
    with pytest.raises(ImageError, match="at least one"):
        patchify([], PreprocessorConfig())
