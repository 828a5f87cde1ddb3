"""A tiny random model, an engine on it, and a live server on loopback."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from serving_helpers import Live

from llada_uni.pipeline import LladaUni
from llada_uni.serving.engine import Engine
from llada_uni.serving.lanes import EngineSettings
from llada_uni.serving.limits import Limits, ServerSettings
from llada_uni.serving.pictures import data_uri
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


@pytest.fixture(scope="session")
def live(model: LladaUni) -> Iterator[Live]:
    limits = Limits(body_bytes=2 * 2**20, text_bytes=20_000, max_pixels=1_000_000, header_s=1.0, body_s=1.0)
    with Live(model, ServerSettings(names=("tiny", "nano"), limits=limits)) as one:
        yield one


@pytest.fixture(scope="session")
def client(live: Live) -> openai.OpenAI:
    return live.client()


@pytest.fixture(scope="session")
def http(live: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, timeout=60) as one:
        yield one


@pytest.fixture(scope="session")
def photo_png(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photo_uri(photo_png: bytes) -> str:
    return data_uri(photo_png)
