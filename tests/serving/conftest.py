"""A tiny random model and an engine on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llada_uni.pipeline import LladaUni
from llada_uni.serving.engine import Engine
from llada_uni.serving.lanes import EngineSettings
from llada_uni.testing.checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> LladaUni:
    return LladaUni.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """Random pixels, wider than high: 4x6 codes of the tiny model."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))


@pytest.fixture
def engine(model: LladaUni) -> Iterator[Engine]:
    with Engine(model.networks, EngineSettings(max_requests=40)) as one:
        yield one
