"""Three-axis positions of the decoder's tokens and the rotation angles made from them.

Axis 0 tells condition tokens from image tokens, axes 1 and 2 are row and column. Two layouts of the condition:

- ``"sequence"`` (released): condition token k, pads included, sits at (1 + k, 0, 0) and the image at
  (L + 1, row, column) with L the padded condition length.
- ``"grid"``: the condition tokens form a grid of the same size as the image tokens; they sit at (1, row, column) and
  the image at (2, row, column), so that a token and the code that describes it share row and column.

Pads of the image, and of the condition in the ``"grid"`` layout, sit at (0, 0, 0).
Source: released ``decoder/decoder_model.py``; the ``"grid"`` layout is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from llada_uni.errors import SizeError
from llada_uni.layers.rope import angles

__all__ = [
    "PAD_MULTIPLE",
    "ConditionPositions",
    "PlaceTables",
    "condition_positions",
    "image_positions",
    "padded",
    "rotation",
]

PAD_MULTIPLE = 32
"""Image tokens and condition tokens are each padded to a multiple of this; the pads take part in attention."""

ConditionPositions = Literal["sequence", "grid"]


class PlaceTables(nn.Module):
    """Learned embeddings of the absolute row and column of a token; freshly built they add nothing. Ours."""

    def __init__(self, side: int, dim: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(side, dim))
        self.columns = nn.Parameter(torch.zeros(side, dim))

    def forward(self, grid: tuple[int, int], origin: Tensor | None = None) -> Tensor:
        """[1 or B, rows * columns, dim] for tokens in raster order.

        ``origin`` int64 [B, 2] is the row and column of the first token, for crops; the corner by default.

        Raises:
            SizeError: a token lies beyond the tables.
        """
        side = self.rows.shape[0]
        furthest = max(grid) if origin is None else int((origin + origin.new_tensor(grid)).max())
        if furthest > side or (origin is not None and int(origin.min()) < 0):
            raise SizeError(
                f"a grid of {grid[0]} x {grid[1]} tokens reaches beyond this decoder's {side} x {side} places"
            )
        if origin is None:
            return (self.rows[: grid[0], None] + self.columns[None, : grid[1]]).flatten(0, 1).unsqueeze(0)
        start = origin.to(self.rows.device).unsqueeze(-1)
        rows = start[:, 0] + torch.arange(grid[0], device=start.device)
        columns = start[:, 1] + torch.arange(grid[1], device=start.device)
        return (self.rows[rows][:, :, None] + self.columns[columns][:, None]).flatten(1, 2)


def padded(length: int) -> int:
    """Smallest multiple of ``PAD_MULTIPLE`` that is at least ``length``."""
    return -(-length // PAD_MULTIPLE) * PAD_MULTIPLE


def condition_positions(
    length: int, layout: ConditionPositions, grid: tuple[int, int] | None, device: torch.device
) -> Tensor:
    """int64 [padded(length), 3] for ``length`` condition tokens; ``grid`` (rows, columns) is needed by ``"grid"`` only.

    Raises:
        SizeError: the ``"grid"`` layout without a grid of exactly ``length`` cells.
    """
    if layout == "grid":
        if grid is None or grid[0] * grid[1] != length:
            raise SizeError(f"this decoder needs one condition token per image token: got {length} for the grid {grid}")
        return _cells(1, *grid, device)
    positions = torch.zeros(padded(length), 3, dtype=torch.int64, device=device)
    positions[:, 0] = torch.arange(1, padded(length) + 1, device=device)
    return positions


def image_positions(
    grid: tuple[int, int], layout: ConditionPositions, condition_length: int, device: torch.device
) -> Tensor:
    """int64 [padded(rows * columns), 3] of the image tokens; ``condition_length`` is the padded one."""
    return _cells(2 if layout == "grid" else condition_length + 1, *grid, device)


def rotation(positions: Tensor, axes_dims: Sequence[int], theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotation angles, axis after axis.

    Angles are computed in float64 and rounded to ``dtype`` before the cosine, as in the released code.
    ``positions`` is int64 [B, S, 3]; returns two [B, 1, S, sum(axes_dims) / 2] tensors of ``dtype``.
    """
    parts = [
        angles(positions[..., axis], width, theta=theta, dtype=torch.float64) for axis, width in enumerate(axes_dims)
    ]
    joined = torch.cat(parts, dim=-1).to(dtype).unsqueeze(1)
    return joined.cos(), joined.sin()


def _cells(time_index: int, rows: int, columns: int, device: torch.device) -> Tensor:
    count = rows * columns
    positions = torch.zeros(padded(count), 3, dtype=torch.int64, device=device)
    cell = torch.arange(count, device=device)
    positions[:count, 0] = time_index
    positions[:count, 1] = cell // columns
    positions[:count, 2] = cell % columns
    return positions
