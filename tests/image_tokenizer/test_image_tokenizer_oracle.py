"""The image tokenizer against the GLM-Image classes of transformers, on random weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from llada_uni.image_tokenizer import ImageTokenizer, ImageTokenizerConfig, VisionConfig, VQConfig

CONFIG = ImageTokenizerConfig(
    vision_config=VisionConfig(hidden_size=48, intermediate_size=80, depth=3, num_heads=4, patch_size=4, image_size=36),
    vq_config=VQConfig(num_embeddings=70, embed_dim=20, latent_channels=48),
)


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("transformers.models.glm_image")


@pytest.fixture(scope="module")
def ours() -> ImageTokenizer:
    torch.manual_seed(3)
    model = ImageTokenizer(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def part(model: ImageTokenizer, prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in model.state_dict().items() if k.startswith(prefix)}


def test_features_equal_glm_image_vision_model(library, ours):
    from llada_uni.config import to_mapping

    config = library.GlmImageVisionConfig(**to_mapping(CONFIG.vision_config))
    config._attn_implementation = "sdpa"
    theirs = library.GlmImageVisionModel(config).eval()
    theirs.load_state_dict(part(ours, "model.visual."), strict=True)
    grids = [SimpleNamespace(grid_h=h, grid_w=w) for h, w in ((5, 3), (9, 9), (12, 2))]
    x = torch.randn(15 + 81 + 24, 48)
    with torch.no_grad():
        expected = theirs(x, grid_thw=torch.tensor([[1, 5, 3], [1, 9, 9], [1, 12, 2]]))
        actual = ours.features(x, grids)
    expected = getattr(expected, "last_hidden_state", expected)
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=2e-4)


def test_codes_equal_glm_image_vqvae(library, ours):
    config = library.GlmImageVQVAEConfig(num_embeddings=70, embed_dim=20, latent_channels=48)
    theirs = library.GlmImageVQVAE(config).eval()
    theirs.load_state_dict(part(ours, "model.vqmodel."), strict=True)
    features = torch.randn(7 * 9, 48)
    with torch.no_grad():
        result = theirs.encode(features.T.reshape(1, 48, 7, 9))
        expected = result.image_tokens if hasattr(result, "image_tokens") else result[-1]
        assert torch.equal(ours.quantise(ours.latents(features)), expected.flatten())
