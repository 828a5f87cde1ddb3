"""Backbone stage on two sources at once: scenes as in ``backbone``, and extracted records as in ``records``.

Every micro-batch holds a share of both; each is packed, masked and weighted by its own rules, and the losses add up to
one mean over all masked tokens, so that what a model has learnt of one is kept while it learns the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from llada_uni.data.preextract import checkpoint_mark
from llada_uni.data.token_loader import TokenData
from llada_uni.errors import ConfigError
from llada_uni.training.export import frozen
from llada_uni.training.objective import Batch, Draw, Metrics, Resources
from llada_uni.training.objectives.backbone import BackboneObjective, BackboneObjectiveConfig, balanced
from llada_uni.training.objectives.codebook import renew_rows
from llada_uni.training.objectives.records import RecordsObjective, RecordsObjectiveConfig
from llada_uni.weights.catalog import resolve
from llada_uni.weights.load import load_vocab

__all__ = ["MixtureObjective", "MixtureObjectiveConfig"]


@dataclass(frozen=True, kw_only=True)
class MixtureObjectiveConfig:
    """``records_share`` of the samples come from ``records``, whose ``data`` were extracted with the tokenizers in the
    directory being built; ``scenes`` decides where the backbone starts (its ``warm``) and how routers are balanced.

    ``held_out`` is an extraction to evaluate on. ``renew``: rows of codes that the tokenizer of ``scenes.warm`` did not
    use start from those of similar codes.

    Raises:
        ConfigError: a share outside of (0, 1).
    """

    scenes: BackboneObjectiveConfig
    records: RecordsObjectiveConfig
    held_out: str | None = None
    records_share: float = 0.5
    renew: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.records_share < 1:
            raise ConfigError(f"records_share: expected a number between 0 and 1, got {self.records_share}")

    def build(self, resources: Resources, seed: int) -> MixtureObjective:
        """Both objectives around one backbone.

        Raises:
            ConfigError: no data named, or data of other tokenizers than those in the directory being built.
        """
        if self.records.data is None:
            raise ConfigError("objective.records.data: name the folder that llada-uni data extract wrote")
        scenes = self.scenes.build(resources, seed)
        warm = self.scenes.warm
        if self.renew and warm not in (None, "out"):
            self._renew(scenes, resources, str(warm))
        special = load_vocab(resources.out).special
        sources = [
            None if name is None else _opened(resources.find(name), resources.out, verify=self.records.verify)
            for name in (self.records.data, self.held_out)
        ]
        parts = [None if s is None else RecordsObjective(self.records, scenes.model, s, special, seed) for s in sources]
        assert parts[0] is not None
        return MixtureObjective(self, scenes, parts[0], parts[1])

    @staticmethod
    def _renew(scenes: BackboneObjective, resources: Resources, warm: str) -> None:
        old, new = (frozen(place, "image_tokenizer").codebook for place in (resolve(warm), resources.out))
        model = scenes.model
        offset = model.config.vocab_size - len(new)
        for table in (model.model.word_embeddings.weight, model.lm_head.weight):
            renew_rows(table.detach()[offset:], old, new)


def _opened(folder: Path, out: Path, *, verify: bool) -> TokenData:
    data = TokenData(folder, verify=verify)
    if data.manifest.checkpoint_mark != checkpoint_mark(out):
        raise ConfigError(f"{folder} was extracted with other tokenizers than those in {out}; extract it again")
    return data


class MixtureObjective:
    """Masked tokens of scenes and of records, by one model."""

    def __init__(
        self,
        config: MixtureObjectiveConfig,
        scenes: BackboneObjective,
        records: RecordsObjective,
        held_out: RecordsObjective | None,
    ) -> None:
        self.config, self.scenes, self.records = config, scenes, records
        self.model = scenes.model
        self._held_out = held_out

    def batch(self, draw: Draw) -> Batch:
        """``scenes`` and ``records``: a batch of each; one of two samples or more has both."""
        number = min(max(round(draw.size * self.config.records_share), 1), max(draw.size - 1, 1))
        return {
            "scenes": self.scenes.batch(replace(draw, size=max(draw.size - number, 1))),
            "records": self.records.batch(replace(draw, size=number)),
        }

    def blocks(self) -> Sequence[nn.Module]:
        """The layers of the transformer."""
        return self.scenes.blocks()

    def weight(self, batch: Batch) -> float:
        """Sum of both normalisers."""
        return self.scenes.weight(batch["scenes"]) + self.records.weight(batch["records"])

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Mean of both losses by their normalisers; metrics of the records begin with ``records_``."""
        total, told = torch.zeros((), device=next(self.model.parameters()).device), dict[str, Tensor | float]()
        for part, objective in (("scenes", self.scenes), ("records", self.records)):
            loss, numbers = objective.loss(batch[part], generator)
            total = total + loss * (objective.weight(batch[part]) / self.weight(batch))
            told |= {key if part == "scenes" else f"records_{key}": value for key, value in numbers.items()}
        return total, told

    def after_step(self, step: int, horizon: int) -> Metrics:
        """Moves the selection bias of every router against its load over both sources."""
        config = self.scenes.config
        on = step <= config.balance_stop * horizon
        loads = self.scenes.take_loads() + self.records.take_loads()
        return balanced(self.model, loads, config.balance_rate if on else 0.0)

    def conclude(self, seed: int) -> Metrics:
        """Nothing."""
        return {}

    def evaluate(self, seed: int) -> Metrics:
        """Numbers of both; losses of held-out records as ``held_out_``."""
        numbers = {**self.scenes.evaluate(seed), **self.records.evaluate(seed)}
        if self._held_out is not None:
            unseen = self._held_out.evaluate(seed)
            numbers |= {key.replace("trained_", "held_out_"): value for key, value in unseen.items() if "nll" in key}
            numbers["held_out_samples"] = unseen["samples"]
        return numbers

    def export(self, directory: Path) -> None:
        """Writes the backbone at the root of the checkpoint directory."""
        self.scenes.export(directory)
