"""Edits on the token grid: kept codes and kept pixels are exact, whatever the weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from llada_uni.errors import BudgetError, ConfigError, ImageError, PromptError, SizeError
from llada_uni.grid import TokenGrid
from llada_uni.pipeline import EncodedImage, ImageDone, ImageResult, LladaUni
from llada_uni.pipeline.region_edit import region_request
from llada_uni.pipeline.region_settings import region_settings
from llada_uni.prompts import ImageBlock
from llada_uni.protocols import Finished, FlowStep, Started, StepDone
from llada_uni.testing.checkpoint import write_tiny_checkpoint

WORDS = "two red apples left of a house"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LladaUni:
    checkpoint = write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")
    return LladaUni.from_pretrained(checkpoint, device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def square() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (80, 120, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def encoded() -> EncodedImage:
    return EncodedImage(codes=tuple(range(16)), grid=TokenGrid(4, 4), model="x")


def cells_of(result: ImageResult) -> set[int]:
    return {row * result.grid.grid_w + column for row, column in result.settings["cells"]}


def outside(result: ImageResult, cell_px: int = 8) -> np.ndarray:
    """Bool [H, W]: pixels of cells that were not predicted."""
    kept = np.ones((result.grid.grid_h, result.grid.grid_w), dtype=bool)
    for row, column in result.settings["cells"]:
        kept[row, column] = False
    return kept.repeat(cell_px, axis=0).repeat(cell_px, axis=1)


# --- the laws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize(
    "where",
    [{"box": (8, 8, 24, 24)}, {"cells": [(0, 0), (3, 3)]}, {"keep_cells": [(1, 2)]}, {"box": (0, 20, 32, 32)}],
)
def test_codes_outside_the_region_are_exactly_those_of_the_source(
    model: LladaUni, square: Image.Image, where: dict[str, Any], reference: bool, temperature: float
) -> None:
    source = model.encode_image(square)
    result = model.inpaint_image(square, WORDS, seed=3, reference=reference, temperature=temperature, **where)
    opened = cells_of(result)
    assert 0 < len(opened) < 16
    for position, (before, after) in enumerate(zip(source.codes, result.codes, strict=True)):
        assert position in opened or before == after
    assert all(0 <= code < 24 for code in result.codes)


def test_every_open_cell_is_predicted_and_nothing_else(model: LladaUni, encoded: EncodedImage) -> None:
    events = list(model.stream_inpaint(encoded, WORDS, cells=[(0, 1), (2, 2)], seed=1))
    written = {p for e in events if isinstance(e, StepDone) for p in e.positions if p < 16}
    assert written == {1, 10}
    (started,) = [event for event in events if isinstance(event, Started)]
    kept = {p: number for p, number in started.given.items() if p < 16}
    assert model.networks.vocab.to_codes(list(kept.values())) == [p for p in range(16) if p not in (1, 10)]
    done = events[-1]
    assert isinstance(done, ImageDone)
    assert done.result.usage["num_steps"] <= 4


def test_the_model_sees_kept_codes_and_the_masks_of_the_others(model: LladaUni, encoded: EncodedImage) -> None:
    """A kept code near the region changes what is predicted there: it is context, not decoration."""
    other = EncodedImage(codes=(*encoded.codes[:11], 23, *encoded.codes[12:]), grid=encoded.grid, model="x")
    logits = []
    for source in (encoded, other):
        kept = {p: code for p, code in enumerate(source.codes) if p != 10}
        settings = region_settings(
            model.networks.package.presets, (32, 32), {"reference": False, "blend": True, "block_length": 64}
        )
        request = region_request(model.networks, WORDS, 0, source.grid, kept, settings, None)
        ids = [*request.prompts[0], *(request.given.get(p, request.mask_id) for p in range(16))]
        length = len(request.prompts[0])
        mask = torch.ones(1, 1, len(ids), len(ids), dtype=torch.bool)
        out = model.networks.backbone(torch.tensor([ids]), torch.arange(len(ids))[None], mask)
        logits.append(out[0, length + 10])
        assert ids[length + 10] == request.mask_id
    assert not torch.equal(*logits)


@pytest.mark.parametrize("where", [{"box": (5, 9, 20, 23)}, {"cells": [(1, 1), (1, 2)]}])
@pytest.mark.parametrize("kind", ["picture", "result", "codes"])
def test_blending_keeps_every_pixel_outside_bit_for_bit(
    model: LladaUni, square: Image.Image, encoded: EncodedImage, kind: str, where: dict[str, Any]
) -> None:
    source: Any = {"picture": square, "result": model.decode_image(encoded, seed=4), "codes": encoded}[kind]
    before = {"picture": square, "result": getattr(source, "image", None)}.get(kind)
    if before is None:
        before = model.decode_image(encoded, seed=9).image
    result = model.inpaint_image(source, WORDS, seed=9, **where)
    plain = model.inpaint_image(source, WORDS, seed=9, blend=False, **where)
    kept = outside(result)
    assert (np.asarray(result.image)[kept] == np.asarray(before)[kept]).all()
    if kind == "picture":
        assert (np.asarray(result.image)[~kept] != np.asarray(before)[~kept]).any()
    if "box" in where:
        left, top, right, bottom = where["box"]
        in_box = np.zeros((32, 32), dtype=bool)
        in_box[top:bottom, left:right] = True
        assert (np.asarray(result.image)[~in_box] == np.asarray(before)[~in_box]).all()
    assert result.codes == plain.codes
    again = EncodedImage(codes=plain.codes, grid=plain.grid, model="x")
    assert plain.image.tobytes() == model.decode_image(again, seed=9).image.tobytes()
    assert (result.settings["blend"], plain.settings["blend"]) == (True, False)


def test_a_picture_of_another_size_is_scaled_and_that_is_reported(
    model: LladaUni, square: Image.Image, photo: Image.Image
) -> None:
    result = model.inpaint_image(photo, WORDS, box=(0, 0, 60, 40), seed=1)
    assert result.grid == TokenGrid(4, 6)
    assert result.image.size == (48, 32)
    assert result.settings["resized_from"] == [120, 80]
    assert cells_of(result) == {row * 6 + column for row in range(2) for column in range(3)}
    scaled = photo.resize((48, 32), Image.Resampling.LANCZOS)
    kept = outside(result)
    assert (np.asarray(result.image)[kept] == np.asarray(scaled)[kept]).all()
    assert model.inpaint_image(square, WORDS, box=(0, 0, 9, 9), seed=1).settings["resized_from"] is None


def test_codes_and_results_are_taken_as_they_are(
    model: LladaUni, encoded: EncodedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = model.decode_image(encoded, seed=1)
    fresh = LladaUni.from_pretrained(model.name, device="cpu")
    for source in (encoded, drawn):
        result = fresh.inpaint_image(source, WORDS, cells=[(0, 0)], seed=2)
        assert result.codes[1:] == encoded.codes[1:]
    assert "image_tokenizer" not in fresh.networks.modules()


# --- strength, vary, outpaint -----------------------------------------------------------------------------------------


def test_strength_zero_keeps_everything_without_a_step(model: LladaUni, square: Image.Image) -> None:
    result = model.inpaint_image(square, WORDS, box=(0, 0, 16, 16), strength=0, seed=1)
    assert result.image.tobytes() == square.tobytes()
    assert result.codes == model.encode_image(square).codes
    assert (result.usage["num_steps"], result.settings["cells"]) == (0, [])
    assert model.vary_image(square, WORDS, strength=0, seed=1).codes == result.codes


def test_vary_opens_a_seeded_share_of_the_cells(model: LladaUni, encoded: EncodedImage) -> None:
    half = model.vary_image(encoded, WORDS, seed=1)
    assert len(cells_of(half)) == 8
    assert half.settings["strength"] == 0.5
    assert (half.settings["reference"], half.settings["blend"]) == (False, False)
    kept = set(range(16)) - cells_of(half)
    assert all(half.codes[p] == encoded.codes[p] for p in kept)
    assert half.codes == model.vary_image(encoded, WORDS, seed=1).codes
    assert cells_of(half) != cells_of(model.vary_image(encoded, WORDS, seed=2))
    assert len(cells_of(model.vary_image(encoded, WORDS, seed=1, strength=0.25))) == 4


def test_vary_at_full_strength_is_a_new_picture(model: LladaUni, encoded: EncodedImage) -> None:
    length = model.networks.package.presets.block_length
    new = model.vary_image(encoded, WORDS, strength=1, seed=6, temperature=1.0, block_length=length)
    assert new.codes == model.generate_image(WORDS, seed=6, temperature=1.0).codes


@pytest.mark.parametrize(
    ("size", "anchor", "place"),
    [
        ({"width": 48}, "center", (0, 1)),
        ({"width": 48}, "right", (0, 2)),
        ({"height": 48}, "top", (0, 0)),
        ({"height": 48, "width": 32}, "bottom-left", (2, 0)),
    ],
)
@pytest.mark.parametrize("known_by", ["picture", "codes"])
def test_outpainting_places_the_source_whole(
    model: LladaUni, square: Image.Image, size: dict[str, int], anchor: str, place: tuple[int, int], known_by: str
) -> None:
    codes = model.encode_image(square)
    result = model.outpaint_image(
        square if known_by == "picture" else codes, "a wide street", seed=5, anchor=anchor, **size
    )
    grid = result.grid
    assert result.image.size == (size.get("width", 32), size.get("height", 32))
    (row, column), canvas = place, np.array(result.codes).reshape(grid.grid_h, grid.grid_w)
    assert canvas[row : row + 4, column : column + 4].ravel().tolist() == list(codes.codes)
    assert len(result.settings["cells"]) == grid.num_tokens - 16
    before = square if known_by == "picture" else model.decode_image(codes, seed=5).image
    shown = np.asarray(result.image)[row * 8 : row * 8 + 32, column * 8 : column * 8 + 32]
    assert (shown == np.asarray(before)).all()
    assert result.settings["anchor"] == anchor


# --- prompts, blocks, guidance ----------------------------------------------------------------------------------------


def test_with_and_without_the_reference(model: LladaUni, encoded: EncodedImage) -> None:
    networks, presets = model.networks, model.networks.package.presets
    kept = {p: code for p, code in enumerate(encoded.codes) if p}
    block = ImageBlock(grid=encoded.grid, codes=encoded.codes)

    def request(reference: bool, **options: Any) -> Any:
        settings = region_settings(presets, (32, 32), {"reference": reference, "blend": True} | options)
        return region_request(networks, WORDS, 0, encoded.grid, kept, settings, block if reference else None)

    shown, plain = request(True), request(False)
    written = networks.vocab.block(encoded.grid, encoded.codes)
    where = [shown.prompts[0][i : i + len(written)] for i in range(len(shown.prompts[0]))]
    assert written in where, "the source is a block of the prompt"
    assert networks.vocab.header_grid(shown.prompts[0]) == encoded.grid
    assert not networks.vocab.is_image(torch.tensor(plain.prompts[0])).any()
    assert (shown.guidance.kind, plain.guidance.kind) == ("editing", "simple")
    assert (len(shown.prompts), len(plain.prompts)) == (3, 2)
    assert shown.sampling.block_length == plain.sampling.block_length == presets.region_block_length == 32
    assert presets.block_length == 16, "the test needs two presets that differ"
    assert shown.sampling.steps_per_block == presets.edit_steps_per_block
    assert plain.sampling.steps_per_block == presets.steps_per_block
    assert request(True, block_length=64).sampling.block_length == 64
    guided = request(True, guidance_text=2.0, guidance_image=1.5).guidance
    assert (guided.text, guided.image, guided.num_branches) == (2.0, 1.5, 3)
    assert request(False, guidance_scale=1.0).guidance.num_branches == 1


def test_settings_say_what_was_used(model: LladaUni, encoded: EncodedImage) -> None:
    settings = model.inpaint_image(encoded, WORDS, cells=[(0, 0)], seed=1, guidance_text=1.5).settings
    assert settings["guidance_text"] == 1.5
    assert "guidance_scale" not in settings
    assert (settings["task"], settings["strength"], settings["block_length"]) == ("inpaint", 1.0, 32)
    assert "guidance_scale" in model.inpaint_image(encoded, WORDS, cells=[(0, 0)], seed=1, reference=False).settings


def test_nano_predicts_regions_in_blocks_of_a_whole_square_picture() -> None:
    presets = LladaUni.from_pretrained("nano").networks.package.presets
    assert (presets.region_block_length, presets.block_length) == (64, 32)


# --- lists and streams ------------------------------------------------------------------------------------------------


def test_a_list_is_what_each_is_alone(model: LladaUni, square: Image.Image, photo: Image.Image) -> None:
    pictures, words = [square, photo, square], ["a", WORDS, "three stars"]
    batch = model.inpaint_image(pictures, words, cells=[(0, 0), (2, 1)], seed=4)
    for picture, text, result in zip(pictures, words, batch, strict=True):
        alone = model.inpaint_image(picture, text, cells=[(0, 0), (2, 1)], seed=result.seed)
        assert (alone.codes, alone.image.tobytes()) == (result.codes, result.image.tobytes())
    assert [result.seed for result in batch] == [4, 5, 6]
    variants = model.vary_image([square] * 2, WORDS, seed=[1, 2])
    assert [result.prompt for result in variants] == [WORDS, WORDS]
    assert isinstance(model.vary_image([square], WORDS, seed=1), list)


def test_the_stream_numbers_its_rows(model: LladaUni, square: Image.Image, photo: Image.Image) -> None:
    events = list(model.stream_outpaint([square, square], WORDS, width=48, seed=1))
    assert [event.row for event in events if isinstance(event, Finished | ImageDone)].count(1) == 2
    assert {event.row for event in events if isinstance(event, FlowStep)} == {0, 1}
    mixed = list(model.stream_inpaint([photo, square, photo], WORDS, cells=[(0, 0)], seed=1))
    assert [event.row for event in mixed if isinstance(event, FlowStep)] == [0] * 3 + [2] * 3 + [1] * 3
    assert [event.row for event in mixed if isinstance(event, ImageDone)] == [0, 1, 2]
    coarse = model.stream_inpaint(square, WORDS, cells=[(0, 0)], seed=1, granularity="block")
    assert not [event for event in coarse if isinstance(event, StepDone)]


# --- bad input --------------------------------------------------------------------------------------------------------

CELL = {"cells": [(0, 0)]}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigError, "exactly one of mask, box, cells and keep_cells"),
        (CELL | {"box": (0, 0, 9, 9)}, ConfigError, "got box and cells"),
        ({"box": (0, 0, 99, 9)}, ConfigError, "inside the picture of 32x32"),
        ({"mask": Image.new("L", (32, 32))}, ImageError, "marks nothing"),
        ({"mask": Image.new("L", (32, 16), 255)}, ImageError, "shape 32x32"),
        (CELL | {"strength": 1.01}, ConfigError, "strength: expected a number from 0 to 1"),
        (CELL | {"strength": -0.1}, ConfigError, "strength"),
        (CELL | {"strength": float("nan")}, ConfigError, "strength"),
        (CELL | {"strength": "half"}, ConfigError, "strength"),
        (CELL | {"reference": "yes"}, ConfigError, "reference: expected True or False"),
        (CELL | {"blend": 1}, ConfigError, "blend: expected True or False"),
        (CELL | {"guidance_scale": 2.0}, ConfigError, "no meaning with reference=True; use guidance_text"),
        (CELL | {"reference": False, "guidance_text": 2.0}, ConfigError, "reference=False; use guidance_scale"),
        (CELL | {"guidance_text": -1.0}, ConfigError, "guidance_text"),
        (CELL | {"guidance_image": float("inf")}, ConfigError, "guidance_image"),
        (CELL | {"block_length": 0}, ConfigError, "block_length"),
        (CELL | {"decoder": "fast"}, ConfigError, "decoder"),
        (CELL | {"seed": -1}, ConfigError, "seed"),
        (CELL | {"prompt": " "}, PromptError, "prompt: expected some words"),
        (CELL | {"prompt": ["a"]}, PromptError, "expected one for all pictures or one for each, got 1 for one picture"),
        (CELL | {"image": []}, PromptError, "image: expected at least one"),
        (CELL | {"image": "no-such.png"}, ImageError, "no-such"),
        (CELL | {"steps": 3}, TypeError, "unexpected keyword argument 'steps'"),
        (CELL | {"height": 3}, TypeError, "unexpected keyword argument 'height'"),
    ],
)
def test_wrong_requests_fail_before_anything_is_computed(
    model: LladaUni, square: Image.Image, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"image": square, "prompt": "a"} | options
    with pytest.raises(error, match=message) as caught:
        model.stream_inpaint(arguments.pop("image"), arguments.pop("prompt"), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigError, "expected a height or a width"),
        ({"height": 32, "width": 32}, SizeError, "32x32 .* cannot grow to 32x32"),
        ({"width": 16}, SizeError, "no picture of 16x32"),
        ({"width": 64}, SizeError, "allowed: 32x32, 48x32, 32x48"),
        ({"width": 48, "height": 48}, SizeError, "no picture of 48x48"),
        ({"width": 48, "anchor": "middle"}, ConfigError, "anchor: expected one of center, top"),
        ({"width": 48, "strength": 0.5}, TypeError, "strength"),
    ],
)
def test_wrong_sizes_to_grow_to(
    model: LladaUni, square: Image.Image, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.stream_outpaint(square, "a", **options)


def test_growing_to_a_smaller_grid(model: LladaUni, photo: Image.Image) -> None:
    with pytest.raises(SizeError, match=r"48x32 .* cannot grow to 32x32"):
        model.stream_outpaint(photo, "a", width=32)
    with pytest.raises(SizeError, match="cannot grow to 32x48"):
        model.stream_outpaint(photo, "a", width=32, height=48)


def test_sources_that_are_none(model: LladaUni) -> None:
    with pytest.raises(SizeError, match="allowed"):
        model.stream_vary(EncodedImage(codes=(1,) * 9, grid=TokenGrid(3, 3), model="x"), "a")
    with pytest.raises(ImageError, match=r"0\.\.23"):
        model.stream_vary(EncodedImage(codes=(24,) * 16, grid=TokenGrid(4, 4), model="x"), "a")
    with pytest.raises(ConfigError, match="expected 16 codes"):
        model.stream_vary(EncodedImage(codes=(1,) * 15, grid=TokenGrid(4, 4), model="x"), "a")


def test_too_long_an_instruction(model: LladaUni, encoded: EncodedImage) -> None:
    with pytest.raises(BudgetError, match="at most 512 fit"):
        model.inpaint_image(encoded, "apple " * 600, cells=[(0, 0)])


def test_a_checkpoint_file_with_unknown_decoder_is_found_out_early(model: LladaUni, tmp_path: Path) -> None:
    import shutil

    from llada_uni.errors import CheckpointError

    shutil.copytree(model.name, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "decoder-turbo")
    partial = LladaUni.from_pretrained(tmp_path / "copy")
    source = EncodedImage(codes=tuple(range(16)), grid=TokenGrid(4, 4), model="x")
    with pytest.raises(CheckpointError, match="decoder"):
        partial.stream_inpaint(source, "a", cells=[(0, 0)])
    assert partial.inpaint_image(source, "a", cells=[(0, 0)], decoder="normal").image.size == (32, 32)
