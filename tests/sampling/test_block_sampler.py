"""The block sampler: the released rule, end conditions, events, randomness."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from sampling_helpers import (
    EOS,
    IMAGE,
    MASK,
    TEXT,
    VOCAB,
    ScriptedDenoiser,
    commits,
    finished,
    image_request,
    outputs,
    prompt,
    random_request,
    released_picture,
    writes,
)

from llada_uni.backbone.denoiser import CachedDenoiser, ReferenceDenoiser
from llada_uni.backbone.model import Backbone
from llada_uni.errors import CheckpointError, ConfigError, PromptError
from llada_uni.grid import TokenGrid
from llada_uni.protocols import (
    BlockDone,
    Event,
    Finished,
    Guidance,
    HeaderSeen,
    IdSet,
    Request,
    Sampling,
    Started,
    StepBatch,
    StepDone,
    TextDelta,
)
from llada_uni.sampling.block_sampler import advance, generate, plan, prefill, start
from llada_uni.sampling.rows import open_row, prefixes
from llada_uni.sampling.wanted import wanted_mask
from llada_uni.testing.tiny import tiny_backbone


def text_request(length: int = 6, **changes: object) -> Request:
    fields: dict[str, object] = {
        "prompts": (tuple(range(length)),),
        "num_tokens": 10,
        "mask_id": MASK,
        "allowed": TEXT,
        "stop_ids": frozenset({EOS}),
        "sampling": Sampling(block_length=4),
    }
    return Request(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("cond", "uncond"), [(7, 7), (8, 5), (13, 4), (5, 3), (12, 9), (15, 1)])
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_pad_free_branches_equal_the_released_padded_loop(cond: int, uncond: int, steps: int) -> None:
    source = random.Random(100 * cond + uncond + steps)
    model = tiny_backbone(cond + steps, vocab=VOCAB, dtype=torch.float64)
    sampling = Sampling(block_length=8, steps_per_block=steps, confidence_threshold=0.6)
    for scale in (1.0, 4.0):
        request = image_request(
            source,
            TokenGrid(3, 5),
            [cond, uncond],
            guidance=Guidance(kind="simple", scale=scale),
            sampling=sampling,
        )
        expected = released_picture(model, *request.prompts, 15, scale=scale, sampling=sampling)
        assert list(finished(generate([request], CachedDenoiser(model)))[0].output_ids) == expected


def test_a_branch_longer_than_the_condition_shares_its_blocks() -> None:
    """Condition of 3, twin of 14, blocks of 4: the twin's grid is moved until output position 1 begins a block too."""
    request = image_request(
        random.Random(0),
        TokenGrid(2, 4),
        [3, 14],
        guidance=Guidance(kind="simple", scale=2.0),
        sampling=Sampling(block_length=4),
    )
    row = open_row(request, 0)
    assert [row.span(k) for k in range(3)] == [(0, 1), (1, 5), (5, 9)]
    assert [p.shift for p in prefixes(row)] == [0, -11]
    assert [p.ids.numel() for p in prefixes(row)] == [0, 11]
    batch = plan([row])
    assert [(b.start, b.active_ids.numel()) for b in batch.branches] == [(0, 4), (11, 4)]
    assert [b.active_ids[:3].tolist() for b in batch.branches] == [list(request.prompts[0]), [*request.prompts[1][11:]]]


def check_events(request: Request, events: list[Event]) -> None:
    """Everything the events of one row promise."""
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    done, written = events[-1], dict[int, int]()
    steps = [e for e in events if isinstance(e, StepDone)]
    for e in steps:
        assert e.positions, "every step commits at least one position"
        assert len(e.positions) == len(e.ids) == len(e.confidence)
        assert not written.keys() & set(e.positions), "committed ids never change"
        assert not set(e.positions) & request.given.keys()
        assert all(0 < c <= 1 for c in e.confidence)
        assert all(request.allowed.start <= i < request.allowed.stop and i != MASK for i in e.ids)
        written.update(zip(e.positions, e.ids, strict=True))
    written.update(request.given)
    assert list(done.output_ids) == [written[i] for i in range(len(done.output_ids))]
    assert done.usage.num_steps == len(steps) <= done.usage.num_calls <= events[0].max_calls
    blocks = [e for e in events if isinstance(e, BlockDone)]
    assert [e.block for e in blocks] == list(range(done.usage.num_blocks))
    assert sum((e.ids for e in blocks), ()) == done.output_ids
    assert sum(e.num_steps for e in blocks) == len(steps)
    assert all(e.num_steps <= request.sampling.steps_per_block for e in blocks)
    assert done.usage.num_blocks <= events[0].num_blocks
    told = [e for e in events if isinstance(e, TextDelta)]
    assert [e.start for e in told] == [sum(len(d.ids) for d in told[:n]) for n in range(len(told))]
    if request.grid is None:
        end = len(done.output_ids) - (done.reason == "stop")
        assert sum((e.ids for e in told), ()) == done.output_ids[:end]
        assert (done.reason == "stop") == (done.output_ids[-1] in request.stop_ids)
    else:
        assert (done.reason, len(done.output_ids), told) == ("image", request.num_tokens, [])


