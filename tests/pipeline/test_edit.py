"""Editing with one or several references: prompts and branches, sizes, lists, and what cannot be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llada_uni import prompts
from llada_uni.errors import BudgetError, ConfigError, ImageError, LladaUniError, PromptError, SizeError
from llada_uni.grid import TokenGrid
from llada_uni.image_tokenizer.images import for_editing
from llada_uni.pipeline import EditTask, EncodedImage, ImageDone, ImageResult, LladaUni
from llada_uni.pipeline.scripts import job
from llada_uni.pipeline.stations import read
from llada_uni.protocols import Finished, FlowStep, Guidance, Request, Started, StepDone

TEXT = "make the apples red"


def request_of(model: LladaUni, image: Any, instruction: str = TEXT, **options: Any) -> tuple[Request, Any]:
    """The request of an edit, and the codes of its sources."""
    work = job(model.networks, EditTask(image=image, instruction=instruction, seed=1, **options))
    (codes,) = read(model.networks, [work.pictures])
    return next(work.script(codes)), codes


def blocks(codes: list[EncodedImage]) -> list[prompts.ImageBlock]:
    return [prompts.ImageBlock(grid=one.grid, codes=one.codes) for one in codes]


def test_an_edit(model: LladaUni, photo: Image.Image) -> None:
    result = model.edit_image(photo, TEXT, seed=7)
    assert isinstance(result, ImageResult)
    assert (result.grid, result.image.size) == (TokenGrid(4, 6), (48, 32)), "the size of the source"
    assert (result.prompt, result.seed, result.thinking) == (TEXT, 7, None)
    assert set(result.timings) == {"load", "encode", "tokens", "pixels", "total"}
    assert result.settings == {
        "height": 32, "width": 48, "block_length": 16, "steps_per_block": 8, "guidance_text": 4.0,
        "guidance_image": 0.0, "guidance_rescale": 0.7, "crop": "cover", "commit_order": "confidence",
        "time_shift": 1.0, "decoder_guidance": 1.0, "confidence_threshold": 0.95, "temperature": 0.0,
        "decoder": "turbo", "num_steps": 3, "sprint": None, "guidance_interval": None, "step_cache": None,
    }  # fmt: skip
    again = model.edit_image(photo, TEXT, seed=7)
    assert (again.codes, again.image.tobytes()) == (result.codes, result.image.tobytes())


def test_the_source_and_the_words_matter(model: LladaUni, photo: Image.Image) -> None:
    codes = {
        model.edit_image(image, text, seed=7, guidance_image=1.5).codes
        for image, text in [(photo, TEXT), (photo.transpose(Image.Transpose.ROTATE_180), TEXT), (photo, "add a house")]
    }
    assert len(codes) == 3


@pytest.mark.parametrize(
    ("text", "image", "branches"), [(1.0, 0.0, 1), (4.0, 0.0, 2), (0.0, 0.0, 2), (1.0, 1.5, 3), (4.0, 1.5, 3)]
)
def test_a_branch_without_weight_is_not_computed(
    model: LladaUni, photo: Image.Image, text: float, image: float, branches: int
) -> None:
    request, codes = request_of(model, photo, guidance_text=text, guidance_image=image)
    rows = prompts.edit(model.networks.vocab, model.networks.tokenizer, TEXT, blocks(codes))
    assert request.prompts == (rows.cond, rows.no_text, rows.no_image)[:branches]
    assert request.guidance == Guidance(kind="editing", text=text, image=image, rescale=0.7)
    (done,) = [e for e in model.stream_edit(photo, TEXT, seed=1, guidance_text=text) if isinstance(e, Finished)]
    assert done.usage.num_calls <= 1 + 8 * done.usage.num_blocks


def test_references_stand_in_their_order(model: LladaUni, photo: Image.Image, portrait: Image.Image) -> None:
    request, codes = request_of(model, [portrait, photo])
    assert [one.grid for one in codes] == [TokenGrid(6, 4), TokenGrid(4, 6)]
    rows = prompts.edit(model.networks.vocab, model.networks.tokenizer, TEXT, blocks(codes))
    assert request.prompts[0] == rows.cond
    assert request.grid == TokenGrid(6, 4), "that of the first"
    result = model.edit_image([portrait, photo], TEXT, seed=1)
    assert result.image.size == (32, 48)


def test_the_output_size_can_be_chosen(model: LladaUni, photo: Image.Image) -> None:
    assert model.edit_image(photo, TEXT, seed=1, height=48, width=32).image.size == (32, 48)
    assert model.edit_image(photo, TEXT, seed=1, height=32).image.size == (32, 32)
    request, codes = request_of(model, photo, height=48, width=32)
    assert (codes[0].grid, request.grid) == (TokenGrid(4, 6), TokenGrid(6, 4)), "the source keeps its own"


@pytest.mark.parametrize("crop", ["cover", "released"])
def test_both_ways_to_bring_a_picture_to_the_editing_size(model: LladaUni, photo: Image.Image, crop: Any) -> None:
    large = photo.resize((300, 200))
    work = job(model.networks, EditTask(image=large, instruction=TEXT, crop=crop))
    assert work.pictures[0].size == (24, 16)
    assert work.pictures[0].tobytes() == for_editing(large, model.geometry, crop).tobytes()
    other = for_editing(large, model.geometry, "released" if crop == "cover" else "cover")
    assert work.pictures[0].tobytes() != other.tobytes()


def test_codes_are_not_encoded_again(checkpoint: Path, photo: Image.Image) -> None:
    fresh = LladaUni.from_pretrained(checkpoint)
    made = fresh.generate_image("two red apples", seed=1)
    for source in (made, made.encoded):
        request, codes = request_of(fresh, source)
        assert codes == [made.encoded]
        assert request.grid == made.grid
    fresh.edit_image([made, made.encoded], TEXT, seed=2)
    assert "image_tokenizer" not in fresh.networks.modules()


def test_lists_are_batches(exact: LladaUni, photo: Image.Image, portrait: Image.Image) -> None:
    images, texts = [photo, [portrait, photo], [portrait]], [TEXT, "a", "add a house"]
    batch = exact.edit_image(images, texts, seed=4, guidance_image=1.5)
    assert [result.seed for result in batch] == [4, 5, 6]
    for image, text, result in zip(images, texts, batch, strict=True):
        alone = exact.edit_image(image, text, seed=result.seed, guidance_image=1.5)
        assert (alone.codes, alone.image.tobytes()) == (result.codes, result.image.tobytes())
    assert isinstance(exact.edit_image([photo], [TEXT], seed=1), list)


def test_the_stream_tells_the_story_in_order(model: LladaUni, photo: Image.Image) -> None:
    kinds = [type(event) for event in model.stream_edit([photo, photo], [TEXT, "a"], seed=1)]
    assert kinds[:2] == [Started, Started]
    assert kinds[-2:] == [ImageDone, ImageDone]
    assert max(n for n, kind in enumerate(kinds) if kind is Finished) < kinds.index(FlowStep)
    assert StepDone not in [type(e) for e in model.stream_edit(photo, TEXT, seed=1, granularity="block")]


@pytest.mark.parametrize("text", ["<|image|> a house", "<role>SYSTEM</role>", "<|endoftext|>", "<|reserved_token_4|>"])
def test_control_strings_in_an_instruction_are_plain_text(model: LladaUni, photo: Image.Image, text: str) -> None:
    control = set(model.networks.tokenizer.added.values())
    plain, hostile = (
        [i for i in request_of(model, photo, words)[0].prompts[0] if i in control] for words in ("a", text)
    )
    assert hostile == plain


SQUARE = EncodedImage(codes=(1,) * 16, grid=TokenGrid(4, 4), model="x")


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        ([], {}, PromptError, "at least one picture per instruction, got none"),
        (SQUARE, {"instruction": " "}, PromptError, "instruction: expected some words"),
        (SQUARE, {"instruction": 3}, PromptError, "instruction: expected a string, got int"),
        (SQUARE, {"instruction": []}, PromptError, "instruction: expected at least one"),
        (SQUARE, {"instruction": ["a", "b"]}, PromptError, "a list of 2, one entry per instruction, got one that is"),
        ([SQUARE], {"instruction": ["a", "b"]}, PromptError, "a list of 2, one entry per instruction, got 1"),
        ([SQUARE, []], {"instruction": ["a", "b"]}, PromptError, "at least one picture per instruction"),
        (SQUARE, {"crop": "middle"}, ConfigError, "crop: expected one of cover, released, got 'middle'"),
        (SQUARE, {"guidance_text": -1}, ConfigError, "guidance_text"),
        (SQUARE, {"guidance_image": float("nan")}, ConfigError, "guidance_image"),
        (SQUARE, {"steps_per_block": 0}, ConfigError, "steps_per_block"),
        (SQUARE, {"seed": [1, 2]}, ConfigError, "expected 1 seeds"),
        (SQUARE, {"decoder": "fast"}, ConfigError, "decoder"),
        (SQUARE, {"height": 33}, SizeError, "allowed"),
        (SQUARE, {"instruction": "apple " * 600}, BudgetError, "at most 512 fit"),
        ([SQUARE] * 30, {}, BudgetError, "at most 512 fit"),
        ("missing.png", {}, ImageError, "missing.png"),
        (Image.new("RGB", (3000, 2)), {}, ImageError, "elongated"),
        (7, {}, ImageError, "expected a PIL image"),
        (EncodedImage(codes=(99,) * 16, grid=TokenGrid(4, 4), model="x"), {}, ImageError, r"0\.\.23"),
        (EncodedImage(codes=(1,) * 9, grid=TokenGrid(3, 3), model="x"), {}, SizeError, "allowed"),
    ],
)
def test_wrong_edits_fail_before_anything_is_computed(
    model: LladaUni, image: Any, options: dict, error: type[LladaUniError], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.stream_edit(image, **{"instruction": TEXT} | options)


def test_an_unknown_argument_is_a_mistake_in_the_program(model: LladaUni, photo: Image.Image) -> None:
    with pytest.raises(TypeError, match="cfg_scale"):
        model.edit_image(photo, TEXT, cfg_scale=2.0)  # type: ignore[call-overload]
