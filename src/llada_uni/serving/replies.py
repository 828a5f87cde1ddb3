"""Answers on the wire: JSON, errors in the shape that OpenAI clients read, and streams of server-sent events."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llada_uni.errors import LladaUniError
from llada_uni.serving.faults import Busy, status_of

__all__ = ["EventStream", "error_body", "error_response", "gone", "json_response", "named_event", "plain_event",
           "validation_message"]  # fmt: skip

_LONGEST = 400
_PARAMETER = re.compile(r"([a-z_]+(?:\[\d+\])?(?:\.[a-z_]+(?:\[\d+\])?)*): ")
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_CODES = {
    401: "invalid_api_key", 404: "not_found", 408: "timeout", 413: "request_too_large", 429: "server_busy",
    503: "unavailable", 504: "deadline_exceeded",
}  # fmt: skip


def dumps(value: Any) -> str:
    """JSON that any text survives, half of a surrogate pair included."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """``value`` as an answer."""
    return Response(dumps(value), status_code=status, headers=headers, media_type="application/json")


def error_body(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI clients read it; the argument at fault is read off the message."""
    short = message if len(message) <= _LONGEST else message[:_LONGEST] + "..."
    found = _PARAMETER.match(short)
    return {
        "error": {
            "message": short,
            "type": _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
            "param": found[1] if found else None,
            "code": code or _CODES.get(status),
        }
    }


def error_response(error: LladaUniError | tuple[int, str], code: str | None = None) -> Response:
    """The answer to a request that failed."""
    if isinstance(error, tuple):
        return json_response(error_body(*error, code), error[0])
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, Busy) else None
    return json_response(error_body(status_of(error), str(error), code), status_of(error), headers)


def validation_message(errors: Sequence[Any]) -> str:
    """What a schema found wrong, without repeating what was sent."""
    first = errors[0] if errors else {}
    places = [str(part) for part in first.get("loc", ()) if part not in ("body", "query", "path")]
    message = str(first.get("msg", "not a valid request"))
    return f"{'.'.join(places)}: {message}"[:_LONGEST] if places else f"the body: {message}"


def plain_event(value: Any) -> bytes:
    """One server-sent event; a text is sent as it is."""
    return f"data: {value if isinstance(value, str) else dumps(value)}\n\n".encode("ascii")


def named_event(name: str, value: dict[str, Any]) -> bytes:
    """One server-sent event with a name, which also stands in its ``type``."""
    return f"event: {name}\ndata: {dumps({'type': name} | value)}\n\n".encode("ascii")


async def gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A stream of server-sent events. Whether it ends or the client leaves, ``on_end`` is called."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], on_end: Callable[[], None]) -> None:
        self._events, self._on_end = events, on_end
        self.status_code, self.background = 200, None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events as they come, until they end or nobody is there."""
        pump, left = asyncio.create_task(self._pump(send)), asyncio.create_task(gone(receive))
        try:
            await asyncio.wait((pump, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._on_end()
            for task in (pump, left):
                task.cancel()
            outcome, _ = await asyncio.gather(pump, left, return_exceptions=True)
            await self._events.aclose()
        if isinstance(outcome, Exception) and not isinstance(outcome, OSError):
            raise outcome

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
