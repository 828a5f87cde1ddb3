"""Quotas, filters, choices and the commit rule."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llada_uni.diffusion.unmasking import (
    choose_tokens,
    commit_in_order,
    commit_positions,
    even_quotas,
    filter_logits,
    neg_entropy,
    rank_positions,
    remaining_quota,
    steps_needed,
    top_k_margin,
)


@pytest.mark.parametrize(
    ("length", "steps", "expected"),
    [(32, 8, (4,) * 8), (32, 32, (1,) * 32), (32, 64, (1,) * 32), (10, 4, (3, 3, 2, 2)), (4, 1, (4,))],
)
def test_even_quotas(length: int, steps: int, expected: tuple[int, ...]) -> None:
    assert even_quotas(length, steps) == expected


def test_quota_helpers() -> None:
    assert remaining_quota(7, 3) == 3
    assert remaining_quota(7, 0) == 7
    assert [steps_needed((3, 3, 2, 2), n) for n in (0, 1, 3, 4, 10)] == [0, 1, 1, 2, 4]
    with pytest.raises(ValueError, match="positive"):
        even_quotas(32, 0)


def slow_commit(confidence: list[float], is_open: list[bool], quota: int, threshold: float) -> set[int]:
    """The released rule in its two cases."""
    candidates = [i for i, o in enumerate(is_open) if o]
    high = {i for i in candidates if confidence[i] > threshold}
    if len(high) >= quota:
        return high
    return set(sorted(candidates, key=lambda i: (-confidence[i], i))[:quota])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9, 0.95, 0.97]), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 6),
)
def test_commit_rule_is_the_released_one(positions: list[tuple[float, bool]], quota: int) -> None:
    confidence, is_open = [p[0] for p in positions], [p[1] for p in positions]
    commit = commit_positions(
        torch.tensor([confidence], dtype=torch.float64),
        torch.tensor([is_open]),
        torch.tensor([quota]),
        torch.tensor([0.95], dtype=torch.float64),
    )
    assert set(commit[0].nonzero().flatten().tolist()) == slow_commit(confidence, is_open, quota, 0.95)
    assert bool(commit.any()) == any(is_open)


def test_quota_and_threshold_are_per_row() -> None:
    confidence = torch.tensor([[0.9, 0.8, 0.7], [0.9, 0.8, 0.7]])
    commit = commit_positions(
        confidence, torch.ones(2, 3, dtype=torch.bool), torch.tensor([1, 2]), torch.tensor([0.75, 0.95])
    )
    assert commit.tolist() == [[True, True, False], [True, True, False]]


def test_top_k_keeps_ties_and_top_p_keeps_the_crossing_token() -> None:
    logits = torch.tensor([3.0, 2.0, 2.0, 1.0])
    assert filter_logits(logits, 1.0, 2, None).isfinite().tolist() == [True, True, True, False]
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    assert filter_logits(probs.log(), 1.0, None, 0.4).isfinite().tolist() == [True, False, False, False]
    assert filter_logits(probs.log(), 1.0, None, 0.6).isfinite().tolist() == [True, True, False, False]
    assert filter_logits(probs.log(), 1.0, None, 1.0).isfinite().all()
    shuffled = torch.tensor([2, 0, 3, 1])
    assert filter_logits(probs[shuffled].log(), 1.0, None, 0.6).isfinite().tolist() == [False, True, False, True]


def test_greedy_choice_reports_its_probability() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [-math.inf, 0.0, 0.0]])
    chosen, confidence = choose_tokens(logits, None)
    assert chosen.tolist() == [1, 1]
    assert torch.allclose(confidence, logits.softmax(-1).amax(-1))


def test_draws_follow_the_distribution_and_never_leave_it() -> None:
    logits = torch.tensor([0.5, 0.0, 0.3, 0.2]).log().expand(20_000, 4)
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    uniform[:2] = torch.tensor([0.0, 1 - 2**-24])
    chosen, confidence = choose_tokens(logits, uniform)
    share = torch.bincount(chosen, minlength=4) / 20_000
    assert share[1] == 0
    assert torch.allclose(share, torch.tensor([0.5, 0.0, 0.3, 0.2]), atol=0.015)
    assert torch.allclose(confidence, torch.tensor([0.5, 0.0, 0.3, 0.2])[chosen])
    assert chosen[0] == 0
    assert chosen[1] == 3


def test_a_draw_does_not_depend_on_its_batch() -> None:
    logits = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(1))
    uniform = torch.rand(3, 5, generator=torch.Generator().manual_seed(2))
    together = choose_tokens(logits, uniform)
    alone = choose_tokens(logits[1:2], uniform[1:2])
    assert torch.equal(together[0][1:2], alone[0])


def test_priorities_decide_who_fills_the_quota_but_not_who_passes_the_threshold() -> None:
    confidence = torch.tensor([[0.9, 0.2, 0.99, 0.5]])
    priority = torch.tensor([[0.1, 0.8, 0.2, 0.9]])
    open_mask = torch.tensor([[True, True, True, False]])
    commit = commit_positions(confidence, open_mask, torch.tensor([1]), torch.tensor([0.95]), priority)
    assert commit.tolist() == [[False, True, True, False]]


def test_margin_and_entropy_by_hand() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    margin = torch.tensor([0.25, 0.0, 1.0], dtype=torch.float64)
    certainty = torch.tensor([0.25, 0.0, 1.0], dtype=torch.float64)  # entropies 1.5, 2 and 0 of at most 2 bits
    assert torch.allclose(top_k_margin(probs.log()), margin)
    assert torch.allclose(neg_entropy(probs.log()), certainty, atol=1e-12)
    assert torch.allclose(top_k_margin(probs.log() + 7), margin), "logits need not be normalised"
    lone = torch.tensor([[3.0]])
    assert top_k_margin(lone).tolist() == neg_entropy(lone).tolist() == [1.0]


def test_rankings_disagree_where_they_should() -> None:
    """0.45 against 0.44 is the more probable choice, 0.4 among many the clearer one; the first has less entropy."""
    close = torch.tensor([0.45, 0.44, 0.11, 0.0, 0.0, 0.0])
    clear = torch.tensor([0.4, 0.12, 0.12, 0.12, 0.12, 0.12])
    logits, confidence = torch.stack((close, clear)).log(), torch.tensor([0.45, 0.4])
    first = {
        kind: int(rank_positions(logits, confidence, kind).argmax())
        for kind in ("low_confidence", "top_k_margin", "neg_entropy")
    }
    assert first == {"low_confidence": 0, "top_k_margin": 1, "neg_entropy": 0}


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6))
def test_adaptive_quotas_finish_in_time_whatever_the_threshold_commits(num_open: int, steps: int, seed: int) -> None:
    extra = torch.randint(0, 4, (steps,), generator=torch.Generator().manual_seed(seed)).tolist()
    taken, left = 0, num_open
    while left:
        quota = remaining_quota(left, steps - taken)
        assert quota >= 1
        left, taken = max(0, left - quota - extra[taken]), taken + 1
    assert taken <= min(num_open, steps)


def test_adaptive_quotas_spread_what_is_left() -> None:
    """Eight open, four steps: two each; after a step that commits five, one each."""
    assert [remaining_quota(n, left) for n, left in ((8, 4), (6, 3), (4, 2), (2, 1))] == [2, 2, 2, 2]
    assert [remaining_quota(n, left) for n, left in ((3, 3), (2, 2), (1, 1))] == [1, 1, 1]


def test_in_order_stops_at_the_first_unsure_position() -> None:
    confidence = torch.tensor([[0.2, 0.99, 0.5, 0.99, 0.99], [0.99, 0.99, 0.3, 0.99, 0.99]])
    open_mask = torch.tensor([[True, True, False, True, True], [True, True, True, True, False]])
    commit = commit_in_order(confidence, open_mask, torch.tensor([1, 1]), torch.tensor([0.95, 0.95]))
    assert commit.tolist() == [[True, True, False, True, True], [True, True, False, False, False]]
    commit = commit_in_order(confidence, open_mask, torch.tensor([1, 3]), torch.tensor([1.0, 1.0]))
    assert commit.tolist() == [[True, False, False, False, False], [True, True, True, False, False]]
    assert not commit_in_order(confidence, torch.zeros(2, 5, dtype=torch.bool), torch.ones(2), torch.zeros(2)).any()
