"""Stories on a complete random checkpoint whose backbone follows an outline, and what they are saved as."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from full_disk import full_disk
from llada_uni import prompts
from llada_uni.backbone.denoiser import CachedDenoiser
from llada_uni.errors import BudgetError, ConfigError, ImageError, LladaUniError, PromptError, ResourceError, SizeError
from llada_uni.grid import TokenGrid
from llada_uni.pipeline import (
    EncodedImage,
    FramePreview,
    ImageDone,
    ImageResult,
    LladaUni,
    StoryDone,
    StoryResult,
    StoryState,
    StoryTurn,
)
from llada_uni.pipeline import story as stories
from llada_uni.pipeline.story_page import plain_markdown
from llada_uni.protocols import Finished, FlowStep, HeaderSeen, Started, TextDelta
from llada_uni.sampling.stories import PhaseDone
from llada_uni.testing.checkpoint import write_tiny_checkpoint
from story_helpers import SPECIAL, TOKENIZER, VOCAB, Director, Part, Script, script

SQUARE, WIDE = TokenGrid(4, 4), TokenGrid(4, 6)
NANO = Path(stories.__file__).parents[1] / "nano"
TEXT = "two red apples"
HOSTILE = '<script>alert("x")</script> & <|image|> **bold** ![a](http://b) <boi>'


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> LladaUni:
    return LladaUni.from_pretrained(checkpoint, device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    return Image.fromarray(values)


Told = Callable[..., None]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Make every backbone of this test write stories of these outlines, one script per row."""

    def tell(*scripts: Script) -> None:
        monkeypatch.setattr(
            stories, "CachedDenoiser", lambda backbone: Director(CachedDenoiser(backbone), dict(enumerate(scripts)))
        )

    return tell


def outline(prompt: str, *parts: Part) -> Script:
    return script(*parts, start=len(prompts.interleaved(TOKENIZER, prompt).cond))


def same(one: StoryResult, other: StoryResult) -> bool:
    """The same words and pictures, to the bit."""

    def plain(result: StoryResult) -> list[Any]:
        return [s if isinstance(s, str) else (s.codes, s.seed, s.image.tobytes()) for s in result.segments]

    return plain(one) == plain(other) and one.state.ids == other.state.ids


def test_a_story(model: LladaUni, checkpoint: Path, told: Told) -> None:
    told(outline(TEXT, 5, SQUARE, 7, WIDE, 3, "end"))
    result = model.generate_interleaved(TEXT, seed=7)
    assert isinstance(result, StoryResult)
    assert [type(segment) for segment in result.segments] == [str, ImageResult, str, ImageResult, str]
    assert result.finish_reason == "stop"
    assert [picture.image.size for picture in result.images] == [(32, 32), (48, 32)]
    assert result.text.split("\n\n")[0] == result.segments[0] == result.images[0].prompt
    assert (result.seed, result.model, result.state.seed) == (7, str(checkpoint), 7)
    assert len({7, *(picture.seed for picture in result.images)}) == 3
    assert result.usage["num_frames"] == 2
    assert result.usage["output_tokens"] == 5 + 4 + 16 + 1 + 7 + 4 + 24 + 1 + 3
    assert result.usage["total_tokens"] == len(result.state.ids)
    assert set(result.timings) == {"load", "encode", "tokens", "pixels", "total"}
    assert result.settings["max_new_tokens"] == 24
    assert (result.settings["guidance_scale"], result.settings["guidance_text"]) == (7.5, 7.5)
    assert (result.images[1].settings["width"], result.images[1].settings["height"]) == (48, 32)


def test_every_picture_can_be_made_again_from_its_codes(model: LladaUni, told: Told) -> None:
    told(outline(TEXT, 5, SQUARE, 3, WIDE, "end"))
    for picture in model.generate_interleaved(TEXT, seed=7).images:
        encoded = EncodedImage(codes=picture.codes, grid=picture.grid, model="x")
        assert model.decode_image(encoded, seed=picture.seed).image.tobytes() == picture.image.tobytes()


