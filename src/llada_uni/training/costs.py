"""What one step of a stage computes and keeps, without allocating its networks: the numbers behind ``--plan``.

Networks are built on the meta device. Convolutions and the decoder are run there once, counting products and what the
backward pass would keep; the backbone is counted by formula, on documents that are written as in training with codes of
zero. Products of the backward pass are twice those of the forward pass, or as many where weights are frozen.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from llada_uni.backbone.config import BackboneConfig
from llada_uni.backbone.model import Backbone
from llada_uni.data.block_rows import lay_out
from llada_uni.data.causal_rows import NOTHING, lay_out_causal
from llada_uni.data.code_pool import PoolConfig, TaskPoolConfig
from llada_uni.data.scene_stream import draw_grid, draw_scenes
from llada_uni.data.task_stream import TaskWriter
from llada_uni.data.unified_stream import Writer
from llada_uni.decoder.classes import ClassEmbedder
from llada_uni.decoder.config import DecoderConfig, SemanticEmbedderConfig
from llada_uni.decoder.dit import Decoder
from llada_uni.decoder.semantic import SemanticEmbedder
from llada_uni.decoder.vae import VAE
from llada_uni.diffusion.masking import MaskRatioLaw
from llada_uni.errors import ConfigError
from llada_uni.grid import TokenGrid
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.scenes.graph import SceneGraph
from llada_uni.scenes.tasks import Group, sample_group
from llada_uni.training.config import TrainConfig
from llada_uni.training.objectives.autoregressive import AutoregressiveObjectiveConfig
from llada_uni.training.objectives.class_decoder import ClassDecoderObjectiveConfig
from llada_uni.training.objectives.decoder import Conditioned, decoder_blocks
from llada_uni.training.objectives.mixture import MixtureObjectiveConfig
from llada_uni.training.objectives.picture_tokenizer import PictureTokenizerObjectiveConfig
from llada_uni.training.objectives.picture_tokenizer import _Model as PictureTokenizerModel
from llada_uni.training.objectives.tokenizer import _Model as TokenizerModel
from llada_uni.training.objectives.turbo import TurboObjectiveConfig
from llada_uni.training.objectives.turbo import _Model as TurboModel
from llada_uni.weights.parts import load_text_tokenizer

__all__ = ["Shapes", "StepCost", "meta_model", "step_cost"]

_CELL_PX = 16  # of scenes
_DOCUMENTS = 16  # drawn at each point of the run
_POINTS = (0.1, 0.5, 0.9)
_LOGIT_BYTES = 8  # float32 logits and their gradient


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What a recipe leaves to other stages: the decoder it distils, the tokenizer's patch in pixels, and the checkpoint
    with the text tokenizer."""

    decoder: DecoderConfig | None = None
    embedder: SemanticEmbedderConfig | None = None
    patch_px: int = 16
    text: Path | str = "nano"


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """One optimiser step: samples and ``tokens`` it sees, floating-point operations, and the bytes that one micro-batch
    keeps for the backward pass."""

    samples: int
    tokens: float
    flops: float
    activation_bytes: float


def meta_model(config: TrainConfig, shapes: Shapes) -> nn.Module:
    """What the objective of ``config`` trains (``Objective.model``), on the meta device.

    Raises:
        ConfigError: an objective whose networks its configuration does not tell.
    """
    objective = config.objective
    with torch.device("meta"):
        if isinstance(objective, MixtureObjectiveConfig | AutoregressiveObjectiveConfig):
            return Backbone(objective.scenes.backbone)
        if isinstance(objective, PictureTokenizerObjectiveConfig):
            free = torch.zeros(1, dtype=torch.long)  # the number of free codes is not known; each takes little
            return PictureTokenizerModel(objective, ImageTokenizer(objective.tokenizer), free)
        if isinstance(objective, TurboObjectiveConfig):
            decoder, embedder = _need(shapes)
            model = TurboModel(Decoder(decoder), SemanticEmbedder(embedder))
            model.embedder.requires_grad_(False)
            return model
        if isinstance(getattr(objective, "backbone", None), BackboneConfig):
            return Backbone(objective.backbone)
        if isinstance(objective, ClassDecoderObjectiveConfig):
            return Conditioned(Decoder(objective.decoder), ClassEmbedder(objective.embedder))
        if isinstance(getattr(objective, "decoder", None), DecoderConfig):
            return Conditioned(Decoder(objective.decoder), SemanticEmbedder(objective.embedder))
        if hasattr(objective, "reader"):
            return TokenizerModel(objective, ImageTokenizer(objective.tokenizer))
        if hasattr(objective, "vae"):
            return VAE(objective.vae)
    raise ConfigError(f"{config.name}: no plan for a {type(objective).__name__}, its networks are not known beforehand")


