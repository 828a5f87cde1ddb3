"""The door of the server, in front of every route: keys, sizes and times of bodies, one log line, no trace outside."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Sequence

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llada_uni.serving.faults import Busy, Cancelled, TooLarge, as_fault, status_of
from llada_uni.serving.limits import ServerSettings
from llada_uni.serving.metrics import Metrics
from llada_uni.serving.replies import error_response

__all__ = ["Guard", "has_key"]

_log = logging.getLogger("llada_uni.serving")
_OPEN_PATHS = ("/health",)
_BODIES_AT_ONCE = 8
_WRITE_S = 60.0
_PASSING_S = 2.0  # for reading on after a refusal
_PASSING_BODIES = 4  # at most that many times the largest body
_KNOWN_PATHS = (
    "/health", "/metrics", "/openapi.json", "/v1/models", "/v1/chat/completions", "/v1/images/generations",
    "/v1/images/edits",
)  # fmt: skip


class Guard:
    """Wraps the application. What a route raises becomes an answer here; only its kind is logged.

    ``page``: path of a page mounted on the application, which asks for keys itself; its many small requests are
    counted as one path and not logged one by one.
    """

    def __init__(self, app: ASGIApp, *, settings: ServerSettings, metrics: Metrics, page: str | None = None) -> None:
        self._app, self._settings, self._metrics, self._page = app, settings, metrics, page
        self._buffered = 0
        self._digests = [_digest(key.encode("ascii")) for key in settings.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _Call(send)
        try:
            await self._guarded(scope, receive, call)
        except Exception as error:  # nothing of ours may reach the client or the log unasked
            await self._failed(error, scope, receive, call)
        finally:
            self._record(scope, call)

    async def _guarded(self, scope: Scope, receive: Receive, call: _Call) -> None:
        headers = dict(scope["headers"])
        is_open = scope["path"] in _OPEN_PATHS or self._is_page(scope["path"])
        if self._digests and not is_open and not has_key(headers, self._digests):
            answer = error_response((401, "expected a valid key in the header Authorization: Bearer ..."))
            answer.headers["WWW-Authenticate"] = "Bearer"
            await self._let_pass(headers, receive)
            await answer(scope, receive, call.send)
            return
        try:
            body = await self._body(headers, receive)
        except (TooLarge, Busy):
            await self._let_pass(headers, receive)
            raise
        try:
            await self._app(scope, _replayed(body, receive), call.send)
        finally:
            self._buffered -= len(body)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The whole body, counted among those in memory.

        Raises:
            TooLarge: too many bytes. Busy: too many in all bodies together. HTTPException: 408, not here in time.
            Cancelled: the client has left.
        """
        limits = self._settings.limits
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > limits.body_bytes:
            raise TooLarge(f"the body has more than {limits.body_bytes:,} bytes")
        held = 0

        def more(count: int) -> None:
            nonlocal held
            held, self._buffered = held + count, self._buffered + count
            if held > limits.body_bytes:
                raise TooLarge(f"the body has more than {limits.body_bytes:,} bytes")
            if self._buffered > _BODIES_AT_ONCE * limits.body_bytes:
                raise Busy("the server is reading too many large bodies at once; try again in a moment", 1)

        try:
            return await asyncio.wait_for(_read(receive, more), limits.body_s)
        except TimeoutError as error:
            self._buffered -= held
            raise HTTPException(408, "the body did not arrive in time") from error
        except BaseException:
            self._buffered -= held
            raise

    async def _let_pass(self, headers: dict[bytes, bytes], receive: Receive) -> None:
        """Reads what is left of a refused body, for a moment, and keeps nothing.

        A connection that is closed with unread bytes is reset, and the client never sees why it was refused.
        """
        left = _PASSING_BODIES * self._settings.limits.body_bytes
        if b"expect" in headers:  # this client waits for the answer before it sends
            return
        try:
            async with asyncio.timeout(_PASSING_S):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            return

    async def _failed(self, error: Exception, scope: Scope, receive: Receive, call: _Call) -> None:
        if isinstance(error, HTTPException):
            fault, status, answer = error, error.status_code, error_response((error.status_code, str(error.detail)))
        else:
            fault = as_fault(error)
            status, answer = status_of(fault), error_response(fault)
        if status >= 500:
            shown = self._settings.show_errors
            _log.error("%s %s", call.number, type(error).__name__, exc_info=error if shown else None)
        elif self._settings.show_errors:
            _log.info("%s %s", call.number, fault)
        if isinstance(error, Cancelled) or call.status is not None:
            call.status = call.status or status
            return
        answer.headers["Connection"] = "close"
        try:
            await answer(scope, receive, call.send)
        except (OSError, TimeoutError):  # nobody is there to be told
            return

    def _record(self, scope: Scope, call: _Call) -> None:
        seconds, status = time.perf_counter() - call.began, call.status or 499
        if self._is_page(scope["path"]):
            path, level = "page", logging.DEBUG
        else:
            path, level = scope["path"] if scope["path"] in _KNOWN_PATHS else "other", logging.INFO
        self._metrics.add(path, status, seconds)
        _log.log(level, "%s %s %s %d %.0f ms", call.number, scope["method"][:10], path, status, 1e3 * seconds)

    def _is_page(self, path: str) -> bool:
        return self._page is not None and (path == self._page or path.startswith(f"{self._page}/"))


class _Call:
    """One request under way: its number in the log, and what has been answered."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.number, self.began = secrets.token_hex(6), time.perf_counter()
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            extra = (b"x-request-id", self.number.encode("ascii")), (b"x-content-type-options", b"nosniff")
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await asyncio.wait_for(self._send(message), _WRITE_S)


def has_key(headers: dict[bytes, bytes], digests: Sequence[bytes]) -> bool:
    """Whether a request carries one of the keys; takes the same time whatever it carries."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    given = _digest(key.strip())
    found = [hmac.compare_digest(given, digest) for digest in digests]
    return any(found) and scheme.lower() == b"bearer"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


async def _read(receive: Receive, more: Callable[[int], None]) -> bytes:
    """The body, each part announced to ``more`` before the next is read."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("the client has left")
        parts.append(message.get("body", b""))
        more(len(parts[-1]))
        if not message.get("more_body", False):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The channel as the application sees it: the body at once, then only whether the client has left."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def channel() -> Message:
        return messages.pop() if messages else await receive()

    return channel
