"""The diffusion transformer against diffusers' Z-Image transformer, on random weights."""

from __future__ import annotations

import pytest
import torch

from llada_uni.config import to_mapping
from llada_uni.decoder import Decoder, DecoderConfig

CONFIG = DecoderConfig(
    dim=48,
    n_heads=2,
    axes_dims=(8, 8, 8),
    axes_lens=(256, 32, 32),
    n_layers=2,
    n_refiner_layers=2,
    in_channels=4,
    cap_feat_dim=20,
)


@pytest.fixture(scope="module")
def pair():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(6)
    ours = Decoder(CONFIG)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    own = ("condition_positions", "absolute_positions", "time_hidden_dim")
    fields = {k: v for k, v in to_mapping(CONFIG).items() if k not in own}
    theirs = diffusers.ZImageTransformer2DModel(**fields, n_kv_heads=CONFIG.n_heads).eval()
    renamed = {k.replace("semantic_embedder.", "cap_embedder."): v for k, v in ours.state_dict().items()}
    theirs.load_state_dict(renamed, strict=True)
    return ours, theirs


def run_theirs(model, latents, time, conditions):
    result = model([x[:, None] for x in latents], time, list(conditions), return_dict=False)[0]
    return [x[:, 0] for x in result]


def test_one_size_equals_the_library(pair):
    ours, theirs = pair
    latents, time, conditions = torch.randn(3, 4, 10, 6), torch.rand(3), torch.randn(3, 37, 20)
    with torch.no_grad():
        expected = torch.stack(run_theirs(theirs, latents, time, conditions))
        torch.testing.assert_close(ours(latents, time, conditions), expected, atol=2e-4, rtol=2e-4)


def test_mixed_sizes_equal_the_library(pair):
    ours, theirs = pair
    latents = [torch.randn(4, 8, 16), torch.randn(4, 2, 4), torch.randn(4, 14, 10)]
    conditions = [torch.randn(32, 20), torch.randn(70, 20), torch.randn(1, 20)]
    time = torch.rand(3)
    with torch.no_grad():
        expected = run_theirs(theirs, latents, time, conditions)
        for actual, wanted in zip(ours.forward_list(latents, time, conditions), expected, strict=True):
            torch.testing.assert_close(actual, wanted, atol=2e-4, rtol=2e-4)
