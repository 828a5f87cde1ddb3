"""A plan in words, then its picture: where the plan ends, which grid the picture has, what is reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from llada_uni import prompts
from llada_uni.errors import BudgetError, ConfigError, LladaUniError, SizeError
from llada_uni.grid import TokenGrid
from llada_uni.pipeline import GenerateTask, ImageDone, LladaUni
from llada_uni.pipeline import scripts as scripts_module
from llada_uni.pipeline.requests import thinking_request
from llada_uni.pipeline.scripts import job
from llada_uni.pipeline.stations import Drawing
from llada_uni.protocols import (
    Finished,
    FinishReason,
    FlowStep,
    HeaderSeen,
    Request,
    Started,
    StepDone,
    TextDelta,
    Timings,
    Usage,
)

PROMPT = "two red apples"
WORDS = "red left of green"
TALL, WIDE, SQUARE = TokenGrid(6, 4), TokenGrid(4, 6), TokenGrid(4, 4)


def finished(output_ids: Sequence[int], reason: FinishReason, steps: int = 3) -> Finished:
    usage = Usage(prompt_tokens=30, output_tokens=len(output_ids), num_blocks=2, num_steps=steps, num_calls=steps + 1)
    return Finished(row=0, reason=reason, output_ids=tuple(output_ids), usage=usage, timings=Timings())


def play(model: LladaUni, tail: Sequence[int], reason: FinishReason, **options: Any) -> tuple[Request, Drawing]:
    """Second request and drawing of a task whose plan was WORDS and ``tail``."""
    networks = model.networks
    script = job(networks, GenerateTask(prompt=PROMPT, seed=5, thinking=True, **options)).script([])
    next(script)
    second = script.send(finished((*networks.tokenizer.encode_text(WORDS), *tail), reason))
    with pytest.raises(StopIteration) as stop:
        script.send(finished([networks.vocab.image_offset] * second.num_tokens, "image", steps=7))
    return second, stop.value.value


def planned_rows(model: LladaUni, grid: TokenGrid) -> prompts.PromptRows:
    networks = model.networks
    before = prompts.thinking(networks.tokenizer, PROMPT).cond
    words = networks.tokenizer.encode_text(WORDS)
    return prompts.thinking_image(networks.vocab, networks.tokenizer, before, words, grid)


def test_the_first_request_is_text_that_ends_at_a_header(model: LladaUni) -> None:
    networks = model.networks
    task = GenerateTask(prompt=PROMPT, seed=5, thinking=True, thinking_tokens=40, thinking_top_p=0.9)
    request = next(job(networks, task).script([]))
    assert request.prompts == (prompts.thinking(networks.tokenizer, PROMPT).cond,)
    assert request.stop_ids == {networks.vocab.special.boi, networks.vocab.special.eos}
    assert request.header_grid == networks.vocab.header_grid
    assert request.num_tokens == 40
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.steps_per_block) == (0.0, 0.9, 4)
    assert request.grid is None
    assert request.guidance.num_branches == 1
    assert request.seed != 5, "the plan and the picture draw different numbers"


def test_the_picture_takes_the_announced_grid_when_none_was_requested(model: LladaUni) -> None:
    request, drawing = play(model, model.networks.vocab.header(TALL), "header")
    rows = planned_rows(model, TALL)
    assert request.prompts == (rows.cond, rows.uncond)
    assert (request.grid, request.num_tokens, request.seed) == (TALL, 24, 5)
    assert (drawing.grid, drawing.settings.as_dict()["height"], drawing.settings.as_dict()["width"]) == (TALL, 48, 32)


@pytest.mark.parametrize(("height", "width", "grid"), [(32, 48, WIDE), (32, None, SQUARE), (None, 32, SQUARE)])
def test_a_requested_grid_replaces_the_announced_one(
    model: LladaUni, height: int | None, width: int | None, grid: TokenGrid
) -> None:
    request, drawing = play(model, model.networks.vocab.header(TALL), "header", height=height, width=width)
    rows = planned_rows(model, grid)
    assert request.prompts == (rows.cond, rows.uncond)
    assert drawing.grid == grid


def test_without_a_usable_grid_the_usual_one_is_drawn(model: LladaUni) -> None:
    vocab = model.networks.vocab
    untrained = vocab.header(TokenGrid(5, 5))
    for tail, reason in [
        (untrained, "header"),
        ([vocab.special.eos], "stop"),
        ([vocab.special.boi], "stop"),
        (vocab.header(TALL)[:2], "length"),
        ([], "length"),
    ]:
        request, drawing = play(model, tail, reason)
        assert request.prompts[0] == planned_rows(model, SQUARE).cond
        assert (drawing.grid, drawing.thinking) == (SQUARE, WORDS)


def test_a_grid_that_the_context_cannot_hold_is_not_adopted(model: LladaUni) -> None:
    networks = model.networks
    script = job(networks, GenerateTask(prompt=PROMPT, seed=5, thinking=True)).script([])
    room = next(script).num_tokens
    ids = networks.tokenizer.encode_text("b") * (room - 4)
    second = script.send(finished((*ids, *networks.vocab.header(TALL)), "header"))
    assert second.grid == SQUARE
    assert len(second.prompts[0]) + second.num_tokens <= networks.max_positions


def test_plan_and_picture_are_reported_together(model: LladaUni) -> None:
    _, drawing = play(model, model.networks.vocab.header(TALL), "header", thinking_tokens=30, thinking_temperature=0.5)
    assert drawing.thinking == WORDS
    assert drawing.also == {"thinking_tokens": 30, "thinking_temperature": 0.5, "thinking_top_p": None}
    words = len(model.networks.tokenizer.encode_text(WORDS))
    assert drawing.usage == {
        "prompt_tokens": 30, "output_tokens": words + 4 + 24, "num_blocks": 4, "num_steps": 10, "num_calls": 12,
    }  # fmt: skip


def test_a_thought_picture(model: LladaUni) -> None:
    result = model.generate_image(PROMPT, seed=3, thinking=True, thinking_tokens=20, width=48, height=32)
    assert isinstance(result.thinking, str)
    assert result.image.size == (48, 32)
    assert result.settings["thinking_tokens"] == 20
    assert set(result.timings) == {"load", "tokens", "pixels", "total"}
    assert json.loads(json.dumps(result.as_dict()))["thinking"] == result.thinking
    assert result.metadata()["thinking"] == result.thinking
    again = model.generate_image(PROMPT, seed=3, thinking=True, thinking_tokens=20, width=48, height=32)
    assert (again.codes, again.thinking) == (result.codes, result.thinking)
    plain = model.generate_image(PROMPT, seed=3)
    assert plain.thinking is None
    assert "thinking" not in plain.metadata()
    assert plain.as_dict()["thinking"] is None


def test_the_seed_decides_the_plan(model: LladaUni) -> None:
    options: dict[str, Any] = {"thinking": True, "thinking_tokens": 12, "thinking_temperature": 3.0}
    first, other, same = model.generate_image([PROMPT] * 3, seed=[1, 2, 1], **options)
    assert first.thinking == same.thinking
    assert first.thinking != other.thinking


def test_the_stream_tells_the_plan_before_the_picture(model: LladaUni) -> None:
    events = list(model.stream_image([PROMPT, "a"], seed=3, thinking=True, thinking_tokens=20))
    for row in (0, 1):
        own = [event for event in events if event.row == row]
        kinds = [type(event) for event in own if not isinstance(event, StepDone)]
        starts = [event.grid for event in own if isinstance(event, Started)]
        assert starts == [None, SQUARE]
        second = max(n for n, kind in enumerate(kinds) if kind is Started)
        assert set(kinds[:second]) >= {Started, TextDelta, Finished}
        assert TextDelta not in kinds[second:]
        assert kinds[second:].index(Finished) < kinds[second:].index(FlowStep)
        assert kinds[-1] is ImageDone
        ids = [i for event in own if isinstance(event, TextDelta) for i in event.ids]
        words = model.networks.tokenizer.decode(ids).strip()
        assert words.startswith(own[-1].result.thinking)


def test_the_sampler_stops_behind_the_header(model: LladaUni, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan in which some ids are given: the real sampler meets a header after five words."""
    header = model.networks.vocab.header(WIDE)

    def with_header(*arguments: Any) -> Request:
        given = dict.fromkeys(range(5), model.networks.tokenizer.encode_text("a")[0])
        return replace(thinking_request(*arguments), given=given | {5 + n: i for n, i in enumerate(header)})

    monkeypatch.setattr(scripts_module, "thinking_request", with_header)
    events = list(model.stream_image(PROMPT, seed=3, thinking=True))
    assert [(e.grid_h, e.grid_w) for e in events if isinstance(e, HeaderSeen)] == [(4, 6)]
    plan, picture = [event for event in events if isinstance(event, Finished)]
    assert (plan.reason, plan.output_ids[-4:], len(plan.output_ids)) == ("header", header, 9)
    assert picture.reason == "image"
    assert (events[-1].result.image.size, events[-1].result.thinking) == ((48, 32), "aaaaa")


