"""``llada-uni story`` on a tiny checkpoint whose backbone follows an outline: files, standard output, mistakes."""

from __future__ import annotations

import io
import json
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llada_uni import prompts
from llada_uni.backbone.denoiser import CachedDenoiser
from llada_uni.cli.main import run
from llada_uni.grid import TokenGrid
from llada_uni.pipeline import story as stories
from llada_uni.testing.checkpoint import write_tiny_checkpoint
from story_helpers import TOKENIZER, Director, script

WORDS = "Two red apples!"
STORY = script(5, TokenGrid(4, 4), 3, TokenGrid(4, 6), start=len(prompts.interleaved(TOKENIZER, WORDS).cond))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working directory, and a backbone that tells the same story to everybody."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stories, "CachedDenoiser", lambda backbone: Director(CachedDenoiser(backbone), {0: STORY}))
    return tmp_path


def test_a_directory_is_the_default(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["story", WORDS, "--model", checkpoint, "--seed", "7", "--max-frames", "2"]
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(r"two-red-apples-7  2 pictures, max_frames  seed 7  [0-9.]+ s\n", captured.out)
    assert captured.err == ""
    names = ["frame-1.png", "frame-2.png", "state.json", "story.md"]
    assert sorted(path.name for path in Path("two-red-apples-7").iterdir()) == names
    assert run(arguments) == 0
    one, again = (Path(name, "frame-2.png").read_bytes() for name in ("two-red-apples-7", "two-red-apples-7-2"))
    assert one == again


def test_one_page(checkpoint: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    arguments = ["story", WORDS, "--model", checkpoint, "--seed", "7", "--max-frames", "1"]
    assert run([*arguments, "--output", "tale.html"]) == 0
    assert capfdbinary.readouterr().out.startswith(b"tale.html  1 picture, max_frames  seed 7 ")
    assert sorted(path.name for path in Path().iterdir()) == ["tale.html"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(WORDS.encode() + b"\n")))
    assert run(["story", "-", *arguments[2:], "-o", "-"]) == 0
    captured = capfdbinary.readouterr()
    assert captured.out == Path("tale.html").read_bytes()
    assert captured.err == b"seed 7\n"


def test_going_on_from_a_file(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--model", checkpoint, "--json"]
    assert run(["story", WORDS, "--seed", "7", "--max-frames", "1", "-o", "one", *common]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["output"], first["finish_reason"], first["usage"]["num_frames"]) == ("one", "max_frames", 1)
    assert run(["story", "--continue-from", "one/state.json", "--max-frames", "1", "-o", "two", *common]) == 0
    second = json.loads(capsys.readouterr().out)
    assert run(["story", WORDS, "--seed", "7", "--max-frames", "2", "-o", "both", *common]) == 0
    both = json.loads(capsys.readouterr().out)
    assert second["state"] | {"first_frame": 0} == both["state"]
    assert Image.open("two/frame-1.png").tobytes() == Image.open("both/frame-2.png").tobytes()


def test_every_option_reaches_the_model(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(values).save("photo.png")
    given = {
        "--steps-per-block": 3, "--guidance-scale": 1.5, "--guidance-text": 2.5, "--guidance-image": 0.5,
        "--confidence-threshold": 0.5, "--temperature": 0.25, "--num-steps": 2, "--decoder": "normal",
        "--max-frames": 2, "--max-new-tokens": 6, "--max-image-tokens": 24, "--on-bad-grid": "stop",
    }  # fmt: skip
    flags = [str(part) for pair in given.items() for part in pair]
    images = ["--image", "photo.png", "--image", "photo.png"]
    arguments = ["story", "a", *images, "--size", "48x32", "--model", checkpoint, "--json", "-o", "x", *flags]
    assert run([*arguments, "--dtype", "float64", "--device", "cpu"]) == 0
    value = json.loads(capsys.readouterr().out)
    for flag, wanted in given.items():
        assert value["settings"][flag.strip("-").replace("-", "_")] == wanted
    assert (value["settings"]["width"], value["settings"]["height"]) == (48, 32)
    assert value["turns"][0]["images"] == 2


def test_progress_is_one_line_on_a_terminal(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert run(["story", WORDS, "--model", checkpoint, "--max-frames", "2"]) == 0
    assert {"text 1", "picture 1", "text 2", "picture 2"} <= {part.strip() for part in screen.getvalue().split("\r")}
    assert "\n" not in screen.getvalue()


def snapshot() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["story"], "expected a prompt"),
        (["story", ""], "prompt: expected some words"),
        (["story", "two", "apples"], "quotes"),
        (["story", "a", "--max-frames", "0"], "max_frames: expected a whole number from 1, got 0"),
        (["story", "a", "--max-frames", "many"], "max-frames"),
        (["story", "apple " * 600], "at most 512 fit"),
        (["story", "a", "--output", "tale.txt"], "expected a directory or a name ending in .html"),
        (["story", "a", "--output", "tale.PNG"], "expected a directory or a name ending in .html"),
        (["story", "a", "--output", " "], "expected a directory or a name ending in .html"),
        (["story", "a", "--output", "no/tale"], "does not exist"),
        (["story", "a", "--output", "no/tale.html"], "does not exist"),
        (["story", "a", "--output", "file"], "is a file"),
        (["story", "a", "--output", "full"], "holds other files (notes.txt)"),
        (["story", "a", "--output", "-", "--json"], "choose one of them"),
        (["story", "a", "--image", "no.png"], "no.png"),
        (["story", "-", "--image", "-"], "once only"),
        (["story", "a", "--size", "33x32"], "allowed"),
        (["story", "a", "--on-bad-grid", "crash"], "expected one of nearest, stop"),
        (["story", "--continue-from", "no.json"], "cannot read no.json"),
        (["story", "--continue-from", "file"], "not valid JSON"),
        (["story", "a", "--continue-from", "codes.json"], "expected the state of a story"),
        (["story", "--continue-from", "ended.json"], "ended this story itself"),
        (["story", "--continue-from", "ended.json", "--image", "file"], "file"),
        (["story", "a", "--continue-from", "damaged.json"], "contradict each other"),
    ],
)
def test_mistakes_are_one_line(
    checkpoint: str, capsys: pytest.CaptureFixture[str], arguments: list, message: str
) -> None:
    Path("file").write_text("no story")
    Path("full").mkdir()
    Path("full", "notes.txt").write_text("long work")
    Path("codes.json").write_text('{"format": "llada-uni-codes"}')
    ended = {
        "format": "llada-uni-story", "seed": 1, "phase": "done", "finish_reason": "stop", "frame_index": 0,
        "first_frame": 0, "num_phases": 1, "segments": [], "ids": [1, 2],
    }  # fmt: skip
    Path("ended.json").write_text(json.dumps(ended))
    Path("damaged.json").write_text(json.dumps(ended | {"frame_index": 2}))
    before = snapshot()
    assert run([*arguments, "--model", checkpoint]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert snapshot() == before


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond 64 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("output", ["tale", "tale.html"])
def test_a_full_disk(checkpoint: str, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    assert run(["story", WORDS, "--model", checkpoint, "--max-frames", "1", "-o", output]) == 2
    assert "cannot write" in screen.getvalue()
    assert not list(Path().iterdir())
