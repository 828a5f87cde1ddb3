"""The same tiny training in one process and in several, and how far apart they end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from processes import in_processes
from tiny_stages import OBJECTIVES, tiny_config
from torch import Tensor
from torch.distributed.tensor import DTensor

from llada_uni.training.adapters import narrowed
from llada_uni.training.config import TrainConfig
from llada_uni.training.metrics import read_metrics
from llada_uni.training.objective import Resources
from llada_uni.training.train import train


def shared(stage: str = "backbone", **changes: object) -> TrainConfig:
    """Four micro-batches a step, every step logged."""
    values: dict[str, Any] = {"accumulation": 4, "steps": 3, "log_every": 1, "prefetch": 0}
    if stage == "backbone":
        values["objective"] = dataclasses.replace(OBJECTIVES["backbone"], balance_rate=0.02, balance_stop=1.0)
    return tiny_config(stage, **(values | changes))


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def trained(config: TrainConfig, directory: Path, resources: Resources, **options: Any) -> dict[str, Any]:
    """Weights and logged losses of a run."""
    objective = narrowed(config.objective.build(resources, config.seed), config)
    train(config, objective, directory, **options)
    weights = {name: whole(tensor).clone() for name, tensor in objective.model.state_dict().items()}
    return {"weights": weights, "losses": [record["loss"] for record in read_metrics(directory)]}


def in_group(count: int, config: TrainConfig, directory: Path, resources: Resources, **options: Any) -> list[Any]:
    work = lambda rank: trained(config, directory / "run", resources, **options)  # noqa: E731
    return in_processes(count, directory, work)


def furthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a if a[name].numel())


def check_equal(one: dict[str, Any], several: list[dict[str, Any]], limit: float) -> None:
    assert len(one["losses"]) > 1
    assert several[0]["losses"] == pytest.approx(one["losses"], abs=max(limit, 1.1e-6))  # the log has six digits
    for process in several:
        assert furthest(one["weights"], process["weights"]) < limit
        assert furthest(process["weights"], several[0]["weights"]) == 0
