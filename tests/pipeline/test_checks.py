"""Requests are checked at the boundary with one line that names the field."""

from __future__ import annotations

import math

import pytest

from llada_uni.errors import ConfigError, PromptError
from llada_uni.pipeline.checks import as_list, check_choice, check_number, check_text, resolve_seeds


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_empty_texts(text: str) -> None:
    with pytest.raises(PromptError, match="prompt: expected some words"):
        check_text(text, name="prompt")


@pytest.mark.parametrize("text", [None, 7, b"bytes", ["a"]])
def test_not_texts(text: object) -> None:
    with pytest.raises(PromptError, match="question: expected a string, got"):
        check_text(text, name="question")


def test_half_a_character() -> None:
    with pytest.raises(PromptError, match="character 1"):
        check_text("a\ud800", name="prompt")


@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True, None, math.nan, math.inf])
def test_numbers_out_of_range(value: object) -> None:
    with pytest.raises(ConfigError, match="steps_per_block: expected a whole number from 1"):
        check_number(value, name="steps_per_block", low=1, whole=True)


def test_open_and_closed_bounds() -> None:
    assert check_number(0.0, name="x", low=0) == 0.0
    assert check_number(1, name="x", low=0, high=1) == 1
    with pytest.raises(ConfigError, match="x: expected a number above 0"):
        check_number(0.0, name="x", low=0, above=True)
    with pytest.raises(ConfigError, match=r"from 0 to 1, got 1\.5"):
        check_number(1.5, name="x", low=0, high=1)


def test_choices() -> None:
    assert check_choice("turbo", name="decoder", choices=("normal", "turbo")) == "turbo"
    with pytest.raises(ConfigError, match="decoder: expected one of normal, turbo, got 'fast'"):
        check_choice("fast", name="decoder", choices=("normal", "turbo"))


def test_lists_in_lists_out() -> None:
    assert as_list("a") == (["a"], False)
    assert as_list(("a", "b")) == (["a", "b"], True)


def test_seeds() -> None:
    assert resolve_seeds(5, 3) == [5, 6, 7]
    assert resolve_seeds([9, 9], 2) == [9, 9]
    fresh = resolve_seeds(None, 4)
    assert len(set(fresh)) == 4
    assert all(0 <= seed < 2**32 for seed in fresh)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "7", True])
def test_wrong_seeds(seed: object) -> None:
    with pytest.raises(ConfigError, match="seed: expected a whole number from 0"):
        resolve_seeds(seed, 1)


def test_as_many_seeds_as_items() -> None:
    with pytest.raises(ConfigError, match="expected 3 seeds"):
        resolve_seeds([1, 2], 3)
