"""Drives the pixel decoder: semantic features and noise to latents, one event per row and velocity evaluation.

Source: released decoder/decode.py and decoder/transport/transport.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llada_uni.diffusion.flow import time_grid
from llada_uni.diffusion.guidance import norm_limited
from llada_uni.diffusion.solvers import SolverStep, VelocityFunction, euler, renoise
from llada_uni.errors import ConfigError
from llada_uni.protocols import FlowStep, LatentsDone, Velocity
from llada_uni.sampling.seeds import stream

__all__ = ["RELEASED_NORMAL", "RELEASED_TURBO", "FlowSettings", "sample_latents"]


@dataclass(frozen=True, kw_only=True)
class FlowSettings:
    """How to integrate.

    Args:
        solver: "euler", or "renoise" for a decoder distilled to few steps.
        num_steps: number of velocity evaluations, exactly.
        time_shift: s in time / (time + s (1 - time)); 1 = evenly spaced.
        guidance_scale: 1 = off; above, each evaluation also runs the decoder on an all-zero condition and the result
            never grows beyond the conditional velocity. The released "cfg scale 1.0" is 2 here.
        renoise_ratio: share of fresh noise in each renoise step; 0 = Euler.
        guidance_interval: (low, high), the times in [0, 1] at which there is guidance; outside, an evaluation runs the
            decoder on the condition alone. None = always. After Kynkaanniemi et al. 2024 (arXiv 2404.07724).
    """

    solver: Literal["euler", "renoise"] = "euler"
    num_steps: int = 49
    time_shift: float = 6.0
    guidance_scale: float = 2.0
    renoise_ratio: float = 1.0
    guidance_interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.time_shift <= 0:
            raise ConfigError(f"expected num_steps >= 1, time_shift > 0, got {self.num_steps}, {self.time_shift}")
        if not 0 <= self.renoise_ratio <= 1:
            raise ConfigError(f"expected renoise_ratio from 0 to 1, got {self.renoise_ratio}")
        if self.guidance_interval is not None and not 0 <= self.guidance_interval[0] <= self.guidance_interval[1] <= 1:
            raise ConfigError(f"expected guidance_interval with 0 <= low <= high <= 1, got {self.guidance_interval}")

    def guides_at(self, time: float) -> bool:
        """Whether an evaluation at ``time`` also runs the guidance branch."""
        low, high = self.guidance_interval or (0.0, 1.0)
        return self.guidance_scale != 1 and low <= time <= high


RELEASED_NORMAL = FlowSettings()
"""The released "50 steps": 50 points in time are 49 evaluations."""
RELEASED_TURBO = FlowSettings(solver="renoise", num_steps=8, time_shift=1.0, guidance_scale=1.0)


def sample_latents(
    velocity: Velocity,
    semantic_features: Tensor,
    *,
    latent_shape: tuple[int, int, int],
    seeds: Sequence[int],
    settings: FlowSettings,
) -> Iterator[FlowStep | LatentsDone]:
    """Latents of a batch of pictures of one size; row n belongs to ``seeds[n]``.

    Args:
        velocity: the decoder.
        semantic_features: condition [B, L, F]; its dtype is the one the decoder computes in.
        latent_shape: (C, H, W) of one latent.
        seeds: one per row; noise is drawn in float32 on the CPU, so a row does not depend on its batch or device.
        settings: solver and numbers.

    Yields:
        ``FlowStep`` for every row after each evaluation, then ``LatentsDone`` (float32) for every row.
    """
    if len(seeds) != semantic_features.shape[0]:
        raise ConfigError(f"expected one seed per row, got {len(seeds)} seeds for {semantic_features.shape[0]} rows")
    device = semantic_features.device
    noise = _noise(seeds, "decoder_noise", 0, latent_shape).to(device)
    step: SolverStep | None = None
    for step in _solve(velocity, semantic_features, noise, seeds, settings):
        for row, estimate in enumerate(step.data_estimate.float()):
            yield FlowStep(row=row, index=step.index, num_steps=step.num_steps, data_estimate=estimate)
    assert step is not None
    for row, latents in enumerate(step.state.float()):
        yield LatentsDone(row=row, latents=latents)


def _solve(
    velocity: Velocity, features: Tensor, noise: Tensor, seeds: Sequence[int], settings: FlowSettings
) -> Iterator[SolverStep]:
    field = _guided(velocity, features, settings)
    grid = time_grid(settings.num_steps, settings.time_shift)
    if settings.solver == "euler":
        return euler(field, noise, grid)
    shape = (int(noise.shape[1]), int(noise.shape[2]), int(noise.shape[3]))

    def draw(index: int) -> Tensor:
        return _noise(seeds, "turbo_renoise", index, shape)

    return renoise(field, noise, grid, renoise_ratio=settings.renoise_ratio, draw=draw)


def _guided(velocity: Velocity, features: Tensor, settings: FlowSettings) -> VelocityFunction:
    """The field that the solver integrates, float32, with or without guidance, at one time for all rows."""
    if settings.guidance_scale == 1:
        return lambda state, time: _evaluate(velocity, state, time, features)
    both = torch.cat((features, torch.zeros_like(features)))

    def field(state: Tensor, time: Tensor) -> Tensor:
        if not settings.guides_at(float(time)):
            return _evaluate(velocity, state, time, features)
        cond, uncond = _evaluate(velocity, torch.cat((state, state)), time, both).chunk(2)
        return norm_limited(cond, uncond, settings.guidance_scale)

    return field


def _evaluate(velocity: Velocity, state: Tensor, time: Tensor, features: Tensor) -> Tensor:
    times = time.to(device=state.device, dtype=torch.float32).expand(state.shape[0])
    return velocity(state.to(features.dtype), times, features).float()


def _noise(
    seeds: Sequence[int], purpose: Literal["decoder_noise", "turbo_renoise"], index: int, shape: tuple[int, int, int]
) -> Tensor:
    return torch.stack([torch.randn(shape, generator=stream(seed, purpose, index)) for seed in seeds])
