"""A tiny random model in two precisions, and something to show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llada_uni.pipeline import LladaUni
from llada_uni.testing.checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> LladaUni:
    return LladaUni.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="session")
def exact(checkpoint: Path) -> LladaUni:
    """The same model in float64."""
    return LladaUni.from_pretrained(checkpoint, device="cpu", dtype="float64")


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """Random pixels, wider than high: 4x6 codes of the tiny model."""
    values = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="session")
def portrait(photo: Image.Image) -> Image.Image:
    """The same on its side: 6x4 codes."""
    return photo.rotate(90, expand=True)
