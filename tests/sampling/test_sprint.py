"""SPRINT in the sampler: laws, the masking reference, the released loop."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from sampling_helpers import (
    VOCAB,
    ScriptedDenoiser,
    commits,
    finished,
    image_request,
    outputs,
    random_request,
    writes,
)
from sprint_references import MaskingDenoiser, released_sprint_picture
from test_block_sampler import check_events
from test_denoisers import CountingBackbone

from llada_uni.backbone.denoiser import CachedDenoiser, ReferenceDenoiser
from llada_uni.diffusion.sprint import Sprint
from llada_uni.errors import ConfigError
from llada_uni.grid import TokenGrid
from llada_uni.protocols import BranchKey, Guidance, IdSet, Prefix, Request, Sampling, StepDone
from llada_uni.sampling.block_sampler import generate
from llada_uni.testing.tiny import tiny_backbone

KEY = BranchKey(0, 0)
GUIDANCES = [
    Guidance(),
    Guidance(kind="simple", scale=3.0),
    Guidance(kind="editing", text=3.0, image=1.5),
    Guidance(kind="editing", text=2.0),
]


def random_rules(source: random.Random) -> Sprint:
    """Any rules that thin something out, both variants."""
    return Sprint(
        keep_ratio=source.choice([0.3, 0.5, 0.7]),
        image_keep_ratio=source.choice([None, 0.4, 1.0]),
        text_keep_ratio=source.choice([None, 0.6]),
        warmup_steps=source.choice([1, 1, 2]),
        alpha=source.choice([0.0, 0.5, 1.0]),
        schedule=source.choice(["even", "adaptive"]),  # type: ignore[arg-type]
        ranking=source.choice([None, "low_confidence", "top_k_margin", "neg_entropy"]),  # type: ignore[arg-type]
        variant=source.choice(["paper", "paper", "released"]),  # type: ignore[arg-type]
    )


def with_rules(request: Request, rules: Sprint | None) -> Request:
    return replace(request, sampling=replace(request.sampling, sprint=rules))


def picture(seed: int, guidance: Guidance, rules: Sprint | None, **sampling: object) -> Request:
    """A 4 x 5 picture in blocks of 4 after prompts of 13, 9 and 11 ids, two positions a step."""
    fields = {"block_length": 4, "steps_per_block": 4, "confidence_threshold": 0.99, "sprint": rules} | sampling
    return image_request(
        random.Random(seed),
        TokenGrid(4, 5),
        [13, 9, 11],
        guidance=guidance,
        sampling=Sampling(**fields),  # type: ignore[arg-type]
    )


def test_pruned_positions_are_those_a_mask_would_hide() -> None:
    """The law of the fast path: dropping keys gives the ids that recomputing everything under a mask gives."""
    differ = 0
    for seed in range(24):
        source = random.Random(seed)
        model = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64)
        plain = [random_request(source) for _ in range(2)]
        requests = [with_rules(r, replace(random_rules(source), variant="paper")) for r in plain]
        fast = list(generate(requests, CachedDenoiser(model, separate_shapes=source.random() < 0.5)))
        slow = list(generate(requests, MaskingDenoiser(model)))
        assert outputs(fast) == outputs(slow), seed
        assert commits(fast) == commits(slow), seed
        differ += outputs(fast) != outputs(generate(plain, CachedDenoiser(model)))
    assert differ > 5, "pruning must change something on random models"


@pytest.mark.parametrize("guidance", GUIDANCES, ids=["none", "simple", "editing", "editing-text"])
def test_keep_ratio_one_is_the_exact_path(guidance: Guidance) -> None:
    for seed in range(4):
        model = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64)
        exact = list(generate([picture(seed, guidance, None)], CachedDenoiser(model)))
        for rules in (Sprint(keep_ratio=1.0), Sprint(image_keep_ratio=1.0, text_keep_ratio=1.0, warmup_steps=2)):
            whole = list(generate([picture(seed, guidance, rules)], CachedDenoiser(model)))
            assert commits(whole) == commits(exact)
            assert finished(whole)[0].usage == finished(exact)[0].usage
        assert outputs(exact) == outputs(
            generate([picture(seed, guidance, Sprint(keep_ratio=1.0))], ReferenceDenoiser(model))
        )


@pytest.mark.parametrize("guidance", GUIDANCES, ids=["none", "simple", "editing", "editing-text"])
def test_every_branch_is_thinned_out_by_its_own_scores(guidance: Guidance) -> None:
    calls: list[tuple[BranchKey, list[list[int]]]] = []

    class Watched(CachedDenoiser):
        def prune(self, key: BranchKey, keep: torch.Tensor) -> None:
            calls.append((key, keep.tolist()))
            super().prune(key, keep)

    model = tiny_backbone(1, vocab=VOCAB, dtype=torch.float64)
    request = picture(1, guidance, Sprint(keep_ratio=0.5))
    check_events(request, list(generate([request], Watched(model))))
    branches = {key.branch for key, _ in calls}
    assert branches == set(range(guidance.num_branches))
    first = {key.branch: keep for key, keep in calls if len(keep[0]) == 6}
    assert len({str(keep) for keep in first.values()}) == len(first)


def test_laws_hold_whatever_the_rules() -> None:
    for seed in range(30):
        source = random.Random(1000 + seed)
        requests = [with_rules(random_request(source), random_rules(source)) for _ in range(2)]
        events = list(generate(requests, CachedDenoiser(tiny_backbone(seed, vocab=VOCAB))))
        for row, request in enumerate(requests):
            check_events(request, [e for e in events if e.row == row])


def test_a_lone_row_makes_exactly_the_calls_it_reports() -> None:
    for seed in range(8):
        source = random.Random(seed)
        model = tiny_backbone(seed, vocab=VOCAB)
        request = with_rules(random_request(source), random_rules(source))
        counter = CountingBackbone(model)
        events = list(generate([request], CachedDenoiser(model)))
        assert counter.calls == finished(events)[0].usage.num_calls <= events[0].max_calls  # type: ignore[union-attr]


def test_rows_alone_equal_rows_in_a_mixed_batch() -> None:
    for seed in range(12):
        source = random.Random(seed)
        model = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64)
        requests = [random_request(source) for _ in range(3)]
        requests[0] = with_rules(requests[0], random_rules(source))
        requests[2] = with_rules(requests[2], random_rules(source))
        for separate in (True, False):
            together = outputs(generate(requests, CachedDenoiser(model, separate_shapes=separate)))
            for row, request in enumerate(requests):
                assert outputs(generate([request], CachedDenoiser(model)))[0] == together[row], (seed, row)


def test_warm_up_steps_see_everything() -> None:
    """Until the warm-up of the first block is over nothing differs; with a warm-up as long as a block nothing ever."""
    model = tiny_backbone(3, vocab=VOCAB, dtype=torch.float64)
    exact = commits(generate([picture(3, GUIDANCES[1], None)], CachedDenoiser(model)))
    for warmup in (1, 2, 4):
        rules = Sprint(keep_ratio=0.2, warmup_steps=warmup)
        found = commits(generate([picture(3, GUIDANCES[1], rules)], CachedDenoiser(model)))
        assert found[:warmup] == exact[:warmup]
        assert (found == exact) == (warmup == 4)


def test_confidences_are_those_of_the_whole_window_and_survive_a_longer_prefix() -> None:
    model = tiny_backbone(2, vocab=VOCAB, dtype=torch.float64)
    ids = torch.randint(0, VOCAB.vocab_size, (16,), generator=torch.Generator().manual_seed(0))
    slow, fast, again = MaskingDenoiser(model), CachedDenoiser(model), CachedDenoiser(model)
    prefix = Prefix(key=KEY, ids=ids, shift=1, block_length=4, scored=True)
    assert fast.prefill([prefix]) == 1
    slow.prefill([prefix])
    torch.testing.assert_close(fast.confidence(KEY).double(), slow.confidence(KEY), atol=1e-6, rtol=0)
    torch.testing.assert_close(fast.key_norms(KEY).double(), slow.key_norms(KEY), atol=1e-5, rtol=1e-6)
    assert torch.equal(fast.is_image(KEY), ids >= VOCAB.image_offset)
    again.prefill([replace(prefix, ids=ids[:7])])
    again.prefill([prefix])
    torch.testing.assert_close(again.confidence(KEY), fast.confidence(KEY))
    unscored = CachedDenoiser(model)
    unscored.prefill([replace(prefix, scored=False)])
    assert unscored.prefill([prefix]) == 1, "what was not scored is computed again"
    torch.testing.assert_close(unscored.confidence(KEY), fast.confidence(KEY))


@pytest.mark.parametrize(("cond", "uncond"), [(12, 12), (12, 5), (14, 9), (17, 6), (21, 13)])
def test_the_released_variant_is_the_released_loop(cond: int, uncond: int) -> None:
    """D1 to D3 at once, the padding of the twin included; blocks of 8, so it fills whole blocks and parts of one."""
    for seed in range(3):
        source = random.Random(100 * cond + uncond + seed)
        model = tiny_backbone(cond + seed, vocab=VOCAB, dtype=torch.float64, scale=0.35)
        rules = Sprint(
            keep_ratio=source.choice([0.4, 0.7]),
            text_keep_ratio=source.choice([None, 0.5]),
            warmup_steps=source.choice([1, 2]),
            schedule="adaptive",
            ranking="low_confidence",
            variant="released",
        )
        sampling = Sampling(block_length=8, steps_per_block=5, confidence_threshold=0.6, sprint=rules)
        guidance = Guidance(kind="simple", scale=4.0)
        request = image_request(source, TokenGrid(4, 5), [cond, uncond], guidance=guidance, sampling=sampling)
        expected = released_sprint_picture(model, request.prompts, 20, scale=4.0, sampling=sampling, rules=rules)
        events = list(generate([request], CachedDenoiser(model)))
        check_events(request, events)
        assert list(finished(events)[0].output_ids) == expected, (seed, rules)


def test_released_padding_becomes_visible_even_when_everything_is_kept() -> None:
    differ = 0
    for seed in range(6):
        model = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64, scale=0.35)
        rules = Sprint(keep_ratio=1.0, variant="released")
        request = picture(seed, GUIDANCES[1], rules)
        expected = released_sprint_picture(
            model, request.prompts[:2], 20, scale=3.0, sampling=request.sampling, rules=rules
        )
        exact = outputs(generate([with_rules(request, None)], CachedDenoiser(model)))[0]
        found = outputs(generate([with_rules(request, replace(rules, schedule="adaptive"))], CachedDenoiser(model)))[0]
        assert list(found[1]) == expected
        differ += found != exact
    assert differ


def test_released_rules_are_ignored_with_editing_guidance() -> None:
    model = tiny_backbone(5, vocab=VOCAB, dtype=torch.float64)
    rules = Sprint(keep_ratio=0.3, schedule="adaptive", ranking="neg_entropy", variant="released")
    for guidance in GUIDANCES[2:]:
        exact = commits(generate([picture(5, guidance, None)], CachedDenoiser(model)))
        assert commits(generate([picture(5, guidance, rules)], ReferenceDenoiser(model))) == exact
        paper = replace(rules, variant="paper")
        assert commits(generate([picture(5, guidance, paper)], CachedDenoiser(model))) != exact


def test_an_adaptive_schedule_spreads_what_the_threshold_leaves() -> None:
    """Six of eight positions pass at once; the even share takes the other two together, the adaptive one does not."""
    denoiser = ScriptedDenoiser(lambda row, position: writes(5, 20.0 if position % 8 < 6 else 0.0))
    sampling = Sampling(block_length=8, steps_per_block=2)
    counts = {}
    for schedule, steps in (("even", 2), ("adaptive", 2), ("even", 4), ("adaptive", 4)):
        rules = Sprint(keep_ratio=1.0, schedule=schedule)  # type: ignore[arg-type]
        request = Request(
            prompts=((1,) * 8,),
            num_tokens=8,
            mask_id=VOCAB.special.mask,
            allowed=IdSet(start=0, stop=10),
            sampling=replace(sampling, steps_per_block=steps, sprint=rules),
        )
        events = list(generate([request], denoiser))
        check_events(request, events)
        counts[schedule, steps] = [len(e.positions) for e in events if isinstance(e, StepDone)]
    assert counts == {("even", 2): [6, 2], ("adaptive", 2): [6, 2], ("even", 4): [6, 2], ("adaptive", 4): [6, 1, 1]}


def test_a_ranking_decides_who_goes_first_also_over_a_random_order() -> None:
    """Position 8 has the more probable id (0.45 against 0.44), position 9 the larger margin (0.4 against 0.12)."""
    first = {}
    shapes = {0: [0.45, 0.44, 0.11, 0.0, 0.0, 0.0], 1: [0.4, 0.12, 0.12, 0.12, 0.12, 0.12]}

    def score(row: int, position: int) -> torch.Tensor:
        scores = torch.full((VOCAB.vocab_size,), -30.0)
        scores[:6] = torch.tensor(shapes[position % 2]).clamp_min(1e-12).log()
        return scores

    for ranking in ("low_confidence", "top_k_margin", "neg_entropy"):
        request = Request(
            prompts=((1,) * 8,),
            num_tokens=2,
            mask_id=VOCAB.special.mask,
            allowed=IdSet(start=0, stop=6),
            sampling=Sampling(
                block_length=2,
                commit_order="random",
                sprint=Sprint(keep_ratio=1.0, ranking=ranking),  # type: ignore[arg-type]
            ),
        )
        steps = [e for e in generate([request], ScriptedDenoiser(score)) if isinstance(e, StepDone)]
        first[ranking] = steps[0].positions
    assert first == {"low_confidence": (0,), "top_k_margin": (1,), "neg_entropy": (0,)}


def test_a_denoiser_that_cannot_prune_is_refused_before_any_work() -> None:
    model = tiny_backbone(0, vocab=VOCAB)
    with pytest.raises(ConfigError, match="can thin out its prefix, got ReferenceDenoiser"):
        next(generate([picture(0, Guidance(), Sprint(keep_ratio=0.5))], ReferenceDenoiser(model)))
