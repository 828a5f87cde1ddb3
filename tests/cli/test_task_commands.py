"""``generate --thinking``, ``edit``, ``chat`` and the new options of ``understand``, on a tiny checkpoint."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llada_uni.cli.main import build_command, run
from llada_uni.cli.progress import follow
from llada_uni.pipeline import ChatTask, GenerateTask, LladaUni, Turn
from llada_uni.testing.checkpoint import write_tiny_checkpoint

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(autouse=True)
def _in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    values = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    return "photo.png"


@pytest.fixture
def refuses(checkpoint: str, capsys: Capture) -> Callable[..., str]:
    """Run a command that must fail with one line; returns that line."""

    def check(*arguments: str) -> str:
        assert run([*arguments, "--model", checkpoint]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return check


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_thinking(checkpoint: str, capsys: Capture) -> None:
    arguments = [
        "generate",
        "three stars",
        "--model",
        checkpoint,
        "--seed",
        "1",
        "--thinking",
        "--thinking-tokens",
        "9",
    ]
    assert run([*arguments, "--thinking-temperature", "0.5", "--thinking-top-p", "0.9", "--json", "-o", "x.png"]) == 0
    captured = capsys.readouterr()
    value = json.loads(captured.out)
    assert value["thinking"] == Image.open("x.png").info["thinking"]
    settings = value["settings"]
    assert [settings[f"thinking_{name}"] for name in ("tokens", "temperature", "top_p")] == [9, 0.5, 0.9]
    assert captured.err == ""
    assert run([*arguments, "-o", "x.png"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("x.png  32x32  seed 1")
    assert captured.err.startswith("plan: ")


def test_edit(checkpoint: str, photo: str, capsys: Capture) -> None:
    arguments = ["edit", photo, "Make it red", "--model", checkpoint, "--seed", "3"]
    assert run(arguments) == 0
    assert capsys.readouterr().out.startswith("make-it-red-3.png  48x32  seed 3 ")
    made = Image.open("make-it-red-3.png")
    assert made.info["prompt"] == "Make it red"
    given = {
        "--steps-per-block": 3, "--guidance-text": 1.5, "--guidance-image": 0.5, "--confidence-threshold": 0.5,
        "--temperature": 0.25, "--num-steps": 2, "--decoder": "normal", "--crop": "released",
    }  # fmt: skip
    flags = [str(part) for pair in given.items() for part in pair]
    assert run(["edit", photo, photo, "a", "--model", checkpoint, "--json", "--size", "32x48", *flags]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["width"], value["height"]) == (32, 48)
    for flag, one in given.items():
        assert value["settings"][flag.strip("-").replace("-", "_")] == one


def test_a_picture_on_standard_input(
    checkpoint: str, photo: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    feed(monkeypatch, Path(photo).read_bytes())
    assert run(["edit", "-", "a", "--model", checkpoint, "--seed", "3", "-o", "-"]) == 0
    piped = Image.open(io.BytesIO(capfdbinary.readouterr().out))
    assert run(["edit", photo, "a", "--model", checkpoint, "--seed", "3", "-o", "x.png"]) == 0
    assert piped.tobytes() == Image.open("x.png").tobytes()


def test_understand_in_other_forms(checkpoint: str, photo: str, capsys: Capture) -> None:
    counts = []
    for flags in ([], ["--raw"], ["--system", "a"]):
        command = ["understand", photo, "what?", "--model", checkpoint, "--json", "--max-new-tokens", "2", *flags]
        assert run(command) == 0
        counts.append(json.loads(capsys.readouterr().out)["usage"]["prompt_tokens"])
    assert len(set(counts)) == 3


def test_chat(checkpoint: str, photo: str, capsys: Capture) -> None:
    arguments = ["chat", "hello", "--model", checkpoint, "--seed", "3", "--max-new-tokens", "4"]
    assert run([*arguments, "-o", "answer.txt"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "seed 3\n"
    assert Path("answer.txt").read_text().strip() == captured.out.strip()
    assert run([*arguments, "--image", photo, "--image", photo, "--system", "be short", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    turns = [Turn("system", "be short"), Turn("user", "hello", [photo, photo])]
    expected = LladaUni.from_pretrained(checkpoint).chat(turns, seed=3, max_new_tokens=4)
    assert (value["answer"], value["images"]) == (expected.text, [photo, photo])
    assert value["usage"]["prompt_tokens"] == expected.usage["prompt_tokens"]


def test_messages_on_standard_input(
    checkpoint: str, photo: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    uri = "data:image/png;base64," + base64.b64encode(Path(photo).read_bytes()).decode()
    messages = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "why?"},
    ]
    feed(monkeypatch, json.dumps(messages).encode())
    assert run(["chat", "-", "--model", checkpoint, "--seed", "3", "--system", "be short", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    turns = [{"role": "system", "content": "be short"}, *messages]
    assert value["answer"] == LladaUni.from_pretrained(checkpoint).chat(turns, seed=3).text
    assert value["question"] == "why?"


def test_mistakes_are_one_line(
    refuses: Callable[..., str], photo: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "pictures and an instruction" in refuses("edit", "make it red")
    assert "missing.png" in refuses("edit", "missing.png", "make it red")
    assert "instruction: expected some words" in refuses("edit", photo, " ")
    assert "crop: expected one of cover, released" in refuses("edit", photo, "a", "--crop", "middle")
    assert "guidance_text" in refuses("edit", photo, "a", "--guidance-text", "-1")
    assert "allowed" in refuses("edit", photo, "a", "--size", "64x64")
    assert "named once" in refuses("edit", "-", "-")
    assert "name ending in" in refuses("edit", photo, "a", "-o", "x.gif")
    assert "together with thinking" in refuses("generate", "a", "--thinking-tokens", "3")
    assert "up to 520" in refuses("generate", "a", "--thinking", "--thinking-tokens", "500")
    assert "no system text" in refuses("understand", photo, "a", "--raw", "--system", "b")
    assert "the text is empty" in refuses("chat", " ")
    assert "missing.png" in refuses("chat", "a", "--image", "missing.png")
    assert "the text is empty" in refuses("chat", "a", "--system", "")
    assert "Got unexpected extra argument" in refuses("chat", "two", "words")
    for text, words in [
        (b"{", "not valid JSON"),
        (b'{"messages": []}', "expected a JSON list of messages, got dict"),
        (b"[]", "ends with a user turn"),
        (b'[{"role": "tool", "content": "a"}]', "expected the role"),
        (b"\xff", "UTF-8"),
    ]:
        feed(monkeypatch, text)
        assert words in refuses("chat", "-")
    assert "--image belongs to a text" in refuses("chat", "-", "--image", photo)
    assert [path.name for path in tmp_path.iterdir()] == [photo]


def test_options_are_spelt_like_everywhere() -> None:
    commands = build_command().commands
    flags = {name: {o for parameter in commands[name].params for o in parameter.opts} for name in ("edit", "chat")}
    common = {"--model", "--output", "--seed", "--json", "--device", "--dtype", "--revision"}
    assert common | {"--size", "--guidance-text", "--guidance-image", "--crop", "--steps-per-block"} <= flags["edit"]
    assert common | {"--image", "--system", "--max-new-tokens", "--temperature"} <= flags["chat"]


def test_progress_counts_what_is_really_done(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that starts twice and a row that ends early: the bar ends full."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    bars = []
    real = sys.modules["llada_uni.cli.progress"]._Tracker  # type: ignore[attr-defined]
    monkeypatch.setattr("llada_uni.cli.progress._Tracker", lambda progress: bars.append(real(progress)) or bars[-1])
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    tasks = [
        GenerateTask(prompt="a", seed=1, thinking=True, thinking_tokens=40),
        ChatTask(messages=[Turn("user", "a")], seed=2),
    ]
    results = follow(LladaUni.from_pretrained(checkpoint).stream(tasks))
    assert [result.seed for result in results] == [1, 2]
    (bar,) = bars
    tokens = bar._progress.tasks[bar._tasks["tokens"]]
    assert tokens.completed == tokens.total > 3


def test_task_suites_report_the_suites_that_were_asked_for(checkpoint: str, capsys: Capture) -> None:
    arguments = ["eval", "tasks", "--suite", "fact", "--limit", "2", "--json", "--model", checkpoint]
    assert run([*arguments, "--output", "report.json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"bench", "sha256", "fact", "seconds"} <= set(report)
    assert "edit" not in report
    assert sum(value["total"] for value in report["fact"]["categories"].values()) == 2
    assert json.loads(Path("report.json").read_text(encoding="utf-8")) == report


def test_an_unknown_suite_is_named_with_the_known_ones(refuses: Callable[..., str]) -> None:
    line = refuses("eval", "tasks", "--suite", "nonsense")
    assert "nonsense" in line
    assert "riddle_thinking" in line
