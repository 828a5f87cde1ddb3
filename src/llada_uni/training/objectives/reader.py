"""The small language model through which the tokenizer is trained, and the adapter to it. Discarded afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada_uni.layers.attention import attend

__all__ = ["Adapter", "Reader", "ReaderConfig"]

_MAX_SIDE, _MAX_TEXT = 32, 128


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """Shape of the reader."""

    width: int = 160
    depth: int = 3
    heads: int = 5
    text_vocab_size: int = 1536


class Adapter(nn.Module):
    """One residual block between codes and language model. Source: X-Omni (arXiv 2507.22058) section 3.1."""

    def __init__(self, source: int, width: int) -> None:
        super().__init__()
        self.entry = nn.Linear(source, width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., source] -> [..., width]."""
        x = self.entry(x)
        return x + self.down(F.gelu(self.up(self.norm(x))))


class _Layer(nn.Module):
    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """[B, S, width], bool [B, 1, S, S] -> [B, S, width]."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(attend(q, k, v, allowed).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Reader(nn.Module):
    """Prefix language model: picture tokens see each other, every question sees the picture and its own past."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        width = config.width
        self.text_embedding = nn.Embedding(config.text_vocab_size, width)
        self.row_embedding = nn.Embedding(_MAX_SIDE, width)
        self.column_embedding = nn.Embedding(_MAX_SIDE, width)
        self.place_embedding = nn.Embedding(_MAX_TEXT, width)
        for table in (self.text_embedding, self.row_embedding, self.column_embedding, self.place_embedding):
            nn.init.normal_(table.weight, std=0.02)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.text_vocab_size, bias=False)

    def forward(self, tokens: Tensor, grid: tuple[int, int], text: Mapping[str, Tensor]) -> Tensor:
        """Logits of the next text ids.

        ``tokens`` [B, h * w, width] picture tokens of ``grid``; ``text`` the tensors of ``QuestionRows``.
        Returns [B, T, text_vocab_size].
        """
        device = tokens.device
        rows = self.row_embedding(torch.arange(grid[0], device=device))[:, None]
        columns = self.column_embedding(torch.arange(grid[1], device=device))[None]
        picture = tokens + (rows + columns).flatten(0, 1)
        words = self.text_embedding(text["ids"]) + self.place_embedding(text["place"].clamp(max=_MAX_TEXT - 1))
        x = torch.cat([picture, words], dim=1)
        allowed = _allowed(picture.shape[1], text["question"], text["place"])
        for layer in self.layers:
            x = layer(x, allowed)
        return self.head(self.norm(x[:, picture.shape[1] :]))


def _allowed(num_cells: int, question: Tensor, place: Tensor) -> Tensor:
    """bool [B, 1, S, S] for S = cells + text."""
    batch, length = question.shape
    total = num_cells + length
    allowed = torch.zeros(batch, total, total, dtype=torch.bool, device=question.device)
    allowed[:, :, :num_cells] = True
    same = question[:, :, None] == question[:, None, :]
    allowed[:, num_cells:, num_cells:] = same & (place[:, :, None] >= place[:, None, :])
    return allowed[:, None]
