"""Before a run: how many parameters, operations, bytes and hours, as a table. Nothing is allocated.

Exact: parameters, and the bytes of weights, gradients, optimiser and averages, which a test compares with real runs.
Estimates: operations, activations (without temporary buffers) and with them the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llada_uni.backbone.model import Backbone
from llada_uni.errors import ConfigError
from llada_uni.layers.adapters import Adapters, adaptable
from llada_uni.training.adapters import network_of, only_image_rows
from llada_uni.training.config import OptimConfig, TrainConfig
from llada_uni.training.costs import Shapes, meta_model, step_cost
from llada_uni.training.metrics import read_metrics
from llada_uni.training.objectives.decoder import DecoderObjectiveConfig
from llada_uni.training.objectives.tokenizer import TokenizerObjectiveConfig
from llada_uni.weights.parts import load_decoder_config, load_image_tokenizer_config, load_semantic_embedder_config

__all__ = ["Bytes", "Plan", "as_mapping", "make_plan", "plan_jobs", "table"]

_UTILISATION = 0.4
_QUANTISED = {"int8": 1.0 + 4 / 64, "int4": 0.5 + 4 / 64}


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """Bytes of one copy of a run's state; ``activations`` are those of one micro-batch, on every rank."""

    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int

    def per_rank(self, held: float) -> int:
        """Bytes on a rank that holds this share of the state."""
        return math.ceil((self.weights + self.gradients + self.optimizer + self.averages) * held) + self.activations


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will take. ``active_parameters`` leaves out the experts a token does not visit; ``throughput`` is in
    operations per second and rank, None where neither stated nor measured; ``source`` says which. ``held`` is the share
    of the state that one rank holds (1 where the model is not divided)."""

    name: str
    parameters: int
    active_parameters: int
    trained_parameters: int
    samples_per_step: int
    tokens_per_step: float
    flops_per_step: float
    steps: int | None
    bytes: Bytes
    ranks: int
    held: float
    throughput: float | None
    source: str
    seconds: float | None

    @property
    def flops(self) -> float | None:
        """Operations of the whole run."""
        return None if self.steps is None else self.flops_per_step * self.steps


def plan_jobs(
    jobs: Sequence[Any],
    *,
    recipes: Sequence[Any] = (),
    out: Path | None = None,
    cache: Path | None = None,
    ranks: int | None = None,
    throughput: float | None = None,
) -> list[Plan]:
    """Plans of the trainings among ``jobs``; other jobs cost seconds or are bound by drawing pictures.

    ``recipes`` are further jobs that tell shapes (the chain a stage belongs to); a trained component in ``out`` tells
    them better. Measured speeds of earlier runs are read from ``cache``. Other arguments and errors: :func:`make_plan`.
    """
    plans = []
    for job in jobs:
        if isinstance(job, TrainConfig):
            shapes = _shapes([*recipes, *jobs], out)
            directory = None if cache is None else cache / job.name
            plans.append(make_plan(job, shapes=shapes, ranks=ranks, throughput=throughput, measured_in=directory))
    return plans


def make_plan(
    config: TrainConfig,
    *,
    shapes: Shapes | None = None,
    ranks: int | None = None,
    throughput: float | None = None,
    measured_in: Path | None = None,
) -> Plan:
    """The plan of one training.

    Args:
        config: what to train.
        shapes: what other stages decide.
        ranks: number of processes; None = the fewest that ``config.parallel`` is for.
        throughput: operations per second and rank; None = that of an earlier run in ``measured_in``, else for runs on
            the CPU 0.4 of what a matrix product reaches here, now.
        measured_in: directory of a run.

    Raises:
        ConfigError: fewer than one rank or not as many as ``config.parallel`` divides the model among, a throughput
            that is not positive, or an objective without a plan.
    """
    ranks = _ranks(config, ranks)
    if throughput is not None and not throughput > 0:
        raise ConfigError(f"expected a positive throughput, got {throughput}")
    shapes = shapes or Shapes()
    model = meta_model(config, shapes)
    cost = step_cost(config, model, shapes)
    total, active = _sizes(model)
    trained, weights = _trained_part(config, model)
    width = 8 if config.dtype == "float64" else 4
    number = sum(parameter.numel() for _, parameter in trained)
    state = Bytes(
        weights=weights,
        gradients=number * width,
        optimizer=_optimizer_bytes(trained, config.optim, width),
        averages=number * width if config.ema_decay > 0 else 0,
        activations=round(cost.activation_bytes),
    )
    speed, source = _speed(config, cost.samples, cost.flops, ranks, throughput, measured_in)
    steps, seconds = _duration(config, cost.flops, speed, ranks)
    extra = number if config.adapter is not None else 0
    return Plan(
        name=config.name,
        parameters=total + extra,
        active_parameters=active + extra,
        trained_parameters=number,
        samples_per_step=cost.samples,
        tokens_per_step=cost.tokens,
        flops_per_step=cost.flops,
        steps=steps,
        bytes=state,
        ranks=ranks,
        held=_held(config, model),
        throughput=speed,
        source=source,
        seconds=seconds,
    )


def table(plans: Sequence[Plan]) -> str:
    """Plans side by side as aligned text."""
    rows = [_cells(plan) for plan in plans]
    names = list(rows[0]) if rows else []
    columns = [[name, *(row[name] for row in rows)] for name in names]
    widths = [max(len(cell) for cell in column) for column in zip(*columns, strict=True)] if columns else []
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(column, widths, strict=True)) for column in columns]
    return "\n".join(line.rstrip() for line in lines)


def as_mapping(plan: Plan) -> dict[str, Any]:
    """JSON-ready mapping of a plan, with what follows from it."""
    told = asdict(plan)
    return {**told, "flops": plan.flops, "bytes_per_rank": plan.bytes.per_rank(plan.held)}


# --- state ------------------------------------------------------------------------------------------------------------

Named = list[tuple[str, nn.Parameter]]


def _trained_part(config: TrainConfig, model: nn.Module) -> tuple[Named, int]:
    """Trained parameters and the bytes of all weights and buffers, adapters included."""
    width = 8 if config.dtype == "float64" else 4
    own = sum(tensor.numel() * width for tensor in model.parameters())
    own += sum(buffer.numel() * _buffer_width(buffer, width) for buffer in model.buffers())
    if config.adapter is None:
        if config.only is not None:
            only_image_rows(model)
        return [(name, p) for name, p in model.named_parameters() if p.requires_grad], own
    network, _ = network_of(model, config.name)
    if config.adapter.base_dtype == "bfloat16":
        own = own // (width // 2)
    elif config.adapter.base_dtype != "same":
        weights = sum(getattr(*place).numel() for place in adaptable(network).values())
        own += round(weights * (_QUANTISED[config.adapter.base_dtype] - width))
    model.requires_grad_(False)
    adapters = Adapters(network, config.adapter)
    trained = list(adapters.named_parameters())
    return trained, own + sum(parameter.numel() * width for _, parameter in trained)


def _ranks(config: TrainConfig, stated: int | None) -> int:
    """The number of processes, checked against ``parallel``."""
    degrees = config.parallel
    unit = math.lcm(degrees.shard * max(degrees.data, 1), degrees.expert)
    ranks = unit if stated is None else stated
    if ranks < 1 or ranks % unit:
        raise ConfigError(f"{config.name}: expected a multiple of {unit} ranks for its parallel, got {ranks}")
    return ranks


def _held(config: TrainConfig, model: nn.Module) -> float:
    """Share of the parameters on one rank."""
    degrees, total = config.parallel, sum(parameter.numel() for parameter in model.parameters())
    if degrees.expert == 1:
        return 1 / degrees.shard
    experts = sum(parameter.numel() for name, parameter in model.named_parameters() if ".experts." in name)
    return (experts / degrees.expert + (total - experts) / degrees.shard) / total


def _buffer_width(buffer: torch.Tensor, width: int) -> int:
    return width if buffer.dtype.is_floating_point else buffer.dtype.itemsize


def _optimizer_bytes(trained: Named, optim: OptimConfig, width: int) -> int:
    """Two moments and a step counter per tensor; Muon keeps one moment and no counter."""
    total = 0
    for name, parameter in trained:
        tables = (*optim.no_decay, *optim.tables)
        inner = parameter.ndim >= 2 and any(p in name for p in optim.muon) and not any(p in name for p in tables)
        muon = optim.kind == "muon" and inner
        total += parameter.numel() * width * (1 if muon else 2) + (0 if muon else 4)
    return total


def _sizes(model: nn.Module) -> tuple[int, int]:
    """All parameters, and those that one token meets."""
    total = sum(parameter.numel() for parameter in model.parameters())
    idle = 0.0
    if isinstance(model, Backbone):
        shape = model.config
        experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
        idle = experts * (1 - shape.num_experts_per_tok / shape.num_experts)
    return total, round(total - idle)


def _shapes(jobs: Sequence[Any], out: Path | None) -> Shapes:
    """Shapes that stages take from each other: from components in ``out``, else from the recipes."""
    found = Shapes()
    for job in jobs:
        objective = getattr(job, "objective", None)
        if isinstance(objective, DecoderObjectiveConfig):
            found = replace(found, decoder=objective.decoder, embedder=objective.embedder)
        if isinstance(objective, TokenizerObjectiveConfig):
            found = replace(found, patch_px=objective.tokenizer.vision_config.patch_size)
    if out is not None and (out / "decoder" / "config.json").is_file():
        found = replace(found, decoder=load_decoder_config(out), embedder=load_semantic_embedder_config(out))
    if out is not None and (out / "image_tokenizer" / "config.json").is_file():
        found = replace(found, patch_px=load_image_tokenizer_config(out).vision_config.patch_size)
    if out is not None and (out / "tokenizer.json").is_file():
        found = replace(found, text=out)
    return found


# --- time -------------------------------------------------------------------------------------------------------------


def _speed(
    config: TrainConfig, samples: int, flops: float, ranks: int, stated: float | None, directory: Path | None
) -> tuple[float | None, str]:
    if stated is not None:
        return stated, "stated"
    rates = [] if directory is None else [r["samples_per_s"] for r in read_metrics(directory) if "samples_per_s" in r]
    if rates:
        return sorted(rates)[len(rates) // 2] / samples * flops / ranks, "measured in an earlier run"
    if config.device != "cpu":
        return None, "unknown, state it with --throughput"
    return _UTILISATION * _product_speed(config), f"{_UTILISATION} of a matrix product on this machine"


def _product_speed(config: TrainConfig) -> float:
    """Operations per second of a product with the run's threads and dtype."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        matrix = torch.ones(512, 512, dtype=getattr(torch, config.dtype))
        best = min(_timed(matrix) for _ in range(8))
    finally:
        torch.set_num_threads(before)
    return 2 * 512**3 / best


