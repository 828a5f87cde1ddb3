"""The cached denoiser against the one that recomputes everything, and both against the training mask."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from sampling_helpers import IMAGE, MASK, VOCAB, commits, finished, image_request, outputs, random_request

from llada_uni.backbone.denoiser import CachedDenoiser, ReferenceDenoiser
from llada_uni.backbone.layout import lay_out
from llada_uni.backbone.model import Backbone
from llada_uni.diffusion.masking import training_allowed
from llada_uni.grid import TokenGrid
from llada_uni.protocols import BranchKey, BranchStep, Denoiser, Prefix, PrunableDenoiser, Sampling, StepBatch
from llada_uni.sampling.block_sampler import generate
from llada_uni.testing.tiny import tiny_backbone

KEY = BranchKey(0, 0)


class CountingBackbone:
    """Counts the calls of a backbone."""

    def __init__(self, model: Backbone) -> None:
        self.calls, self._hidden = 0, model.hidden
        model.hidden = self  # type: ignore[method-assign, assignment]

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.calls += 1
        return self._hidden(*args, **kwargs)  # type: ignore[arg-type, call-overload]


@pytest.mark.parametrize("chunk", range(4))
def test_cached_equals_uncached_on_random_models(chunk: int) -> None:
    """200 models in all, float64: the same ids in the same steps, whatever the rows of the batch are."""
    for seed in range(50 * chunk, 50 * chunk + 50):
        source = random.Random(seed)
        model = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64)
        model = lay_out(model) if seed % 2 else model
        requests = [random_request(source) for _ in range(source.choice([1, 1, 1, 2]))]
        reference = list(generate(requests, ReferenceDenoiser(model)))
        cached = list(generate(requests, CachedDenoiser(model, separate_shapes=source.random() < 0.5)))
        assert outputs(cached) == outputs(reference), seed
        assert commits(cached) == commits(reference), seed


def test_rows_alone_equal_rows_in_a_batch() -> None:
    for seed in range(8):
        source = random.Random(seed)
        model = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64)
        requests = [random_request(source) for _ in range(3)]
        for separate in (True, False):
            together = outputs(generate(requests, CachedDenoiser(model, separate_shapes=separate)))
            for row, request in enumerate(requests):
                assert outputs(generate([request], CachedDenoiser(model)))[0] == together[row], (seed, row)


def test_a_lone_row_makes_exactly_the_calls_it_reports() -> None:
    for seed in range(8):
        model = tiny_backbone(seed, vocab=VOCAB)
        counter = CountingBackbone(model)
        events = list(generate([random_request(random.Random(seed))], CachedDenoiser(model)))
        assert counter.calls == finished(events)[0].usage.num_calls <= events[0].max_calls  # type: ignore[union-attr]


def test_both_satisfy_the_protocol() -> None:
    model = tiny_backbone()
    reference: Denoiser = ReferenceDenoiser(model)
    cached: PrunableDenoiser = CachedDenoiser(model)
    assert reference.prefill([]) == cached.prefill([]) == 0


def prefix(ids: torch.Tensor, *, shift: int = 0, block_length: int = 4) -> Prefix:
    return Prefix(key=KEY, ids=ids, shift=shift, block_length=block_length)


def step(ids: torch.Tensor, start: int, active: int, id_range: tuple[int, int] | None = None) -> StepBatch:
    work = BranchStep(key=KEY, pending_ids=ids[start : ids.numel() - active], active_ids=ids[-active:], start=start)
    return StepBatch(branches=(work,), id_range=id_range)


def random_ids(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB.vocab_size, (count,), generator=torch.Generator().manual_seed(seed))


def test_block_length_one_is_the_causal_mask() -> None:
    model, ids = tiny_backbone(dtype=torch.float64), random_ids(9)
    causal = torch.ones(9, 9).tril().bool()[None, None]
    expected = model(ids[None], torch.arange(9)[None], causal)[0, -1]
    for denoiser in (ReferenceDenoiser(model), CachedDenoiser(model)):
        assert denoiser.prefill([prefix(ids[:6], block_length=1)]) in (0, 1)
        torch.testing.assert_close(denoiser.step(step(ids, 6, 1))[0, 0], expected)


def test_one_block_over_everything_is_full_attention() -> None:
    model, ids = tiny_backbone(dtype=torch.float64), random_ids(9)
    expected = model(ids[None], torch.arange(9)[None], None)[0]
    for denoiser in (ReferenceDenoiser(model), CachedDenoiser(model)):
        denoiser.prefill([prefix(ids[:0], block_length=9)])
        torch.testing.assert_close(denoiser.step(step(ids, 0, 9))[0], expected)


def test_training_mask_gives_the_same_logits_as_generation() -> None:
    """Law: the noisy copy of a block in a [noisy | clean] training row sees what the sampler shows the block."""
    model, length, count = tiny_backbone(), 4, 12
    clean = random_ids(count)
    noisy = torch.where(torch.arange(count) % 3 == 0, MASK, clean)
    block = (torch.arange(count) // length).repeat(2)
    zeros, stream = torch.zeros_like(block), torch.tensor([1, 0]).repeat_interleave(count)
    allowed = training_allowed(zeros, zeros, block, stream)[None, None]
    trained = model(torch.cat((noisy, clean))[None], torch.arange(count).repeat(2)[None], allowed)[0, :count]
    for number in range(count // length):
        here = slice(number * length, (number + 1) * length)
        for denoiser in (ReferenceDenoiser(model), CachedDenoiser(model)):
            denoiser.prefill([prefix(clean[: number * length])])
            ids = torch.cat((clean[: number * length], noisy[here]))
            logits = denoiser.step(step(ids, number * length, length))[0]
            torch.testing.assert_close(logits, trained[here], atol=1e-5, rtol=1e-5)


def test_separate_commit_equals_merged_commit_and_step_leaves_the_prefix_alone() -> None:
    model, ids = tiny_backbone(dtype=torch.float64), random_ids(12)
    merged, separate = CachedDenoiser(model), CachedDenoiser(model)
    for denoiser in (merged, separate):
        denoiser.prefill([prefix(ids[:4])])
        first = denoiser.step(step(ids[:8], 4, 4))
        assert torch.equal(denoiser.step(step(ids[:8], 4, 4)), first)
    assert separate.commit(step(ids, 4, 4)) == 1
    torch.testing.assert_close(separate.step(step(ids, 8, 4)), merged.step(step(ids, 4, 4)))
    assert separate.num_bytes == merged.num_bytes > 0


@pytest.mark.parametrize("alignment", [0, 8])
def test_a_longer_prefix_reuses_what_is_held(alignment: int) -> None:
    model, ids = tiny_backbone(vocab=VOCAB, dtype=torch.float64, picture_alignment=alignment), random_ids(16)
    ids[3] = ids[6] = VOCAB.special.boi
    fresh, reused, counter = CachedDenoiser(model), CachedDenoiser(model), CountingBackbone(model)
    fresh.prefill([prefix(ids[:12])])
    expected = fresh.step(step(ids, 12, 4))
    reused.prefill([prefix(ids[:8])])
    reused.prefill([prefix(ids[:12])])
    torch.testing.assert_close(reused.step(step(ids, 12, 4)), expected)
    calls = counter.calls
    assert reused.prefill([prefix(ids[:12])]) == 0
    assert counter.calls == calls
    changed = ids.clone()
    changed[5] = (changed[5] + 1) % 16
    reused.prefill([prefix(changed[:12])])
    fresh = CachedDenoiser(model)
    fresh.prefill([prefix(changed[:12])])
    torch.testing.assert_close(reused.step(step(changed, 12, 4)), fresh.step(step(changed, 12, 4)))
    reused.prefill([prefix(ids[:12], shift=2, block_length=2)])
    other = ReferenceDenoiser(model)
    other.prefill([prefix(ids[:12], shift=2, block_length=2)])
    torch.testing.assert_close(reused.step(step(ids[:14], 12, 2)), other.step(step(ids[:14], 12, 2)))


def test_release_frees_memory() -> None:
    model, ids = tiny_backbone(), random_ids(8)
    denoiser = CachedDenoiser(model)
    denoiser.prefill([prefix(ids)])
    denoiser.release([KEY, BranchKey(7, 7)])
    assert denoiser.num_bytes == 0


def test_only_wanted_logits_are_computed() -> None:
    model, ids = tiny_backbone(), random_ids(8)
    for denoiser in (ReferenceDenoiser(model), CachedDenoiser(model)):
        denoiser.prefill([prefix(ids[:4])])
        whole = denoiser.step(step(ids, 4, 4))
        part = denoiser.step(step(ids, 4, 4, (IMAGE.start, IMAGE.stop)))
        assert part.shape[-1] == IMAGE.stop - IMAGE.start
        torch.testing.assert_close(part, whole[..., IMAGE.start : IMAGE.stop])


@pytest.mark.parametrize("count", [1, 5, 20, 64])
def test_wanted_positions_have_the_same_bits_as_all(count: int) -> None:
    """float32 with the shapes of nano, where the library's products depend on how many rows they have."""
    config = replace(tiny_backbone(vocab=VOCAB).config, hidden_size=256)
    model, ids = Backbone(config).eval(), random_ids(64)
    model.reset_parameters(torch.Generator().manual_seed(0))
    denoiser = CachedDenoiser(model)
    denoiser.prefill([prefix(ids[:0], block_length=64)])
    batch = step(ids, 0, 64)
    everything = denoiser.step(batch)
    wanted = torch.zeros(1, 64, dtype=torch.bool)
    wanted[0, torch.randperm(64, generator=torch.Generator().manual_seed(count))[:count]] = True
    assert torch.equal(denoiser.step(replace(batch, wanted=wanted))[wanted], everything[wanted])


