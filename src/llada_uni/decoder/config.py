"""Configuration of the diffusion decoder, its semantic embedder and the VAE; released field names and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llada_uni import config as configs
from llada_uni.errors import ConfigError

__all__ = ["DecoderConfig", "SemanticEmbedderConfig", "VAEConfig"]

_DECODER_METADATA = ("n_kv_heads", "siglip_feat_dim", "dtype", "torch_dtype")
_VAE_METADATA = ("sample_size", "force_upcast", "latents_mean", "latents_std", "dtype", "torch_dtype")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape of the diffusion transformer; the defaults are the released values.

    ``condition_positions``, ``absolute_positions`` and ``time_hidden_dim`` are ours; "sequence", 0 and 1024 are the
    released network. "grid" gives every condition token the row and column it describes, and ``absolute_positions`` is
    the side of learned tables that tell a token its place in the picture (rotary positions are relative, so the four
    copies of a code look alike); small models need both.
    """

    all_patch_size: tuple[int, ...] = (2,)
    all_f_patch_size: tuple[int, ...] = (1,)
    in_channels: int = 16
    dim: int = 3840
    n_layers: int = 30
    n_refiner_layers: int = 2
    n_heads: int = 30
    norm_eps: float = 1e-5
    qk_norm: bool = True
    cap_feat_dim: int = 4096
    rope_theta: float = 256.0
    t_scale: float = 1000.0
    axes_dims: tuple[int, ...] = (32, 48, 48)
    axes_lens: tuple[int, ...] = (32768, 1024, 1024)
    condition_positions: Literal["sequence", "grid"] = "sequence"
    absolute_positions: int = 0
    time_hidden_dim: int = 1024

    def __post_init__(self) -> None:
        if self.absolute_positions and self.condition_positions != "grid":
            raise ConfigError('absolute_positions needs condition_positions "grid"')
        if len(self.all_patch_size) != 1 or self.all_f_patch_size != (1,):
            raise ConfigError(
                "the decoder has one patch size and frame patch 1, "
                f"got {self.all_patch_size} and {self.all_f_patch_size}"
            )
        if self.dim % self.n_heads or sum(self.axes_dims) != self.dim // self.n_heads:
            raise ConfigError(f"axes_dims {self.axes_dims} must sum to dim / n_heads = {self.dim} / {self.n_heads}")
        if len(self.axes_dims) != 3 or len(self.axes_lens) != 3 or any(width % 2 for width in self.axes_dims):
            raise ConfigError(f"axes_dims needs three even widths and axes_lens three lengths, got {self.axes_dims} "
                              f"and {self.axes_lens}")  # fmt: skip

    @property
    def patch_size(self) -> int:
        """Latent cells per token and side."""
        return self.all_patch_size[0]

    @property
    def patch_features(self) -> int:
        """Numbers in one image token: channels * patch_size squared."""
        return self.in_channels * self.patch_size**2

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_heads

    @property
    def ffn_dim(self) -> int:
        """Hidden width of the feed-forward layers, truncated as in the released code."""
        return int(self.dim / 3 * 8)

    @property
    def modulation_dim(self) -> int:
        """Width of the time embedding that modulates the blocks."""
        return min(self.dim, 256)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str, foreign: bool = False) -> DecoderConfig:
        """Read a released or own ``decoder/config.json``.

        The released loader overwrites ``axes_lens`` and ``cap_feat_dim`` after reading a file; here ``cap_feat_dim`` is
        expected to follow the tensors, which is the loader's business.

        Raises:
            ConfigError: unknown key (own files), wrong type, or inconsistent sizes.
        """
        return configs.from_mapping(cls, mapping, source=source, foreign=foreign, ignored=_DECODER_METADATA)


@dataclass(frozen=True, kw_only=True)
class SemanticEmbedderConfig:
    """Shape of the table that turns codes into the decoder's condition; the defaults are the released values."""

    num_codes: int = 16384
    width: int = 4096


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Shape of the autoencoder; the defaults are the released values.

    Block types left empty are filled in: there is one kind of block each way, one per entry of ``block_out_channels``.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ()
    up_block_types: tuple[str, ...] = ()
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    act_fn: Literal["silu"] = "silu"
    latent_channels: int = 16
    norm_num_groups: int = 32
    scaling_factor: float = 0.3611
    shift_factor: float = 0.1159
    use_quant_conv: bool = False
    use_post_quant_conv: bool = False
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        stages = len(self.block_out_channels)
        for name, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            if not getattr(self, name):
                object.__setattr__(self, name, (kind,) * stages)
            if getattr(self, name) != (kind,) * stages:
                raise ConfigError(f"{name}: expected {kind} x {stages}, got {getattr(self, name)}")
        if any(width % self.norm_num_groups for width in self.block_out_channels):
            raise ConfigError(
                f"block_out_channels {self.block_out_channels} must be multiples "
                f"of norm_num_groups {self.norm_num_groups}"
            )

    @property
    def factor(self) -> int:
        """Pixels per latent cell and side."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str, foreign: bool = False) -> VAEConfig:
        """Read a released or own ``vae/config.json``.

        Raises:
            ConfigError: unknown key (own files), wrong type, or blocks this autoencoder does not have.
        """
        return configs.from_mapping(cls, mapping, source=source, foreign=foreign, ignored=_VAE_METADATA)
