"""Tiny networks that fit the scenes, and one tiny training of every stage."""

from __future__ import annotations

from llada_uni.backbone.config import BackboneConfig
from llada_uni.data.code_pool import PoolConfig
from llada_uni.decoder.config import DecoderConfig, SemanticEmbedderConfig, VAEConfig
from llada_uni.image_tokenizer.config import ImageTokenizerConfig, VisionConfig, VQConfig
from llada_uni.training.config import OptimConfig, ScheduleConfig, TrainConfig
from llada_uni.training.objectives.backbone import BackboneObjectiveConfig
from llada_uni.training.objectives.decoder import DecoderObjectiveConfig, FlowDataConfig
from llada_uni.training.objectives.reader import ReaderConfig
from llada_uni.training.objectives.tokenizer import TokenizerObjectiveConfig
from llada_uni.training.objectives.turbo import TurboObjectiveConfig
from llada_uni.training.objectives.vae import VaeObjectiveConfig

NUM_CODES = 24
NUM_TEXT = 392
SQUARE = ((8, 8, 1.0),)
POOL = PoolConfig(num_shards=2, shard_size=6, seed=3, grids=SQUARE)
TOKENIZER = ImageTokenizerConfig(
    vision_config=VisionConfig(hidden_size=16, intermediate_size=16, depth=1, num_heads=2, patch_size=8, image_size=64),
    vq_config=VQConfig(num_embeddings=NUM_CODES, embed_dim=8, latent_channels=16),
)
AUTOENCODER = VAEConfig(
    block_out_channels=(4, 4, 8), layers_per_block=1, latent_channels=2, norm_num_groups=2,
    scaling_factor=1.0, shift_factor=0.0, mid_block_add_attention=False,
)  # fmt: skip
DECODER = DecoderConfig(
    in_channels=2, dim=16, n_layers=1, n_refiner_layers=1, n_heads=1, cap_feat_dim=8, axes_dims=(4, 6, 6),
    axes_lens=(512, 64, 64), condition_positions="grid", absolute_positions=24, time_hidden_dim=16,
)  # fmt: skip
BACKBONE = BackboneConfig(
    vocab_size=NUM_TEXT + NUM_CODES, image_token_offset=NUM_TEXT, hidden_size=16, num_hidden_layers=3,
    num_attention_heads=2, num_key_value_heads=1, head_dim=8, intermediate_size=16, num_experts=4,
    num_experts_per_tok=2, n_group=2, topk_group=2, moe_intermediate_size=8, rope_theta=10000.0,
    max_position_embeddings=2048, pad_token_id=None,
)  # fmt: skip
FLOW = FlowDataConfig(pool=POOL, num_shards=1)
OBJECTIVES = {
    "vae": VaeObjectiveConfig(vae=AUTOENCODER, crop_px=32, full_share=0.4, grids=SQUARE, eval_pictures=16),
    "tokenizer": TokenizerObjectiveConfig(
        tokenizer=TOKENIZER, reader=ReaderConfig(width=16, depth=1, heads=2, text_vocab_size=NUM_TEXT),
        continuous_share=0.3, merge_share=0.8, init_batches=1, idle_limit=1, grids=SQUARE, eval_pictures=32,
    ),
    "backbone": BackboneObjectiveConfig(backbone=BACKBONE, pool=POOL, eval_documents=16),
    "decoder": DecoderObjectiveConfig(
        decoder=DECODER, embedder=SemanticEmbedderConfig(num_codes=NUM_CODES, width=8), data=FLOW,
        eval_pictures=2, eval_steps=2,
    ),
    "turbo": TurboObjectiveConfig(data=FLOW, eval_pictures=2, num_steps=2, teacher_guidance=0.5),
}  # fmt: skip


def tiny_config(stage: str, **changes: object) -> TrainConfig:
    """Six steps of a stage with two samples each."""
    values: dict = {
        "name": f"tiny-{stage}",
        "objective": OBJECTIVES[stage],
        "steps": 6,
        "batch_size": 2,
        "optim": OptimConfig(lr=1e-2),
        "schedule": ScheduleConfig(warmup_steps=2),
        "ema_decay": 0.9,
        "log_every": 2,
        "prefetch": 1,
    }
    return TrainConfig(**(values | changes))
