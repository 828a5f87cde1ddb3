"""File names, sizes and standard streams of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from llada_uni.cli import machine
from llada_uni.cli.options import parse_optional_size
from llada_uni.cli.output import free_path, slug, target
from llada_uni.errors import ConfigError, ResourceError, SizeError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two red apples, left of a house!", "two-red-apples-left-of-a-house"),
        ("Ünïcödé Äpfel", "unicode-apfel"),
        ("苹果", "picture"),
        ("../../etc/passwd", "etc-passwd"),
        ("<|image|> <role>", "image-role"),
        ("a" * 300, "a" * 48),
    ],
)
def test_slugs(text: str, expected: str) -> None:
    assert slug(text) == expected


def test_default_names_never_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        path = free_path("apple-7", ".png")
        path.touch()
        names.append(path.name)
    assert names == ["apple-7.png", "apple-7-2.png", "apple-7-3.png"]


def test_explicit_outputs(tmp_path: Path) -> None:
    assert target(None, as_json=True) is None
    assert target("-", as_json=False) is None
    assert target(str(tmp_path / "a.png"), as_json=True) == tmp_path / "a.png"


def test_outputs_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both write to standard output"):
        target("-", as_json=True)
    with pytest.raises(ResourceError, match="does not exist"):
        target(str(tmp_path / "no" / "a.png"), as_json=False)
    with pytest.raises(ResourceError, match="a directory"):
        target(str(tmp_path), as_json=False)
    with pytest.raises(ResourceError, match="expected a file name"):
        target(" ", as_json=False)


def test_size_is_width_then_height() -> None:
    assert parse_optional_size(None) == (None, None)
    assert parse_optional_size("192x128") == (128, 192)
    with pytest.raises(SizeError):
        parse_optional_size("128")


def test_the_machine_is_described() -> None:
    assert machine.versions()["torch"] != "missing"
    assert machine.num_cores() >= 1
    assert machine.human_bytes(1536) == "1.5 KiB"
    assert machine.human_bytes(3 * 1024**3) == "3.0 GiB"
    devices = machine.describe_devices()
    assert devices[0]["device"] == "cpu"
