"""The embedded model, stage by stage. Every function returns one complete frozen configuration.

Times are for one core in float32 (``--set dtype=bfloat16`` is faster on processors whose bfloat16 products are, see
``llada-uni doctor``); ``all`` runs the stages in order, each building on what the earlier ones wrote. The functions
that end in ``_gpu`` are the same stages with the batches and the precision of one GPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llada_uni.backbone.config import BackboneConfig
from llada_uni.data.code_pool import PoolConfig, TaskPoolConfig
from llada_uni.data.unified_stream import MixConfig
from llada_uni.decoder.classes import ClassEmbedderConfig
from llada_uni.decoder.config import DecoderConfig, SemanticEmbedderConfig, VAEConfig
from llada_uni.image_tokenizer.config import ImageTokenizerConfig, VisionConfig, VQConfig
from llada_uni.scenes.classes import CLASS_SIZES
from llada_uni.training.config import OptimConfig, ScheduleConfig, TrainConfig
from llada_uni.training.objectives.autoregressive import AutoregressiveObjectiveConfig
from llada_uni.training.objectives.backbone import BackboneObjectiveConfig, CodePoolJob
from llada_uni.training.objectives.class_decoder import ClassDecoderObjectiveConfig
from llada_uni.training.objectives.decoder import DecoderObjectiveConfig, FlowDataConfig
from llada_uni.training.objectives.package import PackageJob
from llada_uni.training.objectives.text import TextTokenizerConfig
from llada_uni.training.objectives.tokenizer import TokenizerObjectiveConfig
from llada_uni.training.objectives.turbo import TurboObjectiveConfig
from llada_uni.training.objectives.vae import VaeObjectiveConfig
from llada_uni.weights.catalog import PackageConfig, Presets

__all__ = [
    "all",
    "autoregressive",
    "backbone",
    "backbone_gpu",
    "class_decoder",
    "codes",
    "decoder",
    "decoder_gpu",
    "package",
    "tasks",
    "tasks_gpu",
    "text",
    "tokenizer",
    "turbo",
    "turbo_gpu",
    "vae",
]

_NUM_TEXT_IDS = 1536
_NUM_CODES = 4096
_END_OF_TEXT = 1464
_PICTURE_START = 1468
_CONDITION_WIDTH = 96
_POOL = PoolConfig(num_shards=96, shard_size=512, seed=1)
_TASK_POOL = TaskPoolConfig(num_shards=48, shard_size=256, seed=2)
_FLOW = FlowDataConfig(pool=_POOL, num_shards=20)


def all() -> tuple[Any, ...]:
    """Every stage in order; a stage whose result is in the cache is not repeated."""
    return (text(), vae(), tokenizer(), codes(), backbone(), tasks(), decoder(), turbo(), package())


def text() -> TextTokenizerConfig:
    """Byte-pair text tokenizer: 1,464 text entries and 72 control strings."""
    return TextTokenizerConfig(name="nano-text")


def vae() -> TrainConfig:
    """Autoencoder, f4 with 4 latent channels."""
    shape = VAEConfig(
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        scaling_factor=1.0,
        shift_factor=0.0,
        mid_block_add_attention=False,
    )
    return TrainConfig(
        name="nano-vae",
        objective=VaeObjectiveConfig(vae=shape),
        minutes=25.0,
        batch_size=4,
        optim=OptimConfig(lr=2e-3, weight_decay=0.0, clip_norm=2.0),
        schedule=ScheduleConfig(warmup_steps=100, floor=0.01),
        ema_decay=0.998,
        log_every=50,
    )


def tokenizer() -> TrainConfig:
    """Image tokenizer: 8-pixel patches, 4,096 codes of 32 numbers, trained on understanding through a small reader.

    Thirteen parts of twenty kinds in eight colours and two styles are 4,160 things a cell can show.
    """
    shape = ImageTokenizerConfig(
        vision_config=VisionConfig(
            hidden_size=160, intermediate_size=640, depth=4, num_heads=5, patch_size=8, image_size=64
        ),
        vq_config=VQConfig(num_embeddings=_NUM_CODES, embed_dim=32, latent_channels=160),
    )
    return TrainConfig(
        name="nano-tokenizer",
        objective=TokenizerObjectiveConfig(tokenizer=shape),
        minutes=30.0,
        batch_size=48,
        optim=OptimConfig(lr=1.5e-3, weight_decay=0.05),
        schedule=ScheduleConfig(warmup_steps=100, floor=0.02),
        ema_decay=0.0,
    )


def codes() -> CodePoolJob:
    """Codes of the pools' scenes, extracted once."""
    return CodePoolJob(name="nano-codes", pool=_POOL, tasks=_TASK_POOL)


