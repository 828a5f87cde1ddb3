"""Convolutional autoencoder between pixels and the latents that the diffusion decoder works on.

Parameter names and arithmetic are those of the ``AutoencoderKL`` layout of the released ``vae`` folder (FLUX-style).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llada_uni.decoder.config import VAEConfig
from llada_uni.errors import SizeError
from llada_uni.layers.attention import attend

__all__ = ["VAE"]

_NORM_EPS = 1e-6
_LOGVAR_RANGE = (-30.0, 20.0)


class VAE(nn.Module):
    """Encoder and decoder; latents are ``config.factor`` times smaller than the picture on each side."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        latent = config.latent_channels
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1) if config.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if config.use_post_quant_conv else None

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] in [-1, 1] -> mean and log-variance, each [B, latent_channels, H/factor, W/factor].

        The log-variance is clamped to [-30, 20]. These are raw latents: see ``to_model``.

        Raises:
            SizeError: a side is not a multiple of ``config.factor``.
        """
        if images.shape[-2] % self.config.factor or images.shape[-1] % self.config.factor:
            raise SizeError(
                f"picture sides must be multiples of {self.config.factor}, "
                f"got {tuple(images.shape[-2:])} (height, width)"
            )
        moments = self.encoder(images)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(*_LOGVAR_RANGE)

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents [B, latent_channels, h, w] -> [B, 3, factor*h, factor*w], nominally in [-1, 1], not clamped."""
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)

    def to_model(self, latents: Tensor) -> Tensor:
        """Raw latents -> the roughly unit-variance latents the diffusion decoder sees: (z - shift) * scale."""
        return (latents - self.config.shift_factor) * self.config.scaling_factor

    def from_model(self, latents: Tensor) -> Tensor:
        """Inverse of ``to_model``: z / scale + shift."""
        return latents / self.config.scaling_factor + self.config.shift_factor


class Encoder(nn.Module):
    """Pictures -> [B, 2*latent_channels, H/factor, W/factor] moments."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        entering = (widths[0], *widths[:-1])
        self.down_blocks = nn.ModuleList(
            Stage(config, source, width, config.layers_per_block, resample="down" if i < len(widths) - 1 else "none")
            for i, (source, width) in enumerate(zip(entering, widths, strict=True))
        )
        self.mid_block = MiddleBlock(config, widths[-1])
        self.conv_norm_out = _group_norm(config, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, 2*latent_channels, H/factor, W/factor]."""
        x = self.conv_in(x)
        for stage in self.down_blocks:
            x = stage(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents -> pictures."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MiddleBlock(config, widths[0])
        entering = (widths[0], *widths[:-1])
        self.up_blocks = nn.ModuleList(
            Stage(config, source, width, config.layers_per_block + 1, resample="up" if i < len(widths) - 1 else "none")
            for i, (source, width) in enumerate(zip(entering, widths, strict=True))
        )
        self.conv_norm_out = _group_norm(config, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """[B, latent_channels, h, w] -> [B, out_channels, factor*h, factor*w]."""
        x = self.mid_block(self.conv_in(z))
        for stage in self.up_blocks:
            x = stage(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Stage(nn.Module):
    """Residual blocks at one resolution, then an optional change of resolution by two."""

    def __init__(self, config: VAEConfig, source: int, width: int, num_blocks: int, *, resample: str) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock(config, source if i == 0 else width, width) for i in range(num_blocks)
        )
        self.downsamplers = nn.ModuleList([Downsample(width)] if resample == "down" else [])
        self.upsamplers = nn.ModuleList([Upsample(width)] if resample == "up" else [])

    def forward(self, x: Tensor) -> Tensor:
        """[B, source, h, w] -> [B, width, h', w'] with h' = h/2, h or 2h."""
        for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = layer(x)
        return x


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, plus the input (through a 1x1 convolution when the width changes)."""

    def __init__(self, config: VAEConfig, source: int, width: int) -> None:
        super().__init__()
        self.norm1 = _group_norm(config, source)
        self.conv1 = nn.Conv2d(source, width, 3, padding=1)
        self.norm2 = _group_norm(config, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(source, width, 1) if source != width else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, source, h, w] -> [B, width, h, w]."""
        residual = x if self.conv_shortcut is None else self.conv_shortcut(x)
        x = self.conv1(F.silu(self.norm1(x)))
        return residual + self.conv2(F.silu(self.norm2(x)))


class MiddleBlock(nn.Module):
    """Residual block, optional self-attention over all positions, residual block."""

    def __init__(self, config: VAEConfig, width: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([SpatialAttention(config, width)] if config.mid_block_add_attention else [])
        self.resnets = nn.ModuleList(ResidualBlock(config, width, width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> [B, width, h, w]."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class SpatialAttention(nn.Module):
    """Single-head self-attention over the h*w positions, added to its input."""

    def __init__(self, config: VAEConfig, width: int) -> None:
        super().__init__()
        self.group_norm = _group_norm(config, width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> [B, width, h, w]."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2).unsqueeze(1)
        mixed = attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens), None)
        return x + self.to_out[0](mixed).squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])


class Downsample(nn.Module):
    """3x3 convolution of stride two; one zero row below and one zero column to the right, none on the other sides."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> [B, width, h/2, w/2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest doubling, then a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> [B, width, 2h, 2w]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _group_norm(config: VAEConfig, width: int) -> nn.GroupNorm:
    return nn.GroupNorm(config.norm_num_groups, width, eps=_NORM_EPS)
