"""Captured evaluations, with a capture that works without a GPU, and compiled layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from decoder_helpers import GRID, inputs, random_decoder
from torch import Tensor

from llada_uni.decoder.dit import TokenBatch
from llada_uni.decoder.graphs import DecoderGraphs, compile_layers
from llada_uni.errors import ConfigError


class Recorder:
    """Captures like a graph: the function is read once, its tensors afterwards are all that is looked at."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.captured += 1
        output = function()

        def run() -> None:
            self.replayed += 1
            output.copy_(function())

        return run, output


def test_pictures_that_take_turns_keep_their_own_numbers() -> None:
    model, recorder = random_decoder(GRID), Recorder()
    graphs = DecoderGraphs(recorder)
    pictures = [inputs(batch=1, seed=seed) for seed in (1, 2)]
    contexts: list[TokenBatch] = [model.prepare(features, (4, 6)) for _, _, features in pictures]
    for step in range(3):
        for (latents, time, _), context in zip(pictures, contexts, strict=True):
            found = graphs(model, latents + step, time + 0.1 * step, context)
            torch.testing.assert_close(found, model(latents + step, time + 0.1 * step, context), rtol=0, atol=1e-12)
    assert (recorder.captured, recorder.replayed) == (1, 6)


def test_a_result_is_not_written_over_by_the_next_evaluation() -> None:
    model, graphs = random_decoder(GRID), DecoderGraphs(Recorder())
    latents, time, features = inputs(batch=1)
    context = model.prepare(features, (4, 6))
    first = graphs(model, latents, time, context)
    kept = first.clone()
    graphs(model, latents + 1, time, context)
    assert torch.equal(first, kept)


def test_one_capture_per_shape_and_the_last_few_shapes() -> None:
    model, recorder = random_decoder(GRID), Recorder()
    graphs = DecoderGraphs(recorder)
    for grid in ((2, 2), (2, 4), (4, 2), (4, 4), (4, 6), (4, 6), (2, 2)):
        latents, time, features = inputs(grid=grid)
        context = model.prepare(features, grid)
        torch.testing.assert_close(
            graphs(model, latents, time, context), model(latents, time, context), rtol=0, atol=1e-12
        )
    assert (recorder.captured, graphs.num_captured) == (6, 4)


def test_weights_that_lie_elsewhere_are_captured_again() -> None:
    model, recorder = random_decoder(GRID), Recorder()
    graphs = DecoderGraphs(recorder)
    latents, time, features = inputs(batch=1)
    graphs(model, latents, time, model.prepare(features, (4, 6)))
    model.final_layer.linear.weight = torch.nn.Parameter(model.final_layer.linear.weight * 2)
    context = model.prepare(features, (4, 6))
    found = graphs(model, latents, time, context)
    torch.testing.assert_close(found, model(latents, time, context), rtol=0, atol=1e-12)
    assert recorder.captured == 2


def test_a_condition_that_is_not_prepared_is_refused() -> None:
    model = random_decoder(GRID)
    latents, time, features = inputs(batch=1)
    with pytest.raises(ConfigError, match=r"Decoder\.prepare"):
        DecoderGraphs(Recorder())(model, latents, time, model.context(features, (4, 6)))


@pytest.mark.slow
def test_compiled_layers_give_the_same_numbers_and_keep_their_names() -> None:
    model, plain = random_decoder(GRID, torch.float32), random_decoder(GRID, torch.float32)
    names = list(model.state_dict())
    compile_layers(model)
    assert list(model.state_dict()) == names
    latents, time, features = inputs(dtype=torch.float32)
    with torch.inference_mode():
        found = model(latents, time, model.prepare(features, (4, 6)))
    torch.testing.assert_close(found, plain(latents, time, features), rtol=1e-4, atol=1e-4)