def backbone() -> TrainConfig:
    """Block-diffusion mixture-of-experts model, on pictures from words and questions about one picture.

    Width 256, six layers, eight experts of which two work. Windows come first, then pictures as one block, then blocks;
    the rate stays up, because ``tasks`` goes on from here.
    """
    shape = BackboneConfig(
        vocab_size=_NUM_TEXT_IDS + _NUM_CODES,
        image_token_offset=_NUM_TEXT_IDS,
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=640,
        num_experts=8,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=2,
        num_shared_experts=1,
        moe_intermediate_size=112,
        rope_theta=100.0,
        partial_rotary_factor=1.0,
        max_position_embeddings=1024,
        picture_alignment=128,
        picture_start_id=_PICTURE_START,
        pad_token_id=_END_OF_TEXT,
        eos_token_id=_END_OF_TEXT,
    )
    return TrainConfig(
        name="nano-backbone",
        objective=BackboneObjectiveConfig(
            backbone=shape,
            pool=_POOL,
            mix=MixConfig(image_share=0.7, questions=3, windows_until=0.2, whole_until=0.85, region_share=0.4),
            embedding_rms=0.4,
            head_rms=0.12,
            balance_rate=3e-3,
            capacity=320,
            num_buckets=8,
        ),
        minutes=60.0,
        batch_size=48,
        optim=OptimConfig(kind="muon", lr=8e-3, table_lr=0.04, weight_decay=0.05),
        schedule=ScheduleConfig(warmup_steps=40, floor=0.3),
        ema_decay=0.995,
    )


def autoregressive() -> TrainConfig:
    """A baseline: the backbone's network, start, documents and optimiser, but causal and trained on the next id.

    Written to ``autoregressive/`` of the checkpoint directory; ``benchmarks/baselines.py`` compares it.
    """
    base = backbone()
    return replace(base, name="nano-autoregressive", objective=AutoregressiveObjectiveConfig(scenes=base.objective))


def tasks() -> TrainConfig:
    """The trained backbone on the whole mix: also thoughts, riddles, edits, stories, comparisons and facts."""
    base = backbone()
    mix = MixConfig(
        image_share=0.7,
        questions=3,
        whole_until=0.4,
        region_share=0.4,
        thinking_share=0.05,
        riddle_share=0.02,
        thinking_riddle_share=0.03,
        edit_share=0.22,
        story_share=0.12,
        comparison_share=0.04,
        fact_share=0.01,
    )
    return replace(
        base,
        name="nano-tasks",
        objective=replace(base.objective, mix=mix, tasks=_TASK_POOL, warm="out"),
        minutes=60.0,
        optim=replace(base.optim, lr=4e-3, table_lr=0.08),
        schedule=ScheduleConfig(warmup_steps=20, floor=0.02),
    )