def test_event_invariants() -> None:
    for seed in range(30):
        source = random.Random(seed)
        requests = [random_request(source) for _ in range(2)]
        events = list(generate(requests, CachedDenoiser(tiny_backbone(seed, vocab=VOCAB))))
        for row, request in enumerate(requests):
            check_events(request, [e for e in events if e.row == row])


def test_block_granularity_has_the_same_results_and_no_steps() -> None:
    source = random.Random(5)
    requests, model = [random_request(source) for _ in range(4)], tiny_backbone(5, vocab=VOCAB)
    coarse = list(generate(requests, CachedDenoiser(model), granularity="block"))
    fine = list(generate(requests, CachedDenoiser(model)))
    assert outputs(coarse) == outputs(fine)
    assert not any(isinstance(e, StepDone | TextDelta) for e in coarse)
    assert [e for e in coarse if isinstance(e, BlockDone)] == [e for e in fine if isinstance(e, BlockDone)]


@pytest.mark.parametrize(("steps", "expected"), [(4, 1), (2, 2), (1, 4), (3, 2)])
def test_quota_is_a_minimum_per_step(steps: int, expected: int) -> None:
    """Flat logits are never above the threshold, so each step commits its even share."""
    denoiser = ScriptedDenoiser(lambda row, position: torch.zeros(VOCAB.vocab_size))
    request = text_request(8, num_tokens=4, sampling=Sampling(block_length=4, steps_per_block=steps))
    first = next(e for e in generate([request], denoiser) if isinstance(e, StepDone))
    assert len(first.positions) == expected


def test_the_threshold_is_strict_and_commits_everything_above() -> None:
    """Two confident positions of four are committed at once, the others wait for their quota."""
    denoiser = ScriptedDenoiser(lambda row, position: writes(5) if position % 2 else torch.zeros(VOCAB.vocab_size))
    request = text_request(8, num_tokens=4, sampling=Sampling(block_length=4, steps_per_block=4))
    steps = [e.positions for e in generate([request], denoiser) if isinstance(e, StepDone)]
    assert steps == [(1, 3), (0,), (2,)]
    even = ScriptedDenoiser(lambda row, position: writes(position % 2, 0.0))
    two = IdSet(start=0, stop=2)
    request = text_request(8, num_tokens=4, allowed=two, sampling=Sampling(block_length=4, confidence_threshold=0.5))
    assert len([e for e in generate([request], even) if isinstance(e, StepDone)]) == 4


@pytest.mark.parametrize(("eos_at", "length"), [(6, 1), (7, 2), (8, 3), (13, 8)])
def test_text_stops_at_the_first_end_id_behind_the_prompt(eos_at: int, length: int) -> None:
    prompts = ((0, EOS, 2, 3, 4, EOS),)
    denoiser = ScriptedDenoiser(lambda row, position: writes(EOS if position >= eos_at else 5))
    done = finished(generate([text_request(prompts=prompts)], denoiser))[0]
    assert (done.reason, done.output_ids) == ("stop", (5,) * (length - 1) + (EOS,))


def test_an_end_id_waits_for_the_positions_before_it() -> None:
    """The end id is certain from the start; what stands before it is written first, what follows never."""
    denoiser = ScriptedDenoiser(lambda row, position: writes(EOS, 20) if position == 10 else writes(5, 1.0))
    events = list(generate([text_request(8, sampling=Sampling(block_length=4))], denoiser))
    steps = [e for e in events if isinstance(e, StepDone)]
    assert steps[0].positions == (2,)
    assert finished(events)[0].output_ids == (5, 5, EOS)
    assert all(3 not in e.positions for e in steps)


