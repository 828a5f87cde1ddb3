"""The semantic embedder against recorded outputs of the released code."""

from __future__ import annotations

import pytest
import torch

from golden_fixtures import assert_close, load_case
from llada_uni.decoder import SemanticEmbedder, SemanticEmbedderConfig


@pytest.mark.parametrize("name", ["sigvq_a", "sigvq_b"])
def test_features_match_released_code(name):
    tensors, meta = load_case(name)
    config = meta["config"]
    model = SemanticEmbedder(SemanticEmbedderConfig(num_codes=config["vocab_size"], width=config["inner_dim"]))
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    model.load_state_dict(weights, strict=True)
    codes = tensors["in.token_ids"].view(1, *tensors["in.h_w"].tolist())
    assert_close(model(codes)[0], tensors["out.features"], meta["tolerance"])


def test_each_code_fills_a_two_by_two_square():
    model = SemanticEmbedder(SemanticEmbedderConfig(num_codes=9, width=3))
    codes = torch.tensor([[[1, 2, 3], [4, 5, 6]]])
    square = model(codes).view(4, 6, 3)
    for row in range(4):
        for column in range(6):
            expected = model(codes[:, row // 2 : row // 2 + 1, column // 2 : column // 2 + 1])[0, 0]
            torch.testing.assert_close(square[row, column], expected)


def test_released_shape_has_the_released_tensors():
    with torch.device("meta"):
        state = SemanticEmbedder(SemanticEmbedderConfig()).state_dict()
    assert sum(t.numel() for t in state.values()) == 100_671_488
    assert sorted(state) == [
        "prior_projector.net.0.proj.bias",
        "prior_projector.net.0.proj.weight",
        "prior_projector.net.2.bias",
        "prior_projector.net.2.weight",
        "prior_token_embedding.weight",
    ]