def step_cost(config: TrainConfig, model: nn.Module, shapes: Shapes) -> StepCost:
    """Cost of one step of ``config``, whose ``model`` is that of :func:`meta_model`, without adapters.

    Adapters and ``only`` leave out the products of frozen weights' gradients; ``recompute`` adds a forward pass.
    """
    if isinstance(config.objective, MixtureObjectiveConfig):  # a record is taken to cost what a scene does
        config = replace(config, objective=config.objective.scenes)
    measure = _MEASURES[type(model)]
    cost = measure(config, model, shapes)
    frozen = config.adapter is not None or config.only is not None
    share = ((2 if frozen else 3) + (1 if config.recompute else 0)) / 3
    many = config.accumulation
    return replace(cost, samples=cost.samples * many, tokens=cost.tokens * many, flops=cost.flops * many * share)


# --- backbone: counted -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _BlankPool:
    """A pool whose codes are zeros; only a few scenes are drawn."""

    config: PoolConfig
    per_code: int

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[SceneGraph, np.ndarray]:
        (graph,) = _scenes(self.config, index)
        return graph, _zeros(graph, self.per_code)


@dataclass(frozen=True, kw_only=True)
class _BlankTasks:
    config: TaskPoolConfig
    per_code: int

    def pick(self, task: str, source: random.Random) -> tuple[Group, list[np.ndarray]]:
        grid_h, grid_w = draw_grid(np.random.default_rng(source.randrange(2**31)), self.config.grids)
        group = sample_group(source, task, grid_h=grid_h, grid_w=grid_w)
        return group, [_zeros(graph, self.per_code) for graph in group.graphs]


@lru_cache(maxsize=256)
def _scenes(config: PoolConfig, index: int) -> tuple[SceneGraph, ...]:
    rng = np.random.default_rng([config.seed, index])
    return tuple(draw_scenes(rng, 1, draw_grid(rng, config.grids)))


