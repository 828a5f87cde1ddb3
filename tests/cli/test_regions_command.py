"""inpaint, outpaint and vary on the command line, and --film: everything kept is kept, every mistake is one line."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llada_uni.cli.main import build_command, run
from llada_uni.testing.checkpoint import write_tiny_checkpoint

COMMON = {"--model", "--output", "--seed", "--json", "--device", "--dtype", "--film", "--block-length"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(autouse=True)
def _in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photo() -> str:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save("photo.png")
    return "photo.png"


def pixels(name: str) -> np.ndarray:
    with Image.open(name) as picture:
        return np.asarray(picture.convert("RGB"))


def test_inpaint_with_a_box(checkpoint: str, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["inpaint", photo, "a blue fish", "--model", checkpoint, "--seed", "3", "--box", "8,8,24,32"]
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(r"a-blue-fish-3\.png  32x32  seed 3  [0-9.]+ s\n", captured.out)
    assert captured.err == ""
    before, after = pixels(photo), pixels("a-blue-fish-3.png")
    inside = np.zeros((32, 32), dtype=bool)
    inside[8:32, 8:24] = True
    assert (before[~inside] == after[~inside]).all()
    assert (before[inside] != after[inside]).any()


def test_the_forms_of_a_region_agree(checkpoint: str, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    marks = Image.new("RGBA", (32, 32), (0, 0, 0, 255))
    marks.paste((0, 0, 0, 0), (0, 0, 16, 8))
    marks.save("mask.png")
    rest = ";".join(
        f"{row},{column}" for row in range(4) for column in range(4) if (row, column) not in {(0, 0), (0, 1)}
    )
    forms = [["--mask", "mask.png"], ["--box", "0,0,16,8"], ["--cells", "0,0; 0,1"], ["--keep-cells", rest]]
    found = []
    for form in forms:
        assert run(["inpaint", photo, "a", "--model", checkpoint, "--seed", "1", "-o", "x.png", "--json", *form]) == 0
        found.append((json.loads(capsys.readouterr().out)["codes"], pixels("x.png").tobytes()))
    assert all(one == found[0] for one in found)


def test_every_option_reaches_the_model(checkpoint: str, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {
        "--steps-per-block": 3, "--guidance-text": 1.5, "--guidance-image": 0.5, "--confidence-threshold": 0.5,
        "--temperature": 0.25, "--num-steps": 2, "--decoder": "normal", "--block-length": 48, "--strength": 0.5,
    }  # fmt: skip
    flags = [str(part) for pair in given.items() for part in pair]
    region = ["--cells", "0,0;1,1;2,2;3,3", "--no-blend"]
    assert run(["inpaint", photo, "a", "--model", checkpoint, "--json", *region, *flags]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    for flag, value in given.items():
        assert settings[flag.strip("-").replace("-", "_")] == value
    assert (settings["reference"], settings["blend"], len(settings["cells"])) == (True, False, 2)
    plain = ["--no-reference", "--guidance-scale", "1.5"]
    assert run(["inpaint", photo, "a", "--model", checkpoint, "--json", "--cells", "0,0", *plain]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["reference"], settings["guidance_scale"]) == (False, 1.5)


def test_outpaint(checkpoint: str, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["outpaint", photo, "a street", "--model", checkpoint, "--size", "48x32", "--anchor", "right"]
    assert run([*arguments, "--json", "-o", "wide.png"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["width"], value["height"], value["settings"]["anchor"]) == (48, 32, "right")
    assert (pixels("wide.png")[:, 16:] == pixels(photo)).all()


def test_vary_takes_codes_and_standard_input(
    checkpoint: str, photo: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["encode", photo, "--model", checkpoint, "-o", "photo.json"]) == 0
    arguments = ["a star", "--model", checkpoint, "--seed", "1", "--json", "--strength", "0.25"]
    capsys.readouterr()
    assert run(["vary", "photo.json", *arguments]) == 0
    from_codes = json.loads(capsys.readouterr().out)
    assert len(from_codes["settings"]["cells"]) == 4
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(photo).read_bytes())))
    assert run(["vary", "-", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["codes"] == from_codes["codes"]


def test_scaling_is_said(checkpoint: str, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    Image.open(photo).resize((90, 60)).save("large.png")
    assert run(["inpaint", "large.png", "a", "--model", checkpoint, "--box", "0,0,45,30", "-o", "x.png"]) == 0
    assert capsys.readouterr().err == "the picture of 90x60 was scaled and cropped to the size of the result\n"


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_films(checkpoint: str, photo: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"film.{kind}"
    commands = {
        "gif": ["generate", "a", "-o", "x.png"],
        "webp": ["inpaint", photo, "a", "--cells", "1,1", "-o", "x.png"],
    }
    assert run([*commands[kind], "--model", checkpoint, "--film", name, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["output"] == "x.png"
    assert captured.err == f"film {name}\n"
    with Image.open(name) as film:
        assert film.n_frames > 3
    assert Path("x.png").exists()


def test_the_picture_is_safe_when_the_film_fails(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    assert run(["generate", "a", "--model", checkpoint, "-o", "x.png", "--film", "/dev/full"]) == 2
    assert re.fullmatch(r"error: cannot write /dev/full .*No space left on device.*\n", capsys.readouterr().err)
    assert Image.open("x.png").size == (32, 32)


BOX = ["--box", "0,0,9,9"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inpaint", "photo.png", "a"], "expected exactly one of mask, box, cells and keep_cells, got none"),
        (["inpaint", "photo.png", "a", *BOX, "--cells", "0,0"], "got box and cells"),
        (["inpaint", "photo.png", "a", *BOX, "--mask", "photo.png"], "got mask and box"),
        (["inpaint", "photo.png", "a", "--box", "0,0,99,9"], "inside the picture of 32x32"),
        (["inpaint", "photo.png", "a", "--box", "-1,0,9,9"], "got -1,0,9,9"),
        (["inpaint", "photo.png", "a", "--box", "0,0,9"], "--box: expected LEFT,TOP,RIGHT,BOTTOM"),
        (["inpaint", "photo.png", "a", "--box", "a,b,c,d"], "--box: expected"),
        (["inpaint", "photo.png", "a", "--cells", "0"], "--cells: expected ROW,COLUMN"),
        (["inpaint", "photo.png", "a", "--cells", ";"], "--cells: expected"),
        (["inpaint", "photo.png", "a", "--cells", "9,9"], "from (0, 0) to (3, 3)"),
        (["inpaint", "photo.png", "a", "--keep-cells", "x"], "--keep-cells: expected"),
        (["inpaint", "photo.png", "a", "--mask", "black.png"], "the mask marks nothing"),
        (["inpaint", "photo.png", "a", "--mask", "wide.png"], "shape 32x32"),
        (["inpaint", "photo.png", "a", "--mask", "none.png"], "none.png"),
        (["inpaint", "none.png", "a", *BOX], "none.png"),
        (["inpaint", "none.json", "a", *BOX], "none.json"),
        (["inpaint", "photo.png", "", *BOX], "expected some words"),
        (["inpaint", "-", "-", *BOX], "can be named once only"),
        (["inpaint", "photo.png", "a", *BOX, "--strength", "1.5"], "strength: expected a number from 0 to 1"),
        (["inpaint", "photo.png", "a", *BOX, "--guidance-scale", "2"], "use guidance_text and guidance_image"),
        (["inpaint", "photo.png", "a", *BOX, "--film", "x.mp4"], "ending in .gif or .webp, got .mp4"),
        (["inpaint", "photo.png", "a", *BOX, "--film", "no/x.gif"], "--film: the directory 'no' does not exist"),
        (["inpaint", "photo.png", "a", *BOX, "-o", "x.txt"], "expected a name ending in .png"),
        (["inpaint", "photo.png"], "PROMPT"),
        (["outpaint", "photo.png", "a"], "expected a height or a width"),
        (["outpaint", "photo.png", "a", "--size", "32x32"], "cannot grow to 32x32"),
        (["outpaint", "photo.png", "a", "--size", "64x64"], "allowed: 32x32, 48x32, 32x48"),
        (["outpaint", "photo.png", "a", "--size", "big"], "big"),
        (["outpaint", "photo.png", "a", "--size", "48x32", "--anchor", "middle"], "anchor: expected one of"),
        (["vary", "photo.png", "a", "--strength", "-1"], "strength"),
        (["vary", "photo.png", "a", "--strength", "much"], "valid number"),
        (["generate", "a", "--film", "x.png"], "ending in .gif or .webp, got .png"),
        (["generate", "a", "--film", "-"], "ending in .gif or .webp"),
        (["generate", "a", "--film", "."], "--film: expected a file name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
@pytest.mark.usefixtures("photo")
def test_mistakes_are_one_line(
    checkpoint: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (32, 32), 0).save("black.png")
    Image.new("L", (64, 32), 255).save("wide.png")
    before = sorted(Path().iterdir())
    assert run([*arguments, "--model", checkpoint]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", captured.err)
    assert message in captured.err
    assert sorted(Path().iterdir()) == before


def test_the_commands_share_their_options() -> None:
    commands = build_command().commands
    for name in ("inpaint", "outpaint", "vary"):
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert options >= COMMON
        assert run([name, "--help"]) == 0
