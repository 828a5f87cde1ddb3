"""The same backbone as a causal model: the next id, on the documents of the backbone stage. A baseline.

Layers, start, data, weights of samples and router balancing are those of ``backbone``; what differs is that a token
sees only what stands before it and that every target id is predicted once a step from the true ids before it. Settings
that speak of masks and blocks (laws of mask ratios, filling, hidden regions, complementary views) have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from llada_uni.backbone.model import Backbone
from llada_uni.data.block_rows import Document
from llada_uni.data.causal_rows import NOTHING, causal_allowed, collate_causal, lay_out_causal
from llada_uni.data.code_pool import encode_pictures
from llada_uni.data.scene_stream import draw_scenes, pictures, python_random
from llada_uni.data.task_stream import TaskWriter
from llada_uni.diffusion.losses import mtrs_normaliser, mtrs_token_weights, token_cross_entropy
from llada_uni.errors import ConfigError
from llada_uni.scenes.questions import FAMILIES
from llada_uni.training.group import fewest
from llada_uni.training.objective import Batch, Draw, Metrics, Resources
from llada_uni.training.objectives.backbone import (
    BackboneObjective,
    BackboneObjectiveConfig,
    balanced,
    buckets,
    row_positions,
)
from llada_uni.weights.save import save_backbone

__all__ = ["FOLDER", "AutoregressiveObjective", "AutoregressiveObjectiveConfig", "NextTokens", "next_token_losses"]

FOLDER = "autoregressive"
"""Where the causal backbone lies in a checkpoint directory: at the root it would pass for a block-diffusion model."""


@dataclass(frozen=True, kw_only=True)
class AutoregressiveObjectiveConfig:
    """``scenes`` names the network, its start and its data as for block diffusion.

    Raises:
        ConfigError: settings of ``scenes`` that this stage cannot keep (chunked logits, confidence).
    """

    scenes: BackboneObjectiveConfig

    def __post_init__(self) -> None:
        for name in ("logit_chunk", "confidence_weight"):
            if getattr(self.scenes, name):
                raise ConfigError(f"a causal model has no {name}, got {getattr(self.scenes, name)}; set it to 0")

    def build(self, resources: Resources, seed: int) -> AutoregressiveObjective:
        """The network and the pool as block diffusion would build them."""
        return AutoregressiveObjective(self, self.scenes.build(resources, seed))


class AutoregressiveObjective:
    """Every target id from the ids before it."""

    def __init__(self, config: AutoregressiveObjectiveConfig, scenes: BackboneObjective) -> None:
        self.config, self.scenes = config, scenes
        self.model = scenes.model
        self._loads: Tensor | None = None

    def batch(self, draw: Draw) -> Batch:
        """The documents that block diffusion sees at this address, packed as causal rows."""
        scenes = self.scenes
        writer = TaskWriter(writer=scenes.writer)
        return self.rows(
            writer.documents(draw.numpy("documents"), scenes.pool, scenes.tasks, draw.size, progress=draw.progress)
        )

    def rows(self, documents: Sequence[Document]) -> dict[str, Tensor]:
        """Rows of given documents; see ``data.causal_rows.collate_causal``."""
        layouts = [lay_out_causal(document) for document in documents]
        return collate_causal(layouts, self.config.scenes.capacity, self.scenes.writer.vocab.special.eos)

    def blocks(self) -> Sequence[nn.Module]:
        """The layers of the transformer."""
        return list(self.model.model.layers)

    def weight(self, batch: Batch) -> float:
        """Normaliser of the loss: sum of sqrt(n) over samples with n target ids (or the number of target ids)."""
        counts = torch.bincount(batch["sample"][batch["label"] != NOTHING])
        return float(mtrs_normaliser(counts)) if self.config.scenes.mtrs else float(counts.sum())

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Reweighted mean cross-entropy of target ids; plain means of codes and of other ids beside it."""
        config = self.config.scenes
        found = next_token_losses(self.model, batch, fewest(min(config.num_buckets, len(batch["ids"]))))
        self._loads = found.loads if self._loads is None else self._loads + found.loads
        losses = found.losses
        if config.mtrs:
            losses = losses * mtrs_token_weights(found.sample, int(batch["sample"].max()) + 1)
        told, image = found.losses.detach(), found.image
        return losses.sum() / self.weight(batch), {
            "nll_image": _mean(told, image),
            "nll_text": _mean(told, ~image),
            "acc_image": _mean(found.hits, image),
            "acc_text": _mean(found.hits, ~image),
            "tokens": float((batch["document"] >= 0).sum()),
        }

    def after_step(self, step: int, horizon: int) -> Metrics:
        """Moves the selection bias of every router against its load, as block diffusion does."""
        assert self._loads is not None
        loads, self._loads = self._loads, None
        on = step <= self.config.scenes.balance_stop * horizon
        return balanced(self.model, loads, self.config.scenes.balance_rate if on else 0.0)

    def conclude(self, seed: int) -> Metrics:
        """Nothing."""
        return {}

    @torch.no_grad()
    def evaluate(self, seed: int) -> Metrics:
        """Held-out scenes: nats per code of whole pictures behind their captions, and answers per family.

        An answer counts when every id of it is the likeliest after the true ids before it: exactly then greedy
        decoding writes it.
        """
        self.model.eval()
        source = python_random(np.random.default_rng(seed))
        writer = self.scenes.writer
        drawn = [writer.picture(graph, codes, source) for graph, codes in self._fresh(seed, 10_000, 32)]
        found = self._scored(drawn)
        numbers = {"nll_image": float(found.losses[found.image].mean())}
        right: dict[str, list[float]] = {}
        for index in range(max(self.config.scenes.eval_documents // 16, 1)):
            asked = python_random(np.random.default_rng([seed, index]))
            found = self._scored([writer.reading(g, codes, asked) for g, codes in self._fresh(seed, index, 16)])
            for number in found.sample.unique().tolist():
                own = found.sample == number
                right.setdefault(FAMILIES[int(found.tag[own][0])], []).append(float(found.hits[own].min()))
        numbers |= {f"answer_{family}": sum(values) / len(values) for family, values in right.items()}
        numbers["answers"] = sum(numbers[f"answer_{family}"] for family in right) / max(len(right), 1)
        return numbers

    def export(self, directory: Path) -> None:
        """Writes the backbone into the folder ``autoregressive/`` of the checkpoint directory."""
        (directory / FOLDER).mkdir(parents=True, exist_ok=True)
        save_backbone(directory / FOLDER, self.model, max_shard_bytes=self.config.scenes.max_shard_bytes)

    def _scored(self, documents: Sequence[Document]) -> NextTokens:
        device = next(self.model.parameters()).device
        return next_token_losses(self.model, {name: value.to(device) for name, value in self.rows(documents).items()})

    def _fresh(self, seed: int, index: int, count: int) -> list[tuple]:
        assert self.scenes.tokenizer is not None
        graphs = draw_scenes(Draw(seed=seed, step=index, size=count).numpy("evaluation"), count, (8, 8), held_out=None)
        return list(zip(graphs, encode_pictures(self.scenes.tokenizer, pictures(graphs)), strict=True))


@dataclass(frozen=True, kw_only=True)
class NextTokens:
    """Every target id of a batch, [N] each: its cross-entropy in nats, whether the likeliest id is right (0 or 1), its
    sample, whether it is a code, and its tag; ``loads`` are the routers' counts over real tokens."""

    losses: Tensor
    hits: Tensor
    sample: Tensor
    image: Tensor
    tag: Tensor
    loads: Tensor


def next_token_losses(model: Backbone, batch: Mapping[str, Tensor], num_buckets: int = 1) -> NextTokens:
    """Runs the model on causal rows grouped by length, and scores target ids."""
    parts = [_bucket_losses(model, part) for part in buckets(batch, num_buckets)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "loads"}
    return NextTokens(**joined, loads=torch.stack([part["loads"] for part in parts]).sum(0))


def _bucket_losses(model: Backbone, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    allowed = causal_allowed(batch["document"], batch["branch"], batch["position"])
    positions = row_positions(model.config, {**batch, "noisy_ids": batch["ids"]}, allowed)
    asked = batch["label"] != NOTHING
    hidden = model.hidden(
        batch["ids"], positions, allowed.unsqueeze(1), keep=asked, collect_load=batch["document"] >= 0
    )
    logits, wanted = model.logits(hidden), batch["label"][asked]
    offset = model.config.image_token_offset
    facts = {name: batch[name][asked] for name in ("sample", "tag")}
    return {
        "losses": token_cross_entropy(logits, wanted),
        "hits": (logits.detach().argmax(-1) == wanted).float(),
        "image": wanted >= model.config.vocab_size if offset is None else wanted >= offset,
        **facts,
        "loads": model.router_loads(),
    }


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return values[chosen].mean() if chosen.any() else values.new_full((), float("nan"))
