"""Building blocks of the diffusion transformer, with the released parameter names.

Source: released ``decoder/decoder_model.py``. RMSNorm around every sublayer, no shift in the modulation, tanh on gates.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llada_uni.decoder.config import DecoderConfig
from llada_uni.layers.attention import attend
from llada_uni.layers.norm import RMSNorm
from llada_uni.layers.precision import at_least_float32
from llada_uni.layers.rope import adjacent_pairs
from llada_uni.layers.timestep import sinusoidal

__all__ = ["Block", "FinalLayer", "TimeEmbedding", "zeroed_linear"]

_HEAD_NORM_EPS = 1e-5
_FINAL_NORM_EPS = 1e-6
_TIME_FEATURES = 256


class TimeEmbedding(nn.Module):
    """Flow time -> the vector that modulates every block."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.scale = config.t_scale
        self.mlp = nn.Sequential(
            nn.Linear(_TIME_FEATURES, config.time_hidden_dim),
            nn.SiLU(),
            nn.Linear(config.time_hidden_dim, config.modulation_dim),
        )

    def forward(self, time: Tensor) -> Tensor:
        """[B] in [0, 1] -> [B, modulation_dim] in the dtype of the weights."""
        features = sinusoidal(at_least_float32(time) * self.scale, _TIME_FEATURES)
        return self.mlp(features.to(next(self.parameters()).dtype))


class Block(nn.Module):
    """Attention and feed-forward sublayers, each between two norms; scaled and gated by time when ``modulated``."""

    def __init__(self, config: DecoderConfig, *, modulated: bool) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.feed_forward = _FeedForward(config)
        self.attention_norm1 = RMSNorm(config.dim, eps=config.norm_eps)
        self.attention_norm2 = RMSNorm(config.dim, eps=config.norm_eps)
        self.ffn_norm1 = RMSNorm(config.dim, eps=config.norm_eps)
        self.ffn_norm2 = RMSNorm(config.dim, eps=config.norm_eps)
        modulators = [zeroed_linear(config.modulation_dim, 4 * config.dim)] if modulated else []
        self.adaLN_modulation = nn.ModuleList(modulators)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor | None,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        num_queries: int | None = None,
    ) -> Tensor:
        """Update a token sequence.

        Args:
            x: [B, S, dim].
            modulation: [B, modulation_dim] for modulated blocks, None for others.
            rotation: cosines and sines, each [B or 1, 1, S, head_dim / 2].
            mask: True where a key may be attended to, broadcastable to [B, heads, S, S]; None means everywhere.
            num_queries: update only so many leading tokens (they still attend to all of them).

        Returns:
            [B, num_queries or S, dim].
        """
        if modulation is None:
            x = x[:, :num_queries] + self.attention_norm2(
                self.attention(self.attention_norm1(x), rotation, mask, num_queries)
            )
            return x + self.ffn_norm2(self.feed_forward(self.ffn_norm1(x)))
        scale_msa, gate_msa, scale_mlp, gate_mlp = self.adaLN_modulation[0](modulation).unsqueeze(1).chunk(4, dim=-1)
        mixed = self.attention(self.attention_norm1(x) * (1.0 + scale_msa), rotation, mask, num_queries)
        x = x[:, :num_queries] + gate_msa.tanh() * self.attention_norm2(mixed)
        update = self.feed_forward(self.ffn_norm1(x) * (1.0 + scale_mlp))
        return x + gate_mlp.tanh() * self.ffn_norm2(update)


class FinalLayer(nn.Module):
    """Output head: tokens -> velocity of the latent patches. A second one serves as auxiliary head in distillation."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.channels, self.patch_size = config.in_channels, config.patch_size
        self.linear = zeroed_linear(config.dim, config.patch_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), zeroed_linear(config.modulation_dim, config.dim))

    def forward(self, tokens: Tensor, modulation: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B, rows*columns, dim] image tokens in raster order -> [B, channels, rows*patch, columns*patch]."""
        scale = 1.0 + self.adaLN_modulation(modulation).unsqueeze(1)
        patches = self.linear(F.layer_norm(tokens, tokens.shape[-1:], eps=_FINAL_NORM_EPS) * scale)
        patches = patches.view(-1, *grid, self.patch_size, self.patch_size, self.channels)
        return patches.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


class _Attention(nn.Module):
    """Multi-head attention with normalised queries and keys, rotated in adjacent pairs."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(config.dim, config.dim, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(config.dim, config.dim, bias=False)])
        self.norm_q = RMSNorm(config.head_dim, eps=_HEAD_NORM_EPS) if config.qk_norm else nn.Identity()
        self.norm_k = RMSNorm(config.head_dim, eps=_HEAD_NORM_EPS) if config.qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, num_queries: int | None
    ) -> Tensor:
        """[B, S, dim] -> [B, num_queries or S, dim]."""
        cos, sin = rotation
        q = self.norm_q(self._heads(self.to_q(x[:, :num_queries])))
        k = self.norm_k(self._heads(self.to_k(x)))
        q = adjacent_pairs(q, cos[:, :, :num_queries], sin[:, :, :num_queries])
        backend = "auto" if mask is None else "sdpa"
        mixed = attend(q, adjacent_pairs(k, cos, sin), self._heads(self.to_v(x)), mask, backend=backend)
        return self.to_out[0](mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class _FeedForward(nn.Module):
    """w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_dim, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, dim] -> [B, S, dim]."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def zeroed_linear(source: int, target: int) -> nn.Linear:
    """Linear layer with bias that starts at zero, so that an untrained network is the identity (or predicts zero)."""
    linear = nn.Linear(source, target)
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear
