"""Results carry everything needed to make them again, and files are written whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from full_disk import full_disk
from llada_uni.errors import ConfigError, ImageError, ResourceError
from llada_uni.grid import TokenGrid
from llada_uni.pipeline.files import write_atomic
from llada_uni.pipeline.results import EncodedImage, ImageResult, TextResult


def a_result(prompt: str | None = "ein Apfel, 苹果 🍎") -> ImageResult:
    return ImageResult(
        image=Image.new("RGB", (8, 8), (200, 30, 20)),
        codes=(0, 1, 2, 3),
        grid=TokenGrid(2, 2),
        prompt=prompt,
        seed=7,
        model="nano",
        settings={"decoder": "turbo", "num_steps": 8},
        timings={"total": 0.5},
    )


def test_a_saved_png_says_how_it_was_made(tmp_path: Path) -> None:
    path = a_result().save(tmp_path / "a.png")
    with Image.open(path) as picture:
        assert picture.size == (8, 8)
        assert picture.info["prompt"] == "ein Apfel, 苹果 🍎"
        assert picture.info["seed"] == "7"
        assert picture.info["model"] == "nano"
        assert json.loads(picture.info["settings"]) == {"decoder": "turbo", "num_steps": 8}


def test_png_bytes_are_the_saved_file(tmp_path: Path) -> None:
    result = a_result()
    assert result.png_bytes() == result.save(tmp_path / "a.png").read_bytes()


def test_a_decoded_picture_has_no_prompt_entry() -> None:
    with Image.open(io.BytesIO(a_result(None).png_bytes())) as picture:
        assert "prompt" not in picture.info


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.webp", "WEBP")])
def test_other_endings(tmp_path: Path, name: str, kind: str) -> None:
    with Image.open(a_result().save(tmp_path / name)) as picture:
        assert picture.format == kind


@pytest.mark.parametrize("name", ["a", "a.gif", "a.png.txt"])
def test_unknown_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match=r"expected a name ending in \.png"):
        a_result().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_everything_but_the_pixels_is_json() -> None:
    value = json.loads(json.dumps(a_result().as_dict()))
    assert value["grid"] == [2, 2]
    assert value["codes"] == [0, 1, 2, 3]
    assert (value["width"], value["height"], value["seed"]) == (8, 8, 7)
    text = TextResult(
        text="two", question="how many?", seed=1, model="nano", finish_reason="stop", settings={}, timings={}
    )
    assert json.loads(json.dumps(text.as_dict()))["answer"] == "two"


def test_codes_files_come_back(tmp_path: Path) -> None:
    encoded = EncodedImage(codes=(5, 4, 3, 2, 1, 0), grid=TokenGrid(2, 3), model="nano")
    assert EncodedImage.load(encoded.save(tmp_path / "c.json")) == encoded


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "llada-uni-codes"),
        ({"format": "llada-uni-codes", "grid": [2, 2], "codes": "0123"}, "llada-uni-codes"),
        (
            {"format": "llada-uni-codes", "grid": [2, 2], "codes": [0, 1, 2.5, 3]},
            "llada-uni-codes",
        ),
        (
            {"format": "llada-uni-codes", "grid": [2, 2, 1], "codes": [0, 1, 2, 3]},
            "llada-uni-codes",
        ),
        ({"format": "llada-uni-codes", "grid": [2, 2], "codes": [0, 1, 2]}, "2x2 codes announced, got 3"),
        ({"format": "llada-uni-codes", "grid": [-1, -4], "codes": [0, 1, 2, 3]}, "-1x-4 codes announced"),
    ],
)
def test_wrong_codes_files_are_named(value: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EncodedImage.from_dict(value, source="c.json")


def test_writing_replaces_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "a.bin", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o644


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")
    with full_disk(4096), pytest.raises(ResourceError, match=r"cannot write .*a\.bin \(100,000 bytes\)"):
        write_atomic(path, bytes(100_000))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_failing_rename_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(ResourceError, match="No space left on device"):
        a_result().save(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_devices_are_written_to_and_not_replaced() -> None:
    write_atomic(Path("/dev/null"), b"x")
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_is_one_clear_error() -> None:
    with pytest.raises(ResourceError, match="No space left on device"):
        a_result().save("/dev/full")
    assert Path("/dev/full").is_char_device()


def test_a_missing_directory_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="No such file or directory"):
        a_result().save(tmp_path / "no" / "a.png")
