"""Corruption for block diffusion: how much of a block is masked, which tokens, and who may look at whom.

Positions are grouped into blocks. Training shows the network a noisy copy of a block together with the clean earlier
blocks; generation denoises one block after another. The two must use the same visibility rule, which is stated once
here, for a doubled sequence (:func:`block_diffusion_allowed`), for generation (:func:`block_causal_allowed`) and for
packed rows with several documents, shared prefixes and several noisy views (:func:`training_allowed`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "IMAGE_LAW",
    "RELEASED_LAW",
    "TEXT_LAW",
    "MaskRatioLaw",
    "block_causal_allowed",
    "block_diffusion_allowed",
    "block_mask_ratios",
    "complement_mask",
    "mask_tokens",
    "replace_masked",
    "stratified_uniform",
    "training_allowed",
    "training_mask_mod",
]


@dataclass(frozen=True, kw_only=True)
class MaskRatioLaw:
    """Distribution of the mask ratio of one block.

    ``uniform`` draws from [low, high]; ``cosine`` is cos(pi r / 2) with r uniform, which favours high ratios. With
    probability ``full_share`` the block is masked entirely, as every block is when generation starts.
    ``per_sequence`` uses one ratio for all blocks of the call.

    Source: the bounds are BD3-LM's and dFactory's; the cosine rule is Lumina-DiMOO's and LLaDA-Image's. The point mass
    at 1 is ours.
    """

    kind: Literal["uniform", "cosine"] = "uniform"
    low: float = 0.3
    high: float = 0.8
    full_share: float = 0.15
    per_sequence: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"expected 0 <= low <= high <= 1, got low={self.low}, high={self.high}")
        if not 0 <= self.full_share <= 1:
            raise ValueError(f"expected full_share in [0, 1], got {self.full_share}")

    def ratio(self, uniform: Tensor) -> Tensor:
        """Mask ratios of uniform numbers in [0, 1), without the point mass; same shape."""
        if self.kind == "cosine":
            return torch.cos(uniform * (math.pi / 2))
        return uniform * (self.high - self.low) + self.low


TEXT_LAW = MaskRatioLaw()
IMAGE_LAW = MaskRatioLaw(kind="cosine")
RELEASED_LAW = MaskRatioLaw(full_share=0.0, per_sequence=True)


def stratified_uniform(num_draws: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers [num_draws] in [0, 1), one in each of num_draws equal strata, in random order (float32, CPU).

    Every single number is uniform; together they cover the interval evenly, so averages over blocks vary less.
    """
    if num_draws == 1:
        return torch.rand(1, generator=generator)
    offset = torch.rand(num_draws, generator=generator)
    strata = torch.randperm(num_draws, generator=generator)
    return ((strata + offset) / num_draws).clamp_max(1 - 2**-24)


def block_mask_ratios(num_blocks: int, law: MaskRatioLaw, generator: torch.Generator) -> Tensor:
    """Mask ratio [num_blocks] in [0, 1] of every block, stratified over the blocks of this call (float32, CPU).

    With ``law.per_sequence`` one draw serves all blocks. Pass the blocks of a whole batch at once to stratify over it.
    """
    num_draws = 1 if law.per_sequence else num_blocks
    ratios = law.ratio(stratified_uniform(num_draws, generator))
    if law.full_share > 0:
        ratios = torch.where(stratified_uniform(num_draws, generator) < law.full_share, 1.0, ratios)
    return ratios.expand(num_blocks)


