"""Intervals of scores: Wilson where every score is 0 or 1 and stands alone, bootstrap over items otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from llada_uni.scenes.bench import wilson

__all__ = ["RESAMPLES", "bootstrap", "interval", "of_means"]

RESAMPLES = 2000
_PERCENTILES = (2.5, 97.5)


def interval(groups: Sequence[Sequence[float]], *, perfect: float = 1.0) -> tuple[tuple[float, float] | None, str]:
    """95 % interval of the mean score, and the name of the method.

    ``groups`` holds the scores of each item. Single scores of 0 or ``perfect`` get the Wilson interval; anything else
    a percentile bootstrap that draws whole items, because scores of one item are not independent. None for no score.
    """
    flat = [value for group in groups for value in group]
    if not flat:
        return None, "none"
    if all(len(group) == 1 for group in groups) and set(flat) <= {0.0, perfect}:
        low, high = wilson(sum(value == perfect for value in flat), len(flat))
        return (low * perfect, high * perfect), "wilson"
    if set(flat) in ({0.0}, {perfect}):  # resampling equal scores would claim certainty
        low, high = wilson(len(groups) if flat[0] == perfect else 0, len(groups))
        return (low * perfect, high * perfect), "wilson over items"
    return bootstrap(groups), "bootstrap over items"


def bootstrap(groups: Sequence[Sequence[float]], *, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of (sum of all scores) / (number of scores) when items are drawn with replacement."""
    low, high = np.percentile(_resampled(groups, np.random.default_rng(seed)), _PERCENTILES)
    return float(low), float(high)


def of_means(parts: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """95 % interval of the mean of independent means, each given as (value, low, high).

    Source: the square-and-add rule (Newcombe 1998; Zou and Donner 2008), which keeps the parts' own asymmetry.
    """
    middle, count = sum(value for value, _, _ in parts) / len(parts), len(parts)
    below = math.sqrt(sum((value - low) ** 2 for value, low, _ in parts)) / count
    above = math.sqrt(sum((high - value) ** 2 for value, _, high in parts)) / count
    return middle - below, middle + above


def _resampled(groups: Sequence[Sequence[float]], generator: np.random.Generator) -> np.ndarray:
    sums = np.array([sum(group) for group in groups], dtype=np.float64)
    counts = np.array([len(group) for group in groups], dtype=np.float64)
    drawn = generator.integers(0, len(groups), (RESAMPLES, len(groups)))
    return sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
