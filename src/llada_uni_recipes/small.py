"""A model of about 210 million parameters for one GPU and a few hours: pictures of 256 x 256 in 16 x 16 codes.

The same stages, world and code path as nano, ten times the size. The numbers come from a design, not from a run: nobody
has trained this yet, so take the minutes as budgets and the rates as starting points. Pictures are drawn, and the pools
of codes and latents extracted, on the CPU: expect an hour or two of 8 cores before the backbone starts.
``llada-uni train recipes.small:backbone --plan`` shows sizes and cost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llada_uni.backbone.config import BackboneConfig
from llada_uni.data.code_pool import PoolConfig, TaskPoolConfig
from llada_uni.data.unified_stream import MixConfig
from llada_uni.decoder.config import DecoderConfig, SemanticEmbedderConfig, VAEConfig
from llada_uni.image_tokenizer.config import ImageTokenizerConfig, VisionConfig, VQConfig
from llada_uni.training.config import OptimConfig, ScheduleConfig, TrainConfig
from llada_uni.training.objectives.backbone import BackboneObjectiveConfig, CodePoolJob
from llada_uni.training.objectives.decoder import DecoderObjectiveConfig, FlowDataConfig
from llada_uni.training.objectives.package import PackageJob
from llada_uni.training.objectives.reader import ReaderConfig
from llada_uni.training.objectives.text import TextTokenizerConfig
from llada_uni.training.objectives.tokenizer import TokenizerObjectiveConfig
from llada_uni.training.objectives.turbo import TurboObjectiveConfig
from llada_uni.training.objectives.vae import VaeObjectiveConfig
from llada_uni.weights.catalog import PackageConfig, Presets

__all__ = ["all", "backbone", "codes", "decoder", "package", "tasks", "text", "tokenizer", "turbo", "vae"]

_NUM_TEXT_IDS = 1536
_NUM_CODES = 4096
_END_OF_TEXT = 1464
_PICTURE_START = 1468
_CONDITION_WIDTH = 256
_GRIDS = ((16, 16, 0.6), (12, 16, 0.2), (16, 12, 0.2))
_POOL = PoolConfig(num_shards=96, shard_size=512, seed=1, grids=_GRIDS)
_TASK_POOL = TaskPoolConfig(num_shards=48, shard_size=256, seed=2, grids=_GRIDS)
_FLOW = FlowDataConfig(pool=_POOL, num_shards=24, crop=8)


def all() -> tuple[Any, ...]:
    """Every stage in order; a stage whose result is in the cache is not repeated."""
    return (text(), vae(), tokenizer(), codes(), backbone(), tasks(), decoder(), turbo(), package())


def text() -> TextTokenizerConfig:
    """Byte-pair text tokenizer: the same 1,464 entries and 72 control strings as nano's."""
    return TextTokenizerConfig(name="small-text")


def vae() -> TrainConfig:
    """Autoencoder, f4 with 8 latent channels."""
    shape = VAEConfig(
        block_out_channels=(64, 64, 128),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=16,
        scaling_factor=1.0,
        shift_factor=0.0,
        mid_block_add_attention=False,
    )
    config = TrainConfig(
        name="small-vae",
        objective=VaeObjectiveConfig(vae=shape, crop_px=128, grids=_GRIDS),
        minutes=20.0,
        batch_size=32,
        optim=OptimConfig(lr=1e-3, weight_decay=0.0, clip_norm=2.0),
        schedule=ScheduleConfig(warmup_steps=200, floor=0.01),
    )
    return _on_gpu(config)


def tokenizer() -> TrainConfig:
    """Image tokenizer: 8-pixel patches of 128 x 128 pictures, 4,096 codes of 256 numbers, a reader of six layers."""
    shape = ImageTokenizerConfig(
        vision_config=VisionConfig(
            hidden_size=384, intermediate_size=1536, depth=8, num_heads=6, patch_size=8, image_size=128
        ),
        vq_config=VQConfig(num_embeddings=_NUM_CODES, embed_dim=256, latent_channels=384),
    )
    reader = ReaderConfig(width=384, depth=6, heads=6, text_vocab_size=_NUM_TEXT_IDS)
    config = TrainConfig(
        name="small-tokenizer",
        objective=TokenizerObjectiveConfig(tokenizer=shape, reader=reader, grids=_GRIDS),
        minutes=40.0,
        batch_size=256,
        optim=OptimConfig(lr=1e-3, weight_decay=0.05),
        schedule=ScheduleConfig(warmup_steps=200, floor=0.02),
        ema_decay=0.0,
    )
    return _on_gpu(config)


def codes() -> CodePoolJob:
    """Codes of the pools' scenes, extracted once, on the CPU."""
    return CodePoolJob(name="small-codes", pool=_POOL, tasks=_TASK_POOL)


