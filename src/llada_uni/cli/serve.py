"""``llada-uni serve``: an OpenAI-compatible server."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out
from llada_uni.errors import ConfigError

if TYPE_CHECKING:
    from llada_uni.serving.engine import Engine
    from llada_uni.serving.limits import ServerSettings

__all__ = ["Choices", "register", "serve", "serve_with"]

_MIB = 2**20
_LOCAL = ("127.0.0.1", "localhost", "::1")
REACH, LOAD = "Who may use it", "How much at once"

Host = Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is every one.", rich_help_panel=REACH)]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 is a free one.", rich_help_panel=REACH)]
ApiKey = Annotated[
    list[str] | None,
    typer.Option(
        "--api-key", envvar="LLADA_UNI_API_KEY", metavar="KEY", help="A bearer key; may be repeated. The variable is "
        "safer: arguments are visible to other users of the machine.", rich_help_panel=REACH,
    ),
]  # fmt: skip
Cors = Annotated[
    list[str] | None,
    typer.Option(
        "--cors", metavar="ORIGIN", help="Web page that may call from a browser; * for all. May be repeated.",
        rich_help_panel=REACH,
    ),
]  # fmt: skip
Fetch = Annotated[
    bool,
    typer.Option(
        "--fetch-images",
        help="Take pictures by public http(s) addresses too.",
        rich_help_panel=REACH,
    ),
]
Name = Annotated[
    list[str] | None,
    typer.Option(
        "--name", metavar="NAME", help="The model's name in requests; may be repeated.", rich_help_panel=REACH
    ),
]
MaxRequests = Annotated[
    int, typer.Option("--max-requests", min=1, help="Under way and waiting; more get 429.", rich_help_panel=LOAD)
]
MaxBranches = Annotated[
    int | None,
    typer.Option("--max-branches", min=12, help="Sequences the backbone holds at once.", rich_help_panel=LOAD),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds a request may take.", rich_help_panel=LOAD)]
MaxBody = Annotated[int, typer.Option("--max-body", min=1, metavar="MIB", help="Largest body.", rich_help_panel=LOAD)]
Drain = Annotated[
    float, typer.Option("--drain", min=1, help="Seconds to finish what is under way when told to stop.",
                        rich_help_panel=LOAD)
]  # fmt: skip
LogErrors = Annotated[
    bool, typer.Option("--log-errors", help="Log messages and traces of errors; they may hold words of requests.")
]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("serve")(serve)


def serve(
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKey = None,
    cors: Cors = None,
    fetch_images: Fetch = False,
    name: Name = None,
    max_requests: MaxRequests = 64,
    max_branches: MaxBranches = None,
    timeout: Timeout = 600.0,
    max_body: MaxBody = 32,
    drain: Drain = 60.0,
    log_errors: LogErrors = False,
) -> None:
    """Serve chat, pictures and edits to OpenAI clients until interrupted; SIGTERM finishes what is under way."""
    serve_with(
        Choices(
            model=model,
            revision=revision,
            device=device,
            dtype=dtype,
            host=host,
            port=port,
            api_key=api_key,
            cors=cors,
            fetch_images=fetch_images,
            name=name,
            max_requests=max_requests,
            max_branches=max_branches,
            timeout=timeout,
            max_body=max_body,
            drain=drain,
            log_errors=log_errors,
        )
    )


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The options of a server's command line."""

    model: str
    revision: str | None
    device: str
    dtype: str | None
    host: str
    port: int
    api_key: list[str] | None
    cors: list[str] | None
    fetch_images: bool
    name: list[str] | None
    max_requests: int
    max_branches: int | None
    timeout: float
    max_body: int
    drain: float
    log_errors: bool


def serve_with(
    chosen: Choices,
    *,
    make_app: Callable[[Engine, ServerSettings], Any] | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Run the server; ``make_app`` gives another application than the plain one, ``on_ready`` is told the address."""
    from llada_uni.serving.limits import Limits, ServerSettings
    from llada_uni.serving.server import listening_socket
    from llada_uni.serving.server import serve as run

    settings = ServerSettings(
        names=tuple(chosen.name) if chosen.name else (_model_name(chosen.model),),
        keys=_keys(chosen.api_key),
        origins=tuple(chosen.cors or ()),
        limits=Limits(body_bytes=chosen.max_body * _MIB, fetch=chosen.fetch_images),
        show_errors=chosen.log_errors,
        drain_s=chosen.drain,
    )
    if chosen.host not in _LOCAL and not settings.keys:
        out.note(f"warning: everybody who can reach {chosen.host} can use this server; set LLADA_UNI_API_KEY")

    from llada_uni.cli.loading import open_model
    from llada_uni.serving.engine import Engine
    from llada_uni.serving.lanes import EngineSettings

    opened = open_model(chosen.model, revision=chosen.revision, device=chosen.device, dtype=chosen.dtype)
    networks = opened.networks
    changes: dict[str, Any] = {"max_requests": chosen.max_requests, "deadline_s": chosen.timeout}
    changes |= {} if chosen.max_branches is None else {"max_branches": chosen.max_branches}
    with listening_socket(chosen.host, chosen.port) as socket:
        load = EngineSettings.on(networks.device.type, **changes)
        engine = Engine(networks, load, show_errors=chosen.log_errors)
        engine.start()
        app = None if make_app is None else make_app(engine, settings)
        _log_to_stderr()
        place = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
        url = f"http://{place}:{socket.getsockname()[1]}"

        def announce() -> None:
            out.note(f"serving {settings.names[0]} on {url}")
            on_ready(url)

        run(engine, settings, [socket], on_ready=announce, app=app)


def _keys(given: list[str] | None) -> tuple[str, ...]:
    """Keys of the command line or of the variable, which holds several with commas between them."""
    keys = tuple(key for one in given or () for key in one.replace(",", " ").split())
    if given and not keys:
        raise ConfigError("--api-key: expected a key, got an empty text")
    return keys


def _model_name(model: str) -> str:
    """A directory is called by its last part."""
    return model.rstrip("/").rsplit("/", 1)[-1] or model


def _log_to_stderr() -> None:
    log = logging.getLogger("llada_uni.serving")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
