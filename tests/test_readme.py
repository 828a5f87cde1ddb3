"""What the README shows works: its Python and its command lines, on the embedded model, in an empty directory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from documents import ROOT, blocks, command_lines

NANO = ROOT / "src" / "llada_uni" / "nano"
README = ROOT / "README.md"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NANO.is_dir(), reason="the embedded model src/llada_uni/nano is not built yet"),
]


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}


def run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


def test_the_quick_start(tmp_path: Path) -> None:
    (block,) = [block for block in blocks(README) if block.language == "python"]
    answer = run(["-c", block.code], tmp_path)
    assert answer.strip()
    picture = Image.open(tmp_path / "apples.png")
    assert picture.info["prompt"] == "two red apples left of a house"


def test_the_same_on_the_command_line(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    marker = text.count("\n", 0, text.index("The same on the command line")) + 1
    block = next(block for block in blocks(README) if block.line > marker)
    assert block.language == "bash"
    lines = list(command_lines(block))
    assert len(lines) >= 6
    for line in lines:
        assert run(["-m", "llada_uni", *line], tmp_path).strip(), line
    assert Image.open(tmp_path / "fish.png").size == Image.open(tmp_path / "again.png").size


def test_the_first_command(tmp_path: Path) -> None:
    install = next(block for block in blocks(README) if "pip install" in block.code)
    (line,) = command_lines(install)
    shown = run(["-m", "llada_uni", *line], tmp_path)
    assert re.search(r"seed \d+", shown)
    assert Image.open(tmp_path / "apples.png").mode == "RGB"
