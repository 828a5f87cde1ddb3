"""Training a small part of a network: adapters, or the image rows of both tables.

Both wrap an objective, so that every recipe can do it. With adapters ``model`` holds them alone and the network becomes
a frozen helper: the loop, its optimiser, averages and saved states never see the original weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llada_uni.backbone.model import Backbone
from llada_uni.decoder.dit import Decoder
from llada_uni.errors import ConfigError
from llada_uni.layers.adapters import AdapterConfig, Adapters, quantize_network
from llada_uni.training.config import TrainConfig
from llada_uni.training.objective import Batch, Draw, Metrics, Objective
from llada_uni.weights.adapters import Component, save_adapter

__all__ = ["Adapted", "adapted", "narrowed", "network_of", "only_image_rows"]


def narrowed(objective: Objective, config: TrainConfig) -> Objective:
    """``objective`` as ``config`` wants it trained: whole, by adapters, or image rows only.

    Raises:
        ConfigError: both are asked for, there is no network for it, or one that starts from random weights.
    """
    if config.adapter is not None and config.only is not None:
        raise ConfigError(f"{config.name}: set adapter or only, not both")
    if config.adapter is not None:
        return adapted(objective, config)
    if config.only == "image_rows":
        if config.optim.weight_decay:
            raise ConfigError(f"{config.name}: only=image_rows needs optim.weight_decay=0, else text rows decay")
        only_image_rows(objective.model)
    return objective


class Adapted:
    """An objective whose network is frozen and changed by adapters.

    Router biases stay as they are: the objective may move them after a step, they are put back.
    """

    def __init__(self, inner: Objective, adapters: Adapters, component: Component, *, name: str, base: str) -> None:
        self.model: nn.Module = adapters
        self._adapters = adapters
        self._component: Component = component
        self.inner, self.name, self.base = inner, name, base
        self._kept = {key: buffer.clone() for key, buffer in inner.model.named_buffers()}

    def batch(self, draw: Draw) -> Batch:
        """That of the objective."""
        return self.inner.batch(draw)

    def weight(self, batch: Batch) -> float:
        """That of the objective."""
        return self.inner.weight(batch)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """That of the objective."""
        return self.inner.loss(batch, generator)

    @torch.no_grad()
    def after_step(self, step: int, horizon: int) -> Metrics:
        """Metrics of the objective; its changes to the frozen network are undone."""
        metrics = self.inner.after_step(step, horizon)
        for key, buffer in self.inner.model.named_buffers():
            buffer.copy_(self._kept[key])
        return metrics

    def conclude(self, seed: int) -> Metrics:
        """Nothing: one-time work is on networks that are trained whole."""
        return {}

    def evaluate(self, seed: int) -> Metrics:
        """That of the objective, with the adapters at work."""
        self.model.eval()
        return self.inner.evaluate(seed)

    def export(self, directory: Path) -> None:
        """Writes the adapter to ``adapters/<name>`` in the checkpoint directory."""
        save_adapter(directory / "adapters" / self.name, self._adapters, self._component, base=self.base)


def adapted(objective: Objective, config: TrainConfig) -> Adapted:
    """``objective`` with fresh adapters in the network it trains, moved to the device of ``config``.

    Raises:
        ConfigError: no network that can be adapted, or one that starts from random weights.
    """
    assert config.adapter is not None
    network, component = network_of(objective.model, config.name)
    start = "out" if component == "decoder-turbo" else getattr(config.objective, "warm", "out")
    if start is None:
        raise ConfigError(f"{config.name}: an adapter changes trained weights; set objective.warm to a checkpoint")
    objective.model.to(device=config.device, dtype=_base_dtype(config.adapter, config)).requires_grad_(False)
    if config.adapter.base_dtype in ("int8", "int4"):
        quantize_network(network, 8 if config.adapter.base_dtype == "int8" else 4)
    adapters = Adapters(network, config.adapter, generator=torch.Generator().manual_seed(config.seed))
    return Adapted(objective, adapters, component, name=config.name, base=str(start))


def only_image_rows(model: nn.Module) -> None:
    """Freezes everything but the rows of image codes in the embedding and the head (the first part of stage S0).

    The other rows get no gradient; they keep their bits as long as the tables are not decayed.

    Raises:
        ConfigError: the model has no such rows.
    """
    backbone = next((part for part in model.modules() if isinstance(part, Backbone)), None)
    if backbone is None or backbone.config.image_token_offset is None:
        raise ConfigError("only=image_rows needs a backbone with image codes")
    model.requires_grad_(False)
    for table in {backbone.model.word_embeddings.weight, backbone.lm_head.weight}:
        table.requires_grad_(True)
        table.register_hook(_rows_from(backbone.config.image_token_offset))


def _rows_from(offset: int) -> Any:
    def keep(gradient: Tensor) -> Tensor:
        rows = torch.arange(len(gradient), device=gradient.device) >= offset
        return gradient * rows.unsqueeze(-1)

    return keep


def network_of(model: nn.Module, name: str) -> tuple[nn.Module, Component]:
    """The network in what an objective trains, and its place in a checkpoint.

    A decoder with a second head is one that is distilled.

    Raises:
        ConfigError: neither a backbone nor a decoder.
    """
    for part in model.modules():
        if isinstance(part, Backbone):
            return part, "backbone"
        if isinstance(part, Decoder):
            return part, "decoder-turbo" if hasattr(model, "velocity_head") else "decoder"
    raise ConfigError(f"{name}: adapters are for the backbone and the decoder, this trains neither")


def _base_dtype(adapter: AdapterConfig, config: TrainConfig) -> torch.dtype:
    if adapter.base_dtype == "bfloat16":
        return torch.bfloat16
    return torch.float64 if config.dtype == "float64" else torch.float32
