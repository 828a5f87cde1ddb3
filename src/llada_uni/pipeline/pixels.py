"""Latents to pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from llada_uni.errors import CheckpointError

if TYPE_CHECKING:
    from llada_uni.decoder.vae import VAE

__all__ = ["to_images"]


@torch.inference_mode()
def to_images(vae: VAE, latents: Tensor) -> list[Image.Image]:
    """Latents [B, C, h, w] in the diffusion decoder's scale to RGB pictures.

    Values of the VAE in [-1, 1] become 0..255 by truncation; what lies outside is clamped.
    Source: released decoder/decode.py.

    Raises:
        CheckpointError: the numbers are not finite.
    """
    dtype = next(vae.parameters()).dtype
    pixels = vae.decode(vae.from_model(latents.to(dtype))).float()
    if not bool(pixels.isfinite().all()):
        raise CheckpointError("the decoder computed non-finite numbers; check the weights, or use dtype float32")
    array = ((pixels + 1) / 2).clamp(0, 1).mul(255).to(torch.uint8)
    return [Image.fromarray(one) for one in array.permute(0, 2, 3, 1).cpu().numpy()]
