"""Classes of cells -> the decoder's condition, in the place of codes. A baseline: nothing is learnt of what to say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada_uni.errors import ConfigError
from llada_uni.grid import UPSCALE

__all__ = ["ClassEmbedder", "ClassEmbedderConfig"]


@dataclass(frozen=True, kw_only=True)
class ClassEmbedderConfig:
    """``sizes``: number of values of every class of a cell; ``width``: of the condition.

    Raises:
        ConfigError: no class, or one without values.
    """

    sizes: tuple[int, ...]
    width: int

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or self.width < 1:
            raise ConfigError(f"classes: expected sizes and a width above 0, got {self.sizes} and {self.width}")


class ClassEmbedder(nn.Module):
    """The sum of one embedding per class, and two linear maps around a SiLU as in ``SemanticEmbedder``."""

    def __init__(self, config: ClassEmbedderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(sum(config.sizes), config.width)
        self.inner, self.outer = nn.Linear(config.width, config.width), nn.Linear(config.width, config.width)

    def forward(self, classes: Tensor) -> Tensor:
        """Class numbers [B, h, w, A] -> features [B, 4*h*w, width], each cell repeated 2 x 2.

        "No picture" is zeros of the same shape.
        """
        starts = torch.tensor((0, *self.config.sizes[:-1]), device=classes.device).cumsum(0)
        features = self.outer(F.silu(self.inner(self.embedding(classes + starts).sum(-2))))
        return features.repeat_interleave(UPSCALE, dim=1).repeat_interleave(UPSCALE, dim=2).flatten(1, 2)