def backbone() -> TrainConfig:
    """Block-diffusion mixture-of-experts model: width 512, ten layers, 32 experts of which four work."""
    shape = BackboneConfig(
        vocab_size=_NUM_TEXT_IDS + _NUM_CODES,
        image_token_offset=_NUM_TEXT_IDS,
        hidden_size=512,
        num_hidden_layers=10,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=1536,
        num_experts=32,
        num_experts_per_tok=4,
        n_group=4,
        topk_group=2,
        num_shared_experts=1,
        moe_intermediate_size=256,
        rope_theta=1000.0,
        partial_rotary_factor=1.0,
        max_position_embeddings=4096,
        picture_alignment=512,
        picture_start_id=_PICTURE_START,
        pad_token_id=_END_OF_TEXT,
        eos_token_id=_END_OF_TEXT,
    )
    config = TrainConfig(
        name="small-backbone",
        objective=BackboneObjectiveConfig(
            backbone=shape,
            pool=_POOL,
            mix=MixConfig(image_share=0.65, questions=4, windows_until=0.2, whole_until=0.6),
            capacity=2048,
            num_buckets=2,
            embedding_rms=0.4,
            head_rms=0.12,
        ),
        minutes=75.0,
        batch_size=192,
        optim=OptimConfig(kind="muon", lr=4e-3, table_lr=0.04, weight_decay=0.05),
        schedule=ScheduleConfig(warmup_steps=200, floor=0.1),
        ema_decay=0.998,
    )
    return _on_gpu(config)


def tasks() -> TrainConfig:
    """The trained backbone on the whole mix; pictures and answers in two complementary views."""
    base = backbone()
    mix = MixConfig(
        image_share=0.6,
        questions=4,
        complementary=True,
        thinking_share=0.05,
        riddle_share=0.03,
        thinking_riddle_share=0.04,
        edit_share=0.08,
        story_share=0.04,
        comparison_share=0.04,
        fact_share=0.02,
    )
    return replace(
        base,
        name="small-tasks",
        objective=replace(base.objective, mix=mix, tasks=_TASK_POOL, warm="out"),
        minutes=60.0,
        optim=replace(base.optim, lr=2e-3, table_lr=0.08),
        schedule=ScheduleConfig(warmup_steps=100, floor=0.02),
    )


def decoder() -> TrainConfig:
    """Flow-matching decoder: width 384, eight joint layers and two refiners each side; 1,024 + 1,024 tokens."""
    shape = DecoderConfig(
        in_channels=8,
        dim=384,
        n_layers=8,
        n_refiner_layers=2,
        n_heads=6,
        cap_feat_dim=_CONDITION_WIDTH,
        axes_dims=(16, 24, 24),
        axes_lens=(2048, 64, 64),
        condition_positions="grid",
        absolute_positions=32,
        time_hidden_dim=512,
    )
    embedder = SemanticEmbedderConfig(num_codes=_NUM_CODES, width=_CONDITION_WIDTH)
    config = TrainConfig(
        name="small-decoder",
        objective=DecoderObjectiveConfig(decoder=shape, embedder=embedder, data=_FLOW),
        minutes=60.0,
        batch_size=128,
        optim=OptimConfig(kind="muon", lr=8e-4, weight_decay=0.01),
        schedule=ScheduleConfig(warmup_steps=200, floor=0.03),
        ema_decay=0.9995,
    )
    return _on_gpu(config)


def turbo() -> TrainConfig:
    """Eight-step decoder, distilled from the trained one."""
    config = TrainConfig(
        name="small-turbo",
        objective=TurboObjectiveConfig(data=_FLOW),
        minutes=25.0,
        batch_size=96,
        optim=OptimConfig(kind="muon", lr=4e-4, weight_decay=0.0),
        schedule=ScheduleConfig(warmup_steps=100, floor=0.05),
        ema_decay=0.995,
    )
    return _on_gpu(config)


def package() -> PackageJob:
    """Grids and sampling values to start from; the values are nano's, not measured at this size."""
    presets = Presets(
        decoder="turbo",
        block_length=32,
        region_block_length=64,
        steps_per_block=16,
        text_steps_per_block=32,
        guidance_scale=1.4,
        image_temperature=0.85,
        image_threshold=1.0,
        image_order="random",
        text_order="sequential",
        image_tail=True,
        num_steps=20,
        time_shift=1.0,
        decoder_guidance=1.0,
        max_new_tokens=128,
    )
    grids = tuple((height, width) for height, width, _ in _GRIDS)
    return PackageJob(name="small-package", package=PackageConfig(trained_grids=grids, presets=presets))


def _on_gpu(config: TrainConfig) -> TrainConfig:
    return replace(config, device="cuda", dtype="bfloat16", threads=8, prefetch=8, log_every=50)
