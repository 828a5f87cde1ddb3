"""Training of a cosine codebook: start by k-means++, running means, restarts of unused codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CodebookTrainer", "kmeans_plus_plus", "merge_codes", "renew_rows", "unused_codes"]


@torch.no_grad()
def kmeans_plus_plus(points: Tensor, num_centres: int, generator: torch.Generator, *, rounds: int = 4) -> Tensor:
    """Centres [num_centres, D] of unit vectors [N, D]: squared-distance seeding, then ``rounds`` of Lloyd's rule."""
    first = int(torch.randint(len(points), (1,), generator=generator))
    centres = torch.empty(num_centres, points.shape[1], dtype=points.dtype)
    distance = torch.full((len(points),), float("inf"), dtype=torch.float64)
    chosen = first
    for index in range(num_centres):
        centres[index] = points[chosen]
        distance = torch.minimum(distance, (2 - 2 * (points @ points[chosen])).clamp_min(0).double())
        weights = distance.clamp_min(1e-12).cumsum(0)
        draw = torch.rand(1, generator=generator, dtype=torch.float64) * weights[-1]
        chosen = int(torch.searchsorted(weights, draw).clamp(max=len(points) - 1))
    for _ in range(rounds):
        owner = torch.cat([(part @ centres.T).argmax(-1) for part in points.split(8192)])
        sums = torch.zeros_like(centres).index_add_(0, owner, points)
        used = torch.bincount(owner, minlength=num_centres) > 0
        centres = torch.where(used[:, None], F.normalize(sums, dim=-1), centres)
    return centres


@torch.no_grad()
def merge_codes(codebook: Tensor, points: Tensor, meanings: Tensor) -> tuple[int, int]:
    """Leaves one code of each meaning, in place: the most used one, moved to the mean of all cells of that meaning.

    Args:
        codebook: [K, D], changed; codes that are given up point away from all features.
        points: unit features [N, D] of many cells.
        meanings: int64 [K].

    Returns:
        Numbers of codes in use before and after.
    """
    directions = F.normalize(codebook, dim=-1)
    owner = torch.cat([(part @ directions.T).argmax(-1) for part in points.split(8192)])
    use = torch.bincount(owner, minlength=len(codebook))
    sums = torch.zeros_like(codebook).index_add_(0, owner, points.to(codebook.dtype))
    _, group = torch.unique(meanings, return_inverse=True)
    total = torch.zeros(int(group.max()) + 1, codebook.shape[1], dtype=codebook.dtype, device=codebook.device)
    total.index_add_(0, group, sums)
    kept = torch.zeros_like(use, dtype=torch.bool)
    order = use.argsort(descending=True, stable=True)
    seen: set[int] = set()
    for code, name in zip(order.tolist(), group[order].tolist(), strict=True):
        if use[code] > 0 and name not in seen:
            seen.add(name)
            kept[code] = True
    codebook[kept] = F.normalize(total[group[kept]], dim=-1)
    codebook[~kept] = -F.normalize(points.mean(0), dim=0).to(codebook.dtype)
    return int((use > 0).sum()), int(kept.sum())


@torch.no_grad()
def unused_codes(codebook: Tensor) -> Tensor:
    """bool [K]: codes that :func:`merge_codes` gave up, known by the direction [D] they share with others."""
    _, place, counts = F.normalize(codebook.float(), dim=-1).unique(dim=0, return_inverse=True, return_counts=True)
    return counts[place] > 1


@torch.no_grad()
def renew_rows(table: Tensor, old: Tensor, new: Tensor) -> int:
    """Rows [K, W] of codes that the codebook ``old`` [K, D] did not use start from those of similar codes of ``new``.

    The least-squares map from used code vectors to their rows tells the others', at the mean length of those. Returns
    how many rows were changed.
    """
    free = unused_codes(old)
    if not free.any() or free.all():
        return 0
    inputs = torch.cat([F.normalize(new.double(), dim=-1), torch.ones(len(new), 1, dtype=torch.float64)], dim=1)
    square = inputs[~free].T @ inputs[~free] + 1e-3 * torch.eye(inputs.shape[1], dtype=torch.float64)
    found = inputs[free] @ torch.linalg.solve(square, inputs[~free].T @ table[~free].double().cpu())
    length = table[~free].norm(dim=-1).mean() / found.norm(dim=-1).mean().clamp_min(1e-12)
    table[free] = (found * length).to(table)
    return int(free.sum())


class CodebookTrainer(nn.Module):
    """State of a codebook in training. Buffers, so that it is saved and restored with the model.

    ``active`` is 0 while features are still continuous. ``size`` and ``total`` are running counts and sums of the unit
    features of each code; ``idle`` counts steps since a code was last used. ``merged`` is 1 once codes of one meaning
    are merged; from then on idle codes stay idle.
    """

    active: Tensor
    merged: Tensor
    size: Tensor
    total: Tensor
    idle: Tensor

    def __init__(self, num_codes: int, width: int, *, decay: float, idle_limit: int) -> None:
        super().__init__()
        self.decay, self.idle_limit = decay, idle_limit
        self.register_buffer("active", torch.zeros((), dtype=torch.int64))
        self.register_buffer("merged", torch.zeros((), dtype=torch.int64))
        self.register_buffer("size", torch.ones(num_codes))
        self.register_buffer("total", torch.zeros(num_codes, width))
        self.register_buffer("idle", torch.zeros(num_codes, dtype=torch.int64))

    @torch.no_grad()
    def start(self, codebook: Tensor, centres: Tensor) -> None:
        """Fills ``codebook`` [K, D] with centres and begins to track it."""
        codebook.copy_(centres)
        self.size.fill_(1.0)
        self.total.copy_(centres)
        self.idle.zero_()
        self.active.fill_(1)

    @torch.no_grad()
    def adopt(self, codebook: Tensor) -> None:
        """Goes on from a codebook [K, D] in which codes of one meaning are merged."""
        self.total.copy_(F.normalize(codebook, dim=-1))
        self.merged.fill_(1)

    @torch.no_grad()
    def update(self, codebook: Tensor, features: Tensor, codes: Tensor) -> int:
        """Moves used codes towards the unit ``features`` [N, D] assigned to them and restarts idle ones.

        An idle code is put on the feature that its own code fits worst. Returns the number of restarts.
        """
        counts = torch.bincount(codes, minlength=len(codebook)).to(features.dtype)
        sums = torch.zeros_like(codebook).index_add_(0, codes, features)
        self.size.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.total.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        used = counts > 0
        moved = F.normalize(self.total, dim=-1)
        codebook[used] = moved[used].to(codebook.dtype)
        self.idle.add_(1)
        self.idle[used] = 0
        return 0 if int(self.merged) else self._restart(codebook, features, codes)

    def _restart(self, codebook: Tensor, features: Tensor, codes: Tensor) -> int:
        idle = (self.idle > self.idle_limit).nonzero().flatten()[:32]
        if not len(idle):
            return 0
        fit = (features * F.normalize(codebook[codes], dim=-1)).sum(-1)
        worst = fit.argsort()[: 4 * len(idle) : 4]
        idle = idle[: len(worst)]
        worst = worst[fit[worst] < 0.98]
        idle = idle[: len(worst)]
        codebook[idle] = features[worst].to(codebook.dtype)
        self.total[idle] = features[worst]
        self.size[idle] = 1.0
        self.idle[idle] = 0
        return len(idle)
