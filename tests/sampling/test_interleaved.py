"""The story as a state machine: every step of it, every mistake of a model, and the state as a file."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from llada_uni import prompts
from llada_uni.errors import BudgetError, ConfigError, PromptError, SizeError
from llada_uni.grid import Geometry, TokenGrid
from llada_uni.sampling.id_sets import image_ids, text_ids
from llada_uni.sampling.interleaved import StoryRules, accept, begin, go_on, next_request
from llada_uni.sampling.story_state import Segment, StoryState
from story_helpers import GRIDS, OFF, PROMPT, SPECIAL, TOKENIZER, VOCAB, frame_rows, rules, wrote

RULES = rules()
WORDS = tuple(TOKENIZER.encode_text("three stars"))
SQUARE, WIDE, TALL = GRIDS


def codes(grid: TokenGrid, first: int = 0) -> tuple[int, ...]:
    return tuple(VOCAB.to_ids([(first + i) % 24 for i in range(grid.num_tokens)]))


def told(state: StoryState, *parts: Any, by: StoryRules = RULES) -> StoryState:
    """Feed a story texts (tuples of ids) and pictures (grids), each announced and drawn."""
    text: tuple[int, ...] = ()
    for part in parts:
        if isinstance(part, TokenGrid):
            state = accept(state, wrote(*text, *VOCAB.header(part), reason="header"), by)
            state = accept(state, wrote(*codes(part), reason="image"), by)
            text = ()
        else:
            text = part
    return accept(state, wrote(*text, SPECIAL.eos), by) if text else state


def test_a_story_begins_with_a_text_that_stops_at_headers() -> None:
    request = next_request(begin(PROMPT, 5, RULES), RULES)
    assert request.prompts == (PROMPT,)
    assert request.stop_ids == {SPECIAL.eos, SPECIAL.boi}
    assert request.allowed == text_ids(VOCAB, headers=True)
    assert (request.num_tokens, request.grid, request.sampling) == (40, None, RULES.text)
    assert request.header_grid is not None
    assert request.header_grid(VOCAB.header(WIDE)) == WIDE


def test_text_never_asks_for_more_than_the_context_holds() -> None:
    tight = rules(max_positions=len(PROMPT) + 12)
    assert next_request(begin(PROMPT, 5, tight), tight).num_tokens == 12


def test_a_header_asks_for_its_picture_and_the_picture_for_text() -> None:
    state = accept(begin(PROMPT, 5, RULES), wrote(*WORDS, *VOCAB.header(WIDE), reason="header"), RULES)
    assert state.phase == "image"
    assert state.ids == (*PROMPT, *WORDS, *VOCAB.header(WIDE))
    assert state.segments == (Segment(start=len(PROMPT), stop=len(PROMPT) + len(WORDS)),)
    request = next_request(state, RULES)
    assert (request.grid, request.num_tokens, request.allowed) == (WIDE, 6, image_ids(VOCAB))
    assert request.given == {}
    after = accept(state, wrote(*codes(WIDE), reason="image"), RULES)
    assert after.phase == "text"
    assert after.ids == (*state.ids, *codes(WIDE), SPECIAL.eoi)
    assert after.segments[-1] == Segment(start=len(state.ids), stop=len(state.ids) + 6, grid=WIDE, seed=request.seed)
    assert (after.frame_index, after.num_phases) == (1, 2)
    assert next_request(after, RULES).prompts == (after.ids,)


def test_the_guidance_plan_of_every_frame() -> None:
    """First simple, later editing, each row as the prompts room builds it; what has no weight may be left out."""
    first = accept(begin(PROMPT, 5, RULES), wrote(*WORDS, *VOCAB.header(SQUARE)), RULES)
    rows = frame_rows(first.ids)
    request = next_request(first, RULES)
    assert request.guidance == RULES.first
    assert request.prompts == (rows.cond, rows.uncond)
    later = accept(told(begin(PROMPT, 5, RULES), WORDS, SQUARE), wrote(*WORDS, *VOCAB.header(TALL)), RULES)
    rows = frame_rows(later.ids)
    request = next_request(later, RULES)
    assert request.guidance == RULES.later
    assert request.prompts == (rows.cond, rows.no_text, rows.no_image)
    history = later.ids[: later.ids.index(SPECIAL.eoi) + 1]
    header = VOCAB.header(TALL)
    assert rows.no_text == (*history, *TOKENIZER.encode_text(prompts.UNCONDITION), *header)
    assert rows.no_image == (*(rows.uncond or ())[:-4], *WORDS, *header)


def test_the_first_frame_of_a_story_about_pictures_has_simple_guidance() -> None:
    block = prompts.ImageBlock(grid=WIDE, codes=range(6))
    row = prompts.interleaved_turn(VOCAB, TOKENIZER, "two red apples", [block]).cond
    state = accept(begin(row, 5, RULES), wrote(*WORDS, *VOCAB.header(SQUARE)), RULES)
    assert next_request(state, RULES).guidance.kind == "simple"


def test_a_turn_without_pictures_is_the_interleaved_prompt() -> None:
    assert prompts.interleaved_turn(VOCAB, TOKENIZER, "two red apples").cond == PROMPT
    block = prompts.ImageBlock(grid=WIDE, codes=range(6))
    row = prompts.interleaved_turn(VOCAB, TOKENIZER, "a", [block]).cond
    plain = prompts.interleaved_turn(VOCAB, TOKENIZER, "a").cond
    place = row.index(SPECIAL.soi)
    assert row == (*plain[:place], *VOCAB.block(WIDE, range(6)), *plain[place:])
    later = prompts.interleaved_turn(VOCAB, TOKENIZER, "a", history=PROMPT).cond
    assert later[: len(PROMPT)] == PROMPT
    assert later[len(PROMPT)] == SPECIAL.role_open
    assert PROMPT[-3:] == later[-3:]
    with pytest.raises(PromptError, match="empty"):
        prompts.interleaved_turn(VOCAB, TOKENIZER, " ", [block])
    with pytest.raises(PromptError, match="at most 5 fit"):
        prompts.interleaved_turn(VOCAB, TOKENIZER, "a", max_tokens=5)


def test_a_known_tail_is_the_end_of_image_alone() -> None:
    known = rules(known_tail=True)
    for extra in range(8):
        text = (*WORDS, *WORDS[:1] * extra)
        state = accept(begin(PROMPT, 5, known), wrote(*text, *VOCAB.header(WIDE)), known)
        surplus = -(len(state.ids) + 6) % 8
        assert next_request(state, known).given == ({6: SPECIAL.eoi} if surplus else {})


def test_every_phase_draws_its_own_numbers() -> None:
    seeds, state = [], begin(PROMPT, 5, RULES)
    for _ in range(3):
        seeds.append(next_request(state, RULES).seed)
        state = accept(state, wrote(*VOCAB.header(SQUARE)), RULES)
        seeds.append(next_request(state, RULES).seed)
        state = accept(state, wrote(*codes(SQUARE), reason="image"), RULES)
    assert len(set(seeds)) == 6
    assert seeds != [next_request(begin(PROMPT, 6, RULES), RULES).seed] * 6
    assert seeds[0] == next_request(begin(PROMPT, 5, RULES), RULES).seed


# --- how stories end ------------------------------------------------------------------------------------------------


def test_the_end_of_text_ends_a_story_and_is_not_kept() -> None:
    state = told(begin(PROMPT, 5, RULES), WORDS)
    assert (state.phase, state.reason, state.ids) == ("done", "stop", (*PROMPT, *WORDS))
    assert accept(begin(PROMPT, 5, RULES), wrote(SPECIAL.eos), RULES).segments == ()


def test_a_text_that_never_ends() -> None:
    endless = wrote(*WORDS[:1] * 40, reason="length")
    state = accept(begin(PROMPT, 5, RULES), endless, RULES)
    assert (state.reason, len(state.ids)) == ("length", len(PROMPT) + 40)
    tight = rules(max_positions=len(PROMPT) + 12)
    state = accept(begin(PROMPT, 5, tight), wrote(*WORDS[:1] * 12, reason="length"), tight)
    assert state.reason == "context"


def test_all_pictures_drawn() -> None:
    two = rules(max_frames=2)
    state = told(begin(PROMPT, 5, two), WORDS, SQUARE, WORDS, WIDE, by=two)
    assert (state.reason, state.frame_index) == ("max_frames", 2)
    assert state.ids[-1] == SPECIAL.eoi


def test_a_picture_that_does_not_fit_the_context_keeps_the_text() -> None:
    """Also when only a guidance branch is too long."""
    for settings, missing in ((OFF, 0), ({}, 0), (OFF, 1), ({}, 1)):
        room = rules(max_positions=len(PROMPT) + 1 + 4 + 4 + 1 - missing, **settings)
        state = accept(begin(PROMPT, 5, rules()), wrote(*WORDS[:1], *VOCAB.header(SQUARE)), room)
        assert state.phase == ("done" if missing else "image")
        assert state.reason == ("context" if missing else None)
        assert state.ids[: len(PROMPT) + 1] == (*PROMPT, WORDS[0])
    short = PROMPT[-4:]
    room = rules(max_positions=len(short) + 4 + 4 + 1)
    state = accept(StoryState(ids=short, seed=1), wrote(*VOCAB.header(SQUARE)), room)
    assert (state.reason, state.ids) == ("context", short)
    assert accept(StoryState(ids=short, seed=1), wrote(*VOCAB.header(SQUARE)), replace(room, **OFF)).phase == "image"


def test_a_full_context_after_a_picture() -> None:
    room = rules(max_positions=len(PROMPT) + 4 + 4 + 1, **OFF)
    state = told(begin(PROMPT, 5, room), SQUARE, by=room)
    assert (state.reason, state.frame_index) == ("context", 1)


SIDE = SPECIAL.reserved


@pytest.mark.parametrize(
    "tail",
    [
        (SPECIAL.boi,),
        (SPECIAL.soi, SIDE[2], SPECIAL.boi),
        (SIDE[2], SIDE[2], SPECIAL.boi),
        (SPECIAL.soi, SPECIAL.soi, SIDE[2], SPECIAL.boi),
        (SIDE[2], SPECIAL.soi, SIDE[2], SPECIAL.boi),
    ],
)
def test_a_broken_header_ends_the_story_and_is_taken_back(tail: tuple[int, ...]) -> None:
    state = accept(begin(PROMPT, 5, RULES), wrote(*WORDS, *tail), RULES)
    assert (state.reason, state.ids) == ("bad_header", (*PROMPT, *WORDS))
    fixed = rules(grid=WIDE, on_bad_grid="stop")
    drawn = accept(begin(PROMPT, 5, fixed), wrote(*WORDS, *tail), fixed)
    assert (drawn.phase, drawn.ids) == ("image", (*PROMPT, *WORDS, *VOCAB.header(WIDE)))
    with_words_inside = (*WORDS, SPECIAL.soi, *WORDS, SPECIAL.boi)
    assert accept(begin(PROMPT, 5, RULES), wrote(*with_words_inside), RULES).ids == (*PROMPT, *with_words_inside[:-1])


def test_a_header_that_breaks_off_at_the_budget_cannot_be_completed_later() -> None:
    cut = (*WORDS[:1] * 37, SPECIAL.soi, SIDE[2], SIDE[2])
    state = accept(begin(PROMPT, 5, RULES), wrote(*cut, reason="length"), RULES)
    assert (state.reason, state.ids) == ("length", (*PROMPT, *cut[:37]))


@pytest.mark.parametrize(
    ("announced", "drawn"), [((5, 5), SQUARE), ((1, 1), SQUARE), ((8, 12), WIDE), ((64, 1), TALL), ((1, 64), WIDE)]
)
def test_an_untrained_grid_becomes_the_nearest_or_ends_the_story(announced: tuple[int, int], drawn: TokenGrid) -> None:
    header = VOCAB.header(TokenGrid(*announced))
    state = accept(begin(PROMPT, 5, RULES), wrote(*WORDS, *header), RULES)
    assert state.phase == "image"
    assert state.ids == (*PROMPT, *WORDS, *VOCAB.header(drawn))
    stop = rules(on_bad_grid="stop")
    state = accept(begin(PROMPT, 5, stop), wrote(*WORDS, *header), stop)
    assert (state.reason, state.ids) == ("bad_grid", (*PROMPT, *WORDS))


def test_a_picture_of_too_many_codes() -> None:
    free = Geometry()
    small = rules(geometry=free, max_image_tokens=16)
    state = accept(begin(PROMPT, 5, small), wrote(*VOCAB.header(TokenGrid(6, 6))), small)
    assert VOCAB.header_grid(state.ids) == TokenGrid(4, 4)
    assert accept(begin(PROMPT, 5, small), wrote(*VOCAB.header(TokenGrid(2, 8))), small).ids[-3:-1] == (
        SIDE[2],
        SIDE[8],
    )
    stop = replace(small, on_bad_grid="stop")
    assert accept(begin(PROMPT, 5, stop), wrote(*VOCAB.header(TokenGrid(6, 6))), stop).reason == "bad_grid"
    none = rules(max_image_tokens=3)
    assert accept(begin(PROMPT, 5, none), wrote(*VOCAB.header(SQUARE)), none).reason == "bad_grid"


def test_a_fixed_size_replaces_every_header() -> None:
    fixed = rules(grid=WIDE, on_bad_grid="stop")
    request = next_request(begin(PROMPT, 5, fixed), fixed)
    assert request.stop_ids == {SPECIAL.eos, SPECIAL.soi, SPECIAL.boi, *SIDE.values()}
    assert request.header_grid is not None
    assert [request.header_grid((*WORDS, one)) for one in (SPECIAL.soi, SIDE[2], SPECIAL.boi)] == [WIDE] * 3
    assert request.header_grid(WORDS) is None
    assert told(begin(PROMPT, 5, fixed), WORDS, by=fixed).reason == "stop"
    for announced in (SQUARE, WIDE, TokenGrid(9, 9)):
        state = accept(begin(PROMPT, 5, fixed), wrote(*WORDS, *VOCAB.header(announced)), fixed)
        assert VOCAB.header_grid(state.ids) == WIDE


@pytest.mark.parametrize("wrong", [VOCAB.image_offset, SPECIAL.mask, SPECIAL.eoi, SPECIAL.role_open, VOCAB.vocab_size])
def test_ids_that_text_cannot_hold(wrong: int) -> None:
    """The sampler never lets a model write them; another driver might."""
    state = accept(begin(PROMPT, 5, RULES), wrote(*WORDS, wrong, *WORDS, *VOCAB.header(SQUARE)), RULES)
    assert (state.reason, state.ids) == ("bad_ids", (*PROMPT, *WORDS))


def test_a_picture_without_exactly_its_codes_is_the_drivers_mistake() -> None:
    state = accept(begin(PROMPT, 5, RULES), wrote(*VOCAB.header(SQUARE)), RULES)
    for ids in (codes(SQUARE)[:-1], (*codes(SQUARE), SPECIAL.eoi), (*codes(SQUARE)[:-1], SPECIAL.eos)):
        with pytest.raises(ConfigError, match="expected the 4 image ids"):
            accept(state, wrote(*ids, reason="image"), RULES)


def test_whatever_a_model_writes_nothing_made_before_is_lost() -> None:
    """A thousand random outputs: the old ids stay in front, the new state is whole and can be stored."""
    source = random.Random(0)
    likely = [SPECIAL.soi, SPECIAL.boi, SPECIAL.eos, SIDE[2], SIDE[3], SIDE[5], *WORDS]
    for _ in range(300):
        by = rules(on_bad_grid=source.choice(["nearest", "stop"]), max_frames=2, max_positions=source.choice([60, 400]))
        state = begin(PROMPT, source.randrange(9), by)
        while state.phase != "done":
            before = state
            request = next_request(state, by)
            if request.grid is None:
                length = source.randint(1, request.num_tokens)
                ids = [source.choice([*likely, source.randrange(VOCAB.vocab_size)]) for _ in range(length)]
                if source.random() < 0.6:
                    ids[-4:] = VOCAB.header(TokenGrid(source.randint(1, 5), source.randint(1, 5)))
            else:
                ids = [source.randrange(VOCAB.image_offset, VOCAB.vocab_size) for _ in range(request.num_tokens)]
            state = accept(state, wrote(*ids), by)
            assert state.ids[: len(before.ids)] == before.ids
            assert state.segments[: len(before.segments)] == before.segments
            assert state.num_phases == before.num_phases + 1
            assert len(state.ids) <= by.max_positions
            state.check(VOCAB)
            assert StoryState.from_dict(json.loads(json.dumps(state.as_dict()))) == state


# --- going on -------------------------------------------------------------------------------------------------------


def test_going_on_gives_fresh_budgets() -> None:
    one = rules(max_frames=1)
    first = told(begin(PROMPT, 5, one), WORDS, SQUARE, by=one)
    again = go_on(first, one)
    assert (again.phase, again.reason, again.first_frame, again.ids) == ("text", None, 1, first.ids)
    second = told(again, WORDS, WIDE, by=one)
    assert (second.reason, second.frame_index) == ("max_frames", 2)


def test_going_on_with_a_turn() -> None:
    ended = told(begin(PROMPT, 5, RULES), WORDS, SQUARE, WORDS)
    assert ended.reason == "stop"
    turn = prompts.interleaved_turn(VOCAB, TOKENIZER, "a", history=ended.history).cond
    assert turn[: len(ended.ids)] == ended.ids
    state = go_on(ended, RULES, turn)
    assert next_request(state, RULES).prompts == (turn,)
    assert state.segments == ended.segments
    with pytest.raises(PromptError, match="ended this story itself"):
        go_on(ended, RULES)


def test_an_interrupted_story_goes_on_where_it_was() -> None:
    due = accept(begin(PROMPT, 5, RULES), wrote(*WORDS, *VOCAB.header(SQUARE)), RULES)
    assert go_on(due, RULES) == due
    assert due.history == (*PROMPT, *WORDS)
    turn = prompts.interleaved_turn(VOCAB, TOKENIZER, "a", history=due.history).cond
    assert go_on(due, RULES, turn).phase == "text"


def test_no_room_for_a_picture_is_said_at_once() -> None:
    enough = rules(max_positions=len(PROMPT) + 9)
    begin(PROMPT, 5, enough)
    with pytest.raises(BudgetError, match=r"a picture needs 9, together at most \d+ fit"):
        begin(PROMPT, 5, rules(max_positions=len(PROMPT) + 8))
    full = told(begin(PROMPT, 5, enough), WORDS, SQUARE, by=rules())
    with pytest.raises(BudgetError, match="begin a new story"):
        go_on(replace(full, phase="done", reason="context"), enough)


@pytest.mark.parametrize("name", ["max_frames", "max_new_tokens", "max_image_tokens"])
def test_budgets_are_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected a whole number from 1, got 0"):
        rules(**{name: 0})


def test_fixed_sizes_that_cannot_be() -> None:
    with pytest.raises(SizeError, match="65"):
        rules(grid=TokenGrid(65, 1))
    with pytest.raises(BudgetError, match="6 codes, max_image_tokens allows 4"):
        rules(grid=WIDE, max_image_tokens=4)


# --- the state as a file --------------------------------------------------------------------------------------------


def a_state() -> StoryState:
    two = rules(max_frames=2)
    return told(begin(PROMPT, 5, two), WORDS, SQUARE, WORDS, WIDE, by=two)


def test_a_state_comes_back_from_json() -> None:
    state = a_state()
    assert StoryState.from_dict(json.loads(json.dumps(state.as_dict()))) == state
    state.check(VOCAB)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "expected the state of a story"),
        ({"ids": "abc"}, "ids: expected a list of whole numbers"),
        ({"ids": [1, -2]}, "ids: expected a list of whole numbers"),
        ({"ids": [1, True]}, "ids: expected a list of whole numbers"),
        ({"ids": []}, "contradict"),
        ({"ids": [1, 2, 3]}, "contradict"),
        ({"seed": -1}, "seed: expected a whole number"),
        ({"seed": 2**63}, "seed: expected a whole number"),
        ({"seed": None}, "seed: expected a whole number"),
        ({"frame_index": 3}, "contradict"),
        ({"first_frame": 3}, "contradict"),
        ({"num_phases": 1.5}, "num_phases"),
        ({"phase": "music"}, "no such phase"),
        ({"phase": ["text"]}, "no such phase"),
        ({"phase": "text"}, "contradict"),
        ({"finish_reason": "tired"}, "no such phase or finish_reason"),
        ({"finish_reason": None}, "contradict"),
        ({"segments": {}}, "segments: expected a list"),
        ({"segments": [3]}, "segments: expected objects"),
        ({"segments": [{"start": 1}]}, "stop: expected"),
        ({"segments": [{"start": 5, "stop": 4}]}, "contradict"),
        ({"segments": [{"start": 5, "stop": 9999}]}, "contradict"),
        ({"segments": [{"start": 5, "stop": 9, "grid": [2]}]}, "grid: expected"),
        ({"segments": [{"start": 5, "stop": 9, "grid": [0, 2], "seed": 1}]}, "grid: expected"),
        ({"segments": [{"start": 5, "stop": 9, "grid": [2, 2]}]}, "seed: expected"),
    ],
)
def test_damaged_states_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^s.json: .*{message}|^s.json: {message}"):
        StoryState.from_dict(a_state().as_dict() | change, source="s.json")


def test_states_of_another_model_are_found_out() -> None:
    state = a_state()
    frame = state.segments[1]
    for ids, message in (
        ((*state.ids[:-1], VOCAB.vocab_size), "does not have"),
        ((*state.ids[:-1], SPECIAL.mask), "does not have"),
        ((*state.ids[: frame.start], WORDS[0], *state.ids[frame.start + 1 :]), "are not a picture"),
        ((*state.ids[: frame.start - 2], SIDE[5], *state.ids[frame.start - 1 :]), "are not a picture"),
        ((*state.ids[:-1], WORDS[0]), "are not a picture"),
        (
            (*state.ids[: state.segments[0].start], VOCAB.image_offset, *state.ids[state.segments[0].start + 1 :]),
            "are not a text",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(state, ids=ids).check(VOCAB)
    with pytest.raises(ConfigError, match="do not end with its header"):
        replace(state, phase="image", reason=None).check(VOCAB)
