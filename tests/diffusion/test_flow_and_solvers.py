"""Paths, time grids, solvers, guidance and the finite-difference derivative."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from golden_fixtures import assert_close, load_case
from llada_uni.diffusion import flow, guidance, solvers


def field(mean: Tensor) -> solvers.VelocityFunction:
    """The fixtures' analytic velocity, evaluated in float32."""

    def velocity(state: Tensor, time: Tensor) -> Tensor:
        x, t = state.float(), time.float()
        return 1.5 * torch.cos(2 * t) * (mean - x) + 0.7 * torch.sin(3 * x) + 0.2 * t

    return velocity


@pytest.mark.parametrize(("case", "run"), [("ode_a", "normal50"), ("ode_b", "normal50"), ("ode_b", "normal20_noshift")])
def test_released_euler(case: str, run: str) -> None:
    tensors, meta = load_case(case)
    config = meta["config"]["runs"][run]
    grid = flow.time_grid(config["num_steps"] - 1, config["time_shifting_factor"] or 1.0)
    torch.testing.assert_close(grid.float(), tensors[f"out.{run}.grid"], atol=1e-6, rtol=0)
    steps = list(solvers.euler(field(tensors["in.m"]), tensors["in.z"], grid))
    assert len(steps) == config["num_steps"] - 1
    assert_close(torch.stack([s.state for s in steps]), tensors[f"out.{run}.trajectory"][1:], meta["tolerance"])


@pytest.mark.parametrize("case", ["ode_a", "ode_b"])
def test_released_renoising(case: str) -> None:
    tensors, meta = load_case(case)
    noise = tensors["in.turbo8.noise"]
    grid = flow.time_grid(8)
    torch.testing.assert_close(grid.float(), tensors["out.turbo8.grid"], atol=1e-6, rtol=0)
    run = solvers.renoise(
        field(tensors["in.m"]), tensors["in.z"], grid, renoise_ratio=1.0, draw=lambda index: noise[index]
    )
    steps = list(run)
    assert len(steps) == 8
    assert steps[-1].state.dtype == torch.float64
    assert_close(torch.stack([s.state for s in steps]), tensors["out.turbo8.states"], meta["tolerance"])
    assert_close(steps[-1].data_estimate, tensors["out.turbo8.final"], meta["tolerance"])


@pytest.mark.parametrize(("tag", "scale"), [("s1", 2.0), ("s05", 1.5)])
def test_released_guidance(tag: str, scale: float) -> None:
    tensors, meta = load_case("cfg_a")
    assert float(tensors[f"in.{tag}.scale"]) == scale - 1
    cond, uncond = tensors[f"in.{tag}.pos"], tensors[f"in.{tag}.neg"]
    assert_close(guidance.norm_limited(cond, uncond, scale), tensors[f"out.{tag}.velocity"], meta["tolerance"])


def test_guidance_scales_zero_and_one() -> None:
    cond, uncond, third = torch.randn(3, 2, 4, 10, generator=torch.Generator().manual_seed(0)).unbind(0)
    assert torch.equal(guidance.simple(cond, uncond, 1.0), cond)
    assert torch.equal(guidance.simple(cond, uncond, 0.0), uncond)
    torch.testing.assert_close(guidance.simple(cond, uncond, 4.0), uncond + 4 * (cond - uncond))
    assert torch.equal(guidance.norm_limited(cond, uncond, 1.0), cond)
    assert torch.equal(guidance.editing(cond, uncond, None, 1.0, 0.0), cond)
    edited = guidance.editing(cond, uncond, third, 4.0, 1.5)
    torch.testing.assert_close(edited, uncond + 4 * (cond - uncond) + 1.5 * (uncond - third))
    with pytest.raises(ValueError, match="guidance_image"):
        guidance.editing(cond, uncond, None, 4.0, 1.5)


def test_rescaling_is_the_released_formula_and_keeps_the_order() -> None:
    cond, uncond = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)).unbind(0)
    guided = guidance.simple(cond, uncond, 4.0)
    spread = cond.std(-1, keepdim=True) / (guided.std(-1, keepdim=True) + 1e-6)
    expected = 0.7 * guided * spread + 0.3 * guided
    rescaled = guided * guidance.rescale_factor(guided, cond, 0.7)
    torch.testing.assert_close(rescaled, expected)
    assert torch.equal(rescaled.argsort(-1), guided.argsort(-1))
    assert torch.equal(guidance.rescale_factor(guided, cond, 0.0), torch.ones(3, 1))


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_constant_velocity_is_integrated_exactly(num_steps: int) -> None:
    data, noise = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind(0)
    calls: list[float] = []

    def velocity(state: Tensor, time: Tensor) -> Tensor:
        calls.append(float(time))
        return flow.path_velocity(data, noise)

    for shift in (1.0, 6.0):
        calls.clear()
        *_, last = solvers.euler(velocity, noise, flow.time_grid(num_steps, shift))
        assert len(calls) == num_steps
        torch.testing.assert_close(last.state, data)
        *_, last = solvers.renoise(velocity, noise, flow.time_grid(num_steps, shift), renoise_ratio=0.0, draw=None)
        torch.testing.assert_close(last.state, data)


