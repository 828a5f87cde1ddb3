"""Generate, ask, edit and talk about the same pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from llada_uni.errors import ImageError, PromptError, ResourceError
from llada_uni.pipeline import Conversation, EncodedImage, ImageResult, LladaUni, TextResult, Turn


def test_one_picture_through_all_tasks(model: LladaUni) -> None:
    talk = model.conversation()
    assert isinstance(talk, Conversation)
    assert (talk.turns, talk.images, talk.results, talk.last_image) == ((), (), (), None)
    made = talk.generate("two red apples", seed=1)
    answer = talk.ask("how many?", seed=2, max_new_tokens=4)
    edited = talk.edit("add a house", seed=3)
    words = talk.say("and now?", seed=4, max_new_tokens=4)
    assert isinstance(made, ImageResult)
    assert isinstance(answer, TextResult)
    assert talk.results == (made, answer, edited, words)
    assert talk.images == (made.image, edited.image)
    assert talk.last_image is edited.image
    assert talk.turns == (
        Turn("user", "two red apples"), Turn("assistant", "", (made.encoded,)),
        Turn("user", "how many?"), Turn("assistant", answer.text),
        Turn("user", "add a house"), Turn("assistant", "", (edited.encoded,)),
        Turn("user", "and now?"), Turn("assistant", words.text),
    )  # fmt: skip


def test_every_result_is_that_of_the_single_task(model: LladaUni) -> None:
    talk = model.conversation("be short")
    made = talk.generate("two red apples", seed=1, width=48, height=32)
    assert made.codes == model.generate_image("two red apples", seed=1, width=48, height=32).codes
    answer = talk.ask("how many?", seed=2)
    assert answer.text == model.understand_image(made, "how many?", seed=2, system="be short").text
    edited = talk.edit("add a house", seed=3, guidance_image=1.5)
    assert edited.codes == model.edit_image(made.encoded, "add a house", seed=3, guidance_image=1.5).codes
    before = talk.turns
    words = talk.say("and now?", seed=4)
    assert words.text == model.chat([Turn("system", "be short"), *before, Turn("user", "and now?")], seed=4).text


def test_pictures_of_the_model_are_never_encoded_again(checkpoint: Path, photo: Image.Image) -> None:
    fresh = LladaUni.from_pretrained(checkpoint)
    talk = fresh.conversation(seed=1)
    talk.generate("two red apples")
    talk.ask("how many?")
    talk.edit("add a house")
    talk.say("well?")
    talk.add_image(talk.results[0])  # type: ignore[arg-type]
    talk.ask("and here?")
    assert "image_tokenizer" not in fresh.networks.modules()
    talk.add_image(photo)
    assert "image_tokenizer" in fresh.networks.modules()


def test_added_pictures_are_at_hand_until_something_is_said(
    model: LladaUni, photo: Image.Image, portrait: Image.Image
) -> None:
    talk = model.conversation()
    talk.add_image(photo)
    talk.add_image(portrait)
    codes = [model.encode_image(photo), model.encode_image(portrait)]
    assert talk.turns == (Turn("user", "", tuple(codes)),)
    both = talk.ask("how many?", seed=1)
    assert both.text == model.understand_image(codes, "how many?", seed=1).text
    assert talk.turns == (Turn("user", "how many?", tuple(codes)), Turn("assistant", both.text))
    last = talk.ask("and here?", seed=2)
    assert last.text == model.understand_image(codes[1], "and here?", seed=2).text
    assert talk.edit("add a house", seed=3).codes == model.edit_image(portrait, "add a house", seed=3).codes


def test_several_added_pictures_are_references(model: LladaUni, photo: Image.Image, portrait: Image.Image) -> None:
    talk = model.conversation()
    talk.add_image(portrait)
    talk.add_image(photo)
    result = talk.edit("join them", seed=1)
    assert result.codes == model.edit_image([portrait, photo], "join them", seed=1).codes
    assert result.image.size == (32, 48)


def test_a_seed_for_the_whole_conversation(model: LladaUni) -> None:
    def talk() -> Conversation:
        one = model.conversation(seed=10)
        one.generate("two red apples", temperature=1.0)
        one.ask("how many?", temperature=1.0)
        one.edit("add a house", seed=99)
        one.say("why?", temperature=1.0)
        return one

    first, second = talk(), talk()
    assert [result.seed for result in first.results] == [10, 11, 99, 13]
    assert first.turns == second.turns


def test_a_call_that_fails_changes_nothing(model: LladaUni, photo: Image.Image) -> None:
    talk = model.conversation()
    for call in (talk.ask, talk.edit):
        with pytest.raises(PromptError, match="no picture yet"):
            call("what?")
    talk.add_image(photo)
    before = talk.turns
    for call in (talk.generate, talk.ask, talk.edit, talk.say):
        with pytest.raises(PromptError, match="expected some words"):
            call(" ")
        with pytest.raises(PromptError, match="expected a string, got list"):
            call(["a", "b"])  # type: ignore[arg-type]
        with pytest.raises(Exception, match="seed"):
            call("a", seed=-1)
    with pytest.raises(ImageError):
        talk.add_image("missing.png")
    with pytest.raises(ImageError):
        talk.add_image(EncodedImage(codes=(1,) * 16, grid=model.encode_image(photo).grid, model="x"))  # type: ignore[arg-type]
    assert (talk.turns, talk.results, talk.images) == (before, (), talk.images)
    with pytest.raises(PromptError, match="system: expected some words"):
        model.conversation("")


def test_an_answer_without_words_does_not_end_the_conversation(model: LladaUni) -> None:
    talk = model.conversation()
    talk.say("hello", seed=1, max_new_tokens=1)
    talk._turns[-1] = Turn("assistant", "")
    assert talk.say("well?", seed=2, max_new_tokens=1).question == "well?"


def test_saving(model: LladaUni, photo: Image.Image, tmp_path: Path) -> None:
    talk = model.conversation("be short", seed=5)
    talk.generate("two red apples")
    talk.add_image(photo)
    talk.ask("how many?")
    place = talk.save(tmp_path / "new" / "talk")
    assert sorted(path.name for path in place.iterdir()) == ["conversation.json", "picture-1.png", "picture-2.png"]
    value = json.loads((place / "conversation.json").read_text())
    assert (value["format"], value["system"]) == ("llada-uni-conversation", "be short")
    assert [(turn["role"], turn["text"], [i["file"] for i in turn["images"]]) for turn in value["turns"]] == [
        ("user", "two red apples", []), ("assistant", "", ["picture-1.png"]),
        ("user", "how many?", ["picture-2.png"]), ("assistant", talk.results[1].as_dict()["answer"], []),
    ]  # fmt: skip
    assert [(result["task"], result["seed"]) for result in value["results"]] == [("generate", 5), ("ask", 6)]
    made = Image.open(place / "picture-1.png")
    assert (made.tobytes(), made.info["prompt"]) == (talk.images[0].tobytes(), "two red apples")
    assert Image.open(place / "picture-2.png").tobytes() == photo.tobytes()
    assert EncodedImage.from_dict(value["turns"][1]["images"][0], source="x") == talk.turns[1].images[0]
    talk.save(place)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="cannot make the directory"):
        talk.save(tmp_path / "file")