def test_text_without_an_end_has_exactly_the_length() -> None:
    denoiser = ScriptedDenoiser(lambda row, position: writes(5))
    done = finished(generate([text_request(num_tokens=9)], denoiser))[0]
    assert (done.reason, done.output_ids) == ("length", (5,) * 9)
    surplus = ScriptedDenoiser(lambda row, position: writes(EOS if position == 15 else 5))
    assert finished(generate([text_request(num_tokens=9)], surplus))[0].reason == "length"


def test_a_header_is_announced() -> None:
    header = VOCAB.header(TokenGrid(2, 3))
    ids = (5, 5, *header, 7, 7, 7, 7, 7, 7, 7)
    denoiser = ScriptedDenoiser(lambda row, position: writes(ids[position - 6]))
    changes = {"stop_ids": frozenset({EOS, VOCAB.special.boi}), "header_grid": VOCAB.header_grid}
    events = list(generate([text_request(**changes)], denoiser))
    assert [(e.grid_h, e.grid_w) for e in events if isinstance(e, HeaderSeen)] == [(2, 3)]
    assert finished(events)[0].output_ids == (5, 5, *header)
    assert finished(events)[0].reason == "header"
    broken = ScriptedDenoiser(lambda row, position: writes(VOCAB.special.boi if position == 8 else 5))
    events = list(generate([text_request(**changes)], broken))
    assert not any(isinstance(e, HeaderSeen) for e in events)
    assert finished(events)[0].reason == "stop"


def test_forbidden_ids_and_the_mask_are_never_written() -> None:
    def score(row: int, position: int) -> torch.Tensor:
        scores = writes(MASK, 50.0)
        scores[EOS], scores[IMAGE.start], scores[4] = 40.0, 60.0, 1.0
        return scores

    allowed = IdSet(start=0, stop=VOCAB.image_offset, forbidden=(EOS,))
    done = finished(generate([text_request(allowed=allowed)], ScriptedDenoiser(score)))[0]
    assert set(done.output_ids) == {4}


def test_given_positions_stay_and_cost_no_steps() -> None:
    model, source = tiny_backbone(1, vocab=VOCAB), random.Random(1)
    codes = list(range(IMAGE.start, IMAGE.start + 8))
    half = image_request(
        source, TokenGrid(2, 4), [6], given={i: codes[i] for i in (0, 2, 7)}, sampling=Sampling(block_length=8)
    )
    events = list(generate([half], CachedDenoiser(model)))
    check_events(half, events)
    assert outputs(events) == outputs(generate([half], ReferenceDenoiser(model)))
    everything = image_request(source, TokenGrid(2, 4), [6], given=dict(enumerate(codes)))
    denoiser = CachedDenoiser(model)
    events = list(generate([everything], denoiser))
    check_events(everything, events)
    assert finished(events)[0].usage.num_calls == events[0].max_calls == 0  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="given"):
        open_row(image_request(source, TokenGrid(2, 4), [6], given={40: codes[0]}), 0)


def test_a_wholly_given_block_inside_the_picture_is_cached_correctly() -> None:
    for seed in range(8):
        model, source = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64), random.Random(seed)
        given = {i: IMAGE.start + i % 20 for i in range(2, 11)}
        request = image_request(
            source,
            TokenGrid(4, 4),
            [6, 9],
            given=given,
            guidance=Guidance(kind="simple", scale=3.0),
            sampling=Sampling(block_length=4, steps_per_block=2),
        )
        events = list(generate([request], CachedDenoiser(model)))
        check_events(request, events)
        assert commits(events) == commits(generate([request], ReferenceDenoiser(model)))


def test_known_surplus_changes_what_the_last_block_sees() -> None:
    model, source = tiny_backbone(2, vocab=VOCAB, dtype=torch.float64), random.Random(2)
    request = image_request(source, TokenGrid(3, 3), [6], sampling=Sampling(block_length=8))
    ending = {9: VOCAB.special.eoi}
    filled = image_request(random.Random(2), TokenGrid(3, 3), [6], sampling=Sampling(block_length=8), given=ending)
    assert filled.prompts == request.prompts
    events = list(generate([filled], CachedDenoiser(model)))
    check_events(filled, events)
    assert all(9 not in e.positions for e in events if isinstance(e, StepDone))


