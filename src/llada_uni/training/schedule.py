"""Learning rate as a pure function of the step."""

from __future__ import annotations

import math

from llada_uni.training.config import ScheduleConfig

__all__ = ["lr_factor"]


def lr_factor(schedule: ScheduleConfig, step: int, horizon: int) -> float:
    """Factor in (0, 1] by which the peak learning rate is multiplied at ``step`` (0-based) of ``horizon``."""
    warmup = min(schedule.warmup_steps, max(horizon // 2, 1))
    if step < warmup:
        return (step + 1) / warmup
    start = warmup + schedule.constant_share * (horizon - warmup)
    if schedule.decay == "constant" or step < start:
        return 1.0
    share = min((step - start) / max(horizon - start, 1), 1.0)
    falling = 0.5 * (1 + math.cos(math.pi * share)) if schedule.decay == "cosine" else 1 - share
    return schedule.floor + (1 - schedule.floor) * falling
