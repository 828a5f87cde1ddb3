"""A real browser uses every tab; what it offers to copy runs and gives the same."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browsing
import numpy as np
import pytest
from PIL import Image
from ui_helpers import LivePage, Teller

from documents import ROOT
from llada_uni.grid import TokenGrid
from llada_uni.pipeline import LladaUni
from llada_uni.serving.limits import ServerSettings
from llada_uni.serving.work import Said, story_work
from story_helpers import script

pytest.importorskip("gradio", reason="the extra llada-uni[ui] is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browsing.missing() is not None, reason=str(browsing.missing())),
]
STORY = "two red apples"


@pytest.fixture(scope="module")
def live(model: LladaUni) -> Iterator[LivePage]:
    with LivePage(model, ServerSettings(names=("tiny",))) as one:
        opening = story_work(model.networks, [Said(role="user", parts=(STORY,))], {}, seed=0).prompt_tokens
        told = script(3, TokenGrid(4, 4), 2, TokenGrid(4, 6), "end", start=opening)
        own, submit = one.engine._denoiser, one.engine.submit

        def submitted(works: Any, **rest: Any) -> Any:
            """Only stories are told what to write."""
            if any(work.is_story for work in works):
                one.engine._denoiser = Teller(one.engine, told)  # type: ignore[assignment]
            elif one.engine.status().requests == 0:
                one.engine._denoiser = own
            return submit(works, **rest)

        one.engine.submit = submitted  # type: ignore[method-assign]
        yield one


@pytest.fixture(scope="module")
def page(live: LivePage) -> Iterator[browsing.Page]:
    with browsing.browser((390, 844)) as one:
        one.open(f"{live.url}/ui/")
        yield one


def ran(record: dict[str, Any], folder: Path) -> tuple[str, str]:
    """Run what can be copied beside its files; output of the Python and of the command line."""
    for name, key in (("picture.png", "source"), ("mask.png", "mask")):
        if record.get(key):
            (folder / name).write_bytes(base64.b64decode(record[key].split(",")[1]))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    outputs = []
    for command in ([sys.executable, "-c", record["python"]], ["bash", "-ec", record["curl"]]):
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout.strip())
        if (folder / "new.png").exists():
            shown = base64.b64decode(record["result"].split(",")[1])
            assert np.array_equal(pixels(folder / "new.png"), pixels(io.BytesIO(shown))), command[0]
            (folder / "new.png").unlink()
    return outputs[0], outputs[1]


def pixels(source: Any) -> np.ndarray:
    return np.asarray(Image.open(source).convert("RGB"))


def test_generate(page: browsing.Page, tmp_path: Path) -> None:
    page.say("generate", 'two "red" apples \' <b>bold</b> <|mask|> $HOME')
    page.press("#ll-settings-generate > button")
    field = page.driver.find_element("css selector", "#ll-generate-seed input, #ll-generate-seed textarea")
    field.send_keys("7")
    record = page.run("generate")
    assert record["seed"] == 7
    assert record["result"].startswith("data:image/png;base64,")
    assert len(record["frames"]) >= 1
    assert page.js("document.querySelectorAll('.ll b:not(.ll-drop b, .ll-codehead b)').length") == 0
    assert page.js("document.querySelectorAll('.ll-thumb').length") == 1
    page.press(".ll-stage[data-tab=generate] button", "Confidence")
    assert page.js("document.querySelectorAll('.ll-stage[data-tab=generate] rect.heat').length") == 16
    if shutil.which("curl"):
        ran(record, tmp_path)


def test_edit_by_brush_and_by_words(page: browsing.Page, tmp_path: Path) -> None:
    page.press(".ll-stage[data-tab=generate] button", "Edit")
    page.brush()
    touched = int(page.js("document.querySelector('#ll-touched').textContent").split()[0])
    assert 1 <= touched <= 12
    page.say("edit", "a star")
    marked = page.run("edit")
    assert sum(at > 0 for at in marked["at"]) == touched
    page.press(".ll-tools button", "Clear")
    whole = page.run("edit")
    assert min(whole["at"]) > 0
    if shutil.which("curl"):
        for name, record in (("marked", marked), ("whole", whole)):
            (tmp_path / name).mkdir()
            ran(record, tmp_path / name)


def test_ask(page: browsing.Page, tmp_path: Path) -> None:
    page.press(".ll-stage[data-tab=edit] button", "Ask")
    page.say("ask", "what's in it?")
    record = page.run("ask")
    assert page.js("document.querySelector('.ll-say').textContent") == (record["text"] or "(no words)")
    if shutil.which("curl"):
        assert ran(record, tmp_path) == (record["text"], record["text"])


def test_story(page: browsing.Page, tmp_path: Path) -> None:
    page.tab("Story")
    page.say("story", STORY)
    record = page.run("story")
    pictures = [one for one in record["segments"] if not isinstance(one, str)]
    assert [one["grid"] for one in pictures] == [[4, 4], [4, 6]]
    assert page.js("document.querySelectorAll('.ll-story figure > img').length") == 2
    if shutil.which("curl"):
        ran(record, tmp_path)
        assert (tmp_path / "story.html").exists()


def test_inspect(page: browsing.Page) -> None:
    page.press(".ll-thumb:last-child")
    steps = int(page.js("document.querySelector('.ll-scrub').max"))
    open_cells = "document.querySelectorAll('.ll-inspect rect.open').length"
    assert page.js(open_cells) == 0
    page.step(steps // 2)
    half = page.js(open_cells)
    page.step(0)
    assert 0 < half < page.js(open_cells) == 16
    page.driver.execute_script(
        "document.querySelector('.ll-inspect .ll-cells rect').dispatchEvent(new PointerEvent('pointerenter'))"
    )
    assert "row 0, column 0: code" in page.js("document.querySelector('.ll-cell').textContent")


def test_mistakes_are_one_line(page: browsing.Page) -> None:
    page.tab("Generate")
    page.say("generate", " ")
    page.run("generate", state="failed")
    assert page.js("document.querySelector('.ll-stage[data-tab=generate] [role=alert]').textContent").startswith(
        "Say in"
    )
    page.driver.execute_script("llada.load('edit', 'data:image/png;base64,AAAA')")
    page.wait("llada.wells.edit.error", 20)
    assert "\n" not in page.js("llada.wells.edit.error")


def test_stop(page: browsing.Page, live: LivePage) -> None:
    page.tab("Generate")
    page.say("generate", "two red apples")
    page.press("#ll-run-generate")
    page.press("#ll-stop-generate")
    page.wait("['stopped', 'done'].includes(llada.tabs.generate.state)", 20)
    page.wait("!document.body.classList.contains('ll-busy-generate')", 5)
    limit = time.monotonic() + 20
    while live.engine.status().requests:
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_phone_needs_no_sideways_scrolling(page: browsing.Page) -> None:
    for name in ("Generate", "Ask", "Edit", "Story", "Inspect"):
        page.tab(name)
        assert page.js("document.documentElement.scrollWidth") <= 390, name


def test_nothing_came_from_elsewhere_and_nothing_broke(page: browsing.Page, live: LivePage) -> None:
    assert page.hosts() == {live.url}
    assert page.errors() == []
