"""A tiny random model, an engine on it, and a live server on loopback."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from llada_uni.pipeline import LladaUni
from llada_uni.serving.engine import Engine
from llada_uni.serving.lanes import EngineSettings
from llada_uni.serving.limits import Limits, ServerSettings
from llada_uni.serving.pictures import data_uri
from llada_uni.serving.server import listening_socket, make_server
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


class Live:
    """A server on loopback in a thread of its own."""

    def __init__(self, model: LladaUni, settings: ServerSettings, load: EngineSettings | None = None) -> None:
        self.engine = Engine(model.networks, load)
        self.ready = threading.Event()
        self.socket = listening_socket("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = make_server(self.engine, settings, on_ready=self.ready.set)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def __enter__(self) -> Live:
        self.thread.start()
        assert self.ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60, **options)

    def idle(self) -> None:
        """Wait until the engine has nothing to do."""
        limit = time.monotonic() + 30
        while self.engine.status().requests:
            assert time.monotonic() < limit, self.engine.status()
            time.sleep(0.005)


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
