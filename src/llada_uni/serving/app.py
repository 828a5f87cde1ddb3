"""The HTTP interface: OpenAI-compatible routes in front of one engine.

:func:`create_app` gives an ASGI application on which other things (a page, say) can be mounted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from llada_uni.errors import ConfigError

try:
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from pydantic import ValidationError
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.middleware.cors import CORSMiddleware
    from starlette.responses import PlainTextResponse, Response
except ImportError as missing:
    raise ConfigError(f"expected the extra llada-uni[serve], {missing.name} is missing; install it") from missing

from llada_uni.serving import chat_routes, image_routes
from llada_uni.serving.bodies import ChatBody, EditBody, GenerationBody
from llada_uni.serving.engine import Engine
from llada_uni.serving.guard import Guard
from llada_uni.serving.limits import ServerSettings
from llada_uni.serving.metrics import Metrics
from llada_uni.serving.replies import error_response, json_response, validation_message
from llada_uni.serving.running import Service

__all__ = ["create_app"]

_MAX_FIELDS = 100
_LAST_S = 1.0
_FILE = {"type": "string", "format": "binary"}
_MULTIPART = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "prompt"],
                    "properties": {
                        "image": {"anyOf": [_FILE, {"type": "array", "items": _FILE}]},
                        "mask": _FILE | {"description": "Transparent, or else white, where the picture may change."},
                        "prompt": {"type": "string"},
                        "n": {"type": "integer", "minimum": 1, "maximum": 10},
                        "size": {"type": "string"},
                        "stream": {"type": "boolean"},
                        "partial_images": {"type": "integer", "minimum": 0, "maximum": 3},
                    },
                }
            }
        },
    }
}


def create_app(engine: Engine, settings: ServerSettings | None = None, *, page: str | None = None) -> FastAPI:
    """The application in front of ``engine``, which it starts and closes with itself.

    ``page``: path (such as "/ui") of a page that will be mounted on it and asks for keys itself.

    Raises:
        ConfigError: the extra ``serve`` is not installed.
    """
    settings = settings or ServerSettings()
    metrics, service = Metrics(), Service(engine, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if not engine.status().alive:
            engine.start()
        yield
        await asyncio.to_thread(engine.close, _LAST_S)

    app = FastAPI(title="llada-uni", version=_version(), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, settings=settings, metrics=metrics, page=page)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["*"], allow_headers=["*"]
        )
    app.state.service = service
    _add_errors(app)
    _add_status(app, service, metrics)
    _add_tasks(app, service)
    return app


def _version() -> str:
    from llada_uni import __version__

    return __version__


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ValidationError)
    async def malformed(_: Request, error: Any) -> Response:
        return error_response((400, validation_message(error.errors())))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        unknown = error.detail == "Not Found"
        detail = f"there is nothing to {request.method[:10]} at this address" if unknown else str(error.detail)
        return error_response((error.status_code, detail))


def _add_status(app: FastAPI, service: Service, metrics: Metrics) -> None:
    started, names = int(time.time()), service.settings.names

    def entry(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "llada-uni"}

    @app.get("/health")
    async def health() -> Response:
        """Whether requests are taken: 200, or 503 while the server stops or when its engine has failed."""
        status = service.engine.status()
        word = "stopping" if status.draining else "ok" if status.alive else "failed"
        about = {"status": word, "model": names[0], "requests": status.requests, "waiting": status.waiting}
        return json_response(about, 200 if word == "ok" else 503)

    @app.get("/metrics")
    async def numbers() -> Response:
        """Numbers for Prometheus."""
        return PlainTextResponse(metrics.text(service.engine.status()), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> Response:
        """The model, under each of its names."""
        return json_response({"object": "list", "data": [entry(name) for name in names]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        """One of them."""
        _check_model(service, name)
        return json_response(entry(name))


def _add_tasks(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat(body: ChatBody, request: Request) -> Response:
        """A conversation to its next turn: words, a picture, or both in turn."""
        _check_model(service, body.model)
        return await chat_routes.chat(service, body, request.receive)

    @app.post("/v1/images/generations")
    async def generations(body: GenerationBody, request: Request) -> Response:
        """Words to pictures."""
        _check_model(service, body.model)
        return await image_routes.generate(service, body, request.receive)

    @app.post("/v1/images/edits", openapi_extra=_MULTIPART)
    async def edits(request: Request) -> Response:
        """Pictures and an instruction to pictures; with a mask only what it marks is drawn again."""
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise HTTPException(400, "expected a body of multipart/form-data with image and prompt")
        fields, pictures, mask = await _form(request, service.settings.limits.max_images)
        body = EditBody.model_validate(fields)
        _check_model(service, body.model)
        return await image_routes.edit(service, body, pictures, mask, request.receive)


async def _form(request: Request, max_images: int) -> tuple[dict[str, str], list[bytes | str], bytes | None]:
    """Fields, pictures (files, or data URIs in fields) and the mask of a form.

    Raises:
        HTTPException: 400, not a form, or with too much in it.
    """
    limit = 2**20
    form = await request.form(max_files=max_images + 1, max_fields=_MAX_FIELDS, max_part_size=limit)
    fields: dict[str, str] = {}
    pictures: list[bytes | str] = []
    mask: bytes | None = None
    try:
        for name, value in form.multi_items():
            content = await value.read() if isinstance(value, UploadFile) else value
            if name in ("image", "image[]"):
                pictures.append(content)
            elif name == "mask" and isinstance(content, bytes):
                mask = content
            elif isinstance(content, str):
                fields[name] = content
    finally:
        await form.close()
    return {name: value for name, value in fields.items() if value != ""}, pictures, mask


def _check_model(service: Service, name: str | None) -> None:
    """Is this model served here?

    Raises:
        HTTPException: 404, it is not.
    """
    names = service.settings.names
    if name and name not in names:
        raise HTTPException(404, f"model: this server has {', '.join(names)}; see /v1/models")
