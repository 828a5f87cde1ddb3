"""``llada-uni serve``: an OpenAI-compatible server."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llada_uni.cli import output as out
from llada_uni.cli.server_options import Choices, takes_choices
from llada_uni.errors import ConfigError

if TYPE_CHECKING:
    from llada_uni.serving.cluster import ClusterSettings
    from llada_uni.serving.engine import Engine
    from llada_uni.serving.limits import ServerSettings

__all__ = ["register", "serve", "serve_with"]

_MIB = 2**20
_LOCAL = ("127.0.0.1", "localhost", "::1")
REPLICAS = "Replicas"

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


@takes_choices
def serve(
    chosen: Choices,
    *,
    on_ray: Ray = False,
    replicas: Backbones = None,
    decoder_replicas: Decoders = None,
    replica_cpus: Cpus = None,
    replica_gpus: Gpus = None,
) -> None:
    """Serve chat, pictures and edits to OpenAI clients until interrupted; SIGTERM finishes what is under way."""
    cluster = _cluster(on_ray, chosen.device, replicas, decoder_replicas, replica_cpus, replica_gpus)
    if cluster is None:
        serve_with(chosen)
    else:
        _serve_on_ray(chosen, cluster)


def serve_with(
    chosen: Choices,
    *,
    make_app: Callable[[Engine, ServerSettings], Any] | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Run the server; ``make_app`` gives another application than the plain one, ``on_ready`` is told the address."""
    from llada_uni.cli.loading import open_model
    from llada_uni.serving.engine import Engine
    from llada_uni.serving.lanes import EngineSettings
    from llada_uni.serving.server import listening_socket
    from llada_uni.serving.server import serve as run

    settings = _settings(chosen)
    networks = open_model(chosen.model, together=True, **chosen.opening).networks
    with listening_socket(chosen.host, chosen.port) as socket:
        load = EngineSettings.on(networks.device.type, **chosen.load)
        engine = Engine(networks, load, show_errors=settings.show_errors)
        engine.start()
        app = None if make_app is None else make_app(engine, settings)
        _log_to_stderr()
        place = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
        url = f"http://{place}:{socket.getsockname()[1]}"

        def announce() -> None:
            out.note(f"serving {settings.names[0]} on {url}")
            on_ready(url)

        run(engine, settings, [socket], on_ready=announce, app=app)


def _settings(chosen: Choices) -> ServerSettings:
    from llada_uni.serving.limits import Limits, ServerSettings

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
    return settings


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


def _serve_on_ray(chosen: Choices, cluster: ClusterSettings) -> None:
    from llada_uni.serving.cluster import Opening, serve_on_cluster

    settings = _settings(chosen)
    how = Opening(model=chosen.model, **chosen.opening)
    how.networks()  # a wrong model is found out before anything is started

    def announce(url: str) -> None:
        out.note(f"serving {settings.names[0]} on {url}")

    serve_on_cluster(how, settings, cluster, chosen.load, host=chosen.host, port=chosen.port, on_ready=announce)


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