def test_the_stream_tells_everything_in_order(model: LladaUni, told: Told) -> None:
    told(outline(TEXT, 5, SQUARE, 7, WIDE, 3, "end"))
    events = list(model.stream_interleaved(TEXT, seed=7, num_steps=3, preview_every=2))
    wanted = (Started, HeaderSeen, Finished, PhaseDone, FramePreview, ImageDone, StoryDone)
    picture = [Started, Finished, PhaseDone, FramePreview, ImageDone]
    text = [Started, HeaderSeen, Finished, PhaseDone]
    kinds = [type(event) for event in events if isinstance(event, wanted)]
    assert kinds == [*text, *picture, *text, *picture, Started, Finished, PhaseDone, StoryDone]
    assert sum(isinstance(event, FlowStep) for event in events) == 2 * 3
    words = [TOKENIZER.decode(event.ids) for event in events if isinstance(event, TextDelta)]
    last = events[-1]
    assert isinstance(last, StoryDone)
    assert "".join(words).replace(" ", "") == "".join(last.result.text.split()).replace(" ", "")
    previews = [event for event in events if isinstance(event, FramePreview)]
    assert [(event.frame, event.index, event.image.size) for event in previews] == [(0, 1, (32, 32)), (1, 1, (48, 32))]
    coarse = list(model.stream_interleaved(TEXT, seed=7, granularity="block"))
    assert not any(isinstance(event, TextDelta) for event in coarse)


def test_a_batch_gives_what_each_prompt_gives_alone(model: LladaUni, told: Told) -> None:
    texts = [TEXT, "a", "three stars"]
    scripts = [outline(TEXT, 5, SQUARE, 2, "end"), outline("a", WIDE, 3, SQUARE), outline("three stars", 9, "end")]
    told(*scripts)
    batch = model.generate_interleaved(texts, seed=11, temperature=0.7, max_frames=2)
    assert isinstance(batch, list)
    assert [result.seed for result in batch] == [11, 12, 13]
    assert [len(result.images) for result in batch] == [1, 2, 0]
    for text, result, own in zip(texts, batch, scripts, strict=True):
        told(own)
        assert same(result, model.generate_interleaved(text, seed=result.seed, temperature=0.7, max_frames=2))


def test_going_on_after_max_frames_is_having_asked_for_more(model: LladaUni, told: Told, tmp_path: Path) -> None:
    told(outline(TEXT, 5, SQUARE, 7, WIDE, 3, SQUARE))
    whole = model.generate_interleaved(TEXT, seed=7, max_frames=3)
    first = model.generate_interleaved(TEXT, seed=7, max_frames=1)
    assert (first.finish_reason, len(first.images)) == ("max_frames", 1)
    path = tmp_path / "state.json"
    path.write_text(json.dumps(first.state.as_dict()))
    for form in (first, first.state, first.state.as_dict(), path, str(path)):
        second = model.generate_interleaved(continue_from=form, max_frames=2)
        assert isinstance(second, StoryResult)
        assert len(second.images) == 2
        joined = first + second
        assert same(joined, whole)
        assert len(joined.turns) == 1
        assert joined.usage == whole.usage | {"num_calls": joined.usage["num_calls"]}
    with pytest.raises(ConfigError, match="not one story"):
        _ = second + first


def test_a_next_turn(model: LladaUni, told: Told) -> None:
    told(outline(TEXT, 5, SQUARE, 3, "end"))
    first = model.generate_interleaved(TEXT, seed=7)
    row = prompts.interleaved_turn(VOCAB, TOKENIZER, "a", history=first.state.ids).cond
    told(script(4, WIDE, "end", start=len(row)))
    second = model.generate_interleaved("a", continue_from=first.state)
    assert second.state.ids[: len(row)] == row
    assert (second.seed, len(second.images)) == (7, 1)
    assert [turn.prompt for turn in (first + second).turns] == [TEXT, "a"]
    told()
    with pytest.raises(PromptError, match="ended this story itself"):
        model.stream_interleaved(continue_from=first.state)


def test_many_stories_go_on_together(model: LladaUni, told: Told) -> None:
    told(outline(TEXT, 5, SQUARE, 3, SQUARE), outline("a", WIDE, 3, SQUARE))
    first = model.generate_interleaved([TEXT, "a"], seed=3, max_frames=1)
    second = model.generate_interleaved(continue_from=first, max_frames=1)
    assert isinstance(second, list)
    assert [result.seed for result in second] == [3, 4]
    assert [result.state.frame_index for result in second] == [2, 2]


