"""SPRINT: a block goes on looking at the important part of its prefix only, and spreads its quota over its steps.

A position of the prefix is important when its keys are long and the model is sure of the id that stands there. The
most important ones are kept, separately among picture codes and among everything else, in every layer by itself.

Source: LLaDA2.0-Uni paper §2.3 and §5.5.1; for ``variant="released"`` the released modeling_llada2uni_moe.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llada_uni.diffusion.unmasking import RANKINGS, Ranking
from llada_uni.errors import ConfigError

__all__ = ["Sprint", "kept_positions", "num_kept", "prefix_importance"]

_TIE = 2**12


@dataclass(frozen=True, kw_only=True)
class Sprint:
    """How much of the prefix is kept, and how the positions of a block are committed.

    Args:
        keep_ratio: share of the prefix that is kept, in (0, 1]; 1 keeps everything, which is the exact path.
        image_keep_ratio: share of the picture codes in it, None = ``keep_ratio``.
        text_keep_ratio: share of everything else in it (words, roles, headers), None = ``keep_ratio``.
        warmup_steps: steps of every block that see the whole prefix before it is thinned out, at least 1.
        alpha: weight of the key length, in [0, 1]; the probability of the likeliest id has the weight 1 - alpha.
        schedule: least number of positions a step commits: "even" shares, or "adaptive", the open positions over the
            steps that are left, as in the paper.
        ranking: which open positions fill that number, see :func:`~llada_uni.diffusion.unmasking.rank_positions`;
            None = the sampler's ``commit_order``.
        variant: the rule for the prefix. "paper": the floor of ratio x positions, for codes and for the rest, lengths
            relative to their mean over what may be dropped. "released" repeats defects of the released code: D1, where
            something is pinned the others are ranked by confidence alone; D2, the padding of a shorter guidance branch
            is kept and becomes visible; D3, a ratio of one kind below 1 only un-pins it, ``keep_ratio`` governs; text
            without a ratio is pinned; with editing guidance nothing of this applies.

    Raises:
        ConfigError: a value out of range.
    """

    keep_ratio: float = 0.5
    image_keep_ratio: float | None = None
    text_keep_ratio: float | None = None
    warmup_steps: int = 1
    alpha: float = 0.5
    schedule: Literal["even", "adaptive"] = "even"
    ranking: Ranking | None = None
    variant: Literal["paper", "released"] = "paper"

    def __post_init__(self) -> None:
        _check_ratio("keep_ratio", self.keep_ratio)
        for name in ("image_keep_ratio", "text_keep_ratio"):
            if getattr(self, name) is not None:
                _check_ratio(name, getattr(self, name))
        if not _is_number(self.alpha) or not 0 <= self.alpha <= 1:
            raise ConfigError(f"sprint alpha: expected a number from 0 to 1, got {self.alpha!r}")
        if not _is_number(self.warmup_steps) or self.warmup_steps < 1 or self.warmup_steps != int(self.warmup_steps):
            raise ConfigError(f"sprint warmup_steps: expected a whole number from 1, got {self.warmup_steps!r}")
        _check_choice("schedule", self.schedule, ("even", "adaptive"))
        _check_choice("ranking", self.ranking, (*RANKINGS, None))
        _check_choice("variant", self.variant, ("paper", "released"))

    @property
    def image_ratio(self) -> float:
        """Share of the picture codes that the paper's rule keeps."""
        return self.keep_ratio if self.image_keep_ratio is None else self.image_keep_ratio

    @property
    def text_ratio(self) -> float:
        """Share of all other positions that the paper's rule keeps."""
        return self.keep_ratio if self.text_keep_ratio is None else self.text_keep_ratio

    @property
    def pinned(self) -> tuple[bool, bool]:
        """Whether picture codes, and all other positions, are kept whole."""
        if self.variant == "paper":
            return self.image_ratio >= 1, self.text_ratio >= 1
        image, text = self.image_keep_ratio, self.text_keep_ratio
        return image is not None and image >= 1, text is None or text >= 1

    @property
    def thins(self) -> bool:
        """Whether any position can be dropped."""
        return not all(self.pinned) and (self.variant == "paper" or self.keep_ratio < 1)

    @property
    def prunes(self) -> bool:
        """Whether steps after the warm-up may see another prefix than the exact path; the release may add padding."""
        return self.thins or self.variant == "released"

    @property
    def needs_confidence(self) -> bool:
        """Whether the probabilities of the prefix positions are used at all."""
        return self.thins and self.alpha < 1


