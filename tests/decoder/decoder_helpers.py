"""Decoders and inputs for the tests of what runs around them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from llada_uni.decoder import Decoder, DecoderConfig

TINY = DecoderConfig(
    dim=24,
    n_heads=2,
    axes_dims=(4, 4, 4),
    axes_lens=(200, 16, 16),
    n_layers=3,
    n_refiner_layers=1,
    in_channels=4,
    cap_feat_dim=6,
    time_hidden_dim=32,
)
GRID = dataclasses.replace(TINY, condition_positions="grid")
PLACED = dataclasses.replace(GRID, absolute_positions=12)


def random_decoder(config: DecoderConfig = TINY, dtype: torch.dtype = torch.float64) -> Decoder:
    """Weights far from those of a fresh decoder, which predicts zero."""
    torch.manual_seed(5)
    model = Decoder(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).requires_grad_(False).eval()


def inputs(
    batch: int = 2, grid: tuple[int, int] = (4, 6), dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, times and semantic features of pictures of ``grid`` decoder tokens."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, 4, 2 * grid[0], 2 * grid[1], generator=generator).to(dtype)
    features = torch.randn(batch, grid[0] * grid[1], 6, generator=generator).to(dtype)
    return latents, torch.linspace(0.3, 0.6, batch), features
