"""Torch generators as seeds, for code that passes its randomness as ``torch.Generator``."""

from __future__ import annotations

from typing import Any

import torch

from llada_uni.errors import ConfigError

__all__ = ["seeds_from"]

_NUM_SEEDS = 2**63


def seeds_from(generator: Any, count: int) -> list[int] | None:
    """A seed for each of ``count`` pictures; None for None.

    A generator nothing was drawn from yet stands for the seed it was given: ``torch.Generator().manual_seed(7)`` is
    ``seed=7``. Any other is asked for a number. Either way it moves on, so that it gives other seeds the next time.
    One generator gives ``count`` seeds in a row, a list gives one seed each; seeds are counted modulo 2**63.

    Raises:
        ConfigError: something else, or a list of another length; no generator has moved then.
    """
    if generator is None:
        return None
    several = isinstance(generator, (list, tuple))
    for one in generator if several else [generator]:
        if not isinstance(one, torch.Generator):
            raise ConfigError(f"generator: expected a torch.Generator or a list of them, got {type(one).__name__}")
    if not several:
        first = _taken(generator)
        return [(first + row) % _NUM_SEEDS for row in range(count)]
    if len(generator) != count:
        raise ConfigError(f"generator: expected {count}, one per picture, or a single one; got {len(generator)}")
    return [_taken(one) for one in generator]


def _taken(generator: torch.Generator) -> int:
    fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    unused = torch.equal(fresh.get_state(), generator.get_state())
    drawn = torch.randint(_NUM_SEEDS - 1, (), generator=generator, device=generator.device)
    return generator.initial_seed() % _NUM_SEEDS if unused else int(drawn)
