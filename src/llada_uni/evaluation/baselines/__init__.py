"""Models that say what a score on SceneBench means: without a network, without diffusion, without learned codes."""

from __future__ import annotations

from llada_uni.evaluation.baselines.autoregressive import AutoregressiveModel
from llada_uni.evaluation.baselines.classes import ClassPictures
from llada_uni.evaluation.baselines.retrieval import Retrieval, WordIndex

__all__ = ["AutoregressiveModel", "ClassPictures", "Retrieval", "WordIndex"]