def test_pictures_stand_before_the_words(model: LladaUni, photo: Image.Image, told: Told) -> None:
    encoded = model.encode_image(photo)
    block = prompts.ImageBlock(grid=encoded.grid, codes=encoded.codes)
    row = prompts.interleaved_turn(VOCAB, TOKENIZER, "a", [block]).cond
    told(script(4, SQUARE, "end", start=len(row)))
    for images in (photo, [photo]):
        result = model.generate_interleaved("a", images=images, seed=1)
        assert result.state.ids[: len(row)] == row
        assert len(result.images) == 1
        assert result.turns[0].images[0].size == (24, 16)
    told(script("end", start=len(row)), outline("a", "end"))
    batch = model.generate_interleaved(["a", "a"], images=[[photo], []], seed=1)
    assert [len(result.turns[0].images) for result in batch] == [1, 0]


def test_a_size_given_is_the_size_of_every_picture(model: LladaUni, told: Told) -> None:
    told(outline(TEXT, 5, (SQUARE, WIDE), 3, WIDE, "end"))
    result = model.generate_interleaved(TEXT, seed=7, height=32, width=48)
    assert [picture.image.size for picture in result.images] == [(48, 32), (48, 32)]


def test_a_grid_nobody_was_trained_on(model: LladaUni, told: Told) -> None:
    told(outline(TEXT, 5, (TokenGrid(9, 9), SQUARE), 3, "end"))
    assert model.generate_interleaved(TEXT, seed=7).images[0].grid == SQUARE
    stopped = model.generate_interleaved(TEXT, seed=7, on_bad_grid="stop")
    assert (stopped.finish_reason, len(stopped.segments)) == ("bad_grid", 1)
    told(outline(TEXT, 5, "boi"))
    broken = model.generate_interleaved(TEXT, seed=7)
    assert (broken.finish_reason, len(broken.segments)) == ("bad_header", 1)


def test_a_text_that_never_ends(model: LladaUni, told: Told) -> None:
    told({})
    result = model.generate_interleaved(TEXT, seed=7, max_new_tokens=9)
    assert (result.finish_reason, result.usage["output_tokens"]) == ("length", 9)
    more = model.generate_interleaved(continue_from=result, max_new_tokens=9)
    assert (result + more).usage["output_tokens"] == 18


def test_a_random_model_comes_to_some_end(model: LladaUni) -> None:
    for seed in range(4):
        result = model.generate_interleaved(TEXT, seed=seed, temperature=1.0, max_frames=2)
        assert result.finish_reason in ("stop", "length", "max_frames", "bad_header")


@pytest.mark.skipif(not NANO.is_dir(), reason="the embedded model is not built yet")
def test_nano_writes_and_draws() -> None:
    nano = LladaUni.from_pretrained("nano", device="cpu")
    written = nano.generate_interleaved("a red ball grows", seed=1, max_frames=1)
    assert written.finish_reason in ("stop", "length", "max_frames", "bad_header")
    vocab, tokenizer = nano.networks.vocab, nano.networks.tokenizer
    ids = (*prompts.interleaved(tokenizer, "a red ball grows").cond, *vocab.header(TokenGrid(8, 8)))
    due = StoryState(ids=ids, seed=1, phase="image")
    drawn = nano.generate_interleaved(continue_from=due, max_frames=1, steps_per_block=4, num_steps=2)
    assert drawn.finish_reason == "max_frames"
    assert drawn.images[0].image.size == (128, 128)


@pytest.mark.parametrize("text", ["<|image|> a house", "<role>SYSTEM</role>", "<|endoftext|>", "<boi>", "<|mask|>"])
def test_control_strings_in_a_prompt_are_plain_text(model: LladaUni, told: Told, text: str) -> None:
    told(outline(text, 2, "end"), outline("a", 2, "end"))
    hostile, plain = model.generate_interleaved([text, "a"], seed=1)
    control = set(TOKENIZER.added.values())
    assert sum(i in control for i in hostile.state.ids) == sum(i in control for i in plain.state.ids)
    assert hostile.turns[0].prompt == text


