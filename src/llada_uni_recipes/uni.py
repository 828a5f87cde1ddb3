"""The full-size backbone (16.3 billion parameters): the paper's three stages, and fine-tuning of the released weights.

None of these has been run: there was no machine for it. Shapes, token counts, rates and mixtures are the paper's where
it states them and the public practice of its neighbours where it does not. The data are scenes of the micro-world at
the paper's picture sizes, because they need no download; they stand in for your own. Decoder and image tokenizer stay
the released ones.

Start from a directory (``--out``) with the image tokenizer and a text tokenizer: for the stages that of
``llada-uni expand``, for fine-tuning a copy of the released checkpoint. A batch is a number of documents; a document
with a picture of 32 x 32 codes has about 1,150 clean tokens and 1,050 noisy ones. ``full_8`` and ``full_64`` divide the
weights among GPUs. A stage run by itself does with ``--set parallel.shard=8 --set recompute=true --set
objective.logit_chunk=1024``, except the first, which trains rows of whole tables. ``--plan`` shows what fits.
"""

from __future__ import annotations

from dataclasses import replace

from llada_uni.backbone.config import BackboneConfig
from llada_uni.data.code_pool import PoolConfig, TaskPoolConfig
from llada_uni.data.unified_stream import MixConfig
from llada_uni.diffusion.masking import TEXT_LAW
from llada_uni.layers.adapters import AdapterConfig
from llada_uni.training.config import OptimConfig, ParallelConfig, ScheduleConfig, TrainConfig
from llada_uni.training.objectives.backbone import BackboneObjectiveConfig, CodePoolJob

__all__ = [
    "codes",
    "full_8",
    "full_64",
    "lora",
    "qlora",
    "s0_256",
    "s0_512",
    "s0_rows",
    "s1",
    "s2_8k",
    "s2_16k",
    "stages",
]

# Scenes have cells of 16 pixels; the released tokenizer reads 16-pixel patches at half size: two cells a code and side.
_GRIDS_256 = ((32, 32, 1.0),)
_GRIDS_512 = ((64, 64, 0.6), (48, 80, 0.2), (80, 48, 0.2))
_POOL_256 = PoolConfig(num_shards=64, shard_size=256, seed=1, grids=_GRIDS_256)
_POOL_512 = PoolConfig(num_shards=64, shard_size=256, seed=2, grids=_GRIDS_512)
_TASKS_512 = TaskPoolConfig(num_shards=32, shard_size=128, seed=3, grids=_GRIDS_512)
_ADAMW = OptimConfig(lr=1e-4, weight_decay=0.1, clip_norm=1.0)
_S0_MIX = MixConfig(image_share=0.65, questions=1, fact_share=0.15, block_lengths=((32, 1.0),))
_S1_MIX = replace(_S0_MIX, image_share=0.55, questions=3, edit_share=0.12, story_share=0.05, fact_share=0.1)
_S2_MIX = replace(
    _S1_MIX,
    image_share=0.5,
    questions=4,
    complementary=True,
    thinking_share=0.1,
    comparison_share=0.05,
    fact_share=0.05,
)


def stages() -> tuple[TrainConfig, ...]:
    """S0, S1 and S2 in order, each continuing the weights in ``--out``."""
    return (s0_rows(), s0_256(), s0_512(), s1(), s2_8k(), s2_16k())


def codes() -> CodePoolJob:
    """Codes of the scenes of S1 and S2, extracted once, on the CPU (other stages extract theirs when they start)."""
    return CodePoolJob(name="uni-codes", pool=_POOL_512, tasks=_TASKS_512)


def s0_rows() -> TrainConfig:
    """S0, first 2,000 steps: only the new rows of embedding and head, on pictures of 256 x 256."""
    config = _stage("uni-s0-rows", _POOL_256, _S0_MIX, steps=2000, documents=(32, 384))
    optim = replace(_ADAMW, lr=2e-4, weight_decay=0.0)
    return replace(config, only="image_rows", optim=optim, schedule=ScheduleConfig(warmup_steps=200, decay="constant"))


def s0_256() -> TrainConfig:
    """S0, alignment at 256 x 256 (about 256 codes): captions, pictures from words, text. New rows at twice the rate."""
    config = _stage("uni-s0-256", _POOL_256, _S0_MIX, steps=10000, documents=(32, 384))
    schedule = ScheduleConfig(warmup_steps=2000, decay="constant")
    return replace(config, optim=replace(_ADAMW, table_lr=2.0), schedule=schedule)


def s0_512() -> TrainConfig:
    """S0, alignment at 512 x 512 (about 1,024 codes)."""
    config = _stage("uni-s0-512", _POOL_512, _S0_MIX, steps=12000, documents=(8, 456))
    schedule = ScheduleConfig(warmup_steps=500, decay="constant")
    return replace(config, optim=replace(_ADAMW, table_lr=2.0), schedule=schedule)