def test_pruning_keeps_positions_and_ends_with_the_next_commit() -> None:
    model, ids = tiny_backbone(dtype=torch.float64), random_ids(16)
    denoiser = CachedDenoiser(model)
    denoiser.prefill([prefix(ids[:8])])
    whole = denoiser.step(step(ids[:12], 8, 4))
    assert denoiser.key_norms(KEY).shape == (2, 8)
    denoiser.prune(KEY, torch.arange(8).expand(2, 8))
    torch.testing.assert_close(denoiser.step(step(ids[:12], 8, 4)), whole)
    denoiser.prune(KEY, torch.tensor([0, 3, 6]).expand(2, 3))
    pruned = denoiser.step(step(ids[:12], 8, 4))
    assert (pruned - whole).abs().max() > 1e-3
    block = torch.arange(12) // 4
    allowed = block[None, :] <= block[:, None]
    allowed[8:, [1, 2, 4, 5, 7]] = False
    expected = model(ids[None, :12], torch.arange(12)[None], allowed[None, None])[0, 8:]
    torch.testing.assert_close(pruned[0], expected)
    fresh = CachedDenoiser(model)
    fresh.prefill([prefix(ids[:12])])
    torch.testing.assert_close(denoiser.step(step(ids, 8, 4)), fresh.step(step(ids, 12, 4)))


def test_float32_ids_agree() -> None:
    """In float32 a near tie may fall either way; on these models none does."""
    agree = 0
    for seed in range(6):
        model = tiny_backbone(seed, vocab=VOCAB)
        request = image_request(
            random.Random(seed), TokenGrid(4, 4), [9], sampling=Sampling(block_length=8, steps_per_block=4)
        )
        cached = outputs(generate([request], CachedDenoiser(model)))
        agree += cached == outputs(generate([request], ReferenceDenoiser(model)))
    assert agree == 6