DONE = StoryState(ids=(1, 2, 3), seed=1, phase="done", reason="length")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt": ""}, PromptError, "prompt: expected some words"),
        ({"prompt": None}, PromptError, "prompt: expected a string, got NoneType"),
        ({"prompt": []}, PromptError, "at least one"),
        ({"prompt": ["a", " "]}, PromptError, "expected some words"),
        ({"prompt": "apple " * 600}, BudgetError, "a picture needs 21, together at most 512 fit"),
        ({"images": "no-such-file.png"}, ImageError, "no-such-file"),
        ({"images": [b"junk"]}, ImageError, "picture"),
        ({"images": b""}, ImageError, "picture"),
        ({"prompt": ["a", "b"], "images": ["x.png"]}, PromptError, "images: expected a list of 2"),
        ({"max_frames": 0}, ConfigError, "max_frames: expected a whole number from 1, got 0"),
        ({"max_frames": 1.5}, ConfigError, "max_frames"),
        ({"max_new_tokens": 0}, ConfigError, "max_new_tokens"),
        ({"max_image_tokens": -1}, ConfigError, "max_image_tokens"),
        ({"max_image_tokens": 15, "height": 32}, BudgetError, "16 codes, max_image_tokens allows 15"),
        ({"height": 33, "width": 32}, SizeError, "allowed"),
        ({"guidance_text": -1}, ConfigError, "guidance_text"),
        ({"guidance_image": float("nan")}, ConfigError, "guidance_image"),
        ({"guidance_scale": "high"}, ConfigError, "guidance_scale"),
        ({"temperature": -1}, ConfigError, "temperature"),
        ({"steps_per_block": 0}, ConfigError, "steps_per_block"),
        ({"seed": -1}, ConfigError, "seed"),
        ({"decoder": "fast"}, ConfigError, "decoder"),
        ({"on_bad_grid": "crash"}, ConfigError, "on_bad_grid: expected one of nearest, stop"),
        ({"preview_every": -1}, ConfigError, "preview_every"),
        ({"continue_from": 3}, ConfigError, "continue_from: expected the state"),
        ({"continue_from": {}}, ConfigError, "expected the state of a story"),
        ({"continue_from": "no-such-state.json"}, ConfigError, "cannot read no-such-state.json"),
        ({"continue_from": "a\0b"}, ConfigError, "not a file"),
        ({"continue_from": [DONE, DONE]}, PromptError, "as many prompts as stories"),
        ({"continue_from": replace(DONE, ids=(1, 99999))}, ConfigError, "does not have"),
        ({"prompt": None, "continue_from": replace(DONE, reason="stop")}, PromptError, "ended this story itself"),
        ({"prompt": None, "continue_from": replace(DONE, ids=(5,) * 500)}, BudgetError, "at most 512 fit"),
        ({"prompt": "", "continue_from": DONE}, PromptError, "expected some words"),
    ],
)
def test_wrong_requests_fail_before_anything_is_computed(
    model: LladaUni, arguments: dict, error: type[LladaUniError], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.stream_interleaved(**{"prompt": "a"} | arguments)


def test_pictures_without_a_prompt(model: LladaUni, photo: Image.Image) -> None:
    with pytest.raises(PromptError, match="there is no prompt"):
        model.stream_interleaved(None, images=[photo], continue_from=DONE)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"format": "llada-uni-story"}', "\xff", "1" * 5000, "[" * 99999]
)
def test_damaged_state_files(model: LladaUni, tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"state\.json"):
        model.stream_interleaved("a", continue_from=tmp_path / "state.json")


# --- saved stories --------------------------------------------------------------------------------------------------


def a_picture(prompt: str, colour: int) -> ImageResult:
    return ImageResult(
        image=Image.new("RGB", (8, 8), (colour, 30, 20)),
        codes=(0, 1, 2, 3),
        grid=TokenGrid(2, 2),
        prompt=prompt,
        seed=7,
        model="nano",
        settings={},
        timings={},
    )


def a_result(text: str = "first it is small") -> StoryResult:
    turns = (
        StoryTurn(prompt=text, images=(Image.new("RGB", (4, 4)),), segments=(text, a_picture(text, 10), text)),
        StoryTurn(prompt="and then?", segments=(a_picture("", 20), "the end")),
    )
    return StoryResult(
        turns=turns,
        state=replace(DONE, segments=()),
        seed=7,
        model="nano",
        finish_reason="length",
        settings={},
        timings={},
        usage={},
    )


def test_a_directory_with_everything(tmp_path: Path) -> None:
    path = a_result().save(tmp_path / "tale")
    names = ["frame-1.png", "frame-2.png", "input-1.png", "state.json", "story.md"]
    assert sorted(found.name for found in path.iterdir()) == names
    text = (path / "story.md").read_text(encoding="utf-8")
    assert re.findall(r"!\[(.*?)\]\((.*?)\)", text) == [
        ("Picture 1 of the prompt", "input-1.png"), ("first it is small", "frame-1.png"), ("Picture 2", "frame-2.png"),
    ]  # fmt: skip
    assert "> and then?\n" in text
    assert text.index("frame-1.png") < text.index("and then?") < text.index("frame-2.png") < text.index("the end")
    assert StoryState.from_dict(json.loads((path / "state.json").read_text())) == a_result().state
    assert Image.open(path / "frame-1.png").info["prompt"] == "first it is small"
    a_result().save(path)
    assert [found.name for found in tmp_path.iterdir()] == ["tale"]