def decoder() -> TrainConfig:
    """Flow-matching decoder: width 160, four joint layers, condition and image on one grid of 2 x 2 tokens per code."""
    shape = DecoderConfig(
        in_channels=4,
        dim=160,
        n_layers=4,
        n_refiner_layers=1,
        n_heads=5,
        cap_feat_dim=_CONDITION_WIDTH,
        axes_dims=(8, 12, 12),
        axes_lens=(1024, 64, 64),
        condition_positions="grid",
        absolute_positions=24,
        time_hidden_dim=256,
    )
    embedder = SemanticEmbedderConfig(num_codes=_NUM_CODES, width=_CONDITION_WIDTH)
    return TrainConfig(
        name="nano-decoder",
        objective=DecoderObjectiveConfig(decoder=shape, embedder=embedder, data=_FLOW),
        minutes=70.0,
        batch_size=24,
        optim=OptimConfig(kind="muon", lr=1.2e-3, weight_decay=0.01),
        schedule=ScheduleConfig(warmup_steps=60, floor=0.03),
        ema_decay=0.999,
    )


def class_decoder() -> TrainConfig:
    """A baseline: the decoder's network and pictures, but conditioned on the true classes of every cell, not on codes.

    Written to ``class-decoder/`` of the checkpoint directory; ``benchmarks/baselines.py`` compares it.
    """
    base = decoder()
    embedder = ClassEmbedderConfig(sizes=CLASS_SIZES, width=_CONDITION_WIDTH)
    objective = ClassDecoderObjectiveConfig(decoder=base.objective.decoder, embedder=embedder, data=_FLOW)
    return replace(base, name="nano-class-decoder", objective=objective)


def turbo() -> TrainConfig:
    """Eight-step decoder, distilled from the trained one."""
    return TrainConfig(
        name="nano-turbo",
        objective=TurboObjectiveConfig(data=_FLOW),
        minutes=18.0,
        batch_size=24,
        optim=OptimConfig(kind="muon", lr=6e-4, weight_decay=0.0),
        schedule=ScheduleConfig(warmup_steps=30, floor=0.05),
        ema_decay=0.995,
    )


def package() -> PackageJob:
    """Grids and recommended sampling values."""
    presets = Presets(
        decoder="turbo",
        block_length=32,
        region_block_length=64,
        steps_per_block=32,
        edit_steps_per_block=32,
        text_steps_per_block=32,
        guidance_scale=1.8,
        guidance_text=1.5,
        guidance_image=0.0,
        story_guidance_text=1.5,
        story_guidance_image=0.0,
        image_temperature=0.5,
        image_threshold=1.0,
        image_order="random",
        text_order="sequential",
        image_tail=True,
        num_steps=20,
        time_shift=1.0,
        decoder_guidance=1.0,
        max_new_tokens=64,
    )
    grids = ((8, 8), (8, 12), (12, 8))
    return PackageJob(name="nano-package", package=PackageConfig(trained_grids=grids, presets=presets))


def backbone_gpu() -> TrainConfig:
    """The backbone on one GPU in five minutes, from scratch, with four times the pool."""
    config = _on_gpu(backbone(), batch_size=384, minutes=5.0)
    return replace(config, objective=replace(config.objective, pool=replace(_POOL, num_shards=384)))


def tasks_gpu() -> TrainConfig:
    """The whole mix on one GPU in six minutes."""
    config = _on_gpu(tasks(), batch_size=384, minutes=6.0)
    return replace(config, objective=replace(config.objective, pool=replace(_POOL, num_shards=384)))


def decoder_gpu() -> TrainConfig:
    """The decoder on one GPU in six minutes, from the shipped weights."""
    config = _on_gpu(decoder(), batch_size=384, minutes=6.0)
    return replace(config, objective=replace(config.objective, warm="nano"))


def turbo_gpu() -> TrainConfig:
    """The distillation on one GPU in three minutes."""
    return _on_gpu(turbo(), batch_size=256, minutes=3.0)


def _on_gpu(config: TrainConfig, *, batch_size: int, minutes: float) -> TrainConfig:
    return replace(
        config, batch_size=batch_size, minutes=minutes, device="cuda", dtype="bfloat16", threads=8, prefetch=8
    )
