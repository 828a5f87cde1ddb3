"""``llada-uni serve``: an OpenAI-compatible server."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out
from llada_uni.errors import ConfigError

if TYPE_CHECKING:
    pass

__all__ = ["register", "serve"]

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
    quantize: opt.Quantize = None,
    memory: opt.Memory = None,
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
    from llada_uni.serving.limits import Limits, ServerSettings
    from llada_uni.serving.server import listening_socket
    from llada_uni.serving.server import serve as run

    settings = ServerSettings(
        names=tuple(name) if name else (_model_name(model),),
        keys=_keys(api_key),
        origins=tuple(cors or ()),
        limits=Limits(body_bytes=max_body * _MIB, fetch=fetch_images),
        show_errors=log_errors,
        drain_s=drain,
    )
    if host not in _LOCAL and not settings.keys:
        out.note(f"warning: everybody who can reach {host} can use this server; set LLADA_UNI_API_KEY")

    from llada_uni.cli.loading import open_model
    from llada_uni.serving.engine import Engine
    from llada_uni.serving.lanes import EngineSettings

    networks = open_model(
        model, revision=revision, device=device, dtype=dtype, quantize=quantize, memory=memory, together=True
    ).networks
    changes: dict[str, Any] = {"max_requests": max_requests, "deadline_s": timeout}
    changes |= {} if max_branches is None else {"max_branches": max_branches}
    with listening_socket(host, port) as socket:
        engine = Engine(networks, EngineSettings.on(networks.device.type, **changes), show_errors=log_errors)
        engine.start()
        _log_to_stderr()
        place = f"[{host}]" if ":" in host else host
        ready = f"serving {settings.names[0]} on http://{place}:{socket.getsockname()[1]}"
        run(engine, settings, [socket], on_ready=lambda: out.note(ready))


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
