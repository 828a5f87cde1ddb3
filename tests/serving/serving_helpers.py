"""A live server for tests."""

from __future__ import annotations

import threading
import time
from typing import Any

import openai

from llada_uni.pipeline import LladaUni
from llada_uni.serving.engine import Engine
from llada_uni.serving.lanes import EngineSettings
from llada_uni.serving.limits import ServerSettings
from llada_uni.serving.server import listening_socket, make_server


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
