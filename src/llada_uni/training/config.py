"""What a training run is, as one frozen value: recipe functions return it and ``--set a.b=c`` edits it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from llada_uni.config import to_mapping
from llada_uni.errors import ConfigError
from llada_uni.layers.adapters import AdapterConfig

__all__ = ["OptimConfig", "ScheduleConfig", "TrainConfig", "describe"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser. Norms, biases, single vectors and routers are never decayed; nor is what ``no_decay`` names.

    ``muon`` orthogonalises the updates of decayed matrices whose names contain one of ``muon``, with ``momentum``;
    everything else takes AdamW's step of the same ``lr``. ``tables`` (embeddings and heads, one row per id) take
    ``table_lr`` times ``lr``: a normalised step moves a rare row as far as a common one, so that at the rate of the
    inner matrices noise wears rare rows down faster than they are learnt.
    """

    kind: Literal["adamw", "radam", "muon"] = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    no_decay: tuple[str, ...] = ("norm", "gate.weight", "embed", "embedding")
    muon: tuple[str, ...] = ("attention.", "attn.", "mlp.", "feed_forward.")
    momentum: float = 0.95
    tables: tuple[str, ...] = ("word_embeddings", "lm_head", "prior_token_embedding")
    table_lr: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning-rate factor as a function of the step: linear warm-up, then ``decay`` down to ``floor``."""

    warmup_steps: int = 100
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    floor: float = 0.05
    constant_share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One stage of training, complete.

    Exactly one of ``steps`` and ``minutes`` sets the horizon; minutes are turned into steps once, at the start, from
    the measured speed, and the horizon is stored with the state. ``objective`` is a frozen dataclass with
    ``build(resources) -> Objective``. With ``adapter`` only low-rank changes of the network are trained and written;
    ``only="image_rows"`` trains the rows of image codes in a backbone's tables and nothing else.
    """

    name: str
    objective: Any
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 32
    accumulation: int = 1
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema_decay: float = 0.999
    seed: int = 0
    log_every: int = 20
    checkpoint_seconds: float = 120.0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    threads: int = 1
    prefetch: int = 2
    probe_seconds: float = 20.0
    init_from: str | None = None
    adapter: AdapterConfig | None = None
    only: Literal["image_rows"] | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ConfigError(f"{self.name}: set exactly one of steps and minutes, got {self.steps} and {self.minutes}")
        for name, least in (("batch_size", 1), ("accumulation", 1), ("log_every", 1), ("threads", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{self.name}: {name} must be at least {least}, got {getattr(self, name)}")


def describe(config: TrainConfig) -> dict[str, Any]:
    """JSON-ready mapping of a run's configuration, with the objective's type beside its fields."""
    return {**to_mapping(config), "objective_type": type(config.objective).__name__}
