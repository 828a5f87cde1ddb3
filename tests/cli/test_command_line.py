"""The command line on a tiny checkpoint: results on standard output, everything else on standard error."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llada_uni.cli import main as cli
from llada_uni.cli.main import build_command, run
from llada_uni.cli.progress import follow
from llada_uni.testing.checkpoint import write_tiny_checkpoint

COMMON = {"--model", "--output", "--seed", "--json", "--device", "--dtype"}
COMMANDS = {
    "generate", "edit", "inpaint", "outpaint", "vary", "understand", "chat", "encode", "decode", "models", "doctor",
    "train", "eval", "reproduce", "story", "adapters", "expand", "convert", "data", "serve", "ui",
}  # fmt: skip


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


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_generate_names_the_file_and_the_seed(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "Two red apples!", "--model", checkpoint, "--seed", "7"]
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(r"two-red-apples-7\.png  32x32  seed 7  [0-9.]+ s\n", captured.out)
    assert captured.err == ""
    assert run(arguments) == 0
    assert capsys.readouterr().out.startswith("two-red-apples-7-2.png ")
    one, other = Image.open("two-red-apples-7.png"), Image.open("two-red-apples-7-2.png")
    assert one.tobytes() == other.tobytes()
    assert one.info["prompt"] == "Two red apples!"
    assert one.info["seed"] == "7"


def test_a_bare_prompt_is_a_picture(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["three stars", "--model", checkpoint, "--seed", "1"]) == 0
    assert run(["--model", checkpoint, "--seed", "2", "three stars"]) == 0
    assert Path("three-stars-1.png").exists()
    assert Path("three-stars-2.png").exists()


def test_json_is_one_object(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "a", "--model", checkpoint, "--json", "--size", "48x32", "-o", "x.png"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["output"] == "x.png"
    assert (value["width"], value["height"], value["grid"]) == (48, 32, [4, 6])
    assert len(value["codes"]) == 24
    assert value["settings"]["decoder"] == "turbo"
    assert isinstance(value["seed"], int)
    assert value["timings"]["total"] > 0


def test_an_explicit_output_is_overwritten(checkpoint: str) -> None:
    Path("x.png").write_bytes(b"old")
    assert run(["generate", "a", "--model", checkpoint, "-o", "x.png"]) == 0
    assert Image.open("x.png").size == (32, 32)
    assert sorted(p.name for p in Path().iterdir()) == ["x.png"]


def test_every_option_reaches_the_model(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {
        "--steps-per-block": 3, "--guidance-scale": 1.5, "--confidence-threshold": 0.5, "--temperature": 0.25,
        "--num-steps": 2, "--decoder": "normal",
    }  # fmt: skip
    flags = [str(part) for pair in given.items() for part in pair]
    assert run(["generate", "a", "--model", checkpoint, "--json", "--dtype", "float64", "--device", "cpu", *flags]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    for flag, value in given.items():
        assert settings[flag.strip("-").replace("-", "_")] == value


def test_decoder_options_reach_the_model(
    checkpoint: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = tmp_path / "photo.codes.json"
    assert run(["encode", photo, "--model", checkpoint, "-o", str(codes)]) == 0
    capsys.readouterr()
    given = [
        "--decoder",
        "normal",
        "--decoder-guidance",
        "1.5",
        "--guidance-interval",
        "0.1,0.6",
        "--step-cache",
        "0.2",
    ]
    drawing = ["--vae-tile", "64"]
    commands = (
        ["generate", "a", *drawing], ["edit", photo, "b", *drawing], ["decode", str(codes), *drawing],
        ["story", "a", "--max-frames", "1"], ["vary", photo, "c"],
    )  # fmt: skip
    for command in commands:
        assert run([*command, "--model", checkpoint, "--seed", "1", "--json", *given]) == 0
        settings = json.loads(capsys.readouterr().out)["settings"]
        found = [settings[name] for name in ("decoder_guidance", "guidance_interval", "step_cache")]
        assert found == [1.5, [0.1, 0.6], 0.2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--guidance-interval", "0.1"], "--guidance-interval: expected LOW,HIGH such as 0.1,0.8, got '0.1'"),
        (["--guidance-interval", "a,b"], "--guidance-interval: expected LOW,HIGH"),
        (["--guidance-interval", "0,1"], "draws without guidance"),
        (["--step-cache", "2"], "step_cache: expected a number above 0 to 1, got 2"),
        (["--vae-tile", "8"], "vae_tile_px: expected a whole number from 64, got 8"),
        (["--graph-decoder", "--device", "cpu"], "graph_decoder: expected a CUDA device, got cpu"),
    ],
)
def test_wrong_decoder_options_are_one_line(
    checkpoint: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", "a", "--model", checkpoint, *options]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "Traceback" not in error


def test_sprint_options_reach_the_model(checkpoint: str, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", checkpoint, "--seed", "1", "--json", "--sprint", "readme", "--keep-ratio", "0.25"]
    for command in (["generate", "a"], ["understand", photo, "how many?", "--max-new-tokens", "4"]):
        assert run([*command, *arguments]) == 0
        rules = json.loads(capsys.readouterr().out)["settings"]["sprint"]
        assert (rules["keep_ratio"], rules["text_keep_ratio"], rules["schedule"]) == (0.25, None, "adaptive")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sprint", "fast"], "error: sprint: expected one of paper, readme, released or a Sprint, got 'fast'"),
        (["--keep-ratio", "0"], "error: keep_ratio: expected a number above 0 to 1, got 0.0"),
        (["--keep-ratio", "1.5"], "error: keep_ratio: expected a number above 0 to 1, got 1.5"),
    ],
)
def test_wrong_sprint_options_are_one_line(
    checkpoint: str, photo: str, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    for command in (["generate", "a"], ["understand", photo, "what?"]):
        assert run([*command, "--model", checkpoint, *options]) == 2
        assert capsys.readouterr().err == message + "\n"


def test_standard_input_and_output(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    feed(monkeypatch, b"two red apples\n")
    assert run(["-", "--model", checkpoint, "-o", "-", "--seed", "5"]) == 0
    captured = capfdbinary.readouterr()
    picture = Image.open(io.BytesIO(captured.out))
    assert picture.info["prompt"] == "two red apples"
    assert captured.err == b"seed 5\n"
    assert not list(Path().iterdir())


def test_understand(checkpoint: str, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["understand", photo, photo, "how many?", "--model", checkpoint, "--seed", "3", "--max-new-tokens", "4"]
    assert run([*arguments, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["images"] == [photo, photo]
    assert value["question"] == "how many?"
    assert value["seed"] == 3
    assert value["settings"]["max_new_tokens"] == 4
    assert run([*arguments, "-o", "answer.txt"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == value["answer"].strip()
    assert captured.err == "seed 3\n"
    assert Path("answer.txt").read_text().strip() == value["answer"].strip()


def test_a_picture_on_standard_input(
    checkpoint: str, photo: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, Path(photo).read_bytes())
    assert run(["encode", "-", "--model", checkpoint, "-o", "-"]) == 0
    piped = json.loads(capsys.readouterr().out)
    assert run(["encode", photo, "--model", checkpoint, "-o", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["codes"] == piped["codes"]


def test_encode_and_decode(
    checkpoint: str, photo: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["encode", photo, "--model", checkpoint]) == 0
    assert capsys.readouterr().out == "photo.codes.json  4x6 codes\n"
    assert run(["decode", "photo.codes.json", "--model", checkpoint, "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("photo-1.png  48x32  seed 1 ")
    feed(monkeypatch, Path("photo.codes.json").read_bytes())
    assert run(["decode", "-", "--model", checkpoint, "--seed", "1", "--json", "-o", "again.png"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == "again.png"
    assert Image.open("again.png").tobytes() == Image.open("photo-1.png").tobytes()
    assert run(["encode", photo, "--model", checkpoint, "--size", "32x32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["grid"] == [4, 4]


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--json"]) == 0
    names = [model["name"] for model in json.loads(capsys.readouterr().out)["models"]]
    assert names[0] == "nano"
    assert "inclusionAI/LLaDA2.0-Uni" in names
    assert run(["models"]) == 0
    assert "inclusionAI/LLaDA2.0-Uni-FP8" in capsys.readouterr().out


def test_doctor_finds_nothing_wrong(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--model", checkpoint, "--json", "--read-weights"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["ok"]
    assert {"versions", "cpu", "backend", "speed", "disk", "model", "backbone", "vae", "together", "memory"} <= {
        check["name"] for check in value["checks"]
    }
    assert run(["doctor", "--model", checkpoint]) == 0
    assert "WRONG" not in capsys.readouterr().out


@pytest.mark.parametrize("command", sorted(COMMANDS - {"train"}))
def test_help_of_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_common_options_are_spelt_the_same_everywhere() -> None:
    commands = build_command().commands
    assert set(commands) == COMMANDS
    for name, wanted in {
        "generate": COMMON | {"--size"}, "edit": COMMON | {"--size"}, "chat": COMMON,
        "understand": COMMON, "encode": COMMON - {"--seed"} | {"--size"},
        "story": COMMON | {"--size", "--max-frames", "--image"}, "decode": COMMON,
        "doctor": COMMON - {"--seed"}, "models": {"--json"},
    }.items():  # fmt: skip
        assert wanted <= {option for parameter in commands[name].params for option in parameter.opts}, name
    scenebench = commands["eval"].commands["scenebench"]
    assert COMMON | {"--limit"} <= {option for parameter in scenebench.params for option in parameter.opts}


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    run([])
    captured = capsys.readouterr()
    assert "Usage" in captured.out + captured.err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert re.fullmatch(r"llada-uni \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_an_interrupt_is_130(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llada_uni.cli.progress.follow", interrupt)
    assert run(["generate", "a", "--model", checkpoint]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    assert not list(Path().iterdir())


def test_a_bug_shows_its_traceback_and_is_1(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("llada_uni.cli.progress.follow", bug)
    assert run(["generate", "a", "--model", checkpoint]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_is_a_user_error(
    error: Exception, checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("llada_uni.cli.progress.follow", exhausted)
    assert run(["generate", "a", "--model", checkpoint]) == 2
    assert re.fullmatch("error: out of memory.*\n", capsys.readouterr().err)


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    cli._show_warning(UserWarning("two\nlines"), UserWarning, "file.py", 3)
    assert capsys.readouterr().err == "warning: two lines\n"


def test_progress_is_drawn_on_standard_error(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from llada_uni.pipeline import LladaUni

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    results = follow(LladaUni.from_pretrained(checkpoint).stream_image(["a", "b"], seed=1))
    assert [result.seed for result in results] == [1, 2]
    assert "tokens" in screen.getvalue()
    assert "pixels" in screen.getvalue()


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys\nfrom llada_uni.cli.main import run\nassert run(['--help']) == 0\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'tokenizers') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stderr.strip() == "[]"
    assert "generate" in done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, llada_uni\nfrom llada_uni import SizeError, Geometry\n"
        "assert 'torch' not in sys.modules\nassert 'LladaUni' in dir(llada_uni)\nassert llada_uni.__version__"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_the_module_is_the_command(checkpoint: str) -> None:
    command = [sys.executable, "-m", "llada_uni", "generate", "a", "--model", checkpoint, "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a-1.png ")
    assert done.stderr == ""
