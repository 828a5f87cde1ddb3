"""Somebody's own data: a checkpoint learns from records that ``llada-uni data`` imported and extracted.

``--set objective.data=DIR`` names them, ``--set objective.warm=NAME`` the checkpoint to start from.
"""

from __future__ import annotations

from llada_uni.data.token_loader import PoseRules
from llada_uni.training.config import OptimConfig, ScheduleConfig, TrainConfig
from llada_uni.training.objectives.records import RecordsObjectiveConfig

__all__ = ["backbone"]


def backbone() -> TrainConfig:
    """All weights of the backbone; values and block lengths suit nano on two cores."""
    pose = PoseRules(block_lengths=((32, 0.7), (16, 0.1), (64, 0.2)))
    return TrainConfig(
        name="own-backbone",
        objective=RecordsObjectiveConfig(pose=pose, capacity=512, max_shard_bytes=12 * 2**20),
        steps=200,
        batch_size=16,
        optim=OptimConfig(kind="muon", lr=2e-3, table_lr=0.04, weight_decay=0.05),
        schedule=ScheduleConfig(warmup_steps=10, floor=0.05),
        ema_decay=0.98,
        log_every=10,
    )
