"""What the guide shows works against a server of the embedded model."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from documents import ROOT, blocks

NANO = ROOT / "src" / "llada_uni" / "nano"
GUIDE = blocks(ROOT / "docs" / "guides" / "serve.md")
ADDRESS = "http://127.0.0.1:8000"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NANO.is_dir(), reason="the embedded model src/llada_uni/nano is not built yet"),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "llada_uni", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as server:
        assert server.stderr is not None
        first = server.stderr.readline()
        assert first.startswith("serving nano on "), first
        yield first.split()[-1]
        server.terminate()
        log = server.stderr.read()
        assert server.wait(60) == 0
    assert " 500 " not in log
    assert "Traceback" not in log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    image = Image.new("RGB", (128, 128), "white")
    image.paste("red", (30, 40, 80, 90))
    for name in ("photo.png", "photo.jpg", "a.png", "b.png"):
        image.save(tmp_path / name)
    mask = Image.new("L", (128, 128))
    mask.paste(255, (64, 64, 128, 128))
    mask.save(tmp_path / "mask.png")
    return tmp_path


def test_the_python_of_the_guide(url: str, folder: Path) -> None:
    code = "\n".join(block.code for block in GUIDE if block.language == "python").replace(ADDRESS, url)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "image_generation.completed" in done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_of_the_guide(url: str, folder: Path) -> None:
    lines = [line for block in GUIDE for line in block.code.replace("\\\n", " ").splitlines()]
    commands = [shlex.split(line.replace(ADDRESS, url)) for line in lines if line.startswith("curl ")]
    assert len(commands) == 4
    for command in commands:
        done = subprocess.run([*command, "-sSf"], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("{")
