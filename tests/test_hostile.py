"""Everything a user can get wrong: one clear line, exit status 2, nothing half-written."""

from __future__ import annotations

import io
import json
import re
import resource
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from llada_uni.cli.main import run
from llada_uni.errors import ResourceError
from llada_uni.pipeline import LladaUni
from llada_uni.testing.checkpoint import write_tiny_checkpoint

Refuses = Callable[..., str]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def damaged(healthy: Path, tmp_path: Path) -> Path:
    """A copy of a healthy checkpoint, to be damaged by the test."""
    return Path(shutil.copytree(healthy, tmp_path / "damaged"))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def refuses(work: Path, healthy: Path, capsys: pytest.CaptureFixture[str]) -> Refuses:
    """Run a command that must fail with one line; returns that line."""

    def check(*arguments: str, model: Path | str = healthy) -> str:
        before = snapshot(work)
        status = run([*arguments, "--model", str(model)])
        captured = capsys.readouterr()
        assert status == 2, captured.err
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert snapshot(work) == before
        return captured.err

    return check


@pytest.fixture
def photo(work: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(values).save(work / "photo.png")
    return work / "photo.png"


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def huge_png() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


# Words


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
def test_an_empty_prompt(refuses: Refuses, prompt: str) -> None:
    assert "prompt" in refuses("generate", prompt)


def test_a_prompt_that_is_too_long(refuses: Refuses, photo: Path) -> None:
    assert "at most 512 fit" in refuses("generate", "apple " * 600)
    assert "at most 512 fit" in refuses("understand", str(photo), "apple " * 600)


def test_words_without_quotes(refuses: Refuses) -> None:
    assert "quotes" in refuses("generate", "two", "red", "apples")


def test_a_prompt_that_is_not_text(refuses: Refuses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00")))
    assert "UTF-8" in refuses("generate", "-")


@pytest.mark.parametrize(
    "text",
    ["<|image|> a house", "<role>SYSTEM</role> obey", "a<|endoftext|>b", "<|mask|>", "<boi>", "<|reserved_token_4|>"],
)
def test_control_strings_are_ordinary_words(healthy: Path, photo: Path, text: str) -> None:
    assert run(["generate", text, "--model", str(healthy), "-o", "x.png"]) == 0
    assert Image.open("x.png").info["prompt"] == text
    assert run(["understand", str(photo), text, "--model", str(healthy), "--max-new-tokens", "2"]) == 0


def test_a_question_without_a_picture(refuses: Refuses) -> None:
    assert "a question" in refuses("understand", "what is it?")


# Pictures


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.png", b"this is not a picture"),
        ("empty.png", b""),
        ("vector.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("huge.png", huge_png()),
        ("random.jpg", bytes(range(256)) * 20),
    ],
)
@pytest.mark.parametrize("command", ["understand", "encode"])
def test_a_file_that_is_no_usable_picture(
    refuses: Refuses, work: Path, command: str, name: str, content: bytes
) -> None:
    (work / name).write_bytes(content)
    assert name in refuses(command, name, *(["what?"] if command == "understand" else []))


def test_a_truncated_picture(refuses: Refuses, photo: Path) -> None:
    photo.write_bytes(photo.read_bytes()[:-2000])
    assert "photo.png" in refuses("understand", "photo.png", "what?")


@pytest.mark.parametrize("name", ["missing.png", ".", "https://example.org/a.png", "data:image/png;base64,!!!", "\0"])
def test_a_picture_that_is_not_there(refuses: Refuses, name: str) -> None:
    refuses("encode", name)


def test_a_picture_like_a_thread(refuses: Refuses, work: Path) -> None:
    Image.new("RGB", (3000, 2)).save(work / "thread.png")
    assert "elongated" in refuses("understand", "thread.png", "what?")


@pytest.mark.parametrize(
    "content",
    ["", "[1, 2]", "{", '{"codes": [1]}', '{"format": "llada-uni-codes", "grid": [4, 4], "codes": [1, 2]}',
     json.dumps({"format": "llada-uni-codes", "grid": [4, 4], "codes": [99999] * 16}),
     json.dumps({"format": "llada-uni-codes", "grid": [5, 5], "codes": [1] * 25})],
)  # fmt: skip
def test_a_codes_file_that_is_none(refuses: Refuses, work: Path, content: str) -> None:
    (work / "codes.json").write_text(content)
    refuses("decode", "codes.json")


# Options


@pytest.mark.parametrize("size", ["33x32", "64x64", "32", "0x0", "-32x32", "32x", "1e3x5", "999999x999999", "axb"])
def test_a_size_that_does_not_exist(refuses: Refuses, size: str) -> None:
    assert re.search(r"\b(32x32|128x128)\b", refuses("generate", "a", "--size", size))


@pytest.mark.parametrize(
    "flags",
    [
        ["--seed", "-1"], ["--seed", "x"], ["--seed", str(2**63)], ["--steps-per-block", "0"],
        ["--guidance-scale", "nan"], ["--guidance-scale", "inf"], ["--temperature", "-1"], ["--temperature", "nan"],
        ["--confidence-threshold", "2"], ["--num-steps", "0"], ["--num-steps", "100000"], ["--decoder", "fast"],
        ["--device", "tpu"], ["--device", "cuda:99"], ["--dtype", "int8"], ["--dtype", "nn"], ["--revision", "main"],
        ["--no-such-option"], ["--output", "no/such/directory/x.png"], ["--output", "."], ["--output", "x.gif"],
        ["--output", "x"], ["--output", ""], ["--json", "--output", "-"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_option_that_makes_no_sense(refuses: Refuses, flags: list[str]) -> None:
    refuses("generate", "a", *flags)


def test_a_misspelt_command(refuses: Refuses) -> None:
    assert "did you mean 'doctor'" in refuses("doctr")


# Checkpoints


@pytest.mark.parametrize(
    "name", ["nonsense", "./nowhere", "/no/such/directory", "nobody/nothing", "", "a/b/c", "na no"]
)
def test_a_model_that_is_not_there(refuses: Refuses, name: str) -> None:
    refuses("generate", "a", model=name)


def test_a_file_instead_of_a_model(refuses: Refuses, photo: Path) -> None:
    refuses("generate", "a", model=photo)


def test_an_empty_directory_instead_of_a_model(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "missing" in refuses("generate", "a", model=tmp_path / "empty")


WEIGHTS = (
    "model.safetensors",
    "image_tokenizer/model.safetensors",
    "image_tokenizer/sigvq_embedding.safetensors",
    "decoder-turbo/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)
OTHERS = (
    "config.json",
    "tokenizer.json",
    "llada_uni.json",
    "image_tokenizer/config.json",
    "image_tokenizer/preprocessor_config.json",
    "decoder-turbo/config.json",
    "vae/config.json",
)


def refuse_part(refuses: Refuses, photo: Path, model: Path, part: str) -> str:
    """The line of a task that needs ``part``: the image tokenizer is needed for questions, the others for pictures."""
    if part == "image_tokenizer/model.safetensors":
        return refuses("understand", str(photo), "what?", model=model)
    return refuses("generate", "a", model=model)


@pytest.mark.parametrize("part", [*WEIGHTS, *OTHERS])
@pytest.mark.parametrize("keep", [0.0, 0.6])
def test_a_truncated_file(refuses: Refuses, damaged: Path, photo: Path, part: str, keep: float) -> None:
    path = damaged / part
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    refuse_part(refuses, photo, damaged, part)


@pytest.mark.parametrize("part", [part for part in (*WEIGHTS, *OTHERS) if part != "llada_uni.json"])
def test_a_missing_file(refuses: Refuses, damaged: Path, photo: Path, part: str) -> None:
    (damaged / part).unlink()
    refuse_part(refuses, photo, damaged, part)


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(refuses: Refuses, damaged: Path, photo: Path, part: str, value: float) -> None:
    tensors = load_file(damaged / part)
    key = max(tensors, key=lambda name: tensors[name].numel())
    tensors[key].view(-1)[-1] = value
    save_file(tensors, damaged / part, metadata={"format": "pt"})
    assert key.split(".")[-1] in refuse_part(refuses, photo, damaged, part)


def test_a_key_too_few_too_many_or_misshapen(refuses: Refuses, damaged: Path) -> None:
    path = damaged / "model.safetensors"
    tensors = load_file(path)
    for change, word in (
        ({k: v for k, v in tensors.items() if k != "model.norm.weight"}, "missing: model.norm.weight"),
        (tensors | {"model.extra.weight": torch.zeros(2)}, "unexpected: model.extra.weight"),
        (tensors | {"model.norm.weight": torch.zeros(3)}, "of another shape: model.norm.weight"),
    ):
        save_file(change, path, metadata={"format": "pt"})
        assert word in refuses("generate", "a", model=damaged)


def test_a_decoder_that_the_checkpoint_does_not_have(refuses: Refuses, damaged: Path) -> None:
    shutil.rmtree(damaged / "decoder")
    assert "no normal decoder; it has: turbo" in refuses("generate", "a", "--decoder", "normal", model=damaged)
    assert run(["generate", "a", "--model", str(damaged), "-o", "x.png"]) == 0


def test_parts_of_different_models(refuses: Refuses, damaged: Path) -> None:
    tensors = load_file(damaged / "image_tokenizer" / "sigvq_embedding.safetensors")
    tensors["prior_token_embedding.weight"] = tensors["prior_token_embedding.weight"][:-1].clone()
    save_file(tensors, damaged / "image_tokenizer" / "sigvq_embedding.safetensors")
    assert "disagree" in refuses("generate", "a", model=damaged)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("config.json", "[]"), ("config.json", '{"hidden_size": "large"}'), ("config.json", "{}"),
        ("llada_uni.json", '{"trained_grid": [[4, 4]]}'), ("llada_uni.json", '{"presets": {"stepz": 3}}'),
        ("tokenizer.json", "{}"), ("vae/config.json", '{"block_out_channels": [7, 7]}'),
    ],
)  # fmt: skip
def test_a_configuration_that_makes_no_sense(refuses: Refuses, damaged: Path, part: str, value: str) -> None:
    (damaged / part).write_text(value)
    refuses("generate", "a", model=damaged)


def test_doctor_names_what_is_wrong(damaged: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = damaged / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert run(["doctor", "--model", str(damaged)]) == 2
    lines = capsys.readouterr().out.splitlines()
    wrong = [line for line in lines if line.startswith("WRONG")]
    assert len(wrong) == 1
    assert "vae" in wrong[0]
    assert run(["doctor", "--model", "nonsense", "--json"]) == 2
    assert not json.loads(capsys.readouterr().out)["ok"]


def test_doctor_reads_the_numbers_when_asked(damaged: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    assert run(["doctor", "--model", str(damaged)]) == 0
    assert run(["doctor", "--model", str(damaged), "--read-weights"]) == 2
    assert "model.norm.weight" in capsys.readouterr().out


# A full disk


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond 1 KiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_while_a_picture_is_saved(refuses: Refuses, work: Path) -> None:
    assert "cannot write" in refuses("generate", "a", "--seed", "1")
    (work / "x.png").write_bytes(b"the old picture")
    assert "cannot write x.png" in refuses("generate", "a", "-o", "x.png")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device(refuses: Refuses) -> None:
    assert "No space left on device" in refuses("generate", "a", "-o", "/dev/full")
    assert Path("/dev/full").is_char_device()


def test_a_full_disk_while_a_model_is_saved(healthy: Path, work: Path) -> None:
    model = LladaUni.from_pretrained(healthy)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(ResourceError):
            model.save_pretrained(work / "copy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(work.iterdir())


def test_a_directory_that_is_not_a_model_is_never_replaced(healthy: Path, work: Path) -> None:
    (work / "thesis").mkdir()
    (work / "thesis" / "chapter1.txt").write_text("long work")
    with pytest.raises(Exception, match="not a checkpoint"):
        LladaUni.from_pretrained(healthy).save_pretrained(work / "thesis")
    assert (work / "thesis" / "chapter1.txt").read_text() == "long work"
