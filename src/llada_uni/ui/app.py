"""The page mounted on the server's application: one process, one engine, the API beside it."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from llada_uni.errors import ConfigError

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
os.environ["GRADIO_RUN_HISTORY"] = "False"
try:
    import gradio
except ImportError as missing:
    raise ConfigError(f"expected the extra llada-uni[ui], {missing.name} is missing; install it") from missing

from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llada_uni.serving.app import create_app
from llada_uni.serving.engine import Engine
from llada_uni.serving.limits import ServerSettings
from llada_uni.serving.replies import error_response
from llada_uni.ui.page import HEAD, ICON, build, look_of, script, style

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["PATH", "create_page_app", "without_strangers"]

PATH = "/ui"
"""Where the page is; / leads to it."""

_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; frame-ancestors 'none'; base-uri 'self'; "
    "form-action 'self'; object-src 'none'"
)
_NEEDED = re.compile(
    r"(/?|/config/?|/theme\.css|/login/?|/logout/?|/favicon\.ico|/manifest\.json|/(assets|static|svelte)/.*"
    r"|/gradio_api/(theme\.css|login_check/?|startup-events|app_id/?|queue/(join|data)|cancel|reset/?|heartbeat/.*))"
)
_STRANGERS = re.compile(
    r"<(?:meta|link)\b[^>]*\"https?://[^>]*>\s*|<meta\b[^>]*\"(?:og|twitter):[^>]*>\s*"
    r"|<link\b[^>]*\brel=\"(?:manifest|preconnect)\"[^>]*>\s*"
)


def create_page_app(engine: Engine, settings: ServerSettings | None = None, *, sketches: bool = True) -> FastAPI:
    """The application of ``llada-uni serve`` with the page on it.

    Args:
        engine: what both use; started and closed with the application.
        settings: of the server. With keys the page asks for one of them too.
        sketches: whether pictures are shown while their tokens are written, which costs decoder time.

    Raises:
        ConfigError: the extra ``ui`` or ``serve`` is not installed.
    """
    settings = settings or ServerSettings()
    app = create_app(engine, settings, page=PATH)
    blocks = build(app.state.service, sketches=sketches)
    _refuse_files(blocks)
    gradio.mount_gradio_app(
        app,
        blocks,
        PATH,
        footer_links=[],
        run_history=False,
        auth=_door(settings.keys) if settings.keys else None,
        auth_message="Any name, and one of this server's keys as the password.",
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        max_file_size=1,
        theme=look_of(),
        css=style(),
        js=script(),
        head=HEAD,
    )
    app.add_middleware(_Frame)

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse(f"{PATH}/")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(unquote(ICON), media_type="image/svg+xml")

    return app


def without_strangers(page: str) -> str:
    """A page of Gradio without the tags that name hosts of others."""
    return _STRANGERS.sub("", page)


def _door(keys: Sequence[str]) -> Any:
    """Does a visitor know a key? Takes the same time whatever was typed."""
    digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def knows(_: str, key: str) -> bool:
        given = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        found = [hmac.compare_digest(given, digest) for digest in digests]
        return any(found)

    return knows


def _refuse_files(blocks: gradio.Blocks) -> None:
    """No component takes files or addresses: pictures come as text and are read by our own code alone."""

    async def refuse(_: Any) -> str:
        raise gradio.Error("This page takes no files by path or address.", print_exception=False)

    for component in blocks.blocks.values():
        component.async_move_resource_to_block_cache = refuse  # type: ignore[method-assign]


class _Frame:
    """Around the page: only what it needs is reachable, and a browser loads nothing from anywhere else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path == PATH or path.startswith(f"{PATH}/")):
            await self._app(scope, receive, send)
            return
        if not _NEEDED.fullmatch(path.removeprefix(PATH)):
            await error_response((404, "there is nothing at this address"))(scope, receive, send)
            return
        headers = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
        if not path.removeprefix(PATH).startswith(("/assets/", "/static/", "/gradio_api/")):
            scope = {**scope, "headers": headers}  # a page comes as plain text, so that it can be rewritten
        await self._app(scope, receive, _Rewritten(send).send)


class _Rewritten:
    """Answers with our policy in their head; those that are pages without tags of other hosts."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._parts: list[bytes] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            headers["Content-Security-Policy"] = _POLICY
            headers["Referrer-Policy"] = "no-referrer"
            message = {**message, "headers": headers.raw}
            if headers.get("content-type", "").startswith("text/html") and "content-encoding" not in headers:
                self._start = message
                return
        if self._start is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = without_strangers(b"".join(self._parts).decode("utf-8", "replace")).encode()
        headers = MutableHeaders(raw=list(self._start["headers"]))
        headers["Content-Length"] = str(len(body))
        await self._send({**self._start, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
        self._start, self._parts = None, []
