"""A tiny random model and an engine on it."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from llada_uni.pipeline import LladaUni
from llada_uni.serving.engine import Engine
from llada_uni.serving.pictures import data_uri
from llada_uni.testing.checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> LladaUni:
    return LladaUni.from_pretrained(write_tiny_checkpoint(tmp_path_factory.mktemp("page") / "tiny"), device="cpu")


@pytest.fixture
def engine(model: LladaUni) -> Iterator[Engine]:
    with Engine(model.networks) as one:
        yield one


@pytest.fixture(scope="session")
def photo_png() -> bytes:
    """Random pixels, wider than high: 4x6 codes of the tiny model."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photo_uri(photo_png: bytes) -> str:
    return data_uri(photo_png)
