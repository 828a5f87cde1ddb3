"""Softmax attention with a boolean mask and grouped key/value heads."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from llada_uni.layers.precision import at_least_float32

__all__ = ["AttentionBackend", "attend", "mask_of_layers"]

AttentionBackend = Literal["auto", "sdpa", "tiled", "reference"]
KeyRanges = tuple[tuple[int, int], ...]

_TILE = 32


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    allowed: Tensor | None = None,
    *,
    scale: float | None = None,
    backend: AttentionBackend = "sdpa",
) -> Tensor:
    """``softmax(q kᵀ * scale) v`` over the keys that ``allowed`` marks.

    ``q`` is ``[B, H, S, D]``; ``k`` and ``v`` are ``[B, Hkv, T, D]`` with ``H`` a multiple of ``Hkv`` (query head ``h``
    reads key head ``h // (H / Hkv)``). ``allowed`` is boolean ``[B or 1, H or 1, S, T]``, True = may attend; None =
    everything. ``scale`` defaults to ``1 / sqrt(D)``. Returns ``[B, H, S, D]`` in the dtype of ``q``. A query that may
    attend to nothing gets zeros.

    Backends, equal up to rounding: ``"sdpa"`` is PyTorch's fused kernel; ``"tiled"`` multiplies only those 32 x 32
    tiles of the score matrix in which something is allowed (it reads the mask on the host, so it is for the CPU);
    ``"auto"`` takes the faster of the two for the device, dtype and mask; ``"reference"`` is the formula, literally,
    in float32 or wider.
    """
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    backend = _choose(q, allowed) if backend == "auto" else backend
    if backend == "reference":
        return _reference(q, k, v, allowed, scale)
    return (_tiled if backend == "tiled" else _fused)(q, k, v, allowed, scale)


def mask_of_layers(allowed: Tensor | None, x: Tensor) -> Tensor | None:
    """``allowed`` as every layer's ``attend(..., backend="auto")`` would make it, made once; ``x`` ``[B, S, width]``.

    0 and -inf in the dtype of ``x``, where the fused kernel on a CPU would convert the mask in every layer.
    """
    if allowed is None or torch.is_grad_enabled() or x.device.type != "cpu" or x.shape[1] >= 2 * _TILE:
        return allowed
    if x.dtype not in (torch.float32, torch.float64):
        return allowed
    return torch.zeros(allowed.shape, dtype=x.dtype).masked_fill_(~allowed, -math.inf)


def _choose(q: Tensor, allowed: Tensor | None) -> AttentionBackend:
    """Measured on the CPU: tiles win where a mask leaves much out, plain products in half-precision training."""
    if q.device.type != "cpu":
        return "sdpa"
    if allowed is None:
        return "tiled" if q.requires_grad and q.dtype in (torch.bfloat16, torch.float16) else "sdpa"
    return "tiled" if q.shape[2] >= 2 * _TILE and allowed.dtype == torch.bool else "sdpa"


def _reference(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = (at_least_float32(t).repeat_interleave(groups, dim=1) for t in (k, v))
    scores = at_least_float32(q) @ k.transpose(-1, -2) * scale
    if allowed is None:
        return (scores.softmax(-1) @ v).to(q.dtype)
    weights = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    weights = weights.masked_fill(~allowed.any(-1, keepdim=True), 0.0)
    return (weights @ v).to(q.dtype)


def _fused(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale, enable_gqa=grouped)


def _tiled(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float) -> Tensor:
    tile = _products if q.dtype in (torch.bfloat16, torch.float16) else _fused  # the fused one is slow in bfloat16
    if allowed is None:
        return tile(q, k, v, None, scale)
    blind = ~allowed.any(-1, keepdim=True)
    some_blind = bool(blind.any())
    visible = allowed | blind if some_blind else allowed
    parts = []
    for start, stop, ranges in _tiles(allowed):
        rows = q[:, :, start:stop]
        if not ranges:
            parts.append(torch.zeros_like(rows))
            continue
        mask = _pick(visible[:, :, start:stop], ranges, -1)
        parts.append(tile(rows, _pick(k, ranges, 2), _pick(v, ranges, 2), mask, scale))
    out = torch.cat(parts, dim=2)
    return out.masked_fill(blind, 0.0) if some_blind else out


def _products(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float) -> Tensor:
    """Two batched products per key head; every row of ``allowed`` must mark at least one key."""
    rows, kv_heads = q.shape[0], k.shape[1]
    folded = (q * scale).reshape(rows * kv_heads, -1, q.shape[-1])
    scores = torch.bmm(folded, k.flatten(0, 1).transpose(1, 2))
    if allowed is not None:
        bias = torch.zeros_like(allowed, dtype=scores.dtype).masked_fill_(~allowed, -math.inf)
        bias = bias.unflatten(1, (kv_heads, -1)) if bias.shape[1] > 1 else bias.unsqueeze(2)
        scores.view(rows, kv_heads, -1, *allowed.shape[-2:]).add_(bias)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(q.shape)


def _tiles(allowed: Tensor) -> list[tuple[int, int, KeyRanges]]:
    """Runs of query rows ``start, stop`` with the ranges of keys that any of them needs, in steps of one tile."""
    union = allowed.flatten(0, -3).any(0)
    queries, keys = union.shape
    padded = F.pad(union, (0, -keys % _TILE, 0, -queries % _TILE))
    needed = padded.unflatten(1, (-1, _TILE)).any(2).unflatten(0, (-1, _TILE)).any(1).tolist()
    tiles: list[tuple[int, int, KeyRanges]] = []
    for i, row in enumerate(needed):
        start, stop, ranges = i * _TILE, min((i + 1) * _TILE, queries), _ranges(row, keys)
        if tiles and tiles[-1][2] == ranges:
            start = tiles.pop()[0]
        tiles.append((start, stop, ranges))
    return tiles


def _ranges(row: list[bool], keys: int) -> KeyRanges:
    edges = [j for j in range(len(row) + 1) if (j < len(row) and row[j]) != (j > 0 and row[j - 1])]
    return tuple((a * _TILE, min(b * _TILE, keys)) for a, b in zip(edges[::2], edges[1::2], strict=True))


def _pick(x: Tensor, ranges: KeyRanges, dim: int) -> Tensor:
    parts = [x.narrow(dim, start, stop - start) for start, stop in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
