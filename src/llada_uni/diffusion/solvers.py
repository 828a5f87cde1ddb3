"""Integration of a velocity field from noise (time 0) to data (time 1), one event per velocity evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llada_uni.diffusion.flow import data_estimate, noise_estimate

__all__ = ["SolverStep", "VelocityFunction", "euler", "renoise"]

VelocityFunction = Callable[[Tensor, Tensor], Tensor]
"""(state [B, ...], time scalar tensor) -> velocity [B, ...]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SolverStep:
    """What one evaluation led to: ``state`` at ``time``; ``velocity`` was taken at ``origin`` and ``origin_time``."""

    index: int
    num_steps: int
    time: Tensor
    state: Tensor
    velocity: Tensor
    origin: Tensor
    origin_time: Tensor

    @property
    def data_estimate(self) -> Tensor:
        """Prediction of the data from this step's velocity, same shape as the state; computed when asked for."""
        return data_estimate(self.origin, self.velocity, self.origin_time)


def euler(velocity: VelocityFunction, noise: Tensor, grid: Tensor) -> Iterator[SolverStep]:
    """Explicit Euler over ``grid`` [num_steps + 1]: exactly ``num_steps`` evaluations, the state in noise's dtype.

    Exact for a velocity constant along the path. Source: released decoder/transport/integrators.py.
    """
    state, num_steps = noise, grid.shape[0] - 1
    for index in range(num_steps):
        time, later = grid[index], grid[index + 1]
        flow = velocity(state, time)
        origin, state = state, state + (later - time).to(state.dtype) * flow.to(state.dtype)
        yield _step(index, num_steps, later, state, flow, origin, time)


def renoise(
    velocity: VelocityFunction,
    noise: Tensor,
    grid: Tensor,
    *,
    renoise_ratio: float,
    draw: Callable[[int], Tensor] | None,
) -> Iterator[SolverStep]:
    """Few-step sampler: predict both ends of the path, refresh a share of the noise end, move on. float64 state.

    x <- t' * data + (1 - t') * (sqrt(1 - r) * noise_estimate + sqrt(r) * draw(index)), exactly ``num_steps``
    evaluations on ``grid`` [num_steps + 1]. ``renoise_ratio`` r = 0 equals :func:`euler` (``draw`` may be None then);
    r = 1 is consistency sampling. ``draw`` is asked for every step, the last included, where its factor is 0.

    Source: released decoder/transport/transport.py (``stochast_ratio``).
    """
    if not 0 <= renoise_ratio <= 1 or (renoise_ratio > 0 and draw is None):
        raise ValueError(f"expected renoise_ratio in [0, 1] and draws where it is positive, got {renoise_ratio}")
    state, num_steps = noise.to(torch.float64), grid.shape[0] - 1
    for index in range(num_steps):
        time, later = grid[index], grid[index + 1]
        flow = velocity(state, time).to(torch.float64)
        old_noise = noise_estimate(state, flow, time)
        if draw is not None and renoise_ratio > 0:
            fresh = draw(index).to(device=state.device, dtype=torch.float64)
            old_noise = (1 - renoise_ratio) ** 0.5 * old_noise + renoise_ratio**0.5 * fresh
        origin, state = state, later * data_estimate(state, flow, time) + (1 - later) * old_noise
        yield _step(index, num_steps, later, state, flow, origin, time)


def _step(
    index: int, num_steps: int, time: Tensor, state: Tensor, velocity: Tensor, origin: Tensor, origin_time: Tensor
) -> SolverStep:
    return SolverStep(
        index=index,
        num_steps=num_steps,
        time=time,
        state=state,
        velocity=velocity,
        origin=origin,
        origin_time=origin_time,
    )
