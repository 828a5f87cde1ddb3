"""Many stories through one sampler: alone as in a batch, cached as uncached, in one go as in parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from llada_uni import prompts
from llada_uni.backbone.denoiser import CachedDenoiser, ReferenceDenoiser
from llada_uni.backbone.model import Backbone
from llada_uni.grid import TokenGrid
from llada_uni.protocols import BranchKey, Denoiser, Finished, HeaderSeen, Sampling, Started, TextDelta
from llada_uni.sampling.interleaved import StoryRules, begin, go_on
from llada_uni.sampling.stories import PhaseDone, write_stories
from llada_uni.sampling.story_state import StoryState
from llada_uni.testing.tiny import tiny_backbone
from story_helpers import GRIDS, OFF, PROMPT, SPECIAL, TOKENIZER, VOCAB, Director, Part, Script, rules, script

SQUARE, WIDE, TALL = GRIDS
OUTLINES: tuple[tuple[Part, ...], ...] = (
    (3, SQUARE, 7, WIDE, 2, "end"),
    (WIDE, (TokenGrid(9, 5), TALL), 9, SQUARE, "end"),
    (11, "end"),
)
WARM = Sampling(block_length=8, steps_per_block=3, temperature=0.8, commit_order="random")


def model(seed: int = 0, picture_alignment: int = 0) -> Backbone:
    return tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64, picture_alignment=picture_alignment)


def run(
    states: Sequence[StoryState], by: StoryRules, denoiser: Denoiser, scripts: Sequence[Script]
) -> tuple[list[StoryState], list[Any], Director]:
    director = Director(denoiser, dict(enumerate(scripts)))
    story, events = write_stories(states, by, director), []
    while True:
        try:
            events.append(next(story))
        except StopIteration as stop:
            return stop.value, events, director


def test_a_story_follows_its_outline() -> None:
    (state,), events, _ = run([begin(PROMPT, 5, rules())], rules(), CachedDenoiser(model()), [script(*OUTLINES[0])])
    assert state.reason == "stop"
    assert [segment.grid for segment in state.segments] == [None, SQUARE, None, WIDE, None]
    assert [segment.stop - segment.start for segment in state.segments] == [3, 4, 7, 6, 2]
    state.check(VOCAB)
    phases = [event for event in events if isinstance(event, PhaseDone)]
    assert [event.phase for event in phases] == ["text", "image", "text", "image", "text"]
    assert phases[-1].state == state
    seen = [(event.grid_h, event.grid_w) for event in events if isinstance(event, HeaderSeen)]
    assert seen == [(2, 2), (2, 3)]
    assert [event.grid for event in events if isinstance(event, Started)] == [None, SQUARE, None, WIDE, None]
    assert [event.reason for event in events if isinstance(event, Finished)] == [
        "header", "image", "header", "image", "stop",
    ]  # fmt: skip
    reported = [
        i for event in events if isinstance(event, TextDelta) for i in event.ids if i in SPECIAL.reserved.values()
    ]
    assert len(reported) == 4
    assert all(event.row == 0 for event in events)


def test_a_fixed_size_needs_no_header_of_the_model() -> None:
    """A right header makes the same story with and without a size; a broken one ends a story without a size only."""
    fixed = rules(grid=WIDE)
    right, broken = script(3, WIDE, 7, WIDE, 2, "end"), script(3, "boi")
    begun = [begin(PROMPT, 5, by) for by in (rules(), fixed)]
    (free,), _, _ = run(begun[:1], rules(), CachedDenoiser(model()), [right])
    (held,), events, _ = run(begun[1:], fixed, CachedDenoiser(model()), [right])
    assert held == free
    assert [(e.grid_h, e.grid_w) for e in events if isinstance(e, HeaderSeen)] == [(2, 3), (2, 3)]
    assert not {i for e in events if isinstance(e, TextDelta) for i in e.ids} & set(SPECIAL.reserved.values())
    (ended,), _, _ = run(begun[:1], rules(), CachedDenoiser(model()), [broken])
    (drawn,), _, _ = run(begun[1:], fixed, CachedDenoiser(model()), [broken])
    assert (ended.reason, ended.frame_index) == ("bad_header", 0)
    assert drawn.segments[1].grid == WIDE
    assert drawn.reason == "length"


@pytest.mark.parametrize("alignment", [0, 16])
@pytest.mark.parametrize("seed", range(4))
def test_cached_equals_uncached(seed: int, alignment: int) -> None:
    by = rules(picture=WARM) if seed % 2 else rules()
    states = [begin(PROMPT, seed + row, by) for row in range(3)]
    scripts = [script(*outline) for outline in OUTLINES]
    network = model(seed, alignment)
    cached, events, _ = run(states, by, CachedDenoiser(network, separate_shapes=seed > 1), scripts)
    reference, expected, _ = run(states, by, ReferenceDenoiser(network), scripts)
    assert cached == reference
    assert [type(event) for event in events] == [type(event) for event in expected]
    assert [len(state.segments) for state in cached] == [5, 4, 1]


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_gives_what_each_story_gives_alone(seed: int) -> None:
    by = rules(picture=WARM) if seed % 2 else rules()
    states = [begin(PROMPT, seed + row, by) for row in range(3)]
    scripts = [script(*outline) for outline in OUTLINES]
    together, _, director = run(states, by, CachedDenoiser(model(seed)), scripts)
    for state, told, expected in zip(states, scripts, together, strict=True):
        assert run([state], by, CachedDenoiser(model(seed)), [told])[0] == [expected]
    mixed = [{b.key.row: max(k.key.branch for k in batch.branches if k.key.row == b.key.row) for b in batch.branches}
             for batch in director.batches]  # fmt: skip
    assert any(0 in phases.values() and 1 in phases.values() for phases in mixed), "text and pictures share steps"


@pytest.mark.parametrize("picture", [rules().picture, WARM])
def test_going_on_after_max_frames_is_having_asked_for_more(picture: Sampling) -> None:
    outline = script(3, SQUARE, 7, WIDE, 2, TALL, 5, SQUARE)
    (whole,), _, _ = run([begin(PROMPT, 5, rules())], rules(picture=picture), CachedDenoiser(model()), [outline])
    assert (whole.reason, whole.frame_index) == ("max_frames", 4)
    for parts in ((1, 3), (2, 2), (1, 1, 1, 1)):
        state: StoryState | None = None
        for count in parts:
            by = rules(picture=picture, max_frames=count)
            start = begin(PROMPT, 5, by) if state is None else go_on(state, by)
            (state,), _, _ = run([start], by, CachedDenoiser(model()), [outline])
            state = StoryState.from_dict(json.loads(json.dumps(state.as_dict())))
        assert state is not None
        assert (state.ids, state.segments, state.reason) == (whole.ids, whole.segments, whole.reason)


def test_a_story_goes_on_from_any_finished_phase() -> None:
    outline = script(3, SQUARE, 7, WIDE, 2, "end")
    (whole,), events, _ = run([begin(PROMPT, 5, rules())], rules(), CachedDenoiser(model()), [outline])
    for event in events:
        if isinstance(event, PhaseDone) and event.state.phase != "done":
            (again,), _, _ = run([go_on(event.state, rules())], rules(), CachedDenoiser(model()), [outline])
            assert (again.ids, again.segments, again.reason) == (whole.ids, whole.segments, whole.reason)


def test_a_next_turn_goes_on_from_a_stored_state() -> None:
    (first,), _, _ = run([begin(PROMPT, 5, rules())], rules(), CachedDenoiser(model()), [script(3, SQUARE, 2, "end")])
    turn = prompts.interleaved_turn(VOCAB, TOKENIZER, "a", history=first.history).cond
    outline = script(4, WIDE, "end", start=len(turn))
    (second,), _, director = run([go_on(first, rules(), turn)], rules(), CachedDenoiser(model()), [outline])
    assert [segment.grid for segment in second.segments] == [None, SQUARE, None, None, WIDE]
    assert second.ids[: len(turn)] == turn
    drawing = next(batch for batch in director.batches if len(batch.branches) == 3)
    assert len(drawing.branches) == 3, "the second turn's picture is a later one: editing guidance"


def test_the_prefix_survives_every_change_of_phase() -> None:
    """Without guidance every position enters the cache at most once, and nothing is forgotten on the way."""
    backbone = model()
    counted: list[int] = []
    hidden = backbone.hidden

    def count(ids: torch.Tensor, *rest: Any, **more: Any) -> Any:
        counted.append(int(ids.shape[1]))
        return hidden(ids, *rest, **more)

    backbone.hidden = count  # type: ignore[method-assign]
    by = rules(**OFF)
    (state,), _, director = run([begin(PROMPT, 5, by)], by, CachedDenoiser(backbone), [script(*OUTLINES[0])])
    assert len(director.prefilled) == 5, "one per phase"
    in_steps = sum(
        batch.branches[0].pending_ids.numel() + batch.branches[0].active_ids.numel() for batch in director.batches
    )
    pending = sum(batch.branches[0].pending_ids.numel() for batch in director.batches)
    prefilled = sum(counted) - in_steps
    final = director.batches[-1].branches[0]
    held = final.start + final.pending_ids.numel()
    assert pending + prefilled == held, "each block that the last step sees was read exactly once"
    assert held == 8 * ((len(state.ids)) // 8)


def test_branches_are_released_after_each_picture_and_everything_at_the_end() -> None:
    inner = CachedDenoiser(model())
    _, _, director = run([begin(PROMPT, 5, rules())], rules(), inner, [script(*OUTLINES[0])])
    assert director.released[:4] == [BranchKey(0, 1), BranchKey(0, 2)] * 2
    assert inner.num_bytes == 0


def test_closing_a_story_releases_the_denoiser() -> None:
    inner = CachedDenoiser(model())
    story = write_stories([begin(PROMPT, 5, rules())], rules(), Director(inner, {0: script(*OUTLINES[0])}))
    for _ in range(12):
        next(story)
    assert inner.num_bytes > 0
    story.close()
    assert inner.num_bytes == 0


def test_coarse_events_leave_out_the_steps() -> None:
    by = rules()
    director = Director(CachedDenoiser(model()), {0: script(*OUTLINES[0])})
    kinds = {type(event).__name__ for event in write_stories([begin(PROMPT, 5, by)], by, director, granularity="block")}
    assert kinds == {"Started", "BlockDone", "HeaderSeen", "Finished", "PhaseDone"}


def test_what_a_random_model_writes_ends_somehow() -> None:
    """No script: headers, ends and nonsense as they come."""
    for seed in range(6):
        by = rules(max_new_tokens=20, max_frames=2)
        states = list(write_stories([begin(PROMPT, seed, by)], by, CachedDenoiser(model(seed))))[-1].state  # type: ignore[union-attr]
        assert states.reason is not None
        states.check(VOCAB)


def test_nothing_to_write() -> None:
    assert run([], rules(), CachedDenoiser(model()), [])[0] == []