def test_draws_repeat_with_the_seed_and_do_not_depend_on_the_batch() -> None:
    model = tiny_backbone(4, vocab=VOCAB, dtype=torch.float64, scale=0.2)
    sampling = Sampling(block_length=4, temperature=1.0, top_k=10, top_p=0.9)
    requests = [image_request(random.Random(0), TokenGrid(3, 4), [5 + n], sampling=sampling, seed=n) for n in range(4)]
    together = outputs(generate(requests, CachedDenoiser(model)))
    assert together == outputs(generate(requests, CachedDenoiser(model)))
    for row in (3, 1):
        assert outputs(generate([requests[row]], ReferenceDenoiser(model)))[0] == together[row]
    reseeded = image_request(random.Random(0), TokenGrid(3, 4), [5], sampling=sampling, seed=99)
    assert reseeded.prompts == requests[0].prompts
    assert outputs(generate([reseeded], CachedDenoiser(model)))[0] != together[0]


def test_a_random_order_commits_positions_whatever_their_confidence() -> None:
    model = tiny_backbone(4, vocab=VOCAB, dtype=torch.float64, scale=0.2)
    rules = {"block_length": 16, "steps_per_block": 16, "confidence_threshold": 1.0, "commit_order": "random"}
    requests = [
        image_request(random.Random(0), TokenGrid(4, 4), [16], sampling=Sampling(**rules), seed=seed)  # type: ignore[arg-type]
        for seed in range(4)
    ]
    orders = []
    for request in requests:
        events = list(generate([request], CachedDenoiser(model)))
        check_events(request, events)
        orders.append([e.positions for e in events if isinstance(e, StepDone)])
        assert outputs(generate([request], ReferenceDenoiser(model))) == outputs(events)
    assert all(len(order) == 16 and all(len(positions) == 1 for positions in order) for order in orders)
    assert len({tuple(order) for order in orders}) == 4, "every seed has an order of its own"


class OnlyWanted(CachedDenoiser):
    """Nothing but the wanted logits is a number; ``ignore`` computes them all."""

    def __init__(self, model: Backbone, *, ignore: bool) -> None:
        super().__init__(model)
        self.ignore, self.counts = ignore, list[int]()

    def step(self, batch: StepBatch) -> torch.Tensor:
        assert batch.wanted is not None
        self.counts.append(int(batch.wanted.sum()))
        if self.ignore:
            return super().step(replace(batch, wanted=None))
        return super().step(batch).masked_fill(~batch.wanted[..., None], torch.nan)


def test_only_wanted_logits_are_read_and_change_nothing() -> None:
    for seed in range(12):
        source = random.Random(seed)
        model = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64, scale=0.2)
        requests = [random_request(source) for _ in range(3)]
        if seed % 2:
            changes = {"commit_order": "random", "confidence_threshold": source.choice([0.3, 1.0])}
            requests = [replace(r, sampling=replace(r.sampling, **changes)) for r in requests]
        everything, wanted = OnlyWanted(model, ignore=True), OnlyWanted(model, ignore=False)
        assert commits(generate(requests, wanted)) == commits(generate(requests, everything)), seed
        assert wanted.counts == everything.counts


def test_a_random_order_without_a_threshold_wants_no_more_than_it_commits() -> None:
    model = tiny_backbone(2, vocab=VOCAB, dtype=torch.float64, scale=0.2)
    sampling = Sampling(
        block_length=8, steps_per_block=3, temperature=1.0, commit_order="random", confidence_threshold=1.0
    )
    guidance = Guidance(kind="simple", scale=2.0)
    request = image_request(random.Random(1), TokenGrid(4, 4), [8, 6], sampling=sampling, guidance=guidance)
    denoiser = OnlyWanted(model, ignore=False)
    committed = [len(e.positions) for e in generate([request], denoiser) if isinstance(e, StepDone)]
    assert denoiser.counts == [2 * count for count in committed] == [6, 6, 4, 6, 6, 4]
    threshold = replace(request, sampling=replace(sampling, confidence_threshold=0.99))
    assert int(wanted_mask(open_row(threshold, 0)).sum()) == 8