def _timed(matrix: torch.Tensor) -> float:
    began = time.perf_counter()
    torch.mm(matrix, matrix)
    return time.perf_counter() - began


def _duration(config: TrainConfig, flops: float, speed: float | None, ranks: int) -> tuple[int | None, float | None]:
    """Steps and seconds, of which the configuration fixes one and the speed tells the other."""
    if speed is None:
        return config.steps, None if config.minutes is None else config.minutes * 60
    per_step = flops / (speed * ranks)
    if config.steps is not None:
        return config.steps, config.steps * per_step
    assert config.minutes is not None
    return max(round(config.minutes * 60 / per_step), 1), config.minutes * 60


# --- text -------------------------------------------------------------------------------------------------------------


def _cells(plan: Plan) -> dict[str, str]:
    size, held = plan.bytes, plan.held
    return {
        "": plan.name,
        "parameters": _count(plan.parameters),
        "  active for a token": _count(plan.active_parameters),
        "  trained": _count(plan.trained_parameters),
        "samples in a step": _count(plan.samples_per_step),
        "tokens in a step": _count(plan.tokens_per_step),
        "operations in a step": _count(plan.flops_per_step),
        "steps": "?" if plan.steps is None else f"{plan.steps:,}",
        "operations in all": "?" if plan.flops is None else _count(plan.flops),
        "ranks": str(plan.ranks),
        "bytes per rank": _bytes(size.per_rank(held)),
        "  weights": _bytes(size.weights * held),
        "  gradients": _bytes(size.gradients * held),
        "  optimiser": _bytes(size.optimizer * held),
        "  averages": _bytes(size.averages * held),
        "  activations (estimate)": _bytes(size.activations),
        "operations/s and rank": "?" if plan.throughput is None else _count(plan.throughput),
        "  from": plan.source,
        "time": "?" if plan.seconds is None else _time(plan.seconds),
    }


def _count(number: float) -> str:
    for size, name in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:.3g}"


def _bytes(number: float) -> str:
    for size, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:.0f} B"


def _time(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} s"
