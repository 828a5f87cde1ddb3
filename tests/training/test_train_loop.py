"""The loop: exact resume, averaging, accumulation, budgets, guards. Stages are tiny, the loop is the real one."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
from tiny_stages import tiny_config
from torch import Tensor, nn

from llada_uni.errors import CheckpointError, ConfigError, ResourceError
from llada_uni.training.checkpoint import load_state, save_state
from llada_uni.training.config import OptimConfig, ScheduleConfig, TrainConfig
from llada_uni.training.ema import Ema
from llada_uni.training.metrics import MetricsLog, read_metrics
from llada_uni.training.objective import Draw, Resources
from llada_uni.training.optim import parameter_groups
from llada_uni.training.schedule import lr_factor
from llada_uni.training.train import Run, train


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineConfig:
    """Fits y = 3x; ``poison`` is a step whose batch is not a number."""

    poison: int = -1

    def build(self, resources: object, seed: int) -> Line:
        torch.manual_seed(seed)
        return Line(self)


class Line:
    def __init__(self, config: LineConfig) -> None:
        self.config = config
        self.model = nn.Linear(4, 1)
        self.model.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def batch(self, draw: Draw) -> dict[str, Tensor]:
        x = torch.randn(draw.size + draw.micro, 4, generator=draw.torch("x"))
        return {"x": x * (float("nan") if draw.step == self.config.poison else 1)}

    def weight(self, batch: dict[str, Tensor]) -> float:
        return float(len(batch["x"]))

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict]:
        noise = torch.randn(len(batch["x"]), 1, generator=generator, dtype=torch.float32).to(batch["x"])
        dropped = nn.functional.dropout(self.model(batch["x"]), 0.1)
        return (dropped - 3 * batch["x"].sum(1, keepdim=True) - 0.1 * noise).square().mean(), {}

    def after_step(self, step: int, horizon: int) -> dict[str, float]:
        self.model.seen += 1
        return {}

    def conclude(self, seed: int) -> dict[str, float]:
        return {}

    def evaluate(self, seed: int) -> dict[str, float]:
        return {"w": float(self.model.weight.detach().mean())}

    def export(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)


def line(**changes: object) -> TrainConfig:
    return tiny_config("vae", **{"name": "line", "objective": LineConfig(), "steps": 12, **changes})


def run(config: TrainConfig, directory: Path, resources: Resources | None = None, **options: object):
    objective = config.objective.build(resources, config.seed)
    result = train(config, objective, directory, **options)
    state = load_state(directory)
    assert state is not None
    return result, state


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("stage", ["vae", "tokenizer", "backbone", "decoder", "turbo"])
def test_resumed_equals_uninterrupted(stage: str, tiny_resources: Resources, tmp_path: Path) -> None:
    config = tiny_config(stage)
    _, whole = run(config, tmp_path / "whole", tiny_resources)
    for stop in (1, 3, 4, None):
        result, parts = run(config, tmp_path / "parts", tiny_resources, stop_at=stop)
    assert result.finished
    for name in ("model", "optimizer", "ema"):
        assert same(getattr(whole, name), getattr(parts, name)), name


def test_stopping_by_signal_keeps_the_state(tmp_path: Path) -> None:
    calls = iter([False, False, True])
    result, state = run(line(), tmp_path, stop=lambda: next(calls))
    assert (result.step, result.finished, state.step) == (2, False, 2)
    assert run(line(), tmp_path)[0].finished


def test_accumulated_batches_equal_one_weighted_batch(tmp_path: Path) -> None:
    config = line(accumulation=3, dtype="float64", steps=1, optim=OptimConfig(lr=0.1, clip_norm=0))
    objective = LineConfig().build(None, 0)
    state = Run.start(config, objective)
    draws = [Draw(seed=0, step=0, micro=m, size=2) for m in range(3)]
    batches = [{"x": objective.batch(draw)["x"].double()} for draw in draws]
    model = objective.model
    total = sum(len(b["x"]) for b in batches)
    model.eval()
    expected = torch.zeros(1, 4, dtype=torch.float64)
    for batch in batches:
        error = model(batch["x"]) - 3 * batch["x"].sum(1, keepdim=True)
        expected += torch.autograd.grad(error.square().sum() / total, model.weight)[0]
    model.zero_grad()
    for batch in batches:
        share = objective.weight(batch) / total
        error = model(batch["x"]) - 3 * batch["x"].sum(1, keepdim=True)
        (error.square().mean() * share).backward()
    torch.testing.assert_close(model.weight.grad, expected, rtol=1e-12, atol=1e-12)
    assert state.step == 0


def test_not_a_number_names_step_and_batch_and_keeps_the_last_state(tmp_path: Path) -> None:
    good = line(steps=12)
    run(good, tmp_path, stop_at=4)
    bad = line(objective=LineConfig(poison=5))
    objective = bad.objective.build(None, 0)
    with pytest.raises(ConfigError, match=r"step 5 \(batch 0:5:0\)"):
        train(bad, objective, tmp_path / "bad")
    assert load_state(tmp_path / "bad") is None
    assert load_state(tmp_path).step == 4


def test_minutes_become_steps_once_and_trial_steps_leave_no_trace(tmp_path: Path) -> None:
    config = line(steps=None, minutes=0.02, probe_seconds=0.02)
    first, state = run(config, tmp_path / "timed", stop_at=2)
    assert first.horizon > 2
    assert state.horizon == first.horizon
    again, _ = run(config, tmp_path / "timed", stop_at=3)
    assert again.horizon == first.horizon
    stepped = line(steps=first.horizon)
    _, other = run(stepped, tmp_path / "stepped", stop_at=2)
    _, timed = run(config, tmp_path / "again", stop_at=2)
    assert same(timed.model["seen"], torch.tensor(2))
    if timed.horizon == first.horizon:
        assert same(other.model, timed.model)


def test_steps_and_minutes_exclude_each_other() -> None:
    for changes in ({"steps": None}, {"minutes": 1.0}, {"batch_size": 0}):
        with pytest.raises(ConfigError):
            line(**changes)


def test_a_state_of_another_configuration_is_refused(tmp_path: Path) -> None:
    run(line(), tmp_path, stop_at=2)
    with pytest.raises(CheckpointError, match="optim"):
        run(line(optim=OptimConfig(lr=0.5)), tmp_path)
    run(line(log_every=5), tmp_path)


def test_a_truncated_state_is_one_clear_error(tmp_path: Path) -> None:
    run(line(), tmp_path, stop_at=2)
    path = tmp_path / "state.pt"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="cannot read"):
        load_state(tmp_path)


def test_a_failed_save_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, state = run(line(), tmp_path, stop_at=2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    state.step = 99
    with pytest.raises(ResourceError, match="No space"):
        save_state(tmp_path, state)
    assert load_state(tmp_path).step == 2
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_schedule_warms_up_falls_and_ends_at_the_floor() -> None:
    schedule = ScheduleConfig(warmup_steps=10, floor=0.1)
    factors = [lr_factor(schedule, step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(factors[9:]))
    assert lr_factor(schedule, 100, 100) == pytest.approx(0.1)
    assert lr_factor(ScheduleConfig(warmup_steps=1, decay="linear", floor=0.0), 51, 101) == pytest.approx(0.5)
    held = ScheduleConfig(warmup_steps=0, constant_share=0.5)
    assert lr_factor(held, 49, 100) == 1.0 > lr_factor(held, 60, 100)


def test_averages_follow_the_formula_and_are_put_back() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    ema = Ema(model, 0.5)
    nn.init.constant_(model.weight, 3.0)
    ema.update(model)
    decay = 1 / 10
    expected = decay * 1.0 + (1 - decay) * 3.0
    with ema.applied(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 3.0
    assert Ema(model, 0.0).average == {}


def test_norms_biases_and_routers_are_not_decayed() -> None:
    model = nn.ModuleDict({"gate": nn.Linear(2, 2, bias=False), "norm": nn.LayerNorm(2), "up": nn.Linear(2, 2)})
    groups = parameter_groups(model, OptimConfig(weight_decay=0.1))
    decayed = next(group for group in groups if group["weight_decay"] > 0)["params"]
    assert [p is model["up"].weight for p in decayed] == [True]
    assert sum(len(group["params"]) for group in groups) == 5


def test_metrics_of_lost_steps_are_dropped_on_resume(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, every=1, step=0, report=None)
    for step in (1, 2, 3):
        log.add(step, {"loss": torch.tensor(float(step)), "odd": math.nan}, samples=4, seconds=0.5)
    MetricsLog(tmp_path, every=1, step=2, report=None)
    assert [record["loss"] for record in read_metrics(tmp_path)] == [1.0, 2.0]
    assert "odd" not in read_metrics(tmp_path)[0]


def test_draws_are_independent_and_repeatable() -> None:
    draw = Draw(seed=1, step=2, size=3)
    same_draw, other = Draw(seed=1, step=2, size=3), Draw(seed=1, step=3, size=3)
    assert draw.numpy("a").integers(1 << 60) == same_draw.numpy("a").integers(1 << 60)
    assert draw.numpy("a").integers(1 << 60) != draw.numpy("b").integers(1 << 60)
    assert draw.torch("a").initial_seed() != other.torch("a").initial_seed()
