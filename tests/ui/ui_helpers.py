"""A live page on loopback, runs without a browser, and a denoiser that tells stories."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from typing import Any

from llada_uni.pipeline import LladaUni
from llada_uni.serving.engine import Engine
from llada_uni.serving.limits import ServerSettings
from llada_uni.serving.running import Service
from llada_uni.serving.server import listening_socket, make_server
from llada_uni.ui.fields import fields
from llada_uni.ui.orders import Form
from llada_uni.ui.runs import Place, Told, run
from story_helpers import Director, Script


class LivePage:
    """The server with the page, in a thread of its own."""

    def __init__(self, model: LladaUni, settings: ServerSettings | None = None) -> None:
        from llada_uni.ui.app import create_page_app

        settings = settings or ServerSettings()
        self.engine, self.ready = Engine(model.networks), threading.Event()
        self.socket = listening_socket("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        app = create_page_app(self.engine, settings)
        self.server = make_server(self.engine, settings, on_ready=self.ready.set, app=app)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def __enter__(self) -> LivePage:
        self.thread.start()
        assert self.ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()


class Teller(Director):
    """Makes every row of a text write ``script``; all else is left to the engine's own denoiser."""

    def __init__(self, engine: Engine, script: Script) -> None:
        super().__init__(engine._denoiser, defaultdict(lambda: script))  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def values(model: LladaUni, tab: str, **changes: Any) -> list[Any]:
    """What an untouched form of ``tab`` sends, with ``changes``."""
    return [changes.get(field.name, field.preset) for field in fields(tab, model.networks)]


def told(engine: Engine, form: Form, settings: ServerSettings | None = None, *, sketches: bool = True) -> list[Told]:
    """Everything a run tells."""

    async def collected() -> list[Told]:
        service = Service(engine, settings or ServerSettings(names=("tiny",)))
        place = Place(number="1", url="http://127.0.0.1:8000", sketches=sketches)
        return [one async for one in run(service, form, place)]

    return asyncio.run(collected())
