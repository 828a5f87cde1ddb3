"""What a training run is, as one frozen value: recipe functions return it and ``--set a.b=c`` edits it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llada_uni.config import to_mapping
from llada_uni.errors import ConfigError
from llada_uni.layers.adapters import AdapterConfig

__all__ = ["KeepConfig", "OptimConfig", "ParallelConfig", "ScheduleConfig", "TrainConfig", "describe", "differences"]


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
class ParallelConfig:
    """How the processes of one run divide its work; by default each holds the whole model.

    A step's ``accumulation`` micro-batches are shared out among all processes, however the model is divided.
    ``shard`` processes together hold one copy of the model (FSDP2), and ``data`` such copies exist (0 = as many as
    there are processes for). The experts of every layer are divided among ``expert`` processes, which send each other
    tokens; they are then left out of ``shard``.
    """

    data: int = 0
    shard: int = 1
    expert: int = 1

    def __post_init__(self) -> None:
        for name, least in (("data", 0), ("shard", 1), ("expert", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"parallel.{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def divides(self) -> bool:
        """Whether no process holds the whole model."""
        return self.shard > 1 or self.expert > 1


@dataclass(frozen=True, kw_only=True)
class KeepConfig:
    """Which states stay: the ``last`` newest, and the best by the training metric ``best`` (lowest mean between two
    saves, or ``highest``); without a name none is judged."""

    last: int = 1
    best: str = ""
    highest: bool = False

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ConfigError(f"keep.last must be at least 1, got {self.last}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One stage of training, complete.

    Exactly one of ``steps`` and ``minutes`` sets the horizon; minutes are turned into steps once, at the start, from
    the measured speed, and the horizon is stored with the state. ``objective`` is a frozen dataclass with
    ``build(resources) -> Objective``. With ``adapter`` only low-rank changes of the network are trained and written;
    ``only="image_rows"`` trains the rows of image codes in a backbone's tables and nothing else.

    A step is ``accumulation`` micro-batches of ``batch_size`` samples, by however many processes they are computed.
    ``recompute`` keeps only the inputs of the model's blocks for the backward pass and computes the rest again (less
    memory, a third more work); ``compile`` compiles every block.

    Raises:
        ConfigError: values that do not fit together.
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
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    keep: KeepConfig = field(default_factory=KeepConfig)
    recompute: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ConfigError(f"{self.name}: set exactly one of steps and minutes, got {self.steps} and {self.minutes}")
        for name, least in (("batch_size", 1), ("accumulation", 1), ("log_every", 1), ("threads", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{self.name}: {name} must be at least {least}, got {getattr(self, name)}")
        self._check_division()

    def _check_division(self) -> None:
        """What a divided model cannot do (yet)."""
        if self.adapter is not None and self.parallel.divides:
            raise ConfigError(
                f"{self.name}: adapters need the whole network in every process, got parallel.shard "
                f"{self.parallel.shard} and parallel.expert {self.parallel.expert}; set both to 1"
            )
        if self.only is not None and self.parallel.shard > 1:
            raise ConfigError(
                f"{self.name}: only={self.only} needs whole tables in every process, got parallel.shard "
                f"{self.parallel.shard}; set it to 1"
            )


def describe(config: TrainConfig) -> dict[str, Any]:
    """JSON-ready mapping of a run's configuration, with the objective's type beside its fields."""
    return {**to_mapping(config), "objective_type": type(config.objective).__name__}


def differences(config: Any, stored: Mapping[str, Any]) -> list[str]:
    """Names of the fields of a configuration dataclass that a stored mapping has otherwise, in order.

    A field younger than the mapping counts as stored with its default.
    """
    return [item.name for item in dataclasses.fields(config) if not _stands(item, getattr(config, item.name), stored)]


def _stands(item: dataclasses.Field[Any], value: Any, stored: Mapping[str, Any]) -> bool:
    if item.name not in stored:
        made = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        return made == value
    there = stored[item.name]
    if dataclasses.is_dataclass(value) and isinstance(there, Mapping):
        known = {field.name for field in dataclasses.fields(value)}
        return known >= set(there) and not differences(value, there)
    return to_mapping(_Single(value))["value"] == there


@dataclass(frozen=True)
class _Single:
    value: Any
