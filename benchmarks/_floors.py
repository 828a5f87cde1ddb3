"""The least that each part has to read and to multiply, from its configuration: what its time is measured against.

Bytes are those of the weights that take part, read once, and of cached keys and values; activations, which stay in
caches of the chip, are left out. A product of [m, k] and [k, n] is 2 m k n operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from _sizes import Shapes
from _timing import seconds
from llada_uni.backbone.config import BackboneConfig
from llada_uni.backbone.model import Backbone
from llada_uni.decoder.dit import Decoder
from llada_uni.decoder.semantic import SemanticEmbedder
from llada_uni.decoder.vae import VAE
from llada_uni.grid import TokenGrid
from llada_uni.image_tokenizer.model import ImageTokenizer

__all__ = ["Cost", "Machine", "backbone_step", "decoder_call", "expected_experts", "kv_bytes_per_token", "networks",
           "num_parameters", "tokenizer_call", "vae_call"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a device can do: bytes a second (reads and writes of a copy together) and operations a second."""

    name: str
    bytes_per_s: float
    flops_per_s: float

    @classmethod
    def measured(cls, device: torch.device, dtype: torch.dtype) -> Machine:
        """Rates of a large copy and of a large square product on ``device``, measured now."""
        from _timing import copy_rate

        side = 8192 if device.type == "cuda" else 512
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        a @ b
        best = min(seconds(lambda: a @ b, device) for _ in range(5))
        return cls(name=str(device), bytes_per_s=copy_rate(device), flops_per_s=2 * side**3 / best)

    def as_dict(self) -> dict[str, float]:
        """Ready for JSON."""
        return {"gb_per_s": round(self.bytes_per_s / 1e9, 1), "tflops_per_s": round(self.flops_per_s / 1e12, 3)}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Bytes to read and operations of one call."""

    bytes: float
    flops: float

    def floor_s(self, machine: Machine) -> float:
        """Seconds that ``machine`` needs at least."""
        return max(self.bytes / machine.bytes_per_s, self.flops / machine.flops_per_s)

    def bound(self, machine: Machine) -> str:
        """Which of the two it is that takes this long."""
        return "memory" if self.bytes / machine.bytes_per_s >= self.flops / machine.flops_per_s else "products"

    def as_dict(self, machine: Machine) -> dict[str, float | str]:
        """Ready for JSON."""
        return {
            "gb": self.bytes / 1e9,
            "gflop": self.flops / 1e9,
            "floor_ms": 1000 * self.floor_s(machine),
            "bound": self.bound(machine),
        }


def expected_experts(config: BackboneConfig, tokens: int) -> float:
    """Experts of a layer that at least one of ``tokens`` chooses, if all are as likely."""
    missed = (1 - config.num_experts_per_tok / config.num_experts) ** tokens
    return config.num_experts * (1 - missed)


def kv_bytes_per_token(config: BackboneConfig, element: int) -> int:
    """Cached keys and values of one position."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * element


def backbone_step(
    config: BackboneConfig,
    *,
    branches: int,
    context: int,
    active: int = 32,
    head_ids: int | None = None,
    experts: float | None = None,
    element: int = 2,
) -> Cost:
    """A denoising step of ``branches`` blocks of ``active`` positions behind ``context`` cached ones each.

    ``head_ids``: vocabulary rows with logits, None = all. ``experts``: distinct ones per layer, None = as expected of
    uniform routing. ``element``: bytes of a number.
    """
    c, tokens = config, branches * active
    experts = expected_experts(c, tokens) if experts is None else experts
    wide, moe = c.hidden_size, c.num_moe_layers
    attention = wide * c.head_dim * (2 * c.num_attention_heads + 2 * c.num_key_value_heads)
    expert = 3 * wide * c.moe_intermediate_size
    dense = 3 * wide * c.intermediate_size * (c.num_hidden_layers - moe)
    head = wide * (c.vocab_size if head_ids is None else head_ids)
    common = c.num_hidden_layers * attention + dense + moe * (c.num_shared_experts * expert + wide * c.num_experts)
    read = common + moe * experts * expert + head + tokens * wide
    scores = 4 * c.num_hidden_layers * tokens * (context + active) * c.num_attention_heads * c.head_dim
    flops = 2 * tokens * (common + moe * c.num_experts_per_tok * expert + head) + scores
    return Cost(bytes=element * read + branches * context * kv_bytes_per_token(c, element), flops=flops)


def decoder_call(shapes: Shapes, grid: TokenGrid, *, batch: int = 1, element: int = 2, refined: bool = True) -> Cost:
    """One evaluation of the velocity; ``refined``: the condition's own layers were computed before."""
    latents = (shapes.decoder.in_channels, *shapes.geometry.latent_hw(grid))
    condition = shapes.geometry.condition_grid(grid)
    features = (condition[0] * condition[1], shapes.decoder.cap_feat_dim)

    def call(model: nn.Module) -> None:
        time = torch.empty(batch, device="meta")
        given = model.context(torch.empty(batch, *features, device="meta"), condition) if refined else None  # type: ignore[operator]
        with counter:
            model(torch.empty(batch, *latents, device="meta"), time,
                  torch.empty(batch, *features, device="meta") if given is None else given)  # fmt: skip

    counter = FlopCounterMode(display=False)
    model = _on_meta(lambda: Decoder(shapes.decoder))
    call(model)
    read = num_parameters(model)
    if refined:
        read -= num_parameters(model.context_refiner) + num_parameters(model.semantic_embedder)  # type: ignore[arg-type]
    return Cost(bytes=element * read, flops=counter.get_total_flops())


def vae_call(shapes: Shapes, grid: TokenGrid, *, element: int = 2) -> Cost:
    """Latents to pixels."""
    model = _on_meta(lambda: VAE(shapes.vae))
    latents = torch.empty(1, shapes.vae.latent_channels, *shapes.geometry.latent_hw(grid), device="meta")
    with FlopCounterMode(display=False) as counter:
        model.decode(latents)  # type: ignore[operator]
    return Cost(bytes=element * num_parameters(model.decoder), flops=counter.get_total_flops())  # type: ignore[arg-type]


def tokenizer_call(shapes: Shapes, grid: TokenGrid, *, element: int = 2) -> Cost:
    """Pixels to codes, by formula: the vision transformer and the codebook."""
    vision, vq = shapes.image_tokenizer.vision_config, shapes.image_tokenizer.vq_config
    wide, count = vision.hidden_size, grid.num_tokens
    layer = 4 * wide**2 + 2 * wide * vision.intermediate_size
    ends = wide * vision.patch_features + vq.latent_channels * vq.embed_dim + vq.embed_dim * vq.num_embeddings
    flops = 2 * count * (vision.depth * layer + ends) + 4 * vision.depth * count**2 * wide
    return Cost(bytes=element * (vision.depth * layer + ends), flops=flops)


def networks(shapes: Shapes) -> dict[str, int]:
    """Numbers in every network."""
    builders: dict[str, Callable[[], nn.Module]] = {
        "backbone": lambda: Backbone(shapes.backbone),
        "image tokenizer": lambda: ImageTokenizer(shapes.image_tokenizer),
        "semantic embedder": lambda: SemanticEmbedder(shapes.embedder),
        "decoder": lambda: Decoder(shapes.decoder),
        "VAE": lambda: VAE(shapes.vae),
    }
    return {name: num_parameters(_on_meta(build)) for name, build in builders.items()}


def num_parameters(model: nn.Module) -> int:
    """Numbers in its parameters."""
    return sum(tensor.numel() for tensor in model.parameters())


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build().requires_grad_(False).eval()
