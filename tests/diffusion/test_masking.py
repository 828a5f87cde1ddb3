"""Mask ratios, corruption and the visibility rules of training and generation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_fixtures import load_case
from llada_uni.diffusion.masking import (
    IMAGE_LAW,
    RELEASED_LAW,
    TEXT_LAW,
    MaskRatioLaw,
    block_causal_allowed,
    block_diffusion_allowed,
    block_mask_ratios,
    complement_mask,
    mask_tokens,
    replace_masked,
    stratified_uniform,
    training_allowed,
    training_mask_mod,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("tag", ["x1", "x2", "x3"])
def test_released_noising(tag: str) -> None:
    tensors, meta = load_case("dfactory_noise_a")
    config, clean = meta["config"][tag], tensors[f"in.{tag}.input_ids"]
    law = MaskRatioLaw(low=config["noise_range"][0], high=config["noise_range"][1], full_share=0.0, per_sequence=True)
    assert law == RELEASED_LAW
    source = generator(config["torch_manual_seed"])
    ratios = block_mask_ratios(clean.numel(), law, source)
    maskable = torch.arange(clean.numel()) >= tensors[f"in.{tag}.prompt_length"]
    noisy, masked = mask_tokens(clean, maskable, ratios, config["mask_token_id"], source)
    assert ratios[0].double() == pytest.approx(float(tensors[f"out.{tag}.sigma"]), abs=1e-7)
    assert torch.equal(noisy, tensors[f"out.{tag}.noisy_input_ids"])
    assert torch.equal(clean.masked_fill(~masked, -100), tensors[f"out.{tag}.labels"])


@pytest.mark.parametrize("tag", ["n16_bs8", "n6_bs1", "n8_bs4"])
def test_released_training_mask(tag: str) -> None:
    tensors, _ = load_case("dfactory_mask_a")
    num_tokens, block_length = tensors[f"in.{tag}.n_bs"].tolist()
    assert torch.equal(block_diffusion_allowed(num_tokens, block_length), tensors[f"out.{tag}.allowed"].bool())


def test_stratified_draws_cover_every_stratum_and_stay_uniform() -> None:
    draws = stratified_uniform(64, generator())
    assert torch.equal((draws * 64).long().sort().values, torch.arange(64))
    first = torch.stack([stratified_uniform(8, generator(seed))[0] for seed in range(2000)])
    assert abs(first.mean() - 0.5) < 0.03
    assert abs(first.var() - 1 / 12) < 0.01


@pytest.mark.parametrize(("law", "mean"), [(TEXT_LAW, 0.85 * 0.55 + 0.15), (IMAGE_LAW, 0.85 * 0.63662 + 0.15)])
def test_block_ratios_have_the_law_and_its_point_mass(law: MaskRatioLaw, mean: float) -> None:
    ratios = block_mask_ratios(2000, law, generator())
    assert abs(ratios.mean() - mean) < 0.01
    assert (ratios == 1).sum() == 300
    partial = ratios[ratios < 1]
    assert partial.min() >= (0.3 if law.kind == "uniform" else 0)
    assert partial.max() <= (0.8 if law.kind == "uniform" else 1)


def test_stratified_ratios_vary_less_than_independent_ones() -> None:
    law = MaskRatioLaw(full_share=0.0)
    means = torch.stack([block_mask_ratios(16, law, generator(seed)).mean() for seed in range(200)])
    assert means.std() < 0.3 * (0.5 / 12**0.5 / 4)


def test_masking_respects_probability_prompt_and_complement() -> None:
    clean = torch.arange(20_000) % 50
    maskable = torch.arange(20_000) >= 4_000
    noisy, masked = mask_tokens(clean, maskable, torch.tensor(0.3), 99, generator())
    assert not masked[:4_000].any()
    assert abs(masked[4_000:].float().mean() - 0.3) < 0.015
    assert torch.equal(noisy == 99, masked)
    other = complement_mask(maskable, masked)
    assert torch.equal(masked.long() + other.long(), maskable.long())
    assert torch.equal(replace_masked(clean, other, 99)[~other], clean[~other])
    assert mask_tokens(clean, maskable, torch.ones(20_000), 99, generator())[1].equal(maskable)
    assert not mask_tokens(clean, maskable, torch.zeros(20_000), 99, generator())[1].any()


def test_block_length_one_is_causal_and_full_length_sees_everything() -> None:
    position = torch.arange(7)
    assert torch.equal(block_causal_allowed(position, position), torch.ones(7, 7).tril().bool())
    assert block_causal_allowed(position // 7, position // 7).all()


def slow_rule(q: tuple[int, ...], k: tuple[int, ...]) -> bool:
    """The visibility rule, written out for one pair of (document, branch, block, stream)."""
    if q[0] < 0 or q[0] != k[0] or k[1] not in (0, q[1]):
        return False
    if k[3] == 0:
        return q[2] >= k[2] if q[3] == 0 else q[2] > k[2]
    return q[3] == k[3] and q[2] == k[2] and q[1] == k[1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-1, 1), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12
    )
)
def test_training_mask_matches_the_rule_pair_by_pair(tokens: list[tuple[int, int, int, int]]) -> None:
    layout = [v.unsqueeze(0) for v in torch.tensor(tokens).T]
    allowed = training_allowed(*layout)[0]
    expected = [[i == j or slow_rule(q, k) for j, k in enumerate(tokens)] for i, q in enumerate(tokens)]
    assert allowed.tolist() == expected
    mod, zero, size = training_mask_mod(*layout), torch.tensor(0), len(tokens)
    query, key = torch.arange(size)[:, None].expand(size, size), torch.arange(size).expand(size, size)
    assert torch.equal(mod(zero, zero, query, key), allowed)


def test_packed_documents_equal_their_own_masks() -> None:
    def layout(length: int, document: int) -> list[torch.Tensor]:
        block = (torch.arange(length) // 4).repeat(3)
        stream = torch.tensor([1, 2, 0]).repeat_interleave(length)
        return [torch.full_like(block, document), torch.zeros_like(block), block, stream]

    first, second = layout(8, 0), layout(4, 1)
    packed = training_allowed(*(torch.cat(pair) for pair in zip(first, second, strict=True)))
    assert torch.equal(packed, torch.block_diag(training_allowed(*first), training_allowed(*second)).bool())


@pytest.mark.parametrize("bad", [{"low": 0.9}, {"high": 1.2}, {"full_share": -0.1}])
def test_impossible_laws_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        MaskRatioLaw(**bad)
