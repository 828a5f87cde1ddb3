"""The training loop: the same few lines for every stage. A stage is an ``Objective``; nothing here knows which.

The state is a function of the configuration and the number of steps done: batches and noise are addressed by
(seed, step, micro-batch), so a run that was killed and resumed ends with the weights of one that was not, and several
processes that share the micro-batches of every step make the steps of one (``parallel``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.training.checkpoint import TrainState, read_state, save_state
from llada_uni.training.config import TrainConfig, describe, differences
from llada_uni.training.divided_state import fill_divided, place_state, read_facts, save_divided
from llada_uni.training.ema import Ema
from llada_uni.training.group import everywhere, gathered
from llada_uni.training.keeping import Keeper, newest_state, state_folder
from llada_uni.training.metrics import MetricsLog, mean_metrics
from llada_uni.training.objective import Batch, Draw, Objective
from llada_uni.training.optim import Optimizer, build_optimizer, clip_gradients, set_lr
from llada_uni.training.parallel import World
from llada_uni.training.schedule import lr_factor
from llada_uni.training.sharding import LossFunction, prepared

__all__ = ["Run", "TrainResult", "train"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_PROBES = 5  # points of a run at which its speed is measured
_MAY_CHANGE = (
    "steps",
    "minutes",
    "log_every",
    "checkpoint_seconds",
    "threads",
    "prefetch",
    "probe_seconds",
    "parallel",
    "keep",
    "recompute",
)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Where a call of :func:`train` ended: ``finished`` is False when it was stopped before the horizon."""

    step: int
    horizon: int
    seconds: float
    finished: bool


@dataclass(kw_only=True)
class Run:
    """Everything that changes while training; ``horizon`` is 0 until it is known."""

    config: TrainConfig
    objective: Objective
    optimizer: Optimizer
    ema: Ema
    loss: LossFunction
    world: World
    step: int = 0
    horizon: int = 0
    seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, config: TrainConfig, objective: Objective, world: World | None = None) -> Run:
        """A run at step 0 with the objective's current weights; alone without a ``world``."""
        world = world or World()
        torch.set_num_threads(config.threads)
        loss = prepared(objective, config, world)
        return cls._fresh(config, objective, world, loss)

    @classmethod
    def _fresh(cls, config: TrainConfig, objective: Objective, world: World, loss: LossFunction) -> Run:
        optimizer = build_optimizer(objective.model, config.optim)
        ema = Ema(objective.model, config.ema_decay)
        return cls(config=config, objective=objective, optimizer=optimizer, ema=ema, loss=loss, world=world)

    def elapsed(self) -> float:
        """Seconds of training so far, over all restarts."""
        return self.seconds + time.monotonic() - self._started

    def snapshot(self) -> TrainState:
        """State after ``step`` steps."""
        return TrainState(
            step=self.step,
            horizon=self.horizon,
            seconds=self.elapsed(),
            config=describe(self.config),
            model=self.objective.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            ema=self.ema.state_dict(),
        )

    def restore(self, state: TrainState) -> None:
        """Continues from ``state``; one that was read for its weights alone leaves the optimiser as it is.

        Raises:
            CheckpointError: the state belongs to another configuration.
        """
        _check_same_run(self.config, state.config)
        if self.world.divided:
            place_state(state, self)
        else:
            self.objective.model.load_state_dict(state.model)
            self.ema.load_state_dict(state.ema)
            if state.optimizer:
                self.optimizer.load_state_dict(state.optimizer)
        self._go_on(state)

    def restore_from(self, source: Path) -> None:
        """Continues from a stored state: a file, or the folder of a divided model. Errors as for :meth:`restore`."""
        if not source.is_dir():
            self.restore(read_state(source))
            return
        state = read_facts(source)
        _check_same_run(self.config, state.config)
        fill_divided(source, self)
        self._go_on(state)

    def save(self, directory: Path) -> None:
        """Writes the state; every process calls this.

        Raises:
            ResourceError: the disk is full or not writable; earlier states are untouched.
        """
        if self.world.divided:
            save_divided(state_folder(directory, self.step), self)
        elif self.world.rank == 0:
            save_state(directory, self.snapshot())

    def _go_on(self, state: TrainState) -> None:
        self.step, self.horizon, self.seconds = state.step, state.horizon, state.seconds
        self._started = time.monotonic()


