"""Conditions prepared ahead, and the constant one of "no picture"."""

from __future__ import annotations

import pytest
import torch
from decoder_helpers import GRID, PLACED, TINY, inputs, random_decoder

from llada_uni.decoder.blank import BlankConditions, with_blank_rows
from llada_uni.decoder.config import DecoderConfig
from llada_uni.errors import SizeError


@pytest.mark.parametrize("config", [TINY, GRID, PLACED])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_prepared_condition_gives_the_numbers_of_its_features(config: DecoderConfig, dtype: torch.dtype) -> None:
    model = random_decoder(config, dtype)
    latents, time, features = inputs(dtype=dtype)
    prepared = model.prepare(features, (4, 6))
    assert torch.equal(model(latents, time, prepared), model(latents, time, features))
    assert not torch.equal(model(latents, time, prepared), model(latents, time, prepared_for_nothing(model, features)))


def prepared_for_nothing(model, features):
    return model.prepare(torch.zeros_like(features), (4, 6))


def test_a_condition_of_another_shape_of_picture_is_refused() -> None:
    model = random_decoder(TINY)
    latents, time, features = inputs(grid=(4, 6))
    with pytest.raises(SizeError, match=r"\(4, 6\) tokens but a condition prepared for \(6, 4\)"):
        model(latents, time, model.prepare(features, (6, 4)))


def test_the_layers_may_be_run_in_two_parts() -> None:
    model = random_decoder(GRID)
    latents, time, features = inputs()
    entered = model.begin(latents, time, features)
    parts = model.finish(model.first_layer(entered), start=1)
    assert torch.equal(parts.tokens, model.trunk(latents, time, features).tokens)


@pytest.mark.parametrize("config", [TINY, PLACED])
def test_blank_rows_equal_a_batch_with_zeros(config: DecoderConfig) -> None:
    model = random_decoder(config)
    latents, time, features = inputs(batch=4)
    blank = torch.tensor([True, False, True, False])
    mixed = torch.where(blank[:, None, None], 0.0, features)
    nothing = BlankConditions().get(model, features, (4, 6))
    joined = with_blank_rows(blank, model.prepare(features[~blank], (4, 6)), nothing)
    torch.testing.assert_close(model(latents, time, joined), model(latents, time, mixed), rtol=0, atol=1e-12)


def test_a_blank_condition_is_computed_once_per_size_and_again_for_other_weights() -> None:
    model, blanks = random_decoder(GRID), BlankConditions()
    _, _, features = inputs()
    first = blanks.get(model, features, (4, 6))
    assert blanks.get(model, torch.ones_like(features[:1]), (4, 6)) is first
    assert blanks.get(model, features, (6, 4)) is not first
    assert blanks.computed == 2
    with torch.no_grad():
        model.cap_pad_token.add_(1.0)
        model.semantic_embedder[1].bias.add_(1.0)
    changed = blanks.get(model, features, (4, 6))
    assert blanks.computed == 3
    assert not torch.equal(changed.tokens, first.tokens)
    model.semantic_embedder[1].weight = torch.nn.Parameter(model.semantic_embedder[1].weight * 1.5)
    blanks.get(model, features, (4, 6))
    assert blanks.computed == 4


def test_only_the_last_few_sizes_are_kept() -> None:
    model, blanks = random_decoder(TINY), BlankConditions()
    for rows in (1, 2, 3, 4, 5, 1):
        blanks.get(model, torch.zeros(1, rows * 2, 6, dtype=torch.float64), (rows, 2))
    assert blanks.computed == 6
    blanks.get(model, torch.zeros(1, 10, 6, dtype=torch.float64), (5, 2))
    assert blanks.computed == 6
