"""Losses as sums and counts, and router balancing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from golden_fixtures import assert_close, load_case
from llada_uni.diffusion import balance, losses


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_released_losses() -> None:
    tensors, meta = load_case("dfactory_loss_a")
    logits, labels = tensors["out.noisy_logits"], tensors["in.labels"]
    masked = labels != -100
    clean = tensors["in.clean_ids"]
    total, count = losses.masked_cross_entropy(logits, clean, masked)
    assert_close(total / count, tensors["out.loss"], meta["tolerance"])
    per_token = losses.token_cross_entropy(logits, clean) * masked
    assert_close(per_token, tensors["out.per_token_ce"] * masked, meta["tolerance"])
    shifted, shifted_count = losses.masked_cross_entropy(
        logits[:, :-1], labels[:, 1:].clamp_min(0), labels[:, 1:] != -100
    )
    assert_close(shifted / shifted_count, tensors["out.loss_shifted_variant"], meta["tolerance"])
    guesses = tensors["in.confidence_labels"]
    entropy, number = losses.confidence_entropy(logits, guesses.clamp_min(0), guesses != -100)
    assert_close(entropy / number, tensors["out.confidence_loss"], meta["tolerance"])


def test_empty_mask_gives_zero_not_nan() -> None:
    logits, ids = random(2, 3, 5).requires_grad_(), torch.zeros(2, 3, dtype=torch.int64)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    total, count = losses.masked_cross_entropy(logits, ids, nothing)
    assert (total.item(), int(count)) == (0.0, 0)
    total.backward()
    entropy, number = losses.confidence_entropy(logits, ids, nothing)
    assert (entropy.item(), int(number)) == (0.0, 0)


def test_sums_add_up_over_shards_and_weights_apply() -> None:
    logits, ids = random(4, 6, 9), torch.arange(24).view(4, 6) % 9
    masked = random(4, 6, seed=1) > 0
    ratios = torch.full((4, 1), 0.25)
    whole = losses.masked_cross_entropy(logits, ids, masked)
    parts = [losses.masked_cross_entropy(logits[i], ids[i], masked[i]) for i in range(4)]
    torch.testing.assert_close(whole[0], torch.stack([p[0] for p in parts]).sum())
    assert whole[1] == sum(p[1] for p in parts)
    weighted, _ = losses.masked_cross_entropy(logits, ids, masked, losses.inverse_ratio_weights(ratios))
    torch.testing.assert_close(weighted, 4 * whole[0])


def test_inverse_ratio_loss_is_unbiased_over_the_ratio() -> None:
    """E[(1/t) sum over masked] equals the sum over all tokens whatever t is."""
    token_losses = random(50).abs()
    generator = torch.Generator().manual_seed(0)
    for ratio in (0.3, 0.8):
        masked = torch.rand(20_000, 50, generator=generator) < ratio
        estimate = (masked * token_losses).sum(1).mean() * losses.inverse_ratio_weights(torch.tensor(ratio))
        assert float(estimate) == pytest.approx(float(token_losses.sum()), rel=0.01)


def test_mtrs_weighs_samples_by_the_root_of_their_length() -> None:
    sample = torch.tensor([0] * 16 + [1] * 1024)
    token_losses = torch.cat((torch.full((16,), 3.0), torch.full((1024,), 1.0)))
    loss = losses.mtrs_loss(token_losses, sample, 2)
    share = 4 / (4 + 32)
    assert float(loss) == pytest.approx(3 * share + 1 * (1 - share))
    assert share == pytest.approx(0.111, abs=1e-3)
    equal = losses.mtrs_loss(token_losses[8:24], torch.tensor([0, 1]).repeat_interleave(8), 3)
    assert float(equal) == pytest.approx(float(token_losses[8:24].mean()))


def test_mtrs_does_not_depend_on_sharding() -> None:
    sample, token_losses = torch.tensor([0, 0, 1, 2, 2, 2]), random(6).abs()
    whole = losses.mtrs_loss(token_losses, sample, 3)
    weights = losses.mtrs_token_weights(sample, 3)
    shards = [(token_losses * weights)[:3].sum(), (token_losses * weights)[3:].sum()]
    normaliser = losses.mtrs_normaliser(torch.tensor([2, 1])) + losses.mtrs_normaliser(torch.tensor([3]))
    torch.testing.assert_close(sum(shards) / normaliser, whole, check_dtype=False)


def test_confidence_entropy_counts_only_right_guesses() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 1.0, 0.0]])
    masked = torch.tensor([True, True, False])
    total, count = losses.confidence_entropy(logits, torch.tensor([0, 0, 1]), masked)
    assert int(count) == 1
    assert float(total) == pytest.approx(float(torch.distributions.Categorical(logits=logits[0]).entropy()))


def test_flow_losses() -> None:
    velocity, target = random(3, 2, 4, 4), random(3, 2, 4, 4, seed=1)
    error = losses.flow_squared_error(velocity, target)
    torch.testing.assert_close(error, torch.stack([(velocity[i] - target[i]).square().mean() for i in range(3)]))
    assert losses.pseudo_huber(torch.tensor(0.0), 5.0) == 0
    assert float(losses.pseudo_huber(torch.tensor(1e-4), 5.0)) == pytest.approx(1e-5, rel=0.05)
    assert float(losses.pseudo_huber(torch.tensor(1e8), 5.0)) == pytest.approx(1e4, rel=1e-3)


def routed(scores: Tensor, bias: Tensor, top_k: int = 2) -> Tensor:
    """Token counts per expert when each token takes its ``top_k`` best of score + bias."""
    return torch.bincount((scores + bias).topk(top_k, dim=-1).indices.flatten(), minlength=bias.shape[0])


def test_bias_updates_balance_a_frozen_skewed_router() -> None:
    scores = (random(2000, 8) + torch.linspace(-2, 2, 8)).sigmoid()
    bias = torch.zeros(8)
    before = balance.max_violation(routed(scores, bias))
    for _ in range(400):
        bias = balance.updated_bias(bias, routed(scores, bias), 2e-3)
    after = balance.max_violation(routed(scores, bias))
    assert before > 1.5
    assert after < 0.2
    assert abs(float(bias.mean())) < 1e-6


def test_bias_update_has_the_minus_sign_unit_rms_and_zero_mean() -> None:
    counts = torch.tensor([[10, 2, 2, 2], [0, 0, 0, 0], [5, 5, 5, 5]])
    bias = balance.updated_bias(torch.zeros(3, 4), counts, 0.1)
    assert bias[0, 0] < 0 < bias[0, 1]
    assert float(bias[0].square().mean().sqrt()) == pytest.approx(0.1, rel=1e-5)
    assert torch.equal(bias[1:], torch.zeros(2, 4))
    shifted = balance.updated_bias(torch.full((3, 4), 7.0), counts, 0.1)
    torch.testing.assert_close(shifted, bias)


def test_max_violation() -> None:
    assert balance.max_violation(torch.tensor([[2, 2], [4, 0]])).tolist() == [0.0, 1.0]
