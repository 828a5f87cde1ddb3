"""Checks of a request at the boundary: one clear line per mistake, before any network is loaded."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import Any

from llada_uni.errors import ConfigError, PromptError

__all__ = ["as_items", "as_list", "check_choice", "check_flag", "check_number", "check_text", "paired", "resolve_seeds"]

MAX_SEED = 2**63 - 1


def as_list(value: Any) -> tuple[list[Any], bool]:
    """``value`` as a list, and whether it was one (then the answer is a list too)."""
    many = isinstance(value, (list, tuple))
    return (list(value) if many else [value]), many


def as_items(value: Any, name: str) -> list[Any]:
    """``value`` as a list with something in it.

    Raises:
        PromptError: an empty list.
    """
    items, _ = as_list(value)
    if not items:
        raise PromptError(f"{name}: expected at least one, got an empty list")
    return items


def paired(images: Any, texts: Any, name: str = "question") -> list[list[Any]]:
    """The pictures of every text: one picture or a list for a single text, a list of such for a list; ``name`` it.

    Raises:
        PromptError: the lists differ in length, or a text has no picture.
    """
    asked, many = as_list(texts)
    if many and (not isinstance(images, (list, tuple)) or len(images) != len(asked)):
        got = len(images) if isinstance(images, (list, tuple)) else "one that is not a list"
        raise PromptError(f"images: expected a list of {len(asked)}, one entry per {name}, got {got}")
    groups = [as_list(group)[0] for group in (images if many else [images])]
    if not all(groups):
        raise PromptError(f"images: expected at least one picture per {name}, got none")
    return groups


def check_text(text: Any, *, name: str) -> str:
    """``text`` if it is a string with something in it.

    Raises:
        PromptError: not a string, empty or only white space, or not encodable (lone surrogates).
    """
    if not isinstance(text, str):
        raise PromptError(f"{name}: expected a string, got {type(text).__name__}")
    if not text.strip():
        raise PromptError(f"{name}: expected some words, got an empty text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"{name}: character {error.start} is half of a surrogate pair, not text") from error
    return text


def check_number(
    value: Any, *, name: str, low: float, high: float = math.inf, whole: bool = False, above: bool = False
) -> Any:
    """``value`` if it is a finite number in [low, high] (``above``: in (low, high]), whole when asked.

    Raises:
        ConfigError: anything else.
    """
    kind = "a whole number" if whole else "a number"
    right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not right or not math.isfinite(value) or not low <= value <= high or (above and value == low):
        bounds = f"{'above' if above else 'from'} {low:g}" + ("" if math.isinf(high) else f" to {high:g}")
        raise ConfigError(f"{name}: expected {kind} {bounds}, got {value!r}")
    return value


def check_choice(value: Any, *, name: str, choices: Sequence[str]) -> str:
    """``value`` if it is one of ``choices``.

    Raises:
        ConfigError: anything else.
    """
    if value not in choices:
        raise ConfigError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return value


def check_flag(value: Any, *, name: str) -> bool:
    """``value`` if it is True or False.

    Raises:
        ConfigError: anything else.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name}: expected True or False, got {value!r}")
    return value


def resolve_seeds(seed: Any, count: int) -> list[int]:
    """One seed per row: a list as it is, one seed as seed, seed + 1, ..., None as fresh random 32-bit numbers.

    Raises:
        ConfigError: not whole numbers from 0 to 2**63 - 1, or a list of another length.
    """
    if seed is None:
        return [secrets.randbits(32) for _ in range(count)]
    if isinstance(seed, (list, tuple)):
        if len(seed) != count:
            raise ConfigError(f"seed: expected {count} seeds, one per item, got {len(seed)}")
        return [_check_seed(one) for one in seed]
    first = _check_seed(seed)
    return [_check_seed(first + row) for row in range(count)]


def _check_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed: expected a whole number from 0 to 2**63 - 1, got {seed!r}")
    return seed
