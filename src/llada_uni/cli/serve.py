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
    from llada_uni.serving.cluster import ClusterSettings
    from llada_uni.serving.limits import ServerSettings

__all__ = ["register", "serve"]

_MIB = 2**20
_LOCAL = ("127.0.0.1", "localhost", "::1")
REACH, LOAD, REPLICAS = "Who may use it", "How much at once", "Replicas"

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

Ray = Annotated[
    bool,
    typer.Option(
        "--ray", help="Run as Ray Serve replicas, on RAY_ADDRESS or on this machine.", rich_help_panel=REPLICAS
    ),
]
Backbones = Annotated[
    str | None,
    typer.Option("--replicas", metavar="N|N-M", help="Backbone replicas; a range grows with work.",
                 rich_help_panel=REPLICAS),
]  # fmt: skip
Decoders = Annotated[
    str | None,
    typer.Option("--decoder-replicas", metavar="N|N-M", help="Replicas that draw pixels.", rich_help_panel=REPLICAS),
]
Cpus = Annotated[
    float | None, typer.Option("--replica-cpus", min=0.1, help="Processors for each.", rich_help_panel=REPLICAS)
]
Gpus = Annotated[
    float | None,
    typer.Option("--replica-gpus", min=0, help="GPUs for each; 1 with --device cuda.", rich_help_panel=REPLICAS),
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
    on_ray: Ray = False,
    replicas: Backbones = None,
    decoder_replicas: Decoders = None,
    replica_cpus: Cpus = None,
    replica_gpus: Gpus = None,
) -> None:
    """Serve chat, pictures and edits to OpenAI clients until interrupted; SIGTERM finishes what is under way."""
    from llada_uni.serving.limits import Limits, ServerSettings

    cluster = _cluster(on_ray, device, replicas, decoder_replicas, replica_cpus, replica_gpus)
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

    changes: dict[str, Any] = {"max_requests": max_requests, "deadline_s": timeout}
    changes |= {} if max_branches is None else {"max_branches": max_branches}
    opening: dict[str, Any] = {"revision": revision, "device": device, "dtype": dtype}
    if cluster is None:
        _serve_here(model, opening, settings, changes, host, port)
    else:
        _serve_on_ray(model, opening, settings, changes, host, port, cluster)


def _cluster(
    on_ray: bool, device: str, backbones: str | None, decoders: str | None, cpus: float | None, gpus: float | None
) -> ClusterSettings | None:
    """What was asked for under the heading of replicas."""
    given = {"--replicas": backbones, "--decoder-replicas": decoders, "--replica-cpus": cpus, "--replica-gpus": gpus}
    if not on_ray:
        for name, value in given.items():
            if value is not None:
                raise ConfigError(f"{name}: has a meaning only together with --ray")
        return None
    from llada_uni.serving.cluster import ClusterSettings, Replicas, ray_modules

    ray_modules()
    return ClusterSettings(
        backbones=Replicas.parse("1" if backbones is None else backbones),
        decoders=Replicas.parse("1" if decoders is None else decoders),
        cpus=1.0 if cpus is None else cpus,
        gpus=float(device.startswith("cuda")) if gpus is None else gpus,
    )


def _serve_on_ray(
    model: str,
    opening: dict[str, Any],
    settings: ServerSettings,
    changes: dict[str, Any],
    host: str,
    port: int,
    cluster: ClusterSettings,
) -> None:
    from llada_uni.serving.cluster import Opening, serve_on_cluster

    how = Opening(model=model, **opening)
    how.networks()  # a wrong model is found out before anything is started
    about = f"{settings.names[0]} on"
    serve_on_cluster(
        how, settings, cluster, changes, host=host, port=port, on_ready=lambda url: out.note(f"serving {about} {url}")
    )


def _serve_here(
    model: str, opening: dict[str, Any], settings: ServerSettings, changes: dict[str, Any], host: str, port: int
) -> None:
    from llada_uni.cli.loading import open_model
    from llada_uni.serving.engine import Engine
    from llada_uni.serving.lanes import EngineSettings
    from llada_uni.serving.server import listening_socket
    from llada_uni.serving.server import serve as run

    networks = open_model(model, **opening).networks
    with listening_socket(host, port) as socket:
        engine = Engine(networks, EngineSettings.on(networks.device.type, **changes), show_errors=settings.show_errors)
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
