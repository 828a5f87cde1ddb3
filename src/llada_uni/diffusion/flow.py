"""Straight flow paths: time 0 is noise, time 1 is data, velocity = data - noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "TimeLaw",
    "central_difference",
    "data_estimate",
    "expand_time",
    "interpolate",
    "noise_estimate",
    "path_velocity",
    "resolution_shift",
    "sample_time",
    "shift_time",
    "time_grid",
]


@dataclass(frozen=True, kw_only=True)
class TimeLaw:
    """Distribution of the training time.

    ``lognorm`` is sigmoid(mean + std * normal), ``uniform`` is U[0, 1], ``beta`` is
    Beta(1, concentration), the law used for distillation (Beta(concentration, 1) where time 1 is noise). ``shift``
    moves time towards noise: a number, or "resolution" for exp of a line in the number of image tokens.

    Source: released decoder/transport/transport.py (``sample``), Z-Image §4.3; UCGM for beta.
    """

    kind: Literal["lognorm", "uniform", "beta"] = "lognorm"
    mean: float = 0.0
    std: float = 1.0
    concentration: float = 0.8
    shift: float | Literal["resolution"] = "resolution"


def expand_time(time: Tensor, like: Tensor) -> Tensor:
    """``time`` [B] shaped [B, 1, ..., 1] to multiply ``like`` [B, ...]; a scalar stays a scalar."""
    return time.reshape(time.shape + (1,) * (like.ndim - time.ndim)) if time.ndim else time


def interpolate(data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """State time * data + (1 - time) * noise; tensors [B, ...], time [B] or scalar."""
    time = expand_time(time, data)
    return time * data + (1 - time) * noise


def path_velocity(data: Tensor, noise: Tensor) -> Tensor:
    """Velocity data - noise of the straight path, constant in time."""
    return data - noise


def data_estimate(state: Tensor, velocity: Tensor, time: Tensor) -> Tensor:
    """Where the path ends at time 1 if ``velocity`` stays: state + (1 - time) * velocity."""
    return state + (1 - expand_time(time, state)) * velocity


def noise_estimate(state: Tensor, velocity: Tensor, time: Tensor) -> Tensor:
    """Where the path began at time 0 if ``velocity`` was constant: state - time * velocity."""
    return state - expand_time(time, state) * velocity


def shift_time(time: Tensor, shift: float) -> Tensor:
    """time / (time + shift * (1 - time)): maps [0, 1] onto itself; above 1 steps crowd near noise, 1 = identity."""
    return time if shift == 1 else time / (time + shift - shift * time)


def resolution_shift(num_tokens: int) -> float:
    """Shift exp(mu), mu linear from 0.5 at 256 image tokens to 1.15 at 4096.

    Source: released decoder/transport/transport.py (``do_shift``).
    """
    slope = (1.15 - 0.5) / (4096 - 256)
    return math.exp(0.5 + slope * (num_tokens - 256))


def sample_time(law: TimeLaw, batch: int, generator: torch.Generator, *, num_tokens: int | None = None) -> Tensor:
    """Training times float32 [batch] in [0, 1]; CPU generator; ``num_tokens`` is needed by the resolution shift."""
    if law.kind == "lognorm":
        time = torch.sigmoid(law.mean + law.std * torch.randn(batch, generator=generator))
    elif law.kind == "uniform":
        time = torch.rand(batch, generator=generator)
    else:
        time = 1 - torch.rand(batch, generator=generator) ** (1 / law.concentration)
    if law.shift != "resolution":
        return shift_time(time, law.shift)
    if num_tokens is None:
        raise ValueError('shift="resolution" needs num_tokens, the number of image tokens')
    return shift_time(time, resolution_shift(num_tokens))


def time_grid(num_steps: int, shift: float = 1.0) -> Tensor:
    """Grid float64 [num_steps + 1] from 0 to 1, evenly spaced and then shifted: ``num_steps`` velocity evaluations.

    Source: released decoder/transport/transport.py, which counts grid points in the Euler case: its 50 is
    ``num_steps`` 49 here.
    """
    if num_steps < 1:
        raise ValueError(f"expected num_steps >= 1, got {num_steps}")
    return shift_time(torch.linspace(0, 1, num_steps + 1, dtype=torch.float64), shift)


def central_difference(
    function: Callable[[Tensor, Tensor], Tensor],
    state: Tensor,
    time: Tensor,
    velocity: Tensor,
    *,
    epsilon: float = 0.005,
    clip: float | None = 1.0,
) -> Tensor:
    """Total derivative d/dt function(state, time) along ``velocity`` by a symmetric difference, clipped to +-clip.

    ``state`` and ``velocity`` [B, ...], ``time`` [B]. Times stay in [0, 1]: at an end the difference becomes one-sided
    and is divided by the true interval. Each term is scaled before the subtraction, which keeps bf16 from cancelling.
    The error falls four-fold when epsilon halves. Run it under ``torch.no_grad()`` for a training target.

    Source: UCGM §3.1; clamping at the ends is ours.
    """
    later, earlier = (time + epsilon).clamp(max=1), (time - epsilon).clamp(min=0)
    scale = expand_time(1 / (later - earlier), state)
    ahead = function(state + expand_time(later - time, state) * velocity, later) * scale
    behind = function(state - expand_time(time - earlier, state) * velocity, earlier) * scale
    difference = ahead - behind
    return difference if clip is None else difference.clamp(-clip, clip)
