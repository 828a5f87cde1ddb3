"""Runs without a browser: what is shown on the way, results, errors, and what is left when nobody listens."""

from __future__ import annotations

import asyncio
import json
import re
import time
from html.parser import HTMLParser
from typing import Any

import pytest
from ui_helpers import Teller, told, values

from llada_uni.grid import TokenGrid
from llada_uni.pipeline import LladaUni
from llada_uni.pipeline.preview import nearest_known
from llada_uni.serving.engine import Engine
from llada_uni.serving.limits import ServerSettings
from llada_uni.serving.pictures import data_uri, encoded
from llada_uni.serving.running import Service
from llada_uni.ui.orders import Form
from llada_uni.ui.progress import Progress
from llada_uni.ui.runs import Place, Stops, look, message, run
from llada_uni.ui.sketches import sketch_work
from story_helpers import script


def form(model: LladaUni, tab: str, words: str = "two red apples", **changes: Any) -> Form:
    more = {name: changes.pop(name) for name in ("picture", "mask") if name in changes}
    return Form(tab=tab, words=words, values=values(model, tab, seed="7", **changes), **more)


def record(all_told: list[Any]) -> dict[str, Any]:
    json.dumps([one.now for one in all_told], allow_nan=False)
    assert all_told[-1].kept["state"] == "done", all_told[-1]
    return all_told[-1].kept["record"]


def test_a_picture_is_the_one_the_pipeline_makes(engine: Engine, model: LladaUni) -> None:
    result = model.generate_image("two red apples", seed=7)
    made = record(told(engine, form(model, "generate")))
    assert made["codes"] == list(result.codes)
    assert made["result"] == data_uri(encoded(result.image))
    assert made["seed"] == 7
    assert "seed=7" in made["python"]
    assert min(made["at"]) >= 1
    assert max(made["at"]) == made["steps"]


def test_options_of_the_decoder_reach_it(engine: Engine, model: LladaUni) -> None:
    given = {"decoder": "normal", "decoder_guidance": 2.0, "guidance_interval": [0.0, 0.5], "step_cache": 0.5}
    typed = {"decoder": "normal", "decoder_guidance": "2", "guidance_interval": "0, 0.5", "step_cache": "0.5"}
    made = record(told(engine, form(model, "generate", **typed)))
    assert made["result"] == data_uri(encoded(model.generate_image("two red apples", seed=7, **given).image))
    assert made["settings"]["guidance_interval"] == "0.0 to 0.5"
    assert (made["settings"]["step_cache"], made["settings"]["decoder_guidance"]) == (0.5, 2.0)
    assert "guidance_interval=[0.0, 0.5]" in made["python"]
    plain = record(told(engine, form(model, "generate", decoder="normal")))
    assert "guidance_interval" not in plain["settings"]


def test_states_only_grow_and_show_pictures_on_the_way(engine: Engine, model: LladaUni) -> None:
    states = [one.now for one in told(engine, form(model, "generate")) if one.now.get("codes")]
    known = [sum(code is not None for code in state["codes"]) for state in states]
    assert known == sorted(known)
    assert any(state["picture"] for state in states)
    quiet = [one.now for one in told(engine, form(model, "generate"), sketches=False)]
    assert not any(state.get("picture") for state in quiet if state.get("phase") == "writing")


def test_an_answer(engine: Engine, model: LladaUni, photo_uri: str) -> None:
    made = record(told(engine, form(model, "ask", "what?", picture=photo_uri, max_new_tokens=8)))
    assert made["text"] == model.understand_image(photo_uri, "what?", seed=7, max_new_tokens=8).text
    assert all(len(one) == 3 for one in made["tokens"] if one)


def test_an_instruction_changes_everything_a_mask_only_its_cells(
    engine: Engine, model: LladaUni, photo_uri: str
) -> None:
    from PIL import Image

    seen = asyncio.run(look(Service(engine, ServerSettings()), photo_uri, "n"))
    mask = Image.new("L", (48, 32))
    mask.paste(255, (0, 0, 16, 8))
    marked = record(told(engine, form(model, "edit", picture=seen["picture"], mask=data_uri(encoded(mask)))))
    assert [place for place, at in enumerate(marked["at"]) if at] == [0, 1]
    assert "mask=" in marked["python"]
    whole = record(told(engine, form(model, "edit", picture=seen["picture"])))
    assert min(whole["at"]) >= 1
    assert "mask" not in whole["python"] + whole["curl"]