def test_renoise_ratio_zero_is_euler() -> None:
    noise, mean = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind(0)
    grid = flow.time_grid(6, 3.0)

    def velocity(state: Tensor, time: Tensor) -> Tensor:
        return torch.cos(2 * time) * (mean - state)

    straight = [s.state for s in solvers.euler(velocity, noise, grid)]
    renoised = [s.state for s in solvers.renoise(velocity, noise, grid, renoise_ratio=0.0, draw=torch.zeros)]
    torch.testing.assert_close(torch.stack(renoised), torch.stack(straight))


def test_a_velocity_that_points_at_the_data_ends_there_whatever_noise_is_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 100, 1, generator=generator, dtype=torch.float64).unbind(0)

    def velocity(state: Tensor, time: Tensor) -> Tensor:
        return (data - state) / (1 - time)

    def draw(index: int) -> Tensor:
        return torch.randn(100, 1, generator=generator, dtype=torch.float64)

    *_, last = solvers.renoise(velocity, noise, flow.time_grid(8), renoise_ratio=1.0, draw=draw)
    torch.testing.assert_close(last.state, data)


def test_path_identities() -> None:
    data, noise = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind(0)
    time = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    state, velocity = flow.interpolate(data, noise, time), flow.path_velocity(data, noise)
    assert torch.equal(state[0], noise[0])
    assert torch.equal(state[2], data[2])
    torch.testing.assert_close(flow.data_estimate(state, velocity, time), data)
    torch.testing.assert_close(flow.noise_estimate(state, velocity, time), noise)


def test_time_shift_and_resolution_shift() -> None:
    time = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(flow.shift_time(time, 1.0), time)
    shifted = flow.shift_time(time, 6.0)
    assert shifted[0] == 0
    assert shifted[-1] == 1
    torch.testing.assert_close(flow.shift_time(shifted, 1 / 6), time)
    assert [round(flow.resolution_shift(n), 2) for n in (256, 1024, 4096)] == [1.65, 1.88, 3.16]
    with pytest.raises(ValueError, match="num_steps"):
        flow.time_grid(0)


@pytest.mark.parametrize(
    ("law", "mean"),
    [
        (flow.TimeLaw(kind="uniform", shift=1.0), 0.5),
        (flow.TimeLaw(shift=1.0), 0.5),
        (flow.TimeLaw(kind="beta", shift=1.0), 1 / 1.8),
        (flow.TimeLaw(kind="uniform", shift=6.0), 0.2301),
    ],
)
def test_time_laws(law: flow.TimeLaw, mean: float) -> None:
    time = flow.sample_time(law, 40_000, torch.Generator().manual_seed(0))
    assert 0 <= float(time.min()) <= float(time.max()) <= 1
    assert abs(float(time.mean()) - mean) < 0.006


def test_resolution_law_needs_the_number_of_tokens() -> None:
    with pytest.raises(ValueError, match="num_tokens"):
        flow.sample_time(flow.TimeLaw(), 4, torch.Generator())
    time = flow.sample_time(flow.TimeLaw(), 20_000, torch.Generator().manual_seed(0), num_tokens=4096)
    assert float(time.median()) == pytest.approx(1 / (1 + flow.resolution_shift(4096)), abs=0.01)


def derivative_error(epsilon: float, *, clip: float | None = None) -> float:
    generator = torch.Generator().manual_seed(0)
    state, velocity = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64).unbind(0)
    time = torch.linspace(0.2, 0.8, 5, dtype=torch.float64)

    def function(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(x) * torch.cos(3 * t)[:, None]

    cosine, sine = torch.cos(3 * time)[:, None], torch.sin(3 * time)[:, None]
    exact = torch.cos(state) * velocity * cosine - 3 * torch.sin(state) * sine
    approximate = flow.central_difference(function, state, time, velocity, epsilon=epsilon, clip=clip)
    return float((approximate - exact).abs().max())


def test_difference_error_falls_fourfold_when_epsilon_halves() -> None:
    assert derivative_error(0.02) / derivative_error(0.01) == pytest.approx(4, rel=0.05)


def test_difference_at_the_ends_uses_the_true_interval_and_clips() -> None:
    state, time = torch.zeros(2, 3, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    seen: list[Tensor] = []

    def function(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return x + 2 * t[:, None]

    result = flow.central_difference(function, state, time, torch.ones_like(state), clip=None)
    torch.testing.assert_close(result, torch.full_like(state, 3.0))
    assert all(0 <= float(t.min()) <= float(t.max()) <= 1 for t in seen)
    assert flow.central_difference(function, state, time, torch.ones_like(state)).max() == 1