def _zeros(graph: SceneGraph, per_code: int) -> np.ndarray:
    return np.zeros((graph.grid_h // per_code, graph.grid_w // per_code), dtype=np.uint16)


@dataclass(frozen=True, kw_only=True)
class _Documents:
    """Means over documents: tokens, their squares (attention), masked tokens (those asked for, of a causal model)."""

    tokens: float
    squares: float
    masked: float


def _documents(objective: Any, shapes: Shapes, count: int, *, causal: bool = False) -> _Documents:
    text = load_text_tokenizer(shapes.text)
    offset = max(objective.backbone.image_token_offset, text.num_ids)  # another tokenizer may stand in for the own one
    vocab = text.vocab(text_vocab_size=offset, num_codes=objective.backbone.vocab_size)
    writer = TaskWriter(writer=Writer(vocab=vocab, tokenizer=text, mix=objective.mix))
    per_code = max(2 * shapes.patch_px // _CELL_PX, 1)
    pool: Any = _BlankPool(config=objective.pool, per_code=per_code)
    tasks: Any = None if objective.tasks is None else _BlankTasks(config=objective.tasks, per_code=per_code)
    found = []
    for point, progress in enumerate(_POINTS):
        rng = np.random.default_rng(point)
        for document in writer.documents(rng, pool, tasks, count, progress=progress):
            if causal:
                row = lay_out_causal(document)
                found.append((len(row), len(row) ** 2, float((row.label != NOTHING).sum())))
                continue
            layout = lay_out(document, vocab.special.eos)
            image = float((layout.maskable & layout.image).sum()) * _mean_ratio(objective.image_law)
            words = float((layout.maskable & ~layout.image).sum()) * _mean_ratio(objective.text_law)
            found.append((len(layout), len(layout) ** 2, image + words))
    tokens, squares, masked = np.mean(found, axis=0)
    return _Documents(tokens=float(tokens), squares=float(squares), masked=float(masked))


def _mean_ratio(law: MaskRatioLaw) -> float:
    mean = float(law.ratio(torch.linspace(0, 1, 1001)[:-1] + 0.0005).mean())
    return law.full_share + (1 - law.full_share) * mean


def _backbone_cost(config: TrainConfig, model: nn.Module, shapes: Shapes) -> StepCost:
    causal = isinstance(config.objective, AutoregressiveObjectiveConfig)
    objective: Any = config.objective.scenes if causal else config.objective
    shape: BackboneConfig = objective.backbone
    documents = _documents(objective, shapes, _DOCUMENTS, causal=causal)
    count = config.batch_size
    heads = shape.num_attention_heads * shape.head_dim
    attention = 4 * heads * shape.num_hidden_layers * documents.squares
    head = 2 * documents.masked * shape.hidden_size * shape.vocab_size
    forward = 2 * _working_weights(model) * documents.tokens + attention + head
    inputs = documents.tokens * count * shape.hidden_size
    kept = _kept(config, documents.tokens * count * _backbone_numbers(shape), shape.num_hidden_layers, inputs)
    masked, chunk = documents.masked * count, objective.logit_chunk
    logits = (min(masked, chunk) if chunk else masked) * shape.vocab_size * _LOGIT_BYTES
    flops = count * (3 * forward + (head if chunk and not config.recompute else 0.0))
    return StepCost(samples=count, tokens=documents.tokens * count, flops=flops, activation_bytes=kept + logits)


def _working_weights(model: nn.Module) -> float:
    """Weights of matrices that one token meets, without embedding and head."""
    assert isinstance(model, Backbone)
    shape, total = model.config, 0.0
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and not name.startswith(("lm_head", "model.word_embeddings")):
            used = shape.num_experts_per_tok / shape.num_experts if ".experts." in name else 1.0
            total += parameter.numel() * used
    return total


def _backbone_numbers(shape: BackboneConfig) -> float:
    """Numbers that a token's layers keep: inputs of norms, products, rotations and gates; no attention scores."""
    width = shape.hidden_size
    heads, pairs = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    attention = 3 * width + 2 * (heads + 2 * pairs) + heads
    shared = 3 * shape.num_shared_experts * shape.moe_intermediate_size
    routed = shape.num_experts_per_tok * (2 * width + 3 * shape.moe_intermediate_size)
    dense_layers = shape.num_hidden_layers - shape.num_moe_layers
    mixed = shape.num_moe_layers * (attention + width + shared + routed)
    return mixed + dense_layers * (attention + width + 3 * shape.intermediate_size)


# --- the other networks: run on the meta device ---------------------------------------------------------------------


def _decoder_cost(config: TrainConfig, model: nn.Module, shapes: Shapes) -> StepCost:
    assert isinstance(model, Conditioned)
    objective, decoder = config.objective, model.decoder
    data, width = objective.data, decoder.config.cap_feat_dim
    units = 3.0
    if isinstance(objective, TurboObjectiveConfig):
        units += 2 + (2 if objective.teacher_guidance else 0)

    def run(grid: tuple[int, int]) -> tuple[float, float]:
        sides = tuple(2 * decoder.config.patch_size * side for side in grid)
        with torch.device("meta"):
            latents = torch.zeros(1, decoder.config.in_channels, *sides)
            features, time = torch.zeros(1, 4 * grid[0] * grid[1], width), torch.zeros(1)
        return _measured(lambda: decoder(latents, time, features))

    crop, kept = run((data.crop, data.crop))
    largest = max(((h, w) for h, w, _ in data.pool.grids), key=lambda grid: grid[0] * grid[1])
    whole, _ = run(largest)
    pictures = config.batch_size * data.crop**2 / (largest[0] * largest[1])
    flops = units * ((1 - data.full_share) * crop * config.batch_size + data.full_share * whole * pictures)
    tokens = 8.0 * data.crop**2 * config.batch_size
    kept_bytes = _kept(config, kept / 4 * config.batch_size, len(decoder_blocks(decoder)), tokens * decoder.config.dim)
    return StepCost(samples=config.batch_size, tokens=tokens, flops=flops, activation_bytes=kept_bytes)


def _vae_cost(config: TrainConfig, model: nn.Module, shapes: Shapes) -> StepCost:
    assert isinstance(model, VAE)
    side = config.objective.crop_px
    with torch.device("meta"):
        images = torch.zeros(1, 3, side, side)
    forward, kept = _measured(lambda: model.decode(model.encode(images)[0]), scores=True)
    count = config.batch_size
    pixels = float(side * side * count)
    return StepCost(
        samples=count, tokens=pixels, flops=3 * forward * count, activation_bytes=kept / 4 * _width(config) * count
    )


def _tokenizer_cost(config: TrainConfig, model: nn.Module, shapes: Shapes) -> StepCost:
    assert isinstance(model, TokenizerModel)
    objective, vision = config.objective, config.objective.tokenizer.vision_config
    grid = max(((h, w) for h, w, _ in objective.grids), key=lambda sides: sides[0] * sides[1])
    cells, count = grid[0] * grid[1], max(round(config.batch_size * 64 / (grid[0] * grid[1])), 1)
    with torch.device("meta"):
        patches = torch.zeros(cells, vision.patch_features)
        text = {
            name: torch.zeros(1, 16 * objective.questions, dtype=torch.long) for name in ("ids", "question", "place")
        }
        picture = torch.zeros(1, cells, objective.reader.width)
    seen, kept = _measured(lambda: model.tokenizer.features(patches, [TokenGrid(*grid)]))
    read, kept_read = _measured(lambda: model.reader(picture, grid, text))
    forward = seen + objective.reader_share * read
    total = (kept + objective.reader_share * kept_read) / 4 * _width(config)
    return StepCost(
        samples=count, tokens=float(cells * count), flops=3 * forward * count, activation_bytes=total * count
    )


def _picture_tokenizer_cost(config: TrainConfig, model: nn.Module, shapes: Shapes) -> StepCost:
    assert isinstance(model, PictureTokenizerModel)
    cells = 64
    with torch.device("meta"):
        patches = torch.zeros(cells, config.objective.tokenizer.vision_config.patch_features)
    seen, kept = _measured(lambda: model.tokenizer.features(patches, [TokenGrid(8, 8)]))
    count = config.batch_size
    units = 3 + config.objective.scenes_share  # scenes are also seen by the tokenizer at the start
    return StepCost(
        samples=count, tokens=float(cells * count), flops=units * seen * count,
        activation_bytes=kept / 4 * _width(config) * count,
    )  # fmt: skip


def _measured(run: Callable[[], Tensor], *, scores: bool = False) -> tuple[float, float]:
    """Operations of a forward pass on the meta device, and the bytes kept for the backward pass, in float32.

    Attention scores are left out (``scores`` = 4-dimensional things are no scores): fused kernels do not keep them.
    """
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        is_score = tensor.ndim == 4 and tensor.shape[-1] > 128
        if scores or not is_score:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        run()
    parameters = {id(tensor) for tensor in kept.values() if isinstance(tensor, nn.Parameter)}
    numbers = sum(tensor.numel() for tensor in kept.values() if id(tensor) not in parameters)
    return float(counter.get_total_flops()), 4.0 * numbers


def _kept(config: TrainConfig, numbers: float, num_blocks: int, inputs: float) -> float:
    """Bytes of the ``numbers`` that all blocks keep; with ``recompute`` their ``inputs`` and what one of them keeps."""
    return _width(config) * (num_blocks * inputs + numbers / num_blocks if config.recompute else numbers)


def _width(config: TrainConfig) -> int:
    return {"bfloat16": 2, "float32": 4, "float64": 8}[config.dtype]


def _need(shapes: Shapes) -> tuple[DecoderConfig, SemanticEmbedderConfig]:
    if shapes.decoder is None or shapes.embedder is None:
        raise ConfigError("the plan of a distillation needs the decoder's shape; give --out with a trained decoder")
    return shapes.decoder, shapes.embedder


_MEASURES: dict[type[nn.Module], Callable[[TrainConfig, nn.Module, Shapes], StepCost]] = {
    Backbone: _backbone_cost,
    Conditioned: _decoder_cost,
    TurboModel: _decoder_cost,
    TokenizerModel: _tokenizer_cost,
    PictureTokenizerModel: _picture_tokenizer_cost,
    VAE: _vae_cost,
}
