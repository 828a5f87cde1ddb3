"""Pictures of up to 2048 pixels a side in the released geometry: sizes, positions, shapes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from llada_uni.decoder import VAE, Decoder, DecoderConfig, SemanticEmbedder, SemanticEmbedderConfig, VAEConfig
from llada_uni.decoder.positions import condition_positions, image_positions, padded
from llada_uni.decoder.tiling import decode, tiling_for
from llada_uni.grid import Geometry, TokenGrid

CPU = torch.device("cpu")
SIZES = [(2048, 2048), (2048, 1024), (1024, 2048), (2048, 32), (1536, 2048), (1056, 1952)]
RELEASED = DecoderConfig()
NARROW = dataclasses.replace(
    RELEASED, dim=24, n_heads=2, axes_dims=(4, 4, 4), n_layers=1, n_refiner_layers=1, cap_feat_dim=8, time_hidden_dim=16
)
NARROW_VAE = VAEConfig(block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_grid_latents_and_positions(height: int, width: int) -> None:
    geometry = Geometry()
    grid = geometry.grid_from_output_px(height, width)
    assert grid == TokenGrid(height // 32, width // 32)
    assert geometry.output_px(grid) == (height, width)
    latent_h, latent_w = geometry.latent_hw(grid)
    assert (latent_h * 8, latent_w * 8) == (height, width)
    rows, columns = geometry.condition_grid(grid)
    assert (rows * 2, columns * 2) == (latent_h, latent_w)
    assert max(rows, columns) <= RELEASED.axes_lens[1] == RELEASED.axes_lens[2]
    length = rows * columns
    condition = condition_positions(length, "sequence", None, CPU)
    image = image_positions((rows, columns), "sequence", condition.shape[0], CPU)
    assert condition.shape == image.shape == (padded(length), 3)
    assert condition[:, 0].tolist() == list(range(1, padded(length) + 1))
    assert int(image[0, 0]) == padded(length) + 1 < RELEASED.axes_lens[0]
    assert image[length - 1].tolist() == [padded(length) + 1, rows - 1, columns - 1]
    assert len({tuple(place) for place in image[:length].tolist()}) == length


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_released_shapes_fit_together(height: int, width: int) -> None:
    """On the meta device, in the released widths: every tensor has the right shape, nothing is computed."""
    geometry = Geometry()
    grid = geometry.grid_from_output_px(height, width)
    with torch.device("meta"):
        embedder = SemanticEmbedder(SemanticEmbedderConfig())
        decoder = Decoder(dataclasses.replace(RELEASED, n_layers=2))
        vae = VAE(VAEConfig())
        features = embedder(torch.zeros(1, grid.grid_h, grid.grid_w, dtype=torch.int64))
        latents, time = torch.zeros(1, 16, *geometry.latent_hw(grid)), torch.zeros(1)
        context = decoder.prepare(features, geometry.condition_grid(grid))
        velocity = decoder(latents, time, context)
        pixels = vae.decode(latents)
    assert features.shape == (1, 4 * grid.num_tokens, 4096)
    assert velocity.shape == latents.shape
    assert pixels.shape == (1, 3, height, width)


def test_a_wide_picture_in_tiles_has_its_size() -> None:
    torch.manual_seed(0)
    vae = VAE(NARROW_VAE).requires_grad_(False)
    latents = torch.randn(1, 16, 32, 256)
    tiling = tiling_for(256, 2048, 512)
    assert decode(vae, latents, tiling).shape == (1, 3, 256, 2048)


@pytest.mark.slow
def test_the_largest_picture_with_narrow_networks() -> None:
    """2048 x 2048 from codes to pixels: 16384 image and 16384 condition tokens, and automatic tiles."""
    torch.manual_seed(0)
    geometry, grid = Geometry(), TokenGrid(64, 64)
    decoder, vae = Decoder(NARROW).requires_grad_(False), VAE(NARROW_VAE).requires_grad_(False)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    embedder = SemanticEmbedder(SemanticEmbedderConfig(num_codes=32, width=8)).requires_grad_(False)
    features = embedder(torch.randint(0, 32, (1, 64, 64)))
    latents, time = torch.randn(1, 16, *geometry.latent_hw(grid)), torch.tensor([0.5])
    velocity = decoder(latents, time, decoder.prepare(features, geometry.condition_grid(grid)))
    assert velocity.shape == latents.shape
    assert bool(velocity.isfinite().all())
    tiling = tiling_for(2048, 2048, None)
    assert tiling is not None
    pixels = decode(vae, vae.from_model(latents + 0.5 * velocity), tiling)
    assert pixels.shape == (1, 3, 2048, 2048)
    assert bool(pixels.isfinite().all())