def test_a_story_shows_each_picture_as_it_is_finished(engine: Engine, model: LladaUni) -> None:
    opening = told_length(model, "two red apples")
    engine._denoiser = Teller(engine, script(3, TokenGrid(4, 4), 2, TokenGrid(4, 6), "end", start=opening))  # type: ignore[assignment]
    all_told = told(engine, form(model, "story", max_frames=4))
    frames = [len(one.kept["frames"]) for one in all_told if one.kept and "frames" in one.kept]
    assert frames == [1, 2]
    made = record(all_told)
    pictures = [one for one in made["segments"] if not isinstance(one, str)]
    assert [one["grid"] for one in pictures] == [[4, 4], [4, 6]]
    assert all(one["result"].startswith("data:image/png") for one in pictures)
    assert "max_frames" in made["python"]


def told_length(model: LladaUni, words: str) -> int:
    from llada_uni.serving.work import Said, story_work

    return story_work(model.networks, [Said(role="user", parts=(words,))], {}, seed=0).prompt_tokens


def test_what_is_wrong_is_one_line(engine: Engine, model: LladaUni) -> None:
    last = told(engine, form(model, "generate", temperature=-1))[-1]
    assert last.kept == last.now
    assert re.fullmatch(r"temperature: expected .*", last.now["error"])
    assert told(engine, form(model, "ask"))[-1].now["error"] == "Choose a picture first."


def test_of_a_bug_a_visitor_learns_nothing(engine: Engine, model: LladaUni, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("llada_uni.ui.runs.order", broken)
    error = told(engine, form(model, "generate"))[-1].now["error"]
    assert error == "the server failed to carry out this request; its log has more"


def test_a_picture_that_cannot_be_read_is_one_line(engine: Engine) -> None:
    service = Service(engine, ServerSettings())
    assert "data URI" in asyncio.run(look(service, "/etc/passwd", "n"))["error"]
    assert set(asyncio.run(look(service, "data:image/png;base64,AAAA", "n"))) == {"look", "error"}


def test_when_the_reader_leaves_everything_is_freed(engine: Engine, model: LladaUni) -> None:
    async def left() -> None:
        place = Place(number="1", url="http://h")
        stream = run(Service(engine, ServerSettings()), form(model, "generate"), place)
        async for one in stream:
            if one.now.get("codes"):
                break
        await stream.aclose()

    asyncio.run(left())
    limit = time.monotonic() + 20
    while engine.status().requests and time.monotonic() < limit:
        time.sleep(0.01)
    assert engine.status().requests == 0


@pytest.mark.parametrize("early", [True, False])
def test_a_run_can_be_stopped(engine: Engine, model: LladaUni, early: bool) -> None:
    async def stopped() -> list[Any]:
        stops = Stops()
        if early:
            stops.stop("1")
        told: list[Any] = []
        place = Place(number="1", url="http://h", stops=stops)
        async for one in run(Service(engine, ServerSettings()), form(model, "generate"), place):
            told.append(one.now)
            if one.now.get("codes"):
                stops.stop("1")
        assert stops._live == {}
        return told

    told = asyncio.run(stopped())
    assert told[-1]["state"] == "failed"
    assert engine.status().totals["ended_Cancelled"] >= 1


def test_a_sketch_is_drawn_by_the_engine(engine: Engine, model: LladaUni) -> None:
    codes = [None] * 15 + [3]
    (ticket,) = engine.submit([sketch_work(model.networks, codes, TokenGrid(4, 4), 7)])
    assert ticket.result(60).image.size == (32, 32)
    assert nearest_known(codes, TokenGrid(4, 4)) == [3] * 16


def test_progress_ignores_what_it_does_not_know(model: LladaUni) -> None:
    progress = Progress(model.networks)
    assert not progress.feed(object())
    assert progress.state()["phase"] == "waiting"


@pytest.mark.parametrize("text", ['"><script>alert(1)</script>', "' onload='x", "&lt;b&gt; \u2028 \ud800"])
def test_messages_are_never_markup(text: str) -> None:
    found: list[Any] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            found.append((tag, dict(attrs)))

    Reader().feed(message({"text": text}))
    ((tag, attributes),) = found
    assert tag == "div"
    assert json.loads(attributes["data-llada"]) == {"text": text}