def num_kept(count: int, ratio: float) -> int:
    """The floor of ratio x count; a product such as 0.29 x 100 that rounding puts below 29 still counts as 29."""
    return min(count, math.floor(ratio * count + 1e-9))


def kept_positions(rules: Sprint, key_norms: Tensor, confidence: Tensor | None, is_image: Tensor) -> Tensor:
    """Prefix positions to keep, int64 [layers, K], ascending in every layer, on the device of ``key_norms``.

    Args:
        rules: ratios, weights and variant.
        key_norms: mean length of the keys, float [layers, T].
        confidence: probability of the likeliest id, float [T]; may be None where ``rules.needs_confidence`` is False.
        is_image: bool [T] on the CPU, True = a picture code.

    Of equally important positions the earlier stays; scores closer than 2**-12 may count as equal, so that rounding
    errors of one machine or batch do not decide between two copies of one id.
    """
    everything = torch.arange(is_image.shape[0], device=key_norms.device).expand(key_norms.shape[0], -1)
    if not rules.thins:
        return everything
    by_rule = _kept_by_paper if rules.variant == "paper" else _kept_by_release
    return by_rule(rules, key_norms, confidence, is_image)


def prefix_importance(key_norms: Tensor, confidence: Tensor | None, alpha: float, counted: Tensor) -> Tensor:
    """alpha x key length / mean key length + (1 - alpha) x confidence, [layers, T].

    The mean is taken in every layer over the positions ``counted`` (bool [T], at least one). ``confidence`` may be None
    at alpha 1. Source: LLaDA2.0-Uni paper §2.3.
    """
    mean = key_norms[:, counted.to(key_norms.device)].mean(-1, keepdim=True).clamp_min(1e-6)
    return alpha * key_norms / mean + _sureness(confidence, alpha)


def _kept_by_paper(rules: Sprint, key_norms: Tensor, confidence: Tensor | None, is_image: Tensor) -> Tensor:
    droppable = ~_pinned(rules, is_image)
    score = torch.zeros_like(key_norms)
    if bool(droppable.any()):
        score = prefix_importance(key_norms, confidence, rules.alpha, droppable)
    groups = ((is_image, rules.image_ratio), (~is_image, rules.text_ratio))
    kept = [_best(score, group, num_kept(int(group.sum()), ratio)) for group, ratio in groups]
    return torch.cat(kept, -1).sort(-1).values


def _kept_by_release(rules: Sprint, key_norms: Tensor, confidence: Tensor | None, is_image: Tensor) -> Tensor:
    """D1: pins are raised to infinity before the mean is taken, so every other length divided by it is nothing."""
    pinned = _pinned(rules, is_image)
    some_pinned = bool(pinned.any())
    if rules.alpha == 1:
        score = key_norms
    elif some_pinned:
        score = _sureness(confidence, rules.alpha) + torch.zeros_like(key_norms)
    else:
        score = prefix_importance(key_norms, confidence, rules.alpha, ~pinned)
    score = score.masked_fill(pinned.to(score.device), math.inf)
    count = max(1, int(is_image.shape[0] * rules.keep_ratio), int(pinned.sum()))
    return _best(score, torch.ones_like(is_image), count).sort(-1).values


def _sureness(confidence: Tensor | None, alpha: float) -> Tensor | float:
    if alpha == 1:
        return 0.0
    assert confidence is not None, "alpha below 1 needs the confidences of the prefix"
    return (1 - alpha) * confidence


def _pinned(rules: Sprint, is_image: Tensor) -> Tensor:
    image, text = rules.pinned
    return (is_image & image) | (~is_image & text)


def _best(score: Tensor, group: Tensor, count: int) -> Tensor:
    """The ``count`` highest-scoring positions of a group (bool [T]) in every layer, int64 [layers, count]."""
    places = group.nonzero().squeeze(-1).to(score.device)
    order = (score[:, places] * _TIE).round().argsort(dim=-1, descending=True, stable=True)
    return places[order[:, :count]]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_ratio(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 < value <= 1:
        raise ConfigError(f"sprint {name}: expected a number above 0 and at most 1, got {value!r}")


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"sprint {name}: expected one of {', '.join(map(str, choices))}, got {value!r}")
