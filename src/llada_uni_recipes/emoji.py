"""Real pictures on top of nano: emoji in three styles, fetched when the recipe runs, beside the scenes nano knows.

``all`` goes on from the embedded checkpoint stage by stage: its tokenizer gives unused codes to the new pictures, the
autoencoder, the backbone and both decoders learn a mixture of scenes and emoji, so that nothing is forgotten. Needs npm
for the pictures and ``pip install 'llada-uni[emoji]'`` for drawing those that are SVG. Times are for one core in
float32, four and a half hours in all, which ``--minutes`` scales; ``all_gpu`` has the batches and the precision of one
GPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llada_uni.data.token_loader import PoseRules
from llada_uni.training.config import OptimConfig, ScheduleConfig, TrainConfig
from llada_uni.training.objectives.backbone import CodePoolJob
from llada_uni.training.objectives.decoder import FlowDataConfig
from llada_uni.training.objectives.material import EmojiJob, StartJob, TokensJob
from llada_uni.training.objectives.mixture import MixtureObjectiveConfig
from llada_uni.training.objectives.package import PackageJob
from llada_uni.training.objectives.picture_tokenizer import PictureTokenizerObjectiveConfig
from llada_uni.training.objectives.records import RecordsObjectiveConfig
from llada_uni_recipes import nano

__all__ = [
    "all",
    "all_gpu",
    "backbone",
    "backbone_gpu",
    "codes",
    "data",
    "decoder",
    "decoder_gpu",
    "package",
    "start",
    "tokenizer",
    "tokenizer_gpu",
    "tokens",
    "turbo",
    "turbo_gpu",
    "vae",
    "vae_gpu",
]

_SEEN, _UNSEEN = "cache:emoji/train", "cache:emoji/held_out"
_SEEN_TOKENS, _UNSEEN_TOKENS = "cache:emoji/train-tokens", "cache:emoji/held-out-tokens"
_TASKS = nano.tasks().objective
_POOL = replace(_TASKS.pool, num_shards=32)
_TASK_POOL = replace(_TASKS.tasks, num_shards=16)
_FLOW = FlowDataConfig(pool=_POOL, num_shards=10, pictures=_SEEN, held_out=_UNSEEN, pictures_share=0.6)


def all() -> tuple[Any, ...]:
    """Every stage in order; a stage whose result is in the cache is not repeated."""
    return (
        start(), data(), vae(), tokenizer(), codes(), tokens(), decoder(), backbone(), turbo(), package(),
    )  # fmt: skip


def all_gpu() -> tuple[Any, ...]:
    """The same with the trainings on one GPU."""
    return (
        start(), data(), vae_gpu(), tokenizer_gpu(), codes(), tokens(), decoder_gpu(), backbone_gpu(), turbo_gpu(),
        package(),
    )  # fmt: skip


def start() -> StartJob:
    """A copy of nano to work on."""
    return StartJob(name="emoji-start")


def data() -> EmojiJob:
    """Smileys, animals, food, travel, activities and objects in three styles; a tenth of the concepts is kept out."""
    return EmojiJob(name="emoji-data")


def vae() -> TrainConfig:
    """The autoencoder goes on with half of its pictures emoji."""
    base = nano.vae()
    objective = replace(base.objective, warm="nano", pictures=_SEEN, held_out=_UNSEEN)
    return replace(base, name="emoji-vae", objective=objective, minutes=15.0, optim=replace(base.optim, lr=1e-3))


def tokenizer() -> TrainConfig:
    """Codes that no scene uses learn what the cells of emoji look like; scenes keep theirs."""
    shape = nano.tokenizer().objective.tokenizer
    return TrainConfig(
        name="emoji-tokenizer",
        objective=PictureTokenizerObjectiveConfig(tokenizer=shape, pictures=_SEEN, held_out=_UNSEEN),
        minutes=15.0,
        batch_size=24,
        optim=OptimConfig(lr=1e-3, weight_decay=0.01),
        schedule=ScheduleConfig(warmup_steps=20, floor=0.03),
        ema_decay=0.0,
    )


def codes() -> CodePoolJob:
    """Codes of the pools' scenes by the new tokenizer."""
    return CodePoolJob(name="emoji-codes", pool=_POOL, tasks=_TASK_POOL)


def tokens() -> TokensJob:
    """Ids of all samples of emoji."""
    return TokensJob(name="emoji-tokens", folders=((_SEEN, _SEEN_TOKENS), (_UNSEEN, _UNSEEN_TOKENS)))


def backbone() -> TrainConfig:
    """The backbone goes on with two thirds of its samples emoji and one third nano's whole mix."""
    base = nano.tasks()
    scenes = replace(
        _TASKS, pool=_POOL, tasks=_TASK_POOL, warm="nano", meaning_shards=0, mix=replace(_TASKS.mix, whole_until=0.3)
    )
    records = RecordsObjectiveConfig(
        data=_SEEN_TOKENS, pose=PoseRules(block_lengths=((32, 0.7), (64, 0.3))), capacity=320, num_buckets=6
    )
    return replace(
        base,
        name="emoji-backbone",
        objective=MixtureObjectiveConfig(scenes=scenes, records=records, held_out=_UNSEEN_TOKENS, records_share=0.65),
        minutes=150.0,
        schedule=ScheduleConfig(warmup_steps=20, floor=0.03),
    )


def decoder() -> TrainConfig:
    """The decoder goes on with emoji and scenes from the new codes."""
    base = nano.decoder()
    return replace(
        base,
        name="emoji-decoder",
        objective=replace(base.objective, data=_FLOW, warm="nano", renew=True),
        minutes=70.0,
        schedule=ScheduleConfig(warmup_steps=40, floor=0.03),
    )


def turbo() -> TrainConfig:
    """Eight-step decoder, distilled from the new one."""
    base = nano.turbo()
    return replace(base, name="emoji-turbo", objective=replace(base.objective, data=_FLOW), minutes=25.0)


def package() -> PackageJob:
    """Grids and recommended sampling values: nano's."""
    return replace(nano.package(), name="emoji-package")


def vae_gpu() -> TrainConfig:
    """The autoencoder on one GPU."""
    return nano._on_gpu(vae(), batch_size=32, minutes=2.0)


def tokenizer_gpu() -> TrainConfig:
    """The image tokenizer on one GPU."""
    return nano._on_gpu(tokenizer(), batch_size=192, minutes=2.0)


def backbone_gpu() -> TrainConfig:
    """The backbone on one GPU."""
    return nano._on_gpu(backbone(), batch_size=384, minutes=10.0)


def decoder_gpu() -> TrainConfig:
    """The decoder on one GPU."""
    return nano._on_gpu(decoder(), batch_size=384, minutes=6.0)


def turbo_gpu() -> TrainConfig:
    """The distillation on one GPU."""
    return nano._on_gpu(turbo(), batch_size=256, minutes=3.0)
