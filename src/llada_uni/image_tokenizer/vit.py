"""Vision transformer of the image tokenizer: patch vectors of whole images -> one feature vector per patch.

Source: released ``encoder/image_tokenizer.py`` (SigLIP-2-like: fused qkv, exact GELU, no final norm, no pooling).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada_uni.image_tokenizer.config import VisionConfig
from llada_uni.layers.attention import attend

if TYPE_CHECKING:
    from llada_uni.grid import TokenGrid

__all__ = ["VisionTransformer"]


class VisionTransformer(nn.Module):
    """Packed patches of several images -> features; attention never leaves an image."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = PositionTable(config)
        self.patch_embed = PatchEmbedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))

    def forward(self, pixel_values: Tensor, grids: Sequence[TokenGrid]) -> Tensor:
        """[N, C*p*p] patches of ``grids`` one after another, each in raster order -> [N, hidden_size]."""
        lengths = [grid.grid_h * grid.grid_w for grid in grids]
        x = self.patch_embed(pixel_values) + self.embeddings(grids)
        for block in self.blocks:
            x = block(x, lengths)
        return x


class PatchEmbedding(nn.Module):
    """Linear map of a flattened patch, stored as the convolution it is in the released file."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_channels, config.hidden_size, config.patch_size, stride=config.patch_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[N, C*p*p], numbers in (channel, row, column) order -> [N, hidden_size]."""
        weight = self.proj.weight
        return F.linear(pixel_values.to(weight.dtype), weight.flatten(1), self.proj.bias)


class PositionTable(nn.Module):
    """Learned square table of positions, stretched bilinearly over the whole image whatever its shape."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.side = config.table_side
        self.position_embedding = nn.Embedding(self.side**2, config.hidden_size)

    def forward(self, grids: Sequence[TokenGrid]) -> Tensor:
        """[N, hidden_size] in the table's dtype; sampled in at least float32 at cell centres, edges repeated."""
        weight = self.position_embedding.weight
        table = weight.to(torch.promote_types(weight.dtype, torch.float32))
        table = table.view(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        sampled = {size: self._sample(table, size) for size in {(g.grid_h, g.grid_w) for g in grids}}
        return torch.cat([sampled[g.grid_h, g.grid_w] for g in grids]).to(weight.dtype)

    def _sample(self, table: Tensor, size: tuple[int, int]) -> Tensor:
        if size != (self.side, self.side):
            table = F.interpolate(table, size=size, mode="bilinear", align_corners=False)
        return table[0].flatten(1).T


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm1 x), then x + mlp(norm2 x)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = Attention(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """[N, D] -> [N, D]; ``lengths`` patches per image, summing to N."""
        x = x + self.attn(self.norm1(x), lengths)
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Full self-attention inside each image, one fused projection laid out [query | key | value] x heads."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """[N, D] -> [N, D]. Images of equal length are attended as one batch, others one by one."""
        qkv = self.qkv(x)
        if len(set(lengths)) == 1:
            mixed = self._attend(qkv, len(lengths))
        else:
            mixed = torch.cat([self._attend(part, 1) for part in qkv.split(list(lengths))])
        return self.proj(mixed)

    def _attend(self, qkv: Tensor, batch: int) -> Tensor:
        """[batch*n, 3*D] -> [batch*n, D]."""
        q, k, v = qkv.view(batch, qkv.shape[0] // batch, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return attend(q, k, v, None).transpose(1, 2).flatten(2).flatten(0, 1)


class MLP(nn.Module):
    """Two linear maps around a GELU (exact unless the configuration says otherwise)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.approximate = "tanh" if config.hidden_act == "gelu_pytorch_tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] -> [N, D]."""
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))