def test_rows_may_be_admitted_between_steps() -> None:
    model = tiny_backbone(6, vocab=VOCAB, dtype=torch.float64)
    source = random.Random(6)
    early, late = random_request(source), random_request(source)
    expected = outputs(generate([early, late], CachedDenoiser(model)))
    denoiser = CachedDenoiser(model)
    rows, events = start([early])
    rows = prefill(rows, denoiser)
    for turn in range(100):
        if turn == 1:
            fresh, news = start([late], first_number=1)
            rows, events = rows + prefill(fresh, denoiser), events + news
        if not rows:
            break
        rows, news = advance(rows, denoiser.step(plan(rows)))
        events += news
    assert outputs(events) == expected


def test_advance_is_pure() -> None:
    model = tiny_backbone(7, vocab=VOCAB)
    denoiser = CachedDenoiser(model)
    rows, _ = start([random_request(random.Random(7))])
    rows = prefill(rows, denoiser)
    logits = denoiser.step(plan(rows))
    before = [row.ids.clone() for row in rows], logits.clone()
    first, second = advance(rows, logits), advance(rows, logits)
    assert first[1] == second[1]
    assert torch.equal(rows[0].ids, before[0][0])
    assert torch.equal(logits, before[1])


def test_closing_the_iterator_releases_the_branches() -> None:
    denoiser = ScriptedDenoiser(lambda row, position: writes(5))
    events = generate([text_request()], denoiser)
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert [tuple(key) for key in denoiser.released] == [(0, 0)]


def test_logits_that_are_not_numbers_are_reported() -> None:
    denoiser = ScriptedDenoiser(lambda row, position: torch.full((VOCAB.vocab_size,), torch.nan))
    with pytest.raises(CheckpointError, match="non-finite"):
        list(generate([text_request()], denoiser))


def test_branches_without_weight_are_not_computed() -> None:
    source = random.Random(0)
    cases = [
        (Guidance(kind="simple", scale=1.0), 1),
        (Guidance(kind="simple", scale=4.0), 2),
        (Guidance(kind="editing", text=4.0), 2),
        (Guidance(kind="editing", text=4.0, image=1.0), 3),
        (Guidance(kind="editing", text=1.0), 1),
    ]
    for guidance, expected in cases:
        request = image_request(source, TokenGrid(2, 2), [5, 6, 7], guidance=guidance)
        assert len(plan(start([request])[0]).branches) == expected


def test_rescaling_over_allowed_ids_needs_no_other_logits() -> None:
    source = random.Random(0)
    for over, expected in (("vocabulary", None), ("allowed", (IMAGE.start, IMAGE.stop))):
        guidance = Guidance(kind="simple", scale=4.0, rescale_over=over)  # type: ignore[arg-type]
        request = image_request(source, TokenGrid(2, 2), [5, 6], guidance=guidance)
        assert plan(start([request])[0]).id_range == expected


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"prompts": ()}, ConfigError),
        ({"prompts": ((),)}, PromptError),
        ({"num_tokens": 0}, ConfigError),
        ({"grid": TokenGrid(2, 2)}, ConfigError),
        ({"guidance": Guidance(kind="simple", scale=2.0)}, ConfigError),
    ],
)
def test_impossible_requests_are_refused(changes: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"expected|needs|asked"):
        text_request(**changes)


def test_impossible_sampling_is_refused() -> None:
    for bad in ({"block_length": 0}, {"steps_per_block": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": 0}):
        with pytest.raises(ConfigError):
            Sampling(**bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        IdSet(start=4, stop=4)
    assert prompt(random.Random(0), 3) == prompt(random.Random(0), 3)


@pytest.mark.parametrize("seed", range(6))
def test_sequential_text_is_written_from_left_to_right(seed: int) -> None:
    sampling = Sampling(block_length=8, steps_per_block=8, confidence_threshold=0.6, commit_order="sequential")
    model = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64)
    request = text_request(num_tokens=20, sampling=sampling)
    events = list(generate([request], CachedDenoiser(model)))
    check_events(request, events)
    written = [position for event in events if isinstance(event, StepDone) for position in event.positions]
    assert written == sorted(written)
    assert outputs(events) == outputs(generate([request], ReferenceDenoiser(model)))