def test_only_stories_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.txt").write_text("long work")
    with pytest.raises(ResourceError, match=r"holds other files \(chapter-1.txt\)"):
        a_result().save(tmp_path / "thesis")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="is a file"):
        a_result().save(tmp_path / "file")
    with pytest.raises(ResourceError, match="does not exist"):
        a_result().save(tmp_path / "no" / "tale")
    assert (tmp_path / "thesis" / "chapter-1.txt").read_text() == "long work"
    assert not (tmp_path / "no").exists()
    (tmp_path / "empty").mkdir()
    assert a_result().save(tmp_path / "empty").is_dir()


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    for save in (lambda: a_result().save(tmp_path / "tale"), lambda: a_result().save_html(tmp_path / "tale.html")):
        with full_disk(), pytest.raises(ResourceError, match="cannot write"):
            save()
        assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_story(tmp_path: Path) -> None:
    path = a_result().save(tmp_path / "tale")
    before = {found.name: found.read_bytes() for found in path.iterdir()}
    with full_disk(), pytest.raises(ResourceError, match="cannot write"):
        a_result("other").save(path)
    assert {found.name: found.read_bytes() for found in path.iterdir()} == before
    assert [found.name for found in tmp_path.iterdir()] == ["tale"]


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_one_page_with_everything(tmp_path: Path) -> None:
    path = a_result().save_html(tmp_path / "tale.html")
    page = Page(path.read_text(encoding="utf-8"))
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    first = Image.open(io.BytesIO(base64.b64decode(sources[1].partition(",")[2])))
    assert first.tobytes() == a_result().images[0].image.tobytes()
    assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] == [
        "Picture 1 of the prompt", "first it is small", "Picture 2",
    ]  # fmt: skip
    assert "http" not in re.sub(r"http-equiv", "", path.read_text(encoding="utf-8"))
    with pytest.raises(ConfigError, match=r"ending in \.html"):
        a_result().save_html(tmp_path / "tale.txt")


@pytest.mark.parametrize(
    "text", [HOSTILE, '" onload="x', "</title><script>", "<!-- x", "a\x00b\x1b", "&lt;b&gt;", "'>"]
)
def test_words_never_become_markup_on_the_page(text: str) -> None:
    plain, hostile = Page(a_result("plain words").html()), Page(a_result(text).html())
    assert [tag for tag, _ in plain.tags] == [tag for tag, _ in hostile.tags]
    assert [sorted(attributes) for _, attributes in plain.tags] == [
        sorted(attributes) for _, attributes in hostile.tags
    ]
    assert re.sub(r"[\x00\x1b]", "\ufffd", text) in hostile.words
    assert "\x00" not in hostile.words


@pytest.mark.parametrize(
    "text",
    [HOSTILE, "# title", "- a\n- b", "1. a", "2) b", "a\n===", "a\n---", "> quote", "    code", "\tcode", "```x", "~~~",
     "a|b\n-|-", "[x]: y", "![a](b)", "_a_", "<b>", "&amp;", "\\*", "+ a", "a  \nb", "$x$", "`a`", "***"],
)  # fmt: skip
def test_words_never_become_markup_in_markdown(text: str) -> None:
    """Read back by CommonMark's own rules for escapes, the words are what they were and nothing is active."""
    written = plain_markdown(text)
    assert "<" not in written
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]~|#$]", written)
    assert not re.search(r"^(?:[-+=>]|\d+[.)]| {4}|\t)", written, re.MULTILINE)
    read = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", written)
    read = read.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert read == "\n".join(line.strip() for line in text.strip().split("\n"))


def test_everything_but_the_pixels_is_json(model: LladaUni, told: Told) -> None:
    told(outline(TEXT, 5, SQUARE, 3, "end"))
    value = json.loads(json.dumps(model.generate_interleaved(TEXT, seed=7).as_dict()))
    assert [segment["type"] for segment in value["turns"][0]["segments"]] == ["text", "image", "text"]
    assert len(value["turns"][0]["segments"][1]["codes"]) == 16
    StoryState.from_dict(value["state"]).check(VOCAB)
    assert SPECIAL.eoi in value["state"]["ids"]
