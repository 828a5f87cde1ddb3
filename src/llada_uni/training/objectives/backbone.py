"""Backbone stage: block diffusion over text and image ids, with router balancing.

One row holds clean blocks and noisy copies of target blocks (``data.block_rows``); logits are taken at masked positions
only. Losses are reweighted per sample by 1/sqrt(n) (MTRS) and normalised over the whole step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada_uni.backbone.config import BackboneConfig
from llada_uni.backbone.model import Backbone
from llada_uni.data.block_rows import Document, collate, lay_out
from llada_uni.data.code_meanings import code_meanings
from llada_uni.data.code_pool import (
    CodePool,
    PoolConfig,
    TaskPool,
    TaskPoolConfig,
    encode_pictures,
    extract,
    fingerprint,
)
from llada_uni.data.scene_stream import draw_scenes, pictures, python_random
from llada_uni.data.task_stream import TaskWriter
from llada_uni.data.unified_stream import MixConfig, Writer
from llada_uni.diffusion.balance import max_violation, updated_bias
from llada_uni.diffusion.chunked import chunked_cross_entropy
from llada_uni.diffusion.losses import mtrs_normaliser, mtrs_token_weights, token_cross_entropy, token_entropy
from llada_uni.diffusion.masking import (
    IMAGE_LAW,
    MaskRatioLaw,
    block_mask_ratios,
    complement_mask,
    mask_tokens,
    training_allowed,
)
from llada_uni.diffusion.positions import aligned_row_positions
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.scenes.graph import SceneGraph
from llada_uni.scenes.questions import FAMILIES
from llada_uni.training.export import frozen, load_text_tokenizer, warm_start
from llada_uni.training.group import fewest, summed
from llada_uni.training.objective import Batch, Draw, Metrics, Resources
from llada_uni.training.objectives.confidence import check_confidence, confidence_term
from llada_uni.weights.save import save_backbone

__all__ = [
    "BackboneObjective",
    "BackboneObjectiveConfig",
    "CodePoolJob",
    "MaskedTokens",
    "balanced",
    "buckets",
    "masked_losses",
    "noised",
    "row_positions",
]

_VECTOR_SHARE = 0.25  # length of a code's vector beside its meaning, which has length 1
_RESIDUAL_WRITERS = ("attention.dense.weight", "down_proj", "down_proj.weight")
_BESIDE_HIDDEN = 0.4  # share of its ratio that a token keeps beside hidden ones
_IMAGE_HEAD = 1.875  # length of image rows of the head in units of that of text rows


@dataclass(frozen=True, kw_only=True)
class CodePoolJob:
    """Extracts the pools of codes that the backbone trains on."""

    name: str
    pool: PoolConfig
    tasks: TaskPoolConfig | None = None

    def run(self, resources: Resources) -> dict[str, object]:
        """Writes missing shards into the cache; can be stopped and run again."""
        torch.set_num_threads(1)
        tokenizer = frozen(resources.out, "image_tokenizer")
        extract(self.pool, tokenizer, _pool_directory(resources))
        done: dict[str, object] = {"name": self.name, "scenes": self.pool.num_shards * self.pool.shard_size}
        if self.tasks is None:
            return done
        extract(self.tasks, tokenizer, _task_directory(resources))
        return done | {"groups": self.tasks.num_shards * self.tasks.shard_size}


@dataclass(frozen=True, kw_only=True)
class BackboneObjectiveConfig:
    """The model, its data and its noise.

    ``tasks`` is the pool of groups of scenes that shares of edits, stories and comparisons in ``mix`` need.
    ``capacity`` is the number of tokens of a packed row; rows run in ``num_buckets`` groups of similar length.
    ``fill_weight`` scales the loss of end-of-text ids that only fill the last block. ``balance_rate`` moves the router
    bias, until ``balance_stop`` of the run is over. ``meaning_shards``: shards of the pool from which the meaning
    of the codes is counted for the start (0 = random tables), see :func:`start_from_meanings`. ``embedding_rms`` and
    ``head_rms`` are the root mean squares of the rows both tables start with; with ``quiet_outputs`` every layer starts
    by adding nothing, see :func:`set_start`. ``logit_chunk``: masked positions whose logits exist at a time, computed
    again in the backward pass (0 = those of all at once). ``confidence_weight`` adds that many times the mean entropy
    of the masked words whose most likely id is right already, so that more of them can be committed at once (CAP).
    """

    backbone: BackboneConfig
    pool: PoolConfig
    mix: MixConfig = field(default_factory=MixConfig)
    image_law: MaskRatioLaw = IMAGE_LAW
    text_law: MaskRatioLaw = field(default_factory=lambda: MaskRatioLaw(full_share=0.4))
    capacity: int = 256
    num_buckets: int = 3
    fill_weight: float = 0.1
    mtrs: bool = True
    balance_rate: float = 1e-3
    balance_stop: float = 0.95
    meaning_shards: int = 24
    embedding_rms: float = 0.2
    head_rms: float = 0.06
    quiet_outputs: bool = True
    eval_documents: int = 96
    max_shard_bytes: int = 12 * 2**20
    warm: str | None = None
    tasks: TaskPoolConfig | None = None
    logit_chunk: int = 0
    confidence_weight: float = 0.0

    def __post_init__(self) -> None:
        check_confidence(self.confidence_weight, self.logit_chunk)

    def build(self, resources: Resources, seed: int) -> BackboneObjective:
        """A freshly initialised backbone (or that of checkpoint ``warm``) and the extracted pool."""
        tokenizer = frozen(resources.out, "image_tokenizer")
        directory = _pool_directory(resources)
        extract(self.pool, tokenizer, directory)
        pool = CodePool(self.pool, directory, fingerprint(self.pool, tokenizer))
        text = load_text_tokenizer(resources.out)
        num_codes = len(tokenizer.codebook)
        offset = self.backbone.vocab_size - num_codes
        writer = Writer(vocab=text.vocab(text_vocab_size=offset, num_codes=num_codes), tokenizer=text, mix=self.mix)
        generator = torch.Generator().manual_seed(seed)
        model = Backbone(self.backbone)
        model.reset_parameters(generator)
        set_start(model, self.embedding_rms, self.head_rms, quiet_outputs=self.quiet_outputs)
        if self.meaning_shards:
            meanings = code_meanings(pool, num_codes, min(self.meaning_shards, self.pool.num_shards))
            start_from_meanings(model, meanings, tokenizer.codebook, offset, generator)
        warm_start(model, self.warm, "backbone", resources)
        return BackboneObjective(self, model, writer, pool, tokenizer, self._task_pool(resources, tokenizer))

    def _task_pool(self, resources: Resources, tokenizer: ImageTokenizer) -> TaskPool | None:
        if self.tasks is None:
            return None
        directory = _task_directory(resources)
        extract(self.tasks, tokenizer, directory)
        return TaskPool(self.tasks, directory, fingerprint(self.tasks, tokenizer))


class BackboneObjective:
    """Masked tokens from visible ones, block by block."""

    def __init__(
        self,
        config: BackboneObjectiveConfig,
        model: Backbone,
        writer: Writer,
        pool: CodePool,
        tokenizer: ImageTokenizer | None = None,
        tasks: TaskPool | None = None,
    ) -> None:
        self.config = config
        self.model = model
        self.writer, self.pool, self.tokenizer, self.tasks = writer, pool, tokenizer, tasks
        self._loads: Tensor | None = None

    def batch(self, draw: Draw) -> Batch:
        """Packed rows with noise already drawn; see ``data.block_rows.collate`` and :func:`noised`."""
        documents = TaskWriter(writer=self.writer).documents(
            draw.numpy("documents"), self.pool, self.tasks, draw.size, progress=draw.progress
        )
        return self.rows(documents, draw.torch("masks"))

    def rows(self, documents: list[Document], generator: torch.Generator) -> dict[str, Tensor]:
        """Rows of given documents with noise."""
        special = self.writer.vocab.special
        layouts = [lay_out(document, special.eos) for document in documents]
        rows = collate(layouts, self.config.capacity, special.eos)
        return noised(rows, self.config.image_law, self.config.text_law, special.mask, generator)

    def blocks(self) -> Sequence[nn.Module]:
        """The layers of the transformer."""
        return list(self.model.model.layers)

    def weight(self, batch: Batch) -> float:
        """Normaliser of the loss: sum of sqrt(n) over samples with n masked tokens (or the number of masked tokens)."""
        counts = _masked_counts(batch)
        return float(mtrs_normaliser(counts)) if self.config.mtrs else float(counts.sum())

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Reweighted mean cross-entropy of masked tokens; plain means per modality beside it."""
        num_buckets = fewest(min(self.config.num_buckets, len(batch["ids"])))  # processes call a divided model together
        config = self.config
        found = masked_losses(
            self.model, batch, num_buckets, logit_chunk=config.logit_chunk, entropies=config.confidence_weight > 0
        )
        self._loads = found.loads if self._loads is None else self._loads + found.loads
        fill, image, hits = found.fill, found.image, found.hits
        weights = torch.where(fill, self.config.fill_weight, 1.0)
        if self.config.mtrs:
            weights = weights * mtrs_token_weights(found.sample, int(batch["sample"].max()) + 1)
        total = (found.losses * weights).sum() / self.weight(batch)
        sharp, about = confidence_term(found, config.confidence_weight)
        told = found.losses.detach()
        return total + sharp, {
            **about,
            "nll_image": _mean(told, image & ~fill),
            "nll_text": _mean(told, ~image & ~fill),
            "acc_image": _mean(hits, image & ~fill),
            "acc_text": _mean(hits, ~image & ~fill),
            "tokens": float((batch["document"] >= 0).sum()),
        }

    def after_step(self, step: int, horizon: int) -> Metrics:
        """Moves the selection bias of every router against its load."""
        on = step <= self.config.balance_stop * horizon
        return balanced(self.model, self.take_loads(), self.config.balance_rate if on else 0.0)

    def take_loads(self) -> Tensor:
        """The routers' counts since they were last taken."""
        assert self._loads is not None
        loads, self._loads = self._loads, None
        return loads

    def conclude(self, seed: int) -> Metrics:
        """Nothing."""
        return {}

    @torch.no_grad()
    def evaluate(self, seed: int) -> Metrics:
        """Held-out scenes: loss of fully and half masked pictures, and answers written in a single step, per family."""
        self.model.eval()
        numbers = self._image_losses(seed)
        right: dict[str, list[float]] = {}
        for index in range(max(self.config.eval_documents // 16, 1)):
            for family, value in self._single_step_answers(seed, index):
                right.setdefault(family, []).append(value)
        for family, values in right.items():
            numbers[f"answer_{family}"] = sum(values) / len(values)
        numbers["answers"] = sum(numbers[f"answer_{name}"] for name in right) / max(len(right), 1)
        return numbers

    def export(self, directory: Path) -> None:
        """Writes the backbone at the root of the checkpoint directory."""
        save_backbone(directory, self.model, max_shard_bytes=self.config.max_shard_bytes)

    def _fresh(self, seed: int, index: int, count: int) -> list[tuple[SceneGraph, np.ndarray]]:
        rng = Draw(seed=seed, step=index, size=count).numpy("evaluation")
        graphs = draw_scenes(rng, count, (8, 8), held_out=None)
        assert self.tokenizer is not None
        return list(zip(graphs, encode_pictures(self.tokenizer, pictures(graphs)), strict=True))

    def _image_losses(self, seed: int) -> Metrics:
        device = next(self.model.parameters()).device
        numbers: Metrics = {}
        source = python_random(np.random.default_rng(seed))
        fresh = self._fresh(seed, 10_000, 32)
        documents = [self.writer.picture(graph, codes, source) for graph, codes in fresh]
        for name, ratio in (("half", 0.5), ("full", 1.0)):
            law = MaskRatioLaw(low=ratio, high=ratio, full_share=0.0)
            eos, mask = self.writer.vocab.special.eos, self.writer.vocab.special.mask
            rows = collate([lay_out(document, eos) for document in documents], self.config.capacity, eos)
            batch = noised(rows, law, law, mask, torch.Generator().manual_seed(seed))
            batch = {key: value.to(device) for key, value in batch.items()}
            found = masked_losses(self.model, batch)
            numbers[f"nll_image_{name}"] = float(_mean(found.losses, ~found.fill))
        return numbers

    def _single_step_answers(self, seed: int, index: int) -> list[tuple[str, float]]:
        device = next(self.model.parameters()).device
        source = python_random(np.random.default_rng([seed, index]))
        eos, mask = self.writer.vocab.special.eos, self.writer.vocab.special.mask
        documents = [self.writer.reading(graph, codes, source) for graph, codes in self._fresh(seed, index, 16)]
        rows = collate([lay_out(document, eos) for document in documents], self.config.capacity, eos)
        full = MaskRatioLaw(low=1.0, high=1.0, full_share=0.0)
        batch = noised(rows, full, full, mask, torch.Generator().manual_seed(seed))
        batch = {key: value.to(device) for key, value in batch.items()}
        found = masked_losses(self.model, batch)
        wrong = (1 - found.hits) * (~found.fill)
        answers = []
        for number in found.sample.unique().tolist():
            own = found.sample == number
            answers.append((FAMILIES[int(found.tag[own][0])], float(wrong[own].sum() == 0)))
        return answers


def balanced(model: Backbone, loads: Tensor, rate: float) -> Metrics:
    """Moves the selection bias of every router against its load, summed over all processes; rate 0 only measures."""
    loads = summed(loads)
    if rate:
        for router, counts in zip(model.routers(), loads, strict=True):
            router.expert_bias.copy_(updated_bias(router.expert_bias, counts, rate))
    return {"max_violation": float(max_violation(loads).mean())}


def noised(
    rows: Mapping[str, Tensor],
    image_law: MaskRatioLaw,
    text_law: MaskRatioLaw,
    mask_id: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Adds ``noisy_ids`` and ``masked`` to rows of :func:`collate`: one ratio per number in ``noise``, stratified.

    Tokens marked as hidden are masked, unless their ratio is 0; the ratio of other tokens beside them (of the same
    number in ``noise``) is smaller, so that something is left to see. A second view of a block masks exactly what the
    first left visible. Of a block with several segments one is at work: those before it stand clean, those after it are
    wholly masked but not asked for (``masked`` is False there), since nothing is written over the head of what comes
    before it.
    """
    noise, image = rows["noise"], rows["image"]
    num_noises = int(noise.max()) + 1
    is_image = torch.zeros(num_noises, dtype=torch.bool)
    is_image[noise[noise >= 0]] = image[noise >= 0]
    ratios = torch.zeros(num_noises)
    for law, chosen in ((image_law, is_image), (text_law, ~is_image)):
        if chosen.any():
            ratios[chosen] = block_mask_ratios(int(chosen.sum()), law, generator)
    ratios, waiting = _in_order(rows, ratios, generator)
    maskable = rows["maskable"]
    ratio = torch.where(noise >= 0, ratios[noise.clamp_min(0)], 0.0)
    first = maskable & (rows["stream"] == 1)
    ratio = _with_hidden(rows, ratio)
    noisy, masked = mask_tokens(rows["ids"], first, ratio, mask_id, generator)
    if int(rows["stream"].max()) > 1:
        masked = masked | _second_view(rows, masked)
        noisy = rows["ids"].masked_fill(masked, mask_id)
    return {**rows, "noisy_ids": noisy, "masked": masked & ~(waiting[noise.clamp_min(0)] & (noise >= 0))}


def _with_hidden(rows: Mapping[str, Tensor], ratio: Tensor) -> Tensor:
    """Ratios [B, T] with 1 at hidden tokens and less beside them; 0 and 1 stay as they are."""
    hidden, noise = rows["hidden"], rows["noise"]
    beside = torch.isin(noise, noise[hidden].unique()) & (noise >= 0)
    drawn = (ratio > 0) & (ratio < 1)
    return torch.where(drawn & hidden, 1.0, torch.where(drawn & beside, ratio * _BESIDE_HIDDEN, ratio))


def _in_order(rows: Mapping[str, Tensor], ratios: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ratios [N] with 0 before and 1 after the segment at work in each block that holds several; which come after."""
    turn = torch.zeros(len(ratios), dtype=torch.long)
    known = rows["noise"] >= 0
    turn[rows["noise"][known]] = rows["turn"][known]
    if not turn.any():
        return ratios, turn > 0
    first = torch.arange(len(turn)) - turn
    num_segments = torch.bincount(first, minlength=len(turn))
    at_work = (torch.rand(len(turn), generator=generator) * num_segments).long()[first]
    return torch.where(turn < at_work, 0.0, torch.where(turn > at_work, 1.0, ratios)), turn > at_work


def _second_view(rows: Mapping[str, Tensor], masked: Tensor) -> Tensor:
    """Mask of view 2: the complement of view 1, found by (noise, position), which names a token of a view uniquely."""
    key = rows["noise"] * (int(rows["position"].max()) + 1) + rows["position"]
    one = rows["maskable"] & (rows["stream"] == 1)
    two = rows["maskable"] & (rows["stream"] == 2)
    order_one, order_two = key[one].argsort(), key[two].argsort()
    left = complement_mask(rows["maskable"], masked)[one][order_one]
    values = torch.empty_like(left)
    values[order_two] = left
    result = torch.zeros_like(masked)
    result[two] = values
    return result


@dataclass(frozen=True, kw_only=True)
class MaskedTokens:
    """Every masked token of a batch, [N] each: its cross-entropy, whether the likeliest id is right (0 or 1), and its
    sample, modality, fill and tag; ``loads`` are the routers' counts over real tokens. ``entropy`` in nats is 0 unless
    asked for."""

    losses: Tensor
    hits: Tensor
    sample: Tensor
    image: Tensor
    fill: Tensor
    tag: Tensor
    entropy: Tensor
    loads: Tensor


def masked_losses(
    model: Backbone, batch: Mapping[str, Tensor], num_buckets: int = 1, *, logit_chunk: int = 0, entropies: bool = False
) -> MaskedTokens:
    """Runs the model on rows grouped by length, so that short rows carry little padding, and scores masked tokens."""
    parts = [_bucket_losses(model, part, logit_chunk, entropies) for part in buckets(batch, num_buckets)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "loads"}
    return MaskedTokens(**joined, loads=torch.stack([part["loads"] for part in parts]).sum(0))


def _bucket_losses(
    model: Backbone, batch: Mapping[str, Tensor], logit_chunk: int, entropies: bool
) -> dict[str, Tensor]:
    allowed = training_allowed(batch["document"], batch["branch"], batch["block"], batch["stream"]).unsqueeze(1)
    masked, real = batch["masked"], batch["document"] >= 0
    positions = row_positions(model.config, batch, allowed.squeeze(1))
    hidden = model.hidden(batch["noisy_ids"], positions, allowed, keep=masked, collect_load=real)
    losses, best, entropy = _scored(model, hidden, batch["ids"][masked], logit_chunk, entropies)
    facts = {name: batch[name][masked] for name in ("sample", "image", "fill", "tag")}
    hits = (best == batch["ids"][masked]).float()
    return {"losses": losses, "hits": hits, "entropy": entropy, **facts, "loads": model.router_loads()}


def row_positions(config: BackboneConfig, batch: Mapping[str, Tensor], allowed: Tensor) -> Tensor:
    """Rotary positions int64 [B, T] of rows with noise, as generation would count them; ``allowed`` bool [B, T, T]."""
    start = -1 if config.picture_start_id is None else config.picture_start_id
    is_start = (batch["noisy_ids"] == start) & (batch["document"] >= 0)
    return aligned_row_positions(batch["position"], is_start, allowed, config.picture_alignment)


def _scored(
    model: Backbone, hidden: Tensor, clean: Tensor, logit_chunk: int, entropies: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropies, most likely ids, and entropies where asked for [N]."""
    if logit_chunk > 0:
        losses, best = chunked_cross_entropy(hidden, model.lm_head.weight, clean, logit_chunk)
        return losses, best, torch.zeros_like(losses).detach()
    logits = model.logits(hidden)
    losses = token_cross_entropy(logits, clean)
    entropy = token_entropy(logits) if entropies else torch.zeros_like(losses).detach()
    return losses, logits.detach().argmax(-1), entropy


def buckets(batch: Mapping[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """Rows in ``count`` groups of similar length, each cut to its longest row."""
    lengths = (batch["document"] >= 0).sum(1)
    order = lengths.argsort(stable=True)
    groups = [group for group in order.tensor_split(count) if len(group)]
    return [{name: value[group, : int(lengths[group].max())] for name, value in batch.items()} for group in groups]


@torch.no_grad()
def start_from_meanings(
    model: Backbone, meanings: Tensor, codebook: Tensor, offset: int, generator: torch.Generator
) -> None:
    """Image rows of both tables start as a random rotation of what their codes mean, beside their whitened vectors.

    ``meanings`` [K, M] are shares of attribute values (``data.code_meanings``), ``codebook`` [K, D]. Codes that share
    an attribute share a direction, so that what is learnt of one is learnt of all. Source: ours; a small model does not
    find these directions by itself in the samples it has.
    """
    width = model.config.hidden_size
    inside, head = model.model.word_embeddings.weight, model.lm_head.weight
    known = meanings.abs().sum(1) > 0
    told = F.normalize((meanings - meanings[known].mean(0)) * known[:, None], dim=-1)
    vectors = F.normalize(codebook.detach().float(), dim=-1)
    white = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False).U
    rows = torch.cat((told, F.normalize(white, dim=-1) * _VECTOR_SHARE), dim=1)
    rows = F.normalize(rows, dim=-1) @ _rotation(rows.shape[1], width, generator)
    inside[offset:] = rows * inside[:offset].norm(dim=-1).mean()
    head[offset:] = rows * head[:offset].norm(dim=-1).mean() * _IMAGE_HEAD


@torch.no_grad()
def set_start(model: Backbone, embedding_rms: float, head_rms: float, *, quiet_outputs: bool = True) -> None:
    """Scales both tables to the given root mean squares; ``quiet_outputs`` zeroes what writes to the residual stream.

    The network then starts as its two tables, and no layer drowns in the noise of those before it: a small model that
    sees few samples learns several times as much from each. Measured in ``benchmarks/starts.py``.
    """
    model.model.word_embeddings.weight.mul_(embedding_rms / model.config.initializer_range)
    if not model.config.tie_word_embeddings:
        model.lm_head.weight.mul_(head_rms / model.config.initializer_range)
    for name, parameter in model.named_parameters():
        if quiet_outputs and name.endswith(_RESIDUAL_WRITERS):
            parameter.zero_()


def _rotation(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random [rows, columns] with orthonormal rows, or orthonormal columns where there are fewer of these."""
    tall = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns), generator=generator)).Q
    return tall if rows >= columns else tall.T


def _masked_counts(batch: Batch) -> Tensor:
    return torch.bincount(batch["sample"][batch["masked"]])


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return values[chosen].mean() if chosen.any() else values.new_tensor(float("nan"))


def _pool_directory(resources: Resources) -> Path:
    return resources.cache / "codes"


def _task_directory(resources: Resources) -> Path:
    return resources.cache / "task-codes"
