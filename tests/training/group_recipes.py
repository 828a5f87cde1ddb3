"""Recipes for processes that torchrun starts."""

from __future__ import annotations

import dataclasses

from llada_uni.errors import ConfigError
from llada_uni.training.config import TrainConfig
from llada_uni.training.objective import Batch, Draw, Resources
from llada_uni.training.objectives.vae import VaeObjective, VaeObjectiveConfig

__all__ = ["failing", "small"]


def small() -> TrainConfig:
    """Two micro-batches a step."""
    from tiny_stages import tiny_config

    return tiny_config("vae", accumulation=2, steps=2)


def failing() -> TrainConfig:
    """The second micro-batch of a step cannot be made."""
    config = small()
    values = {field.name: getattr(config.objective, field.name) for field in dataclasses.fields(config.objective)}
    return dataclasses.replace(config, objective=FailingConfig(**values))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FailingConfig(VaeObjectiveConfig):
    """As the autoencoder's."""

    def build(self, resources: Resources, seed: int) -> Failing:
        return Failing(self, super().build(resources, seed).model)


class Failing(VaeObjective):
    """Fails in one process only."""

    def batch(self, draw: Draw) -> Batch:
        if draw.micro == 1:
            raise ConfigError("this micro-batch cannot be made; change the data")
        return super().batch(draw)
