"""The server process: uvicorn around the application, with a time limit on everything a client can delay."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from llada_uni.errors import ConfigError, ResourceError
from llada_uni.serving.app import create_app
from llada_uni.serving.engine import Engine
from llada_uni.serving.limits import ServerSettings

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as missing:
    raise ConfigError(f"expected the extra llada-uni[serve], {missing.name} is missing; install it") from missing

__all__ = ["listening_socket", "make_server", "serve"]

_MAX_CONNECTIONS = 512
_KEEP_ALIVE_S = 15
_HEAD_BYTES = 32 * 1024


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket on which the server can be reached; port 0 takes a free one.

    Raises:
        ResourceError: the address is taken or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((host, port))
        one.listen(_MAX_CONNECTIONS)
    except (OSError, OverflowError) as error:
        one.close()
        reason = getattr(error, "strerror", None) or error
        raise ResourceError(f"cannot listen on {host} port {port}: {reason}; choose another --port") from error
    return one


def serve(
    engine: Engine,
    settings: ServerSettings,
    sockets: list[socket.socket],
    *,
    on_ready: Callable[[], None] = lambda: None,
    app: Any = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way; a second signal stops at once.

    ``app``: what to serve instead of :func:`create_app` (the same with more mounted on it, say).
    """
    make_server(engine, settings, on_ready=on_ready, app=app).run(sockets=sockets)


def make_server(
    engine: Engine,
    settings: ServerSettings,
    *,
    on_ready: Callable[[], None] = lambda: None,
    app: Any = None,
) -> uvicorn.Server:
    """The server of :func:`serve`, to be run by somebody else; ``should_exit`` stops it."""
    config = uvicorn.Config(
        create_app(engine, settings) if app is None else app,
        http=_Impatient.within(settings.limits.header_s),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        limit_concurrency=_MAX_CONNECTIONS,
        h11_max_incomplete_event_size=_HEAD_BYTES,
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    return _Server(config, on_ready)


class _Server(uvicorn.Server):
    """Stops on a signal without raising it again: what is under way is finished before the application ends."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets=sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end the server, not the process."""
        try:
            before = {number: signal.signal(number, self._told) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever started it stops it
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _told(self, _: int, __: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


class _Impatient(H11Protocol):
    """Closes a connection whose request has not fully begun in time, or has not begun at all."""

    patience_s = 10.0
    _timer: asyncio.TimerHandle | None = None

    @classmethod
    def within(cls, seconds: float) -> type[_Impatient]:
        """The protocol with this much patience."""
        return type("Impatient", (cls,), {"patience_s": seconds})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_busy():
            self._stop()
        elif self._timer is None and not self.transport.is_closing():
            self._start()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start(self) -> None:
        self._timer = self.loop.call_later(self.patience_s, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self._is_busy() and not self.transport.is_closing():
            self.transport.close()