def test_the_longest_plan_gives_way_to_the_picture(model: LladaUni) -> None:
    networks = model.networks
    before = len(prompts.thinking(networks.tokenizer, PROMPT).cond)
    for size, tokens in [({}, 16), ({"height": 48, "width": 32}, 24)]:
        request = next(job(networks, GenerateTask(prompt=PROMPT, seed=1, thinking=True, **size)).script([]))
        assert request.num_tokens == networks.max_positions - before - 4 - tokens


def test_a_size_that_has_no_header_is_refused_before_the_plan(model: LladaUni) -> None:
    class Free:
        """The tiny model's networks, with any grid allowed."""

        geometry = replace(model.geometry, trained_grids=None)

        def __getattr__(self, name: str) -> Any:
            return getattr(model.networks, name)

    with pytest.raises(SizeError, match="cannot write a grid side of 65 cells"):
        job(Free(), GenerateTask(prompt=PROMPT, height=65 * 8, width=8, thinking=True))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"thinking": "yes"}, ConfigError, "thinking: expected True or False, got 'yes'"),
        ({"thinking_tokens": 5}, ConfigError, "thinking_tokens: has a meaning only together with thinking"),
        ({"thinking_top_p": 0.5}, ConfigError, "thinking_top_p: has a meaning only"),
        ({"thinking": True, "thinking_tokens": 0}, ConfigError, "thinking_tokens: expected a whole number from 1"),
        ({"thinking": True, "thinking_temperature": -1}, ConfigError, "thinking_temperature"),
        ({"thinking": True, "thinking_top_p": 0}, ConfigError, "thinking_top_p: expected a number above 0 to 1"),
        ({"thinking": True, "thinking_tokens": 500}, BudgetError, "the plan with its picture up to 520, .* 512 fit"),
        ({"thinking": True, "prompt": "apple " * 600}, BudgetError, "at most 512 fit"),
    ],
)
def test_wrong_requests_fail_before_anything_is_computed(
    model: LladaUni, options: dict, error: type[LladaUniError], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.stream_image(**{"prompt": PROMPT} | options)
