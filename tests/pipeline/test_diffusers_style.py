"""The pipeline with diffusers' call conventions: the same pictures as the model's own methods, in other clothes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from llada_uni import LladaUniPipeline
from llada_uni.errors import ConfigError, ImageError, LladaUniError, PromptError, SizeError
from llada_uni.pipeline import EncodedImage, ImageResult, LladaUni
from llada_uni.pipeline.generators import seeds_from
from llada_uni.pipeline.picture_arrays import from_array, to_array, to_tensor

WORDS = "two red apples left of a house"


@pytest.fixture
def pipe(model: LladaUni) -> LladaUniPipeline:
    return LladaUniPipeline(model)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(picture: Image.Image, result: ImageResult) -> bool:
    return picture.tobytes() == result.image.tobytes()


# --- the same pictures ------------------------------------------------------------------------------------------------


def test_words_give_the_picture_of_generate_image(pipe: LladaUniPipeline, model: LladaUni) -> None:
    output = pipe(WORDS, generator=seeded(7), guidance_scale=1.5, num_inference_steps=2, temperature=1.0)
    expected = model.generate_image(WORDS, seed=7, guidance_scale=1.5, num_steps=2, temperature=1.0)
    assert len(output.images) == 1
    assert same(output.images[0], expected)
    assert output.results[0].codes == expected.codes
    assert output.results[0].settings == expected.settings


def test_a_batch_takes_seeds_in_a_row_and_the_wished_size(pipe: LladaUniPipeline, model: LladaUni) -> None:
    options: dict[str, Any] = {"height": 32, "width": 48, "decoder": "normal", "steps_per_block": 2}
    output = pipe(["a", "two red apples"], generator=seeded(11), num_images_per_prompt=2, **options)
    expected = model.generate_image(["a", "a", "two red apples", "two red apples"], seed=11, **options)
    assert [one.seed for one in output.results] == [11, 12, 13, 14]
    assert all(same(*pair) for pair in zip(output.images, expected, strict=True))


def test_a_picture_is_edited(pipe: LladaUniPipeline, model: LladaUni, photo: Image.Image) -> None:
    output = pipe("make it red", image=photo, generator=seeded(3), guidance_scale=2.0, image_guidance_scale=1.5)
    expected = model.edit_image(photo, "make it red", seed=3, guidance_text=2.0, guidance_image=1.5)
    assert same(output.images[0], expected)
    assert output.results[0].settings == expected.settings


@pytest.mark.parametrize("kind", ["references", "a picture each", "one for all", "copies"])
def test_which_pictures_belong_to_which_prompt(
    pipe: LladaUniPipeline, model: LladaUni, photo: Image.Image, portrait: Image.Image, kind: str
) -> None:
    prompts, copies = ["a", "b"], 1
    if kind == "references":
        prompt: Any = "join"
        image: Any = [photo, portrait]
        groups, texts = [[photo, portrait]], ["join"]
    elif kind == "a picture each":
        prompt, image, groups, texts = prompts, [photo, [portrait, photo]], [photo, [portrait, photo]], prompts
    elif kind == "one for all":
        prompt, image, groups, texts = prompts, photo, [photo, photo], prompts
    else:
        prompt, image, copies, groups, texts = "a", photo, 2, [photo, photo], ["a", "a"]
    output = pipe(prompt, image=image, generator=seeded(5), num_images_per_prompt=copies)
    expected = model.edit_image(groups, texts, seed=5)
    assert all(same(*pair) for pair in zip(output.images, expected, strict=True))


@pytest.mark.parametrize("kind", ["tensor", "batch", "array", "bytes of an array", "codes"])
def test_a_picture_may_be_numbers(pipe: LladaUniPipeline, model: LladaUni, photo: Image.Image, kind: str) -> None:
    tensor = to_tensor([photo])
    codes = model.encode_image(photo)
    image = {"tensor": tensor[0], "batch": tensor, "array": to_array([photo])[0], "bytes of an array": np.array(photo)}
    output = pipe("make it red", image=image.get(kind, codes), generator=seeded(3))
    assert same(output.images[0], model.edit_image(codes if kind == "codes" else photo, "make it red", seed=3))


def test_a_batch_of_numbers_is_a_list(pipe: LladaUniPipeline, model: LladaUni, photo: Image.Image) -> None:
    flipped = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    output = pipe(["a", "b"], image=to_tensor([photo, flipped]), generator=seeded(1))
    expected = model.edit_image([photo, flipped], ["a", "b"], seed=1)
    assert all(same(*pair) for pair in zip(output.images, expected, strict=True))


# --- what comes back --------------------------------------------------------------------------------------------------


def test_the_forms_of_the_output_agree(pipe: LladaUniPipeline) -> None:
    pil, array, tensor = (
        pipe(["a", "b"], generator=seeded(1), output_type=form).images for form in ("pil", "np", "pt")
    )
    assert isinstance(array, np.ndarray)
    assert isinstance(tensor, torch.Tensor)
    assert (array.shape, array.dtype) == ((2, 32, 32, 3), np.float32)
    assert (tuple(tensor.shape), tensor.dtype) == ((2, 3, 32, 32), torch.float32)
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.rint(array[1] * 255), np.asarray(pil[1]))


def test_the_latents_are_codes_and_cost_no_decoder(checkpoint: Path, photo: Image.Image) -> None:
    pipe = LladaUniPipeline.from_pretrained(checkpoint, device="cpu")
    for image in (None, photo):
        latents = pipe(["a", "b"], image=image, generator=seeded(4), output_type="latent").images
        assert not {"decoder", "decoder_turbo", "vae"} & set(pipe.model.networks.modules())
        assert all(isinstance(one, EncodedImage) for one in latents)
        drawn = pipe(["a", "b"], image=image, generator=seeded(4))
        assert [one.codes for one in latents] == [one.codes for one in drawn.results]
        assert all(same(*pair) for pair in zip(drawn.images, pipe.model.decode_image(latents, seed=4), strict=True))
        pipe = LladaUniPipeline.from_pretrained(checkpoint, device="cpu")


def test_the_output_opens_like_one_of_diffusers(pipe: LladaUniPipeline) -> None:
    output = pipe("a", generator=seeded(1))
    assert output["images"] is output.images
    assert output[0] is output.images
    assert output.to_tuple()[0] is output.images
    plain = pipe("a", generator=seeded(1), return_dict=False)
    assert isinstance(plain, tuple)
    assert same(plain[0][0], output.results[0])


def test_the_callback_sees_every_step_of_the_decoder(pipe: LladaUniPipeline) -> None:
    seen: list[tuple[int, float]] = []

    def note(given: Any, step: int, timestep: float, values: dict[str, Any]) -> dict[str, Any]:
        assert given is pipe
        assert tuple(values["latents"].shape) == (1, 4, 16, 16)
        seen.append((step, timestep))
        return values

    watched = pipe("a", generator=seeded(1), num_inference_steps=4, callback_on_step_end=note)
    assert seen == [(0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0)]
    assert same(watched.images[0], pipe("a", generator=seeded(1), num_inference_steps=4).results[0])
    with pytest.raises(ConfigError, match="not change it"):
        pipe("a", callback_on_step_end=lambda *_: {"latents": torch.zeros(1)})


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_a_new_generator_stands_for_its_seed_and_then_moves_on() -> None:
    generator = seeded(7)
    first, second = seeds_from(generator, 2), seeds_from(generator, 2)
    assert first == [7, 8]
    assert second != first
    again = seeded(7)
    assert [seeds_from(again, 2), seeds_from(again, 2)] == [first, second]
    assert seeds_from(None, 3) is None


def test_a_generator_that_was_used_elsewhere_is_no_new_one() -> None:
    used = seeded(7)
    torch.rand(1, generator=used)
    (seed,) = seeds_from(used, 1) or [0]
    assert seed != 7
    assert 0 <= seed < 2**63


def test_a_list_has_a_generator_for_each_picture() -> None:
    assert seeds_from([seeded(3), seeded(1)], 2) == [3, 1]
    with pytest.raises(ConfigError, match=r"expected 3, one per picture, or a single one; got 2"):
        seeds_from([seeded(3), seeded(1)], 3)


@pytest.mark.parametrize("seed", [2**63 - 1, 2**64 - 1, -1])
def test_seeds_stay_in_range(seed: int) -> None:
    found = seeds_from(seeded(seed), 2)
    assert found == [2**63 - 1, 0]


@pytest.mark.parametrize("wrong", [7, "7", [7], torch.zeros(1)])
def test_other_things_are_no_generators(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"generator: expected a torch\.Generator"):
        seeds_from(wrong, 1)


# --- bad arguments ----------------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], type[LladaUniError], str]] = [
    ({"prompt": ""}, PromptError, "prompt"),
    ({"prompt": []}, PromptError, "prompt"),
    ({"prompt": None}, PromptError, "prompt"),
    ({"height": 33}, SizeError, "allowed"),
    ({"num_inference_steps": 0}, ConfigError, "num_steps"),
    ({"guidance_scale": -1}, ConfigError, "guidance_scale"),
    ({"num_images_per_prompt": 0}, ConfigError, "num_images_per_prompt"),
    ({"num_images_per_prompt": 1.5}, ConfigError, "num_images_per_prompt"),
    ({"output_type": "jpg"}, ConfigError, "output_type: expected one of pil, np, pt, latent"),
    ({"return_dict": "no"}, ConfigError, "return_dict"),
    ({"generator": 3}, ConfigError, "generator"),
    ({"callback_on_step_end": 3}, ConfigError, "callback_on_step_end"),
    ({"negative_prompt": "ugly"}, ConfigError, "negative_prompt"),
    ({"image_guidance_scale": 2.0}, ConfigError, "image_guidance_scale has no meaning without image"),
    ({"eta": 0.5}, ConfigError, "unexpected argument 'eta'"),
    ({"decoder": "fast"}, ConfigError, "decoder"),
    ({"image": []}, PromptError, "picture"),
    ({"image": 3}, ImageError, "expected a PIL image"),
    ({"image": np.zeros((4, 4, 7))}, ImageError, r"shape \[H, W, C\].*got \[4, 4, 7\]"),
    ({"image": torch.full((3, 8, 8), -1.0)}, ImageError, "from 0 to 1"),
    ({"image": torch.zeros(0, 8)}, ImageError, "got"),
    ({"prompt": ["a", "b"], "image": [Image.new("RGB", (32, 32))]}, ConfigError, "image: expected one picture or"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_arguments_give_one_line(
    pipe: LladaUniPipeline, arguments: dict[str, Any], kind: type[LladaUniError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        pipe(**{"prompt": "a", **arguments})
    assert "\n" not in str(caught.value)


def test_one_array_holds_pictures_of_one_size(pipe: LladaUniPipeline) -> None:
    with pytest.raises(SizeError, match="32x32, 32x48"):
        to_array([Image.new("RGB", (32, 32)), Image.new("RGB", (32, 48))])


def test_numbers_become_pixels_by_rounding() -> None:
    values = torch.tensor([0.0, 0.5, 1.0005]).reshape(1, 1, 3)
    assert np.asarray(from_array(values)).tolist() == [[0, 128, 255]]
    assert from_array(torch.zeros(4, 2, 3)).mode == "RGBA"
    with pytest.raises(ImageError, match="nan"):
        from_array(torch.full((3, 2, 2), float("nan")))
    assert from_array("photo.png") == "photo.png"


# --- the checkpoint ---------------------------------------------------------------------------------------------------


def test_moving_keeps_the_weights_or_reads_them_again(checkpoint: Path) -> None:
    pipe = LladaUniPipeline.from_pretrained(checkpoint, torch_dtype=torch.float64, device="cpu")
    before = pipe("a", generator=seeded(1)).results[0]
    networks = pipe.model.networks
    assert pipe.to("cpu") is pipe
    assert pipe.model.networks is networks
    assert (pipe.device, pipe.dtype) == (torch.device("cpu"), torch.float64)
    assert pipe.to(torch.float32).dtype == torch.float32
    assert pipe.model.networks is not networks
    assert pipe.to("cpu").dtype == torch.float32
    assert pipe.to(device="cpu", dtype=torch.float64)("a", generator=seeded(1)).results[0].codes == before.codes
    for wrong in ("gpu", torch.int64):
        with pytest.raises(ConfigError):
            pipe.to(wrong)


def test_it_saves_and_opens(pipe: LladaUniPipeline, tmp_path: Path) -> None:
    opened = LladaUniPipeline.from_pretrained(pipe.save_pretrained(tmp_path / "copy"), device="cpu")
    expected = pipe("a", generator=seeded(1)).results[0]
    assert opened("a", generator=seeded(1)).results[0].codes == expected.codes


def test_diffusers_is_not_imported() -> None:
    code = "import sys; from llada_uni import LladaUniPipeline; print('diffusers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
