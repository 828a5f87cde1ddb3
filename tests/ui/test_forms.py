"""Settings, what can be copied, and what a form is refused for."""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ui_helpers import values

from llada_uni.errors import ConfigError, LladaUniError, PromptError
from llada_uni.grid import Geometry, TokenGrid
from llada_uni.pipeline import LladaUni
from llada_uni.serving.engine import Engine
from llada_uni.serving.limits import Limits, ServerSettings
from llada_uni.serving.running import Service
from llada_uni.ui.fields import TABS, changed, fields, sizes
from llada_uni.ui.orders import Form, looked_at, order
from llada_uni.ui.snippets import Call, curl_text, python_text

HOSTILE = 'it\'s "$(touch x)" `y` \\ \n@/etc/passwd <|mask|> größe'


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tab", TABS)
def test_an_untouched_form_sends_nothing(model: LladaUni, tab: str) -> None:
    offered = fields(tab, model.networks)
    assert changed(offered, values(model, tab)) == {}
    assert all(field.help.endswith(".") for field in offered)
    assert len({field.name for field in offered}) == len(offered)


def test_what_was_changed_is_sent_under_the_keyword_names(model: LladaUni) -> None:
    sent = values(model, "generate", size="48 × 32", seed=" 7 ", guidance_scale=3.0, thinking=True, num_steps="3")
    expected = {"height": 32, "width": 48, "seed": 7, "guidance_scale": 3, "num_steps": 3, "thinking": True}
    assert changed(fields("generate", model.networks), sent) == expected


