"""Exponential moving average of trained parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Ema"]


class Ema:
    """Running average of a model's trainable parameters; buffers are not averaged.

    The decay is ``min(decay, (1 + n) / (10 + n))`` at update n, so that early averages forget the initial weights.
    With ``decay`` 0 nothing is kept and the live weights stand for the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad] if decay > 0 else []
        self.average: dict[str, Tensor] = {name: parameter.detach().clone() for name, parameter in trained}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the live parameters."""
        if not self.average:
            return
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        live = dict(model.named_parameters())
        for name, average in self.average.items():
            average.lerp_(live[name].detach(), 1 - decay)
        self.num_updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside, ``model`` holds the averaged parameters; afterwards the live ones are back."""
        live = dict(model.named_parameters())
        saved = {name: live[name].detach().clone() for name in self.average}
        self._write(live, self.average)
        try:
            yield
        finally:
            self._write(live, saved)

    @staticmethod
    @torch.no_grad()
    def _write(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            parameters[name].copy_(value)

    def state_dict(self) -> dict[str, object]:
        """Averages and the number of updates."""
        return {"average": self.average, "num_updates": self.num_updates}

    def load_state_dict(self, state: dict) -> None:
        """Restores what :meth:`state_dict` returned."""
        for name, value in state["average"].items():
            self.average[name].copy_(value)
        self.num_updates = int(state["num_updates"])
