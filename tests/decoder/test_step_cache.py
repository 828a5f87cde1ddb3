"""Steps that reuse deep layers: exact where nothing is reused, row by row, and bounded."""

from __future__ import annotations

import pytest
import torch
from decoder_helpers import GRID, inputs, random_decoder

from llada_uni.decoder.step_cache import StepCache, relative_change


def test_relative_change() -> None:
    before = torch.tensor([[1.0, -3.0], [2.0, 2.0], [0.0, 0.0]])
    now = torch.tensor([[1.5, -3.5], [2.0, 2.0], [0.0, 0.0]])
    found = relative_change(now, before)
    assert found[:2].tolist() == [0.25, 0.0]
    assert not bool(found[2] < 1)
    assert relative_change(now.bfloat16(), before.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nothing_is_reused_below_the_threshold(dtype: torch.dtype) -> None:
    model = random_decoder(GRID, dtype)
    cache = StepCache(model, 1e-9)
    for seed in range(3):
        latents, time, features = inputs(dtype=dtype, seed=seed)
        prepared = model.prepare(features, (4, 6))
        assert torch.equal(cache(latents, time, prepared), model(latents, time, prepared))
    assert (cache.full, cache.reused) == (6, 0)


def test_the_same_evaluation_again_is_reused_and_gives_the_same() -> None:
    model = random_decoder(GRID)
    latents, time, features = inputs()
    prepared, cache = model.prepare(features, (4, 6)), StepCache(model, 0.01)
    first = cache(latents, time, prepared)
    again = cache(latents, time, prepared)
    assert (cache.full, cache.reused) == (2, 2)
    torch.testing.assert_close(again, first, rtol=0, atol=1e-12)


def test_every_row_decides_for_itself() -> None:
    model = random_decoder(GRID)
    latents, time, features = inputs(batch=3)
    moved = latents.clone()
    moved[1] += 2.0
    prepared = model.prepare(features, (4, 6))
    together = StepCache(model, 0.05)
    together(latents, time, prepared)
    found = together(moved, time, prepared)
    assert (together.full, together.reused) == (4, 2)
    torch.testing.assert_close(found[1], model(moved, time, prepared)[1], rtol=0, atol=1e-12)
    for row in range(3):
        one, alone = slice(row, row + 1), StepCache(model, 0.05)
        own = model.prepare(features[one], (4, 6))
        alone(latents[one], time[one], own)
        torch.testing.assert_close(alone(moved[one], time[one], own), found[one], rtol=0, atol=1e-12)


def test_change_is_measured_from_the_last_full_evaluation() -> None:
    """Small moves, each below the threshold, end in a full evaluation all the same."""
    model = random_decoder(GRID)
    latents, time, features = inputs(batch=1)
    prepared, cache = model.prepare(features, (4, 6)), StepCache(model, 0.1)
    for step in range(40):
        cache(latents + 0.05 * step, time, prepared)
    assert 2 <= cache.full < 40
    assert cache.full + cache.reused == 40


def test_the_guidance_branch_may_come_and_go() -> None:
    model = random_decoder(GRID)
    latents, time, features = inputs(batch=2)
    both, one = model.prepare(features, (4, 6)), model.prepare(features[:1], (4, 6))
    cache = StepCache(model, 0.05)
    cache(latents[:1], time[:1], one)
    cache(latents, time, both)
    assert (cache.full, cache.reused) == (2, 1)
    cache(latents[:1], time[:1], one)
    found = cache(latents, time, both)
    assert (cache.full, cache.reused) == (2, 4)
    torch.testing.assert_close(found, model(latents, time, both), rtol=0, atol=1e-12)


def test_another_run_or_another_size_begins_anew() -> None:
    model = random_decoder(GRID)
    latents, time, features = inputs()
    prepared, cache = model.prepare(features, (4, 6)), StepCache(model, 1.0)
    cache(latents, time, prepared)
    cache(latents, time - 0.2, prepared)
    assert (cache.full, cache.reused) == (4, 0)
    small = inputs(grid=(2, 2))
    cache(small[0], small[1], model.prepare(small[2], (2, 2)))
    assert (cache.full, cache.reused) == (6, 0)