@pytest.mark.parametrize("tab", ["generate", "edit", "story"])
def test_what_the_decoder_can_do_is_offered_wherever_pictures_are_made(model: LladaUni, tab: str) -> None:
    given = {"decoder": "normal", "decoder_guidance": " 2.5", "guidance_interval": ".1, 0.8 ", "step_cache": "0.2"}
    expected = {"decoder": "normal", "decoder_guidance": 2.5, "guidance_interval": [0.1, 0.8], "step_cache": 0.2}
    assert changed(fields(tab, model.networks), values(model, tab, **given)) == expected
    assert "step_cache" not in {field.name for field in fields("ask", model.networks)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("step_cache", "a"), ("step_cache", "0,5"), ("step_cache", "1e3"), ("step_cache", "nan"), ("step_cache", "."),
        ("decoder_guidance", "1 2"), ("decoder_guidance", "²"), ("guidance_interval", "0.5"),
        ("guidance_interval", "0.1,0.2,0.3"), ("guidance_interval", "a, b"), ("guidance_interval", "0.1;0.8"),
    ],
)  # fmt: skip
def test_decimals_and_pairs_must_be_some(model: LladaUni, name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected (a number such as 0.5|two as in 0.1, 0.8) or nothing"):
        changed(fields("generate", model.networks), values(model, "generate", **{name: text}))


def test_false_is_not_taken_for_zero(model: LladaUni) -> None:
    offered = [replace(field, preset=0) for field in fields("ask", model.networks) if field.name == "temperature"]
    assert changed(offered, [False]) == {"temperature": False}


@pytest.mark.parametrize("text", ["seven", "1.5", "9" * 30, "0x10", "²"])
def test_a_number_must_be_one(model: LladaUni, text: str) -> None:
    with pytest.raises(ConfigError, match="seed: expected a whole number or nothing"):
        changed(fields("ask", model.networks), values(model, "ask", seed=text))


def test_a_form_of_another_version_is_refused(model: LladaUni) -> None:
    with pytest.raises(ConfigError, match="reload the page"):
        changed(fields("ask", model.networks), [None])
    with pytest.raises(ConfigError, match="tab: expected one of"):
        fields("other", model.networks)


def test_sizes_are_those_of_the_checkpoint(model: LladaUni) -> None:
    assert sizes(model.geometry) == ("32 × 32", "48 × 32", "32 × 48")
    free = sizes(Geometry())
    assert len(free) >= 5
    assert free[0] == "1024 × 1024"
    assert sizes(Geometry(trained_grids=(TokenGrid(8, 8),))) == ("256 × 256",)


# --- copies ---------------------------------------------------------------------------------------------------------

CALLS = [
    Call(tab="generate", words=HOSTILE, options={"seed": 7, "height": 32, "width": 48, "decoder": "turbo"}),
    Call(tab="ask", words=HOSTILE, options={"seed": 7, "max_new_tokens": 5}, shows=True),
    Call(tab="edit", words=HOSTILE, options={"seed": 7, "guidance_interval": [0.1, 0.8]}, shows=True),
    Call(tab="edit", words=HOSTILE, options={"seed": 7, "strength": 0.5}, shows=True, marks=True),
    Call(tab="story", words=HOSTILE, options={"seed": 7, "max_frames": 2}),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.tab}-{call.marks}")
def test_python_has_the_words_and_options_as_they_are(call: Call) -> None:
    tree = ast.parse(python_text(call, "some/dir 'x'"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    made = next(node for node in calls if getattr(node.func, "attr", "") in METHODS)
    arguments = [ast.literal_eval(one) for one in made.args]
    named = {one.arg: ast.literal_eval(one.value) for one in made.keywords}
    assert arguments == (["picture.png"] if call.shows else []) + [HOSTILE]
    assert named == {**({"mask": "mask.png"} if call.marks else {}), **call.options}


METHODS = {"generate_image", "understand_image", "edit_image", "inpaint_image", "generate_interleaved"}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.tab}-{call.marks}")
def test_a_shell_reads_the_words_as_they_are(call: Call) -> None:
    words = shlex.split(curl_text(call, "http://h:1", needs_key=True).replace("\\\n", " "))
    joined = " ".join(words)
    assert "Authorization: Bearer $LLADA_UNI_API_KEY" in joined
    assert f"http://h:1/v1/{PLACES[call.tab]}" in words
    if call.tab == "edit":
        assert f"prompt={HOSTILE}" in words
        assert words[words.index(f"prompt={HOSTILE}") - 1] == "--form-string"
        assert call.marks or "guidance_interval=0.1,0.8" in words
    else:
        assert json.dumps(HOSTILE, ensure_ascii=False) in joined
    assert ("max_new_tokens" in joined) is False


PLACES = {
    "generate": "images/generations", "ask": "chat/completions", "edit": "images/edits", "story": "chat/completions",
}  # fmt: skip


# --- orders ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(model: LladaUni) -> Service:
    limits = Limits(text_bytes=1000, max_pixels=10_000)
    return Service(Engine(model.networks), ServerSettings(limits=limits))


@pytest.mark.parametrize("words", ["", "  \n", None, 5, ["a"]])
@pytest.mark.parametrize("tab", TABS)
def test_words_are_needed(service: Service, model: LladaUni, tab: str, words: Any) -> None:
    with pytest.raises(PromptError, match=r"^(Say|Ask) .*\.$"):
        order(service, Form(tab=tab, words=words, values=values(model, tab)))


@pytest.mark.parametrize(
    ("picture", "match"),
    [
        (None, "Choose a picture first"),
        ("", "Choose a picture first"),
        ("/etc/passwd", "expected a data URI"),
        ("http://127.0.0.1/x.png", "does not fetch"),
        ("data:image/png;base64,AAAA", "."),
        (5, "expected a picture"),
    ],
)
@pytest.mark.parametrize("tab", ["ask", "edit"])
def test_only_pictures_sent_along_are_read(
    service: Service, model: LladaUni, tab: str, picture: Any, match: str
) -> None:
    with pytest.raises(LladaUniError, match=match) as caught:
        order(service, Form(tab=tab, words="a", values=values(model, tab), picture=picture))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mask", ["/etc/passwd", 7, "data:image/png;base64,AAAA"])
def test_masks_too(service: Service, model: LladaUni, photo_uri: str, mask: Any) -> None:
    with pytest.raises(LladaUniError):
        order(service, Form(tab="edit", words="a", values=values(model, "edit"), picture=photo_uri, mask=mask))


def test_limits_of_the_server_hold(service: Service, model: LladaUni, big_uri: Callable[[], str]) -> None:
    with pytest.raises(LladaUniError, match="bytes of text"):
        order(service, Form(tab="generate", words="a" * 2000, values=values(model, "generate")))
    with pytest.raises(LladaUniError, match="pixels"):
        looked_at(service, big_uri())


@pytest.fixture
def big_uri() -> Callable[[], str]:
    from PIL import Image

    from llada_uni.serving.pictures import data_uri, encoded

    return lambda: data_uri(encoded(Image.new("RGB", (200, 200))))


@pytest.mark.parametrize(
    ("tab", "changes"),
    [
        ("generate", {"guidance_scale": "x"}),
        ("generate", {"size": "a"}),
        ("generate", {"size": "40 × 40"}),
        ("generate", {"temperature": -1}),
        ("generate", {"temperature": float("nan")}),
        ("generate", {"steps_per_block": 10**9}),
        ("generate", {"decoder": "other"}),
        ("generate", {"step_cache": "0"}),
        ("generate", {"step_cache": 7}),
        ("generate", {"guidance_interval": "0.8, 0.1", "decoder": "normal", "decoder_guidance": "2"}),
        ("generate", {"guidance_interval": "0.1, 0.8", "decoder": "turbo"}),
        ("generate", {"guidance_interval": [0.1]}),
        ("edit", {"decoder_guidance": "-1"}),
        ("story", {"guidance_interval": "0, 2", "decoder": "normal", "decoder_guidance": "2"}),
        ("ask", {"max_new_tokens": "x"}),
        ("ask", {"seed": "-3"}),
        ("story", {"max_frames": 0}),
        ("story", {"guidance_text": [1]}),
    ],
)
def test_a_wrong_setting_is_one_line(
    service: Service, model: LladaUni, photo_uri: str, tab: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(LladaUniError) as caught:
        order(service, Form(tab=tab, words="a", values=values(model, tab, **changes), picture=photo_uri))
    assert "\n" not in str(caught.value)


def test_a_picture_is_seen_at_the_size_of_its_edit(service: Service, photo_uri: str) -> None:
    seen = looked_at(service, photo_uri)
    assert seen["grid"] == [4, 6]
    again = looked_at(service, seen["picture"])
    assert again == seen
