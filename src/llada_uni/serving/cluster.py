"""The server as Ray Serve replicas: the same application around a backbone, pictures drawn by a deployment of its own.

A backbone replica is the whole application with an engine; its painter hands every drawing to one of the decoder
replicas. Both kinds grow and shrink on their own where a range of replicas is allowed.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llada_uni.errors import ConfigError, ResourceError
from llada_uni.serving.lanes import EngineSettings
from llada_uni.serving.limits import ServerSettings

if TYPE_CHECKING:
    from llada_uni.pipeline.pixels import PixelOptions

__all__ = ["APPLICATION", "ClusterSettings", "Opening", "Replicas", "application", "ray_modules", "serve_on_cluster"]

APPLICATION = "llada-uni"
_DECODER = "Decoder"
_MOST_ONGOING = 512
_DRAWINGS_EACH = 4
_BUSY = 4


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """How many replicas there are: from ``least`` to ``most``, by how busy they are.

    Raises:
        ConfigError: not 1 <= least <= most.
    """

    least: int = 1
    most: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ConfigError(f"replicas: expected 1 <= least <= most, got {self.least} and {self.most}")

    @classmethod
    def parse(cls, text: str) -> Replicas:
        """``"2"``, or ``"1-4"`` for as many as there is work for.

        Raises:
            ConfigError: something else.
        """
        least, dash, most = text.partition("-")
        if not least.strip().isdecimal() or (dash and not most.strip().isdecimal()):
            raise ConfigError(f"replicas: expected a number such as 2 or a range such as 1-4, got {text!r}")
        return cls(least=int(least), most=int(most if dash else least))

    def options(self, busy: float) -> dict[str, Any]:
        """For a deployment; ``busy``: requests at once that keep a replica busy."""
        if self.least == self.most:
            return {"num_replicas": self.least}
        scaling = {"min_replicas": self.least, "max_replicas": self.most, "target_ongoing_requests": busy}
        return {"autoscaling_config": scaling}


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Replicas of the backbone (with the application) and of the decoder, and what each of them is given."""

    backbones: Replicas = Replicas()
    decoders: Replicas = Replicas()
    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def needed(self) -> dict[str, float]:
        """Processors and GPUs without which the least number of replicas cannot start."""
        count = self.backbones.least + self.decoders.least
        return {"CPU": count * self.cpus, "GPU": count * self.gpus}


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How every replica opens the model; a directory must be at the same place on every machine."""

    model: str = "nano"
    revision: str | None = None
    device: str = "auto"
    dtype: str | None = None
    pixels: PixelOptions | None = None
    quantize: str | None = None
    memory: str | None = None

    def networks(self) -> Any:
        """The networks; each is loaded when it is first used."""
        from llada_uni.pipeline import LladaUni

        names = ("revision", "device", "dtype", "pixels", "quantize", "memory")
        how: dict[str, Any] = {name: getattr(self, name) for name in names}
        return LladaUni.from_pretrained(self.model, together=True, **how).networks


def ray_modules() -> tuple[Any, Any]:
    """``ray`` and ``ray.serve``.

    Raises:
        ConfigError: the extra ``ray`` is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own use of older interfaces
            import ray  # pyright: ignore[reportMissingImports]
            from ray import serve  # pyright: ignore[reportMissingImports]
    except ImportError as missing:
        name = missing.name or "ray"
        raise ConfigError(f"--ray: expected the extra llada-uni[ray], {name} is missing; install it") from missing
    return ray, serve


def application(
    opening: Opening,
    settings: ServerSettings,
    cluster: ClusterSettings,
    engine: dict[str, Any] | None = None,
) -> Any:
    """The deployments, for ``ray.serve.run`` under the name :data:`APPLICATION`.

    ``engine``: fields of :class:`~llada_uni.serving.lanes.EngineSettings` that differ from the usual ones.
    """
    _, serve = ray_modules()
    from llada_uni.serving.replicas import DecoderReplica, backbone_app

    changes = dict(engine or {})
    most = int(changes.get("max_requests", EngineSettings.max_requests))

    def build() -> Any:
        return backbone_app(opening, settings, changes, APPLICATION, _DECODER)

    common = {
        "ray_actor_options": {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        "graceful_shutdown_timeout_s": settings.drain_s,
    }
    decoder = serve.deployment(DecoderReplica).options(
        name=_DECODER, max_ongoing_requests=_DRAWINGS_EACH, **common, **cluster.decoders.options(_DRAWINGS_EACH / 2)
    )
    backbone = serve.deployment(serve.ingress(build)()).options(
        name="Backbone", max_ongoing_requests=_MOST_ONGOING, **common, **cluster.backbones.options(max(1, most / _BUSY))
    )
    return backbone.bind(decoder.bind(opening, settings.show_errors))


@dataclass
class _Stop:
    """Set by the first SIGTERM or SIGINT."""

    told: threading.Event = field(default_factory=threading.Event)

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.told.set())


def serve_on_cluster(
    opening: Opening,
    settings: ServerSettings,
    cluster: ClusterSettings,
    engine: dict[str, Any] | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way.

    The cluster is the one ``RAY_ADDRESS`` names, or one on this machine that ends with the call. ``on_ready`` is told
    the address.

    Raises:
        ResourceError: the cluster has too little, the address is taken, or the replicas do not start.
    """
    ray, serve = ray_modules()
    port = _checked_port(host, port)
    foreign = "RAY_ADDRESS" in os.environ
    _join(cluster, foreign=foreign)
    stop = _Stop()
    try:
        serve.start(http_options={"host": host, "port": port})
        try:
            serve.run(application(opening, settings, cluster, engine), name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise ResourceError(f"the replicas did not start: {_first_line(error)}; see Ray's logs") from error
        stop.listen()
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        stop.told.wait()
    finally:
        serve.delete(APPLICATION) if foreign else serve.shutdown()
        ray.shutdown()


def _join(cluster: ClusterSettings, *, foreign: bool) -> None:
    """Connect to the cluster, or start one here, where replicas share whatever processors there are."""
    ray, _ = ray_modules()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet: dict[str, Any] = {"logging_level": "WARNING", "log_to_driver": False}
    needed = cluster.needed
    if foreign:
        ray.init(**quiet)
    else:
        cores = max(os.cpu_count() or 1, -(-needed["CPU"] // 1))
        ray.init(include_dashboard=False, num_cpus=int(cores), **quiet)
    has = ray.cluster_resources()
    for name, count in needed.items():
        if count > has.get(name, 0):
            ray.shutdown()
            raise ResourceError(
                f"--ray: {count:g} {name} are needed for the least number of replicas, the cluster has "
                f"{has.get(name, 0):g}; ask for fewer replicas or give each less"
            )


def _checked_port(host: str, port: int) -> int:
    """``port`` if it can be listened on; 0 becomes a free one."""
    from llada_uni.serving.server import listening_socket

    with listening_socket(host, port) as one:
        return int(one.getsockname()[1])


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
