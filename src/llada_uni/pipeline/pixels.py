"""Latents to pictures, and how the networks that draw them are run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from llada_uni.decoder.tiling import decode, tiling_for
from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.pipeline.checks import check_number

if TYPE_CHECKING:
    from llada_uni.decoder.vae import VAE

__all__ = ["PixelOptions", "to_images"]

_SMALLEST_TILE_PX = 64


@dataclass(frozen=True, kw_only=True)
class PixelOptions:
    """How a loaded model draws; none of it changes what is asked for.

    Args:
        compile_decoder: have ``torch.compile`` translate the decoder's layers; the first picture of a size waits.
        graph_decoder: capture the decoder's evaluations as CUDA graphs, one per size and batch.
        vae_tile_px: largest side of a tile in the autoencoder; None tiles what is larger than 1600 x 1600 pixels in
            all, 0 nothing.

    Raises:
        ConfigError: a value out of range.
    """

    compile_decoder: bool = False
    graph_decoder: bool = False
    vae_tile_px: int | None = None

    def __post_init__(self) -> None:
        if self.vae_tile_px:
            check_number(self.vae_tile_px, name="vae_tile_px", low=_SMALLEST_TILE_PX, whole=True)

    def check_device(self, device: torch.device) -> None:
        """Raises ConfigError where the device cannot do it."""
        if self.graph_decoder and device.type != "cuda":
            raise ConfigError(f"graph_decoder: expected a CUDA device, got {device.type}; leave it out there")


@torch.inference_mode()
def to_images(vae: VAE, latents: Tensor, *, tile_px: int | None = None) -> list[Image.Image]:
    """Latents [B, C, h, w] in the diffusion decoder's scale to RGB pictures.

    Values of the VAE in [-1, 1] become 0..255 by truncation; what lies outside is clamped. ``tile_px``: as
    :class:`PixelOptions` has it. Source: released decoder/decode.py.

    Raises:
        CheckpointError: the numbers are not finite.
    """
    dtype = next(vae.parameters()).dtype
    height, width = (side * vae.config.factor for side in latents.shape[-2:])
    pixels = decode(vae, vae.from_model(latents.to(dtype)), tiling_for(height, width, tile_px)).float()
    if not bool(pixels.isfinite().all()):
        raise CheckpointError("the decoder computed non-finite numbers; check the weights, or use dtype float32")
    array = ((pixels + 1) / 2).clamp(0, 1).mul(255).to(torch.uint8)
    return [Image.fromarray(one) for one in array.permute(0, 2, 3, 1).cpu().numpy()]