def s1() -> TrainConfig:
    """S1, multi-task pre-training: also edits, stories and questions; constant rate, then linear to 3e-5."""
    config = _stage("uni-s1", _POOL_512, _S1_MIX, steps=50000, documents=(8, 456))
    schedule = ScheduleConfig(warmup_steps=500, decay="linear", constant_share=0.85, floor=0.3)
    return replace(config, objective=replace(config.objective, tasks=_TASKS_512), schedule=schedule)


def s2_8k() -> TrainConfig:
    """S2, fine-tuning with rows of 8,192 tokens: losses weighted per sample, two complementary views, low rate."""
    return _fine_tuning("uni-s2-8k", capacity=8192, steps=6600, documents=(4, 1824))


def s2_16k() -> TrainConfig:
    """S2, the last third with rows of 16,384 tokens and more stories and thoughts."""
    config = _fine_tuning("uni-s2-16k", capacity=16384, steps=2900, documents=(6, 1216))
    mix = replace(config.objective.mix, story_share=0.15, thinking_share=0.15)
    shape = replace(config.objective.backbone, max_position_embeddings=16384)
    objective = replace(config.objective, mix=mix, backbone=shape)
    return replace(config, objective=objective, schedule=ScheduleConfig(warmup_steps=30, floor=0.1))


def lora() -> TrainConfig:
    """Adapters of attention, dense layer and shared experts on the released weights in bfloat16: one 80 GB GPU."""
    config = _stage("uni-lora", _POOL_512, _S1_MIX, steps=2000, documents=(2, 16))
    objective = replace(config.objective, tasks=_TASKS_512, mtrs=True, capacity=4096)
    return replace(
        config,
        objective=objective,
        adapter=AdapterConfig(rank=16, alpha=32.0, base_dtype="bfloat16"),
        optim=OptimConfig(lr=2e-4, weight_decay=0.0),
        schedule=ScheduleConfig(warmup_steps=50, floor=0.1),
        ema_decay=0.0,
        log_every=5,
    )


def qlora() -> TrainConfig:
    """The same with frozen linear layers and experts kept as 4-bit integers: half of the memory for weights or less."""
    config = lora()
    assert config.adapter is not None
    return replace(config, name="uni-qlora", adapter=replace(config.adapter, base_dtype="int4"))


def full_8() -> TrainConfig:
    """All weights of the released model on 8 GPUs of 80 GB or more, which hold one copy of its state together."""
    return _divided(_fine_tuning("uni-full-8", capacity=8192, steps=3000, documents=(2, 128)), ParallelConfig(shard=8))


def full_64() -> TrainConfig:
    """All weights on 64 GPUs, 8 of which hold one copy, in steps of eight times the size."""
    config = _fine_tuning("uni-full-64", capacity=8192, steps=3000, documents=(4, 512))
    return _divided(config, ParallelConfig(data=8, shard=8))


def _divided(config: TrainConfig, parallel: ParallelConfig) -> TrainConfig:
    """Cut among GPUs, with blocks computed again in the backward pass and logits in chunks."""
    objective = replace(config.objective, logit_chunk=1024)
    return replace(config, objective=objective, parallel=parallel, recompute=True)


def _fine_tuning(name: str, *, capacity: int, steps: int, documents: tuple[int, int]) -> TrainConfig:
    config = _stage(name, _POOL_512, replace(_S2_MIX, story_share=0.05), steps=steps, documents=documents)
    objective = replace(config.objective, tasks=_TASKS_512, capacity=capacity, mtrs=True, balance_rate=1e-4)
    schedule = ScheduleConfig(warmup_steps=max(steps // 100, 1), floor=0.1)
    return replace(config, objective=objective, optim=replace(_ADAMW, lr=1e-5), schedule=schedule)


def _stage(name: str, pool: PoolConfig, mix: MixConfig, *, steps: int, documents: tuple[int, int]) -> TrainConfig:
    """Settings that the stages share; ``documents``: in one micro-batch, and micro-batches in a step."""
    objective = BackboneObjectiveConfig(
        backbone=BackboneConfig(),
        pool=pool,
        mix=mix,
        text_law=TEXT_LAW,
        capacity=8192,
        num_buckets=1,
        fill_weight=1.0,
        mtrs=False,
        meaning_shards=0,
        quiet_outputs=False,
        max_shard_bytes=5 * 2**30,
        warm="out",
    )
    return TrainConfig(
        name=name,
        objective=objective,
        steps=steps,
        batch_size=documents[0],
        accumulation=documents[1],
        optim=_ADAMW,
        ema_decay=0.0,
        log_every=10,
        checkpoint_seconds=1800.0,
        device="cuda",
        dtype="bfloat16",
        threads=8,
        prefetch=4,
    )
