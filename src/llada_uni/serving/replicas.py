"""What runs inside the replicas of a Ray Serve deployment: the application with a remote painter, and the decoder."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llada_uni.errors import ResourceError
from llada_uni.pipeline.results import ImageDone, ImageResult
from llada_uni.pipeline.stations import Drawing
from llada_uni.serving.drawing import Easel
from llada_uni.serving.faults import as_fault
from llada_uni.serving.tickets import Preview, Wants

if TYPE_CHECKING:
    from llada_uni.serving.cluster import Opening
    from llada_uni.serving.limits import ServerSettings

__all__ = ["DecoderReplica", "RemotePainter", "backbone_app"]

_log = logging.getLogger("llada_uni.serving")
_THREADS = 64


def backbone_app(
    opening: Opening, settings: ServerSettings, changes: dict[str, Any], application: str, decoder: str
) -> Any:
    """The application of a backbone replica, made where it runs."""
    from ray import serve  # pyright: ignore[reportMissingImports]

    from llada_uni.serving.app import create_app
    from llada_uni.serving.engine import Engine
    from llada_uni.serving.lanes import EngineSettings

    networks = opening.networks()
    painter = RemotePainter(serve.get_deployment_handle(decoder, app_name=application))
    load = EngineSettings.on(networks.device.type, **changes)
    return create_app(Engine(networks, load, show_errors=settings.show_errors, painter=painter), settings)


class RemotePainter:
    """Hands drawings to the decoder deployment behind ``handle``; see ``drawing.Painter``."""

    def __init__(self, handle: Any) -> None:
        self._draw = handle.options(stream=True).draw
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="llada-uni-painter")

    def paint(self, drawing: Drawing, row: int, wants: Wants, hear: Callable[[Any], None]) -> Callable[[], None]:
        """Begin at once; what comes back gets its last hand here, for that cannot travel."""
        events = self._draw.remote(replace(drawing, finish=None), row, wants)
        self._threads.submit(_listen, events, drawing, hear)
        return events.cancel


def _listen(events: Any, drawing: Drawing, hear: Callable[[Any], None]) -> None:
    try:
        for event in events:
            hear(_finished(event, drawing))
    except Exception as error:  # of the cluster: whoever waits must hear of it
        _log.error("decoder: %s", type(error).__name__)
        hear(ResourceError("the picture decoder of this server did not answer; try again"))


def _finished(event: Any, drawing: Drawing) -> Any:
    """``event`` with the drawing's last hand on its picture."""
    if drawing.finish is None:
        return event
    if isinstance(event, ImageDone):
        return replace(event, result=replace(event.result, image=drawing.finish(event.result.image)))
    if isinstance(event, (ImageResult, Preview)):
        return replace(event, image=drawing.finish(event.image))
    return event


class DecoderReplica:
    """Turns drawings into pictures, one at a time."""

    def __init__(self, opening: Opening, show_errors: bool) -> None:
        self._networks, self._show_errors = opening.networks(), show_errors
        self._turn = asyncio.Lock()
        networks = self._networks
        _ = networks.semantic_embedder, networks.vae
        networks.decoder(networks.package.presets.decoder)

    async def draw(self, drawing: Drawing, row: int, wants: Wants) -> AsyncIterator[Any]:
        """Events that are wanted, then the result, or what is to be said about why there is none."""
        async with self._turn:
            easel = Easel(self._networks, drawing, row, wants)
            try:
                while easel.result is None:
                    for event in await asyncio.to_thread(easel.work):
                        yield event
                yield easel.result
            except Exception as error:  # an exception of its own would carry a trace to the other side
                _log.error("decoder: %s", type(error).__name__, exc_info=error if self._show_errors else None)
                yield as_fault(error)
