"""SPRINT's rules for the prefix, computed by hand."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llada_uni.diffusion.sprint import Sprint, kept_positions, num_kept, prefix_importance
from llada_uni.errors import ConfigError

TEXT_FIRST = torch.tensor([False, False, False, True, True, True, True, True])
NORMS = torch.tensor([[1.0, 9.0, 2.0, 4.0, 1.0, 2.0, 3.0, 8.0]])
SURE = torch.tensor([0.5, 0.1, 0.9, 0.2, 1.0, 0.6, 0.7, 0.1])


def kept(rules: Sprint, norms: torch.Tensor = NORMS, is_image: torch.Tensor = TEXT_FIRST) -> list[list[int]]:
    return kept_positions(rules, norms, SURE, is_image).tolist()


@pytest.mark.parametrize(
    ("count", "ratio", "expected"),
    [(10, 0.7, 7), (10, 0.75, 7), (3, 0.3, 0), (3, 1 / 3, 1), (100, 0.29, 29), (7, 1.0, 7), (0, 0.5, 0)],
)
def test_the_floor_of_ratio_times_count(count: int, ratio: float, expected: int) -> None:
    assert num_kept(count, ratio) == expected


def test_importance_is_relative_length_and_confidence() -> None:
    counted = torch.tensor([True, True, False])
    score = prefix_importance(torch.tensor([[1.0, 3.0, 8.0]]), torch.tensor([0.5, 0.1, 0.9]), 0.25, counted)
    assert torch.allclose(score, torch.tensor([[0.125 + 0.375, 0.375 + 0.075, 1.0 + 0.675]]))


def test_ratios_apply_to_codes_and_to_the_rest_separately() -> None:
    """Lengths alone: codes 4, 1, 2, 3, 8 at positions 3 to 7, the rest 1, 9, 2 at 0 to 2."""
    assert kept(Sprint(keep_ratio=0.6, alpha=1.0)) == [[1, 3, 6, 7]]
    assert kept(Sprint(image_keep_ratio=0.4, text_keep_ratio=1.0, alpha=1.0)) == [[0, 1, 2, 3, 7]]
    assert kept(Sprint(image_keep_ratio=1.0, text_keep_ratio=0.4, alpha=1.0)) == [[1, 3, 4, 5, 6, 7]]
    assert kept(Sprint(keep_ratio=0.1, alpha=1.0)) == [[]]


def test_confidence_and_length_are_weighed() -> None:
    assert kept(Sprint(image_keep_ratio=0.4, text_keep_ratio=1.0, alpha=0.0)) == [[0, 1, 2, 4, 6]]
    # codes: mean length 18 / 5 = 3.6, scores 0.66, 0.64, 0.58, 0.77, 1.16
    assert kept(Sprint(image_keep_ratio=0.4, text_keep_ratio=1.0)) == [[0, 1, 2, 6, 7]]


def test_the_mean_length_covers_only_what_may_be_dropped() -> None:
    """A pinned word with a huge key must not make all lengths of the codes count for nothing."""
    rules = Sprint(image_keep_ratio=0.4, text_keep_ratio=1.0)
    loud = NORMS.clone()
    loud[0, 1] = 1e6
    assert kept(rules, loud) == kept(rules)


def test_layers_choose_for_themselves() -> None:
    norms = torch.stack((NORMS[0], NORMS[0].flip(0)))
    assert kept(Sprint(keep_ratio=0.6, alpha=1.0), norms) == [[1, 3, 6, 7], [0, 4, 5, 6]]


def test_of_equals_the_earlier_stays_and_rounding_errors_do_not_decide() -> None:
    norms = torch.tensor([[1.0, 1.0 + 1e-7, 1.0 - 1e-7, 1.0 + 2e-7]])
    rules = Sprint(keep_ratio=0.5, alpha=1.0)
    assert kept_positions(rules, norms, None, torch.tensor([True] * 4)).tolist() == [[0, 1]]


def test_ratio_one_keeps_everything() -> None:
    for variant in ("paper", "released"):
        assert kept(Sprint(keep_ratio=1.0, variant=variant)) == [list(range(8))]  # type: ignore[arg-type]
    assert kept(Sprint(keep_ratio=0.5, image_keep_ratio=1.0, text_keep_ratio=1.0)) == [list(range(8))]
    assert not Sprint(keep_ratio=1.0).prunes
    assert not Sprint(image_keep_ratio=1.0, text_keep_ratio=1.0, variant="released").thins


def test_released_d1_pins_make_lengths_count_for_nothing() -> None:
    """Text is pinned unless told otherwise; 5 of 8 stay: three words, and the two codes the model is surest of."""
    assert kept(Sprint(keep_ratio=0.7, variant="released")) == [[0, 1, 2, 4, 6]]
    longer = NORMS * torch.tensor([1.0, 1, 1, 100, 1, 1, 1, 100])
    assert kept(Sprint(keep_ratio=0.7, variant="released"), longer) == [[0, 1, 2, 4, 6]]
    by_length = Sprint(keep_ratio=0.7, alpha=1.0, variant="released")
    assert kept(by_length) == [[0, 1, 2, 3, 7]], "without confidence nothing is normalised"


def test_released_d3_a_ratio_of_one_kind_only_unpins_it() -> None:
    half = Sprint(keep_ratio=0.7, text_keep_ratio=0.99, variant="released")
    tenth = Sprint(keep_ratio=0.7, text_keep_ratio=0.1, image_keep_ratio=0.1, variant="released")
    # nothing pinned: mean 30 / 8 = 3.75, scores .38 1.25 .72 .63 .63 .57 .75 1.12
    assert kept(half) == kept(tenth) == [[1, 2, 3, 6, 7]]
    assert kept(Sprint(keep_ratio=1.0, image_keep_ratio=0.1, variant="released")) == [list(range(8))]


def test_released_count_covers_everything_and_never_less_than_the_pins() -> None:
    assert kept(Sprint(keep_ratio=0.1, variant="released")) == [[0, 1, 2]]
    assert kept(Sprint(keep_ratio=0.01, text_keep_ratio=0.5, variant="released")) == [[1]]
    pinned_codes = Sprint(keep_ratio=0.1, image_keep_ratio=1.0, text_keep_ratio=0.5, variant="released")
    assert kept(pinned_codes) == [[3, 4, 5, 6, 7]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 12), st.integers(0, 10**6), st.sampled_from(["paper", "released"]))
def test_what_is_kept_is_ascending_unique_and_of_the_promised_size(count: int, seed: int, variant: str) -> None:
    source = random.Random(seed)
    ratio, image, text = (round(source.uniform(0.05, 1), 2) for _ in range(3))
    rules = Sprint(
        keep_ratio=ratio,
        image_keep_ratio=source.choice([None, image]),
        text_keep_ratio=source.choice([None, text, 1.0]),
        alpha=source.choice([0.0, 0.5, 1.0]),
        variant=variant,  # type: ignore[arg-type]
    )
    is_image = torch.tensor([source.random() < 0.5 for _ in range(count)], dtype=torch.bool)
    keep = kept_positions(rules, torch.rand(3, count), torch.rand(count), is_image)
    for layer in keep.tolist():
        assert layer == sorted(set(layer))
        assert all(0 <= position < count for position in layer)
        if variant == "paper":
            codes = sum(bool(is_image[position]) for position in layer)
            assert codes == num_kept(int(is_image.sum()), rules.image_ratio)
            assert len(layer) - codes == num_kept(int((~is_image).sum()), rules.text_ratio)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"keep_ratio": 0}, "keep_ratio: expected a number above 0 and at most 1, got 0"),
        ({"keep_ratio": 1.5}, "keep_ratio: .* got 1.5"),
        ({"keep_ratio": float("nan")}, "keep_ratio: .* got nan"),
        ({"keep_ratio": "half"}, "keep_ratio: .* got 'half'"),
        ({"keep_ratio": True}, "keep_ratio: .* got True"),
        ({"image_keep_ratio": -0.1}, "image_keep_ratio: .* got -0.1"),
        ({"text_keep_ratio": 2}, "text_keep_ratio: .* got 2"),
        ({"alpha": 1.1}, "alpha: expected a number from 0 to 1, got 1.1"),
        ({"warmup_steps": 0}, "warmup_steps: expected a whole number from 1, got 0"),
        ({"warmup_steps": 1.5}, "warmup_steps: .* got 1.5"),
        ({"ranking": "entropy"}, "ranking: expected one of low_confidence, top_k_margin, neg_entropy, None"),
        ({"schedule": "fast"}, "schedule: expected one of even, adaptive, got 'fast'"),
        ({"variant": "official"}, "variant: expected one of paper, released, got 'official'"),
    ],
)
def test_wrong_values_are_one_clear_line(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"sprint {message}"):
        Sprint(**bad)  # type: ignore[arg-type]
