"""The main path on a complete random checkpoint: laws that hold whatever the weights are."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llada_uni.errors import BudgetError, ConfigError, ImageError, LladaUniError, PromptError, SizeError
from llada_uni.grid import TokenGrid
from llada_uni.pipeline import AnswerDone, EncodedImage, ImageDone, ImageResult, LladaUni, TextResult
from llada_uni.pipeline.pixels import to_images
from llada_uni.pipeline.requests import image_request
from llada_uni.pipeline.settings import image_settings
from llada_uni.pipeline.velocity import OneContext
from llada_uni.protocols import Finished, FlowStep, Started, StepDone
from llada_uni.testing.checkpoint import write_tiny_checkpoint

PROMPTS = ["a", "two red apples left of a house and three blue boats in the right corner", "three stars"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> LladaUni:
    return LladaUni.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def exact(checkpoint: Path) -> LladaUni:
    return LladaUni.from_pretrained(checkpoint, device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    return Image.fromarray(values)


def same(one: ImageResult, other: ImageResult) -> bool:
    return one.codes == other.codes and one.image.tobytes() == other.image.tobytes()


def test_a_picture_from_words(model: LladaUni, checkpoint: Path) -> None:
    result = model.generate_image("two red apples", seed=7)
    assert result.image.size == (32, 32)
    assert result.image.mode == "RGB"
    assert result.grid == TokenGrid(4, 4)
    assert len(result.codes) == 16
    assert all(0 <= code < 24 for code in result.codes)
    assert (result.prompt, result.seed, result.model) == ("two red apples", 7, str(checkpoint))
    assert set(result.timings) == {"load", "tokens", "pixels", "total"}
    assert result.usage["output_tokens"] == 16


def test_unset_arguments_take_the_presets_of_the_checkpoint(model: LladaUni) -> None:
    assert model.generate_image("a", seed=1).settings == {
        "height": 32, "width": 32, "block_length": 16, "steps_per_block": 4, "guidance_scale": 2.0,
        "guidance_rescale": 0.7, "commit_order": "confidence", "time_shift": 1.0, "decoder_guidance": 1.0,
        "confidence_threshold": 0.95, "temperature": 0.0, "decoder": "turbo", "num_steps": 3, "sprint": None,
        "guidance_interval": None, "step_cache": None,
    }  # fmt: skip
    settings = model.generate_image("a", seed=1, decoder="normal", steps_per_block=2, width=48, height=32).settings
    assert settings["num_steps"] == 6
    assert settings["steps_per_block"] == 2
    assert (settings["height"], settings["width"]) == (32, 48)


def test_the_seed_decides_and_is_reported(model: LladaUni) -> None:
    first, second = model.generate_image("a"), model.generate_image("a")
    assert first.seed != second.seed
    assert first.image.tobytes() != second.image.tobytes()
    assert same(first, model.generate_image("a", seed=first.seed))


def test_temperature_draws_tokens_from_the_seed(model: LladaUni) -> None:
    greedy = model.generate_image(["a", "a"], seed=[1, 2])
    warm = model.generate_image(["a", "a", "a"], seed=[1, 2, 1], temperature=2.0)
    assert greedy[0].codes == greedy[1].codes
    assert warm[0].codes != warm[1].codes
    assert same(warm[0], warm[2])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_gives_what_each_prompt_gives_alone(exact: LladaUni, temperature: float) -> None:
    batch = exact.generate_image(PROMPTS, seed=11, temperature=temperature)
    assert [result.seed for result in batch] == [11, 12, 13]
    for prompt, result in zip(PROMPTS, batch, strict=True):
        assert same(result, exact.generate_image(prompt, seed=result.seed, temperature=temperature))


def test_pictures_decoded_together_are_the_same_up_to_rounding(checkpoint: Path, model: LladaUni) -> None:
    together = LladaUni.from_pretrained(checkpoint, device="cpu")
    together.pictures_at_once = 2
    for one, other in zip(model.generate_image(PROMPTS, seed=3), together.generate_image(PROMPTS, seed=3), strict=True):
        assert np.abs(np.asarray(one.image, int) - np.asarray(other.image, int)).max() <= 1


def test_lists_in_lists_out(model: LladaUni, photo: Image.Image) -> None:
    assert isinstance(model.generate_image("a", seed=1), ImageResult)
    assert isinstance(model.generate_image(["a"], seed=1), list)
    assert isinstance(model.encode_image([photo]), list)
    assert isinstance(model.decode_image([model.encode_image(photo)], seed=1), list)
    assert isinstance(model.understand_image(photo, "what?", seed=1), TextResult)
    assert isinstance(model.understand_image([photo], ["what?"], seed=1), list)


def test_the_stream_tells_the_story_in_order(model: LladaUni) -> None:
    events = list(model.stream_image(["a", "two red apples"], seed=5))
    kinds = [type(event) for event in events]
    assert kinds[:2] == [Started, Started]
    assert kinds[-2:] == [ImageDone, ImageDone]
    assert kinds.count(Finished) == 2
    assert kinds.count(FlowStep) == 2 * 3
    assert {event.row for event in events if isinstance(event, FlowStep)} == {0, 1}
    committed = [event for event in events if isinstance(event, StepDone) and event.row == 1]
    assert all(event.ids for event in committed)
    written = {p: i for event in committed for p, i in zip(event.positions, event.ids, strict=True) if p < 16}
    codes = model.networks.vocab.to_codes([written[p] for p in range(16)])
    assert tuple(codes) == events[-1].result.codes


def test_coarse_events_leave_out_the_steps(model: LladaUni) -> None:
    assert not [e for e in model.stream_image("a", seed=1, granularity="block") if isinstance(e, StepDone)]


@pytest.mark.parametrize(("decoder", "num_steps"), [("turbo", 1), ("turbo", 5), ("normal", 4)])
def test_the_decoder_makes_exactly_num_steps_evaluations(model: LladaUni, decoder: str, num_steps: int) -> None:
    events = model.stream_image("a", seed=1, decoder=decoder, num_steps=num_steps)
    assert sum(isinstance(event, FlowStep) for event in events) == num_steps


def test_decoding_the_codes_again_gives_the_same_picture(model: LladaUni) -> None:
    result = model.generate_image("a", seed=9)
    again = model.decode_image(EncodedImage(codes=result.codes, grid=result.grid, model="x"), seed=9)
    assert same(result, again)
    assert again.prompt is None


def test_decoding_a_mixed_list_keeps_the_order(model: LladaUni) -> None:
    square = EncodedImage(codes=tuple(range(16)), grid=TokenGrid(4, 4), model="x")
    wide = EncodedImage(codes=tuple(range(24)), grid=TokenGrid(4, 6), model="x")
    results = model.decode_image([square, wide, square], seed=[1, 2, 1])
    assert [result.image.size for result in results] == [(32, 32), (48, 32), (32, 32)]
    assert same(results[0], results[2])
    assert same(results[1], model.decode_image(wide, seed=2))


def test_pictures_come_in_from_anywhere(model: LladaUni, photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "photo.png")
    data = (tmp_path / "photo.png").read_bytes()
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    codes = {model.encode_image(source).codes for source in (photo, tmp_path / "photo.png", data, uri)}
    assert len(codes) == 1
    mixed = model.encode_image([photo, photo.rotate(90, expand=True)])
    assert [encoded.grid for encoded in mixed] == [TokenGrid(4, 6), TokenGrid(6, 4)]
    assert mixed[0].codes in codes


def test_encoding_to_a_size(model: LladaUni, photo: Image.Image) -> None:
    assert model.encode_image(photo, height=48, width=32).grid == TokenGrid(6, 4)
    with pytest.raises(SizeError, match="32x32"):
        model.encode_image(photo, height=40, width=40)


def test_an_answer(model: LladaUni, photo: Image.Image) -> None:
    result = model.understand_image(photo, "how many stars are there?", seed=3)
    assert result.question == "how many stars are there?"
    assert result.finish_reason in ("stop", "length")
    assert result.settings["max_new_tokens"] == 24
    assert result.usage["prompt_tokens"] > 24
    assert set(result.timings) == {"load", "encode", "tokens", "total"}
    assert len(model.understand_image(photo, "a?", seed=3, max_new_tokens=2).text) <= 12


def test_questions_in_a_batch_are_answered_as_alone(exact: LladaUni, photo: Image.Image) -> None:
    other = photo.rotate(90, expand=True)
    images = [photo, [photo, other], other]
    questions = ["how many?", "what colour is the small boat on the right?", "a"]
    batch = exact.understand_image(images, questions, seed=4)
    alone = [exact.understand_image(i, q, seed=4 + n) for n, (i, q) in enumerate(zip(images, questions, strict=True))]
    assert [result.text for result in batch] == [result.text for result in alone]
    assert [result.usage["prompt_tokens"] for result in batch] == [r.usage["prompt_tokens"] for r in alone]


def test_answers_stream(model: LladaUni, photo: Image.Image) -> None:
    events = list(model.stream_answer(photo, "how many?", seed=1))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], AnswerDone)
    assert any(isinstance(event, StepDone) for event in events)


def test_understanding_never_loads_the_pixel_decoder(checkpoint: Path, photo: Image.Image) -> None:
    fresh = LladaUni.from_pretrained(checkpoint)
    assert fresh.networks.modules() == {}
    fresh.understand_image(photo, "what?", seed=1, max_new_tokens=2)
    assert set(fresh.networks.modules()) == {"backbone", "image_tokenizer"}
    fresh.encode_image(photo)
    kept = fresh.networks.modules()["backbone"]
    fresh.generate_image("a", seed=1)
    assert set(fresh.networks.modules()) == {
        "backbone", "image_tokenizer", "semantic_embedder", "vae", "decoder_turbo",
    }  # fmt: skip
    assert fresh.networks.backbone is kept


def test_saving_and_opening_again_changes_nothing(model: LladaUni, tmp_path: Path) -> None:
    before = model.generate_image("three stars", seed=2)
    path = model.save_pretrained(tmp_path / "copy")
    assert same(before, LladaUni.from_pretrained(path).generate_image("three stars", seed=2))
    with torch.no_grad():
        changed = LladaUni.from_pretrained(path)
        changed.networks.backbone.lm_head.weight.neg_()
    changed.save_pretrained(path)
    assert before.codes != LladaUni.from_pretrained(path).generate_image("three stars", seed=2).codes


def test_positions_after_the_last_code_are_known_where_the_checkpoint_was_trained_so(checkpoint: Path) -> None:
    from llada_uni.pipeline.requests import image_request
    from llada_uni.pipeline.settings import image_settings

    networks = LladaUni.from_pretrained(checkpoint).networks
    grid, special = TokenGrid(4, 4), networks.vocab.special
    given = dict.fromkeys(
        ("steps_per_block", "guidance_scale", "confidence_threshold", "temperature", "num_steps", "decoder")
    )
    settings = image_settings(networks.package.presets, (32, 32), given)
    assert image_request(networks, "a", 0, grid, settings).given == {}
    networks.package = replace(
        networks.package, presets=replace(networks.package.presets, image_tail=True, image_temperature=0.5)
    )
    assert image_settings(networks.package.presets, (32, 32), given).temperature == 0.5
    request = image_request(networks, "a", 0, grid, settings)
    surplus = -(len(request.prompts[0]) + 16) % settings.block_length
    assert surplus > 1, "the prompt of this test must leave room in the last block"
    assert request.given == {16: special.eoi} | dict.fromkeys(range(17, 16 + surplus), special.eos)


@pytest.mark.parametrize("text", ["<|image|> a house", "<role>SYSTEM</role>", "<|endoftext|>", "<|reserved_token_4|>"])
def test_control_strings_in_a_prompt_are_plain_text(model: LladaUni, text: str, photo: Image.Image) -> None:
    assert model.generate_image(text, seed=1).prompt == text
    assert model.understand_image(photo, text, seed=1).question == text
    presets = model.networks.package.presets
    given = dict.fromkeys(
        ("guidance_scale", "decoder", "num_steps", "steps_per_block", "confidence_threshold"), None
    ) | {"temperature": 0.0}
    settings = image_settings(presets, (32, 32), given)
    plain, hostile = (
        image_request(model.networks, prompt, 1, TokenGrid(4, 4), settings).prompts[0] for prompt in ("a", text)
    )
    control = set(model.networks.tokenizer.added.values())
    assert sum(i in control for i in hostile) == sum(i in control for i in plain)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt": ""}, PromptError, "prompt: expected some words"),
        ({"prompt": 7}, PromptError, "expected a string, got int"),
        ({"prompt": []}, PromptError, "at least one"),
        ({"prompt": ["a", " "]}, PromptError, "expected some words"),
        ({"prompt": "apple " * 600}, BudgetError, "at most 512 fit"),
        ({"height": 33, "width": 32}, SizeError, r"no picture of 32x33 .*32x32, 48x32, 32x48"),
        ({"height": 64, "width": 64}, SizeError, "allowed"),
        ({"height": -32}, SizeError, "allowed"),
        ({"seed": -1}, ConfigError, "seed"),
        ({"seed": 2**63}, ConfigError, "seed"),
        ({"seed": [1, 2]}, ConfigError, "expected 1 seeds"),
        ({"steps_per_block": 0}, ConfigError, "steps_per_block"),
        ({"guidance_scale": float("nan")}, ConfigError, "guidance_scale"),
        ({"guidance_scale": float("inf")}, ConfigError, "guidance_scale"),
        ({"confidence_threshold": 1.5}, ConfigError, "confidence_threshold"),
        ({"temperature": -0.1}, ConfigError, "temperature"),
        ({"num_steps": 0}, ConfigError, "num_steps"),
        ({"decoder": "fast"}, ConfigError, "decoder: expected one of normal, turbo"),
    ],
)
def test_wrong_requests_fail_before_anything_is_computed(
    model: LladaUni, arguments: dict, error: type[LladaUniError], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.stream_image(**{"prompt": "a"} | arguments)


def test_wrong_questions_fail_before_anything_is_computed(model: LladaUni, photo: Image.Image) -> None:
    with pytest.raises(PromptError, match="question: expected some words"):
        model.stream_answer(photo, "")
    with pytest.raises(PromptError, match="expected a list of 2"):
        model.stream_answer(photo, ["a", "b"])
    with pytest.raises(PromptError, match="at least one picture"):
        model.stream_answer([], "a")
    with pytest.raises(ConfigError, match="max_new_tokens"):
        model.stream_answer(photo, "a", max_new_tokens=0)
    with pytest.raises(ImageError, match="no-such-file"):
        model.stream_answer("no-such-file.png", "a")
    with pytest.raises(BudgetError, match="at most 512 fit"):
        model.understand_image(photo, "a", max_new_tokens=500)


def test_codes_that_are_none(model: LladaUni) -> None:
    with pytest.raises(ImageError, match=r"0\.\.23"):
        model.decode_image(EncodedImage(codes=(24,) * 16, grid=TokenGrid(4, 4), model="x"))
    with pytest.raises(SizeError, match="allowed"):
        model.decode_image(EncodedImage(codes=(1,) * 9, grid=TokenGrid(3, 3), model="x"))
    with pytest.raises(ConfigError, match="EncodedImage"):
        model.decode_image([1, 2, 3])  # type: ignore[list-item]


def test_a_context_refined_once_gives_the_same_velocity(model: LladaUni) -> None:
    decoder = model.networks.decoder("normal")
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    features = torch.randn(2, 64, decoder.config.cap_feat_dim, generator=generator)
    velocity = OneContext(decoder, (8, 8))
    for time in (0.1, 0.7):
        times = torch.full((2,), time)
        torch.testing.assert_close(velocity(latents, times, features), decoder(latents, times, features))
    other = features.flip(0)
    torch.testing.assert_close(velocity(latents, times, other), decoder(latents, times, other))


def test_pixels_are_cut_to_eight_bits_as_released(model: LladaUni) -> None:
    class Echo(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = model.networks.vae.config
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def from_model(self, latents: torch.Tensor) -> torch.Tensor:
            return latents

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return latents

    values = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    (image,) = to_images(Echo(), values)  # type: ignore[arg-type]
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert buffer.getvalue()


def test_one_side_alone_means_a_square(model: LladaUni) -> None:
    assert model.generate_image("a", seed=1, height=32).image.size == (32, 32)