def mask_tokens(
    clean_ids: Tensor, maskable: Tensor, ratios: Tensor, mask_id: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Replace each maskable token by ``mask_id`` with its own probability.

    Args:
        clean_ids: integer ids [...].
        maskable: bool [...]; False positions never change.
        ratios: mask ratio of every position, broadcastable to [...]; 1 masks surely, 0 never.
        mask_id: id that stands for a hidden token.
        generator: CPU generator; one float32 draw per position.

    Returns:
        ``noisy_ids`` [...] and ``masked`` bool [...], True where a token was replaced.

    Source: dFactory tasks/dataset/data_transform.py.
    """
    draws = torch.rand(clean_ids.shape, generator=generator).to(clean_ids.device)
    masked = maskable & (draws < ratios.to(clean_ids.device))
    return replace_masked(clean_ids, masked, mask_id), masked


def complement_mask(maskable: Tensor, masked: Tensor) -> Tensor:
    """The other view's mask, maskable positions left visible by the first: two views cover each target once."""
    return maskable & ~masked


def replace_masked(clean_ids: Tensor, masked: Tensor, mask_id: int) -> Tensor:
    """``clean_ids`` with ``mask_id`` where ``masked``."""
    return clean_ids.masked_fill(masked, mask_id)


def block_causal_allowed(query_blocks: Tensor, key_blocks: Tensor) -> Tensor:
    """Generation rule: a query sees the keys of its own and earlier blocks.

    ``query_blocks`` [..., S] and ``key_blocks`` [..., T] are block indices (negative ones allowed); result bool
    [..., S, T], True = may attend.
    """
    return key_blocks[..., None, :] <= query_blocks[..., :, None]


def block_diffusion_allowed(num_tokens: int, block_length: int, device: torch.device | str = "cpu") -> Tensor:
    """Visibility bool [2n, 2n] of the doubled training sequence [noisy 0..n-1 | clean n..2n-1].

    Noisy sees its own noisy block and strictly earlier clean blocks; clean sees clean blocks up to its own; clean never
    sees noisy. Source: dFactory ``block_diffusion_mask``.
    """
    block = (torch.arange(num_tokens, device=device) // block_length).repeat(2)
    stream = torch.arange(2 * num_tokens, device=device) < num_tokens
    zeros = torch.zeros_like(block)
    return training_allowed(zeros, zeros, block, stream.long())


def training_allowed(document: Tensor, branch: Tensor, block: Tensor, stream: Tensor) -> Tensor:
    """Visibility bool [..., T, T] of packed training rows from four integer vectors [..., T].

    Args:
        document: document of a token; tokens of different documents never see each other. -1 = padding.
        branch: 0 = shared by all branches of its document, b > 0 = seen by branch b only.
        block: block index inside the document, counted from the document's first token.
        stream: 0 = clean, v >= 1 = noisy view v.

    A clean query sees clean keys of blocks up to its own, a noisy query sees clean keys of strictly earlier blocks and
    the noisy keys of its own view, block and branch. Every token sees itself, so no row is empty; padding sees nothing
    else. Insert the head axis with ``unsqueeze(-3)`` before attention.
    """
    layout = (document, branch, block, stream)
    allowed = _visible(*(v[..., :, None] for v in layout), *(v[..., None, :] for v in layout))
    return allowed | torch.eye(document.shape[-1], dtype=torch.bool, device=document.device)


def training_mask_mod(
    document: Tensor, branch: Tensor, block: Tensor, stream: Tensor
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The rule of :func:`training_allowed` for vectors [B, T] as FlexAttention's mask_mod(batch, head, query, key)."""

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        layout = (document, branch, block, stream)
        return _visible(*(v[batch, query] for v in layout), *(v[batch, key] for v in layout)) | (query == key)

    return mask_mod


def _visible(
    document_q: Tensor,
    branch_q: Tensor,
    block_q: Tensor,
    stream_q: Tensor,
    document_k: Tensor,
    branch_k: Tensor,
    block_k: Tensor,
    stream_k: Tensor,
) -> Tensor:
    same_branch = branch_k == branch_q
    related = (document_q == document_k) & (document_q >= 0) & ((branch_k == 0) | same_branch)
    to_clean = (stream_k == 0) & torch.where(stream_q == 0, block_q >= block_k, block_q > block_k)
    to_noisy = (stream_q > 0) & (stream_k == stream_q) & (block_q == block_k) & same_branch
    return related & (to_clean | to_noisy)
