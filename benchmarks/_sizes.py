"""The three sizes that speed is measured at: shapes, and networks with random weights made where they will live.

``nano`` is the checkpoint in the package with its own weights, ``uni`` the released shapes, ``tiny`` a toy to rehearse
the commands for ``uni`` on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from _record import ROOT
from llada_uni.backbone.config import BackboneConfig
from llada_uni.backbone.layout import lay_out
from llada_uni.backbone.model import Backbone
from llada_uni.decoder.config import DecoderConfig, SemanticEmbedderConfig, VAEConfig
from llada_uni.decoder.dit import Decoder
from llada_uni.decoder.semantic import SemanticEmbedder
from llada_uni.decoder.vae import VAE
from llada_uni.grid import Geometry
from llada_uni.image_tokenizer.config import ImageTokenizerConfig, VisionConfig, VQConfig
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.pipeline.pixels import PixelOptions
from llada_uni.pipeline.velocity import SharedWork
from llada_uni.weights import load

__all__ = ["NANO", "SIZES", "Networks", "Shapes", "filled", "random_ids", "shapes"]

NANO = ROOT / "src" / "llada_uni" / "nano"
SIZES = ("tiny", "nano", "uni")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Configurations of one size, and the ids that prompts and requests need."""

    size: str
    backbone: BackboneConfig
    image_tokenizer: ImageTokenizerConfig
    embedder: SemanticEmbedderConfig
    decoder: DecoderConfig
    vae: VAEConfig
    geometry: Geometry
    mask_id: int

    @property
    def first_code(self) -> int:
        """The first image id."""
        assert self.backbone.image_token_offset is not None
        return self.backbone.image_token_offset


def shapes(size: str) -> Shapes:
    """Configurations of ``size``."""
    return {"tiny": _tiny, "nano": _nano, "uni": _uni}[size]()


def _uni() -> Shapes:
    return Shapes(
        size="uni",
        backbone=BackboneConfig(),
        image_tokenizer=ImageTokenizerConfig(),
        embedder=SemanticEmbedderConfig(),
        decoder=DecoderConfig(),
        vae=VAEConfig(),
        geometry=Geometry(),
        mask_id=156895,
    )


def _nano() -> Shapes:
    return Shapes(
        size="nano",
        backbone=load.load_backbone_config(NANO),
        image_tokenizer=load.load_image_tokenizer_config(NANO),
        embedder=load.load_semantic_embedder_config(NANO),
        decoder=load.load_decoder_config(NANO, "turbo"),
        vae=load.load_vae_config(NANO),
        geometry=load.load_geometry(NANO),
        mask_id=load.load_vocab(NANO).special.mask,
    )


def _tiny() -> Shapes:
    backbone = BackboneConfig(
        vocab_size=96, image_token_offset=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, intermediate_size=48, num_experts=8, num_experts_per_tok=2, n_group=2,
        topk_group=2, moe_intermediate_size=16, rope_theta=10000.0, pad_token_id=0,
    )  # fmt: skip
    vision = VisionConfig(hidden_size=16, intermediate_size=32, depth=2, num_heads=2, patch_size=4, image_size=64)
    return Shapes(
        size="tiny",
        backbone=backbone,
        image_tokenizer=ImageTokenizerConfig(
            vision_config=vision, vq_config=VQConfig(num_embeddings=32, embed_dim=8, latent_channels=16)
        ),
        embedder=SemanticEmbedderConfig(num_codes=32, width=16),
        decoder=DecoderConfig(
            in_channels=4, dim=24, n_layers=2, n_refiner_layers=1, n_heads=2, axes_dims=(4, 4, 4), cap_feat_dim=16,
            time_hidden_dim=32,
        ),
        vae=VAEConfig(
            block_out_channels=(8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4,
            mid_block_add_attention=False,
        ),
        geometry=Geometry(patch_size=4, vae_factor=2, dit_patch=2),
        mask_id=63,
    )  # fmt: skip


@torch.no_grad()
def filled(build: Callable[[], ModuleT], *, device: torch.device, dtype: torch.dtype, seed: int = 0) -> ModuleT:
    """A network with random weights that never existed anywhere but on ``device`` in ``dtype``.

    Matrices are normal with standard deviation 0.02, biases 0, other vectors 1, as an untrained network has them.
    """
    with torch.device("meta"):
        model = build()
    model = model.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.ndim > 1:
            tensor.normal_(0.0, 0.02, generator=generator)
        else:
            tensor.fill_(0.0 if name.endswith("bias") else 1.0)
    return model.eval().requires_grad_(False)


class Networks:
    """The networks of one size, made when first used: nano's own weights, random ones otherwise.

    It has what ``llada_uni.pipeline.stations`` needs to turn codes into pictures.
    """

    name = "benchmark"

    def __init__(self, found: Shapes, *, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
        self.shapes, self.device, self.dtype, self.seed = found, device, dtype, seed
        self.geometry = found.geometry
        self.pixels = PixelOptions()
        self._decoders: dict[str, Decoder] = {}
        self._shared: dict[Decoder, SharedWork] = {}

    @cached_property
    def backbone(self) -> Backbone:
        return lay_out(self._made(lambda: Backbone(self.shapes.backbone), load.load_backbone))

    @cached_property
    def image_tokenizer(self) -> ImageTokenizer:
        return self._made(lambda: ImageTokenizer(self.shapes.image_tokenizer), load.load_image_tokenizer)

    @cached_property
    def semantic_embedder(self) -> SemanticEmbedder:
        return self._made(lambda: SemanticEmbedder(self.shapes.embedder), load.load_semantic_embedder)

    @cached_property
    def vae(self) -> VAE:
        return self._made(lambda: VAE(self.shapes.vae), load.load_vae)

    def decoder(self, variant: str = "turbo") -> Decoder:
        """The ``"turbo"`` or ``"normal"`` decoder."""
        if variant not in self._decoders:
            self._decoders[variant] = self._made(
                lambda: Decoder(self.shapes.decoder), lambda root, **where: load.load_decoder(root, variant, **where)
            )
        return self._decoders[variant]

    def shared_work(self, decoder: Decoder) -> SharedWork:
        """What the pictures that ``decoder`` draws have in common."""
        return self._shared.setdefault(decoder, SharedWork())

    def forget_decoder(self) -> None:
        """Free both decoders and what surrounds them, as a program does that keeps one network in memory at a time."""
        self._decoders.clear()
        self._shared.clear()
        for name in ("semantic_embedder", "vae"):
            self.__dict__.pop(name, None)

    def _made(self, build: Callable[[], ModuleT], stored: Callable[..., Any]) -> ModuleT:
        where: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        return stored(NANO, **where) if self.shapes.size == "nano" else filled(build, **where, seed=self.seed)


def random_ids(count: int, low: int, high: int, seed: int) -> Tensor:
    """``count`` ids from ``low`` to below ``high``, int64."""
    return torch.randint(low, high, (count,), generator=torch.Generator().manual_seed(seed))
