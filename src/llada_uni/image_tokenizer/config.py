"""Configuration of the image tokenizer, field for field as in the released ``image_tokenizer`` folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from llada_uni import config as configs
from llada_uni.errors import ConfigError

__all__ = ["ImageTokenizerConfig", "PreprocessorConfig", "VQConfig", "VisionConfig"]

# Keys that model files of the surrounding ecosystem carry and that change nothing in the computation.
_METADATA = [
    "architectures",
    "attention_dropout",
    "auto_map",
    "do_resize",
    "dtype",
    "hidden_dropout_prob",
    "image_processor_type",
    "initializer_range",
    "max_pixels",
    "min_pixels",
    "model_type",
    "num_channels",
    "processor_class",
    "size",
    "torch_dtype",
    "transformers_version",
]


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Shape of the vision transformer; the defaults are the released values."""

    hidden_size: int = 1536
    intermediate_size: int = 6144
    depth: int = 40
    num_heads: int = 16
    patch_size: int = 16
    image_size: int = 2048
    in_channels: int = 3
    hidden_act: Literal["gelu", "gelu_pytorch_tanh"] = "gelu"
    attention_bias: bool = True
    layer_norm_eps: float = 1e-6
    spatial_merge_size: int = 1

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"vision hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.image_size % self.patch_size:
            raise ConfigError(f"vision image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.spatial_merge_size != 1:
            raise ConfigError(f"spatial_merge_size must be 1 for this tokenizer, got {self.spatial_merge_size}")

    @property
    def table_side(self) -> int:
        """Rows (and columns) of the learned position table."""
        return self.image_size // self.patch_size

    @property
    def patch_features(self) -> int:
        """Numbers in one flattened patch: channels * patch_size * patch_size."""
        return self.in_channels * self.patch_size**2


@dataclass(frozen=True, kw_only=True)
class VQConfig:
    """Shape of the codebook; ``beta`` (commitment weight) matters in training only."""

    num_embeddings: int = 16384
    embed_dim: int = 2048
    latent_channels: int = 1536
    beta: float = 0.25


@dataclass(frozen=True, kw_only=True)
class ImageTokenizerConfig:
    """``image_tokenizer/config.json``: a vision transformer and a codebook that reads its features."""

    vision_config: VisionConfig = field(default_factory=VisionConfig)
    vq_config: VQConfig = field(default_factory=VQConfig)

    def __post_init__(self) -> None:
        if self.vq_config.latent_channels != self.vision_config.hidden_size:
            raise ConfigError(
                f"vq latent_channels {self.vq_config.latent_channels} must equal "
                f"vision hidden_size {self.vision_config.hidden_size}"
            )

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str, foreign: bool = False) -> ImageTokenizerConfig:
        """Read a released or own ``config.json``; a flat file without the two sections is accepted when ``foreign``.

        Raises:
            ConfigError: unknown key (own files), wrong type, or inconsistent sizes.
        """
        if not foreign:
            return configs.from_mapping(cls, mapping, source=source)
        return cls(
            vision_config=_section(VisionConfig, VQConfig, mapping, "vision_config", source),
            vq_config=_section(VQConfig, VisionConfig, mapping, "vq_config", source),
        )


@dataclass(frozen=True, kw_only=True)
class PreprocessorConfig:
    """``image_tokenizer/preprocessor_config.json``: how 8-bit pixels become patch vectors.

    The released file also carries pixel budgets and resize flags that the released code never reads; they are ignored.
    """

    patch_size: int = 16
    temporal_patch_size: int = 1
    merge_size: int = 1
    do_rescale: bool = True
    do_normalize: bool = True
    rescale_factor: float = 0.00392156862745098
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resample: int = 3

    def __post_init__(self) -> None:
        if self.temporal_patch_size < 1 or self.merge_size < 1 or self.patch_size < 1:
            raise ConfigError("patch_size, temporal_patch_size and merge_size must be at least 1")
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or 0.0 in self.image_std:
            raise ConfigError("image_mean and image_std need three entries, and image_std none that is zero")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str, foreign: bool = False) -> PreprocessorConfig:
        """Read a released or own ``preprocessor_config.json``.

        Raises:
            ConfigError: unknown key (own files) or a value of the wrong type.
        """
        return configs.from_mapping(cls, mapping, source=source, foreign=foreign, ignored=_METADATA)


def _section(cls: type, other: type, mapping: Mapping[str, Any], name: str, source: str) -> Any:
    flat = name not in mapping
    ignored = (*_METADATA, *(f.name for f in fields(other)), "vision_config", "vq_config") if flat else _METADATA
    return configs.from_mapping(
        cls,
        mapping if flat else mapping[name],
        source=f"{source}: {name}",
        foreign=True,
        ignored=(*ignored, "in_channels"),
    )