def train(
    config: TrainConfig,
    objective: Objective,
    directory: Path,
    *,
    resume: bool = True,
    stop: Callable[[], bool] = lambda: False,
    stop_at: int | None = None,
    report: Callable[[Mapping[str, Any]], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainResult:
    """Trains ``objective`` to the horizon of ``config``, continuing the state in ``directory`` if there is one.

    ``stop`` is asked after every step (a signal handler sets it); ``stop_at`` ends the call after that many steps in
    all. Either way the state is saved and the next call goes on. On return the model holds the live weights; the
    averaged ones are in the saved state. ``progress`` hears (step, horizon) at the start and after every step.

    In a group of processes each calls this with the same arguments; the first one writes and reports.

    Raises:
        ConfigError: the loss or a gradient is not finite (the step and its batch are named; the state is not saved), or
            the processes do not fit the configuration.
        CheckpointError: the state in ``directory`` is unreadable or of another configuration.
    """
    world = World.of(config)
    run = Run.start(config, objective, world)
    saved = newest_state(directory) if resume else None
    if saved is not None:
        run.restore_from(saved)
    if not run.horizon:
        run.horizon = everywhere(config.steps or _horizon_from_minutes(run))
    log = MetricsLog(directory, every=config.log_every, step=run.step, report=report) if world.rank == 0 else None
    keeper = Keeper(directory, config.keep)
    end = min(run.horizon, stop_at or run.horizon)
    tell = progress if progress is not None and world.rank == 0 else lambda step, horizon: None
    tell(run.step, run.horizon)
    with _Prefetch(run, end) as batches:
        last_save = time.monotonic()
        while run.step < end and not world.any(stop()):
            metrics = _step(run, batches.take())
            keeper.watch(metrics)
            if log is not None:
                log.add(run.step, metrics, samples=_samples(config), seconds=run.elapsed())
            tell(run.step, run.horizon)
            if world.any(time.monotonic() - last_save > config.checkpoint_seconds):
                _save(run, directory, keeper)
                last_save = time.monotonic()
    _save(run, directory, keeper)
    return TrainResult(step=run.step, horizon=run.horizon, seconds=run.elapsed(), finished=run.step >= run.horizon)


def _samples(config: TrainConfig) -> int:
    return config.batch_size * config.accumulation


def _save(run: Run, directory: Path, keeper: Keeper) -> None:
    run.save(directory)
    if run.world.rank == 0:
        keeper.settle(run.step)


def _step(run: Run, batches: list[tuple[Draw, Batch]]) -> dict[str, Tensor | float]:
    config, objective = run.config, run.objective
    lr = config.optim.lr * lr_factor(config.schedule, run.step, run.horizon)
    set_lr(run.optimizer, lr)
    run.optimizer.zero_grad(set_to_none=True)
    objective.model.train()
    weights = [objective.weight(batch) for _, batch in batches]
    total = max(run.world.total(weights), 1e-12)
    found = gathered([_backward(run, *item, weight / total) for item, weight in zip(batches, weights, strict=True)])
    _require_finite_losses(run, found)
    parameters = list(objective.model.parameters())
    run.world.sum_gradients(parameters)
    clip = run.world.clip_divided if run.world.divided else clip_gradients
    norm = clip(parameters, config.optim.clip_norm)
    _require_finite(float(norm), "the gradient norm", run.step, batches[0][0])
    run.optimizer.step()
    run.step += 1
    more = objective.after_step(run.step, run.horizon)
    run.ema.update(objective.model)
    return {**mean_metrics(found), **more, "grad_norm": norm, "lr": lr}


def _backward(run: Run, draw: Draw, batch: Batch, share: float) -> tuple[float, dict[str, float]]:
    """Adds the gradient of one micro-batch; its share of the step's loss, and its metrics."""
    torch.manual_seed(draw.torch("global").initial_seed())
    with _autocast(run.config):
        loss, metrics = run.loss(_to_device(batch, run.config.device), draw.torch("loss"))
    (loss * share).backward()
    return share, {name: float(value) for name, value in {"loss": loss.detach(), **metrics}.items()}


def _require_finite_losses(run: Run, found: Sequence[tuple[float, Mapping[str, float]]]) -> None:
    for draw, (_, metrics) in zip(_draws(run.config, run.step, 0.0), found, strict=True):
        _require_finite(metrics["loss"], "the loss", draw.step, draw)


def _autocast(config: TrainConfig) -> contextlib.AbstractContextManager[Any]:
    if config.dtype != "bfloat16":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(config.device).type, dtype=_DTYPES[config.dtype])


def _require_finite(value: float, what: str, step: int, draw: Draw) -> None:
    if value != value or value in (float("inf"), float("-inf")):
        raise ConfigError(
            f"{what} is {value} at step {step} (batch {draw}); lower optim.lr or look at that batch. The last saved "
            "state is intact"
        )


def _to_device(value: Any, device: str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _to_device(item, device) for key, item in value.items()}
    return value


def _draws(config: TrainConfig, step: int, progress: float) -> list[Draw]:
    fixed = {"seed": config.seed, "step": step, "size": config.batch_size, "accumulation": config.accumulation}
    return [Draw(**fixed, micro=micro, progress=progress) for micro in range(config.accumulation)]


def _own_draws(run: Run, step: int, progress: float) -> list[Draw]:
    everyone = _draws(run.config, step, progress)
    return [everyone[micro] for micro in run.world.micros(len(everyone))]


class _Prefetch:
    """Makes the next batches in one background thread; with ``prefetch`` 0 in the calling thread."""

    def __init__(self, run: Run, end: int) -> None:
        self._run = run
        self._next, self._end = run.step, end
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches") if run.config.prefetch else None
        self._queue: list[Future[list[tuple[Draw, Batch]]]] = []

    def _make(self, step: int) -> list[tuple[Draw, Batch]]:
        run = self._run
        draws = _own_draws(run, step, step / max(run.horizon, 1))
        return [(draw, run.objective.batch(draw)) for draw in draws]

    def take(self) -> list[tuple[Draw, Batch]]:
        if self._pool is None:
            self._next += 1
            return self._make(self._next - 1)
        while self._next < self._end and len(self._queue) <= self._run.config.prefetch:
            self._queue.append(self._pool.submit(self._make, self._next))
            self._next += 1
        return self._queue.pop(0).result()

    def __enter__(self) -> _Prefetch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _horizon_from_minutes(run: Run) -> int:
    """Number of steps that fit into the budget at the speed measured now; the trial steps leave no trace.

    Trial steps are spread over the whole run, since early and late batches may differ in cost.
    """
    config = run.config
    assert config.minutes is not None
    before = _clone_state(run.objective.model)
    trial = Run._fresh(replace(config, minutes=None, steps=10**9), run.objective, run.world, run.loss)
    trial.horizon = 10**9
    seconds, steps = 0.0, 0
    while everywhere((seconds < config.probe_seconds or steps % _PROBES) and steps < 200):
        started = time.monotonic()
        draws = _own_draws(trial, trial.step, (trial.step % _PROBES + 0.5) / _PROBES)
        _step(trial, [(draw, run.objective.batch(draw)) for draw in draws])
        if trial.step > 1:
            seconds, steps = seconds + time.monotonic() - started, steps + 1
    run.objective.model.load_state_dict(before)
    return max(int(config.minutes * 60 / (seconds / steps)), 1)


def _clone_state(model: nn.Module) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in model.state_dict().items()}


def _check_same_run(config: TrainConfig, stored: Mapping[str, Any]) -> None:
    different = [name for name in differences(config, stored) if name not in _MAY_CHANGE]
    if stored.get("objective_type", type(config.objective).__name__) != type(config.objective).__name__:
        different.append("objective_type")
    if different:
        raise CheckpointError(
            f"{config.name}: the saved state was made with other values of {', '.join(different)}; "
            "use those, or start afresh in another directory"
        )
