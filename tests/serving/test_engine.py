"""The engine: results that do not depend on the crowd, fairness, bounds, deadlines, cancellation, shutting down."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from llada_uni.errors import CheckpointError, LladaUniError
from llada_uni.pipeline import AskTask, ChatTask, EditTask, GenerateTask, InpaintTask, LladaUni, Turn
from llada_uni.protocols import BlockDone, FlowStep, StepDone
from llada_uni.serving.engine import Engine
from llada_uni.serving.faults import Busy, Cancelled, DeadlineError, Draining, EngineFault
from llada_uni.serving.lanes import EngineSettings
from llada_uni.serving.tickets import Done, Failed, Preview, Ticket, Wants
from llada_uni.serving.work import Said, Work, story_work, task_work

WAIT = 60.0


def chat(words: str = "hello", **options: Any) -> ChatTask:
    return ChatTask(messages=[Turn("user", words)], **options)


def ids_of(result: Any) -> Any:
    return result.text if hasattr(result, "question") else result.codes


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.002)


def forever(work: Work) -> Work:
    """The same again and again: a request that never ends by itself."""

    def plot(codes: Any) -> Any:
        while True:
            yield from work.plot(codes)

    return replace(work, plot=plot)


def many_tasks(photo: Image.Image) -> list[Any]:
    return [
        chat("what is it?", seed=1),
        GenerateTask(prompt="two red apples", seed=2),
        chat("tell me more about the house", seed=3, temperature=0.7, max_new_tokens=40),
        EditTask(image=photo, instruction="make it green", seed=4),
        AskTask(image=[photo, photo.rotate(90, expand=True)], question="which one?", seed=5, temperature=0.5),
        GenerateTask(prompt="a boat", seed=6, height=48, width=32, temperature=1.0),
        InpaintTask(image=photo, prompt="a star", box=(0, 0, 40, 30), seed=7),
        GenerateTask(prompt="a small fish", seed=8, thinking=True, thinking_tokens=20),
        chat("x", seed=9, max_new_tokens=1),
        GenerateTask(prompt="a cat", seed=10, decoder="normal", sprint="readme"),
        InpaintTask(image=photo, prompt="nothing", box=(0, 0, 40, 30), seed=11, strength=0),
        EditTask(image=[photo, photo], instruction="both", seed=12, guidance_image=1.5),
    ]


@pytest.mark.parametrize("beside_words", [3, 64])
def test_alone_or_in_a_crowd_the_result_is_the_same(model: LladaUni, photo: Image.Image, beside_words: int) -> None:
    tasks = many_tasks(photo)
    alone = [model.run([task])[0] for task in tasks]
    order = random.Random(beside_words)
    settings = EngineSettings(max_branches=15, step_branches=9, beside_words=beside_words, max_requests=100)
    with Engine(model.networks, settings) as engine:
        places = list(range(len(tasks))) * 2
        order.shuffle(places)
        tickets: list[tuple[int, Ticket]] = []
        for place in places:
            tickets.append((place, engine.submit([task_work(model.networks, tasks[place])])[0]))
            time.sleep(order.choice([0, 0, 0.003, 0.01]))
        results = [(place, ticket.result(WAIT)) for place, ticket in tickets]
        status = engine.status()
    for place, result in results:
        assert ids_of(result) == ids_of(alone[place]), tasks[place]
        if hasattr(result, "image"):
            assert result.image.tobytes() == alone[place].image.tobytes()
        assert dict(result.settings) == dict(alone[place].settings)
        assert result.seed == alone[place].seed
    assert status.totals["backbone_branches"] > 1.5 * status.totals["backbone_steps"], "steps were shared"
    assert status.requests == status.rows == status.branches == status.cached_bytes == 0


def test_a_story_in_a_crowd(model: LladaUni, engine: Engine) -> None:
    options = {"max_frames": 2, "max_new_tokens": 30, "temperature": 1.0}
    told = [Said(role="user", parts=("a cat",))]
    stories = [story_work(model.networks, told, options, seed=seed) for seed in range(3)]
    works = [*stories, task_work(model.networks, GenerateTask(prompt="a cat", seed=1))]
    alone = [model.generate_interleaved("a cat", seed=seed, **options) for seed in range(3)]  # type: ignore[arg-type]
    crowd = [ticket.result(WAIT) for ticket in engine.submit(works)][:3]
    for one, other in zip(alone, crowd, strict=True):
        assert one.state == other.state
        assert [getattr(part, "codes", part) for part in one.segments] == [
            getattr(part, "codes", part) for part in other.segments
        ]
        assert one.finish_reason == other.finish_reason


def test_a_story_goes_on_with_what_was_said(model: LladaUni, engine: Engine, photo: Image.Image) -> None:
    told = [
        Said(role="system", parts=("be brief",)),
        Said(role="user", parts=(photo, "a cat")),
        Said(role="assistant", parts=("once", photo, "the end")),
        Said(role="user", parts=("go on",)),
    ]
    work = story_work(model.networks, told, {"max_frames": 1, "max_new_tokens": 8}, seed=0)
    assert len(work.pictures) == 2
    (ticket,) = engine.submit([work])
    assert ticket.result(WAIT).usage["prompt_tokens"] == work.prompt_tokens


def test_short_words_pass_a_crowd_of_pictures(model: LladaUni) -> None:
    with Engine(model.networks, EngineSettings(max_branches=12, max_requests=80)) as engine:
        pictures = [forever(task_work(model.networks, GenerateTask(prompt="a", seed=n))) for n in range(24)]
        crowd = engine.submit(pictures)
        until(lambda: engine.status().rows == 2)
        assert engine.status().waiting == 22
        (words,) = engine.submit([task_work(model.networks, chat(seed=0))])
        assert words.result(WAIT).text
        assert engine.status().requests == 24
        for ticket in crowd:
            ticket.cancel()


def test_a_long_drawing_lets_others_pass(model: LladaUni, engine: Engine) -> None:
    long = GenerateTask(prompt="a", seed=0, decoder="normal", num_steps=1000)
    slow = engine.submit([task_work(model.networks, long)] * 3)
    until(lambda: engine.status().drawing == 3)
    (quick,) = engine.submit([task_work(model.networks, GenerateTask(prompt="a", seed=1))])
    assert quick.result(WAIT).seed == 1
    assert engine.status().drawing == 3
    for ticket in slow:
        ticket.cancel()


def test_an_engine_that_breaks_says_so(model: LladaUni, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model.networks).start()
    monkeypatch.setattr(engine, "_drop_lost", lambda: 1 / 0)
    (ticket,) = engine.submit([task_work(model.networks, chat(seed=0))])
    with pytest.raises(EngineFault):
        ticket.result(WAIT)
    with pytest.raises(EngineFault, match="stopped"):
        engine.submit([task_work(model.networks, chat(seed=0))])
    assert not engine.status().alive


def test_pictures_go_on_beside_endless_words(model: LladaUni, engine: Engine) -> None:
    endless = engine.submit([forever(task_work(model.networks, chat(seed=n))) for n in range(8)])
    (picture,) = engine.submit([task_work(model.networks, GenerateTask(prompt="a", seed=1))])
    assert picture.result(WAIT).seed == 1
    for ticket in endless:
        ticket.cancel()
    until(lambda: engine.status().requests == 0)


def test_too_many_are_refused_all_or_none(model: LladaUni) -> None:
    with Engine(model.networks, EngineSettings(max_requests=3)) as engine:
        work = forever(task_work(model.networks, chat(seed=0)))
        first = engine.submit([work, work])
        with pytest.raises(Busy) as refused:
            engine.submit([work, work])
        assert 1 <= refused.value.retry_after_s <= 60
        (third,) = engine.submit([work])
        with pytest.raises(Busy, match="3 requests"):
            engine.submit([work])
        for ticket in (*first, third):
            ticket.cancel()
        until(lambda: engine.status().requests == 0)
        (again,) = engine.submit([task_work(model.networks, chat(seed=0))])
        assert again.result(WAIT)


@pytest.mark.parametrize("task", [chat(seed=0), GenerateTask(prompt="a", seed=0)])
def test_leaving_frees_everything_within_a_step(model: LladaUni, engine: Engine, task: Any) -> None:
    (ticket,) = engine.submit([forever(task_work(model.networks, task))], wants=Wants(steps=True))
    while not isinstance(ticket.event(WAIT), StepDone):
        pass
    before = engine.status().totals["backbone_steps"]
    ticket.cancel()
    with pytest.raises(Cancelled):
        ticket.result(WAIT)
    until(lambda: engine.status().requests == 0)
    status = engine.status()
    assert (status.rows, status.branches, status.drawing, status.cached_bytes) == (0, 0, 0, 0)
    assert status.totals["backbone_steps"] <= before + 3


def test_a_deadline_ends_a_request(model: LladaUni, engine: Engine) -> None:
    (ticket,) = engine.submit([forever(task_work(model.networks, chat(seed=0)))], deadline_s=0.2)
    with pytest.raises(DeadlineError, match="not done within"):
        ticket.result(WAIT)
    assert engine.status().rows == 0


def test_a_failing_request_harms_no_other(model: LladaUni, engine: Engine) -> None:
    good = task_work(model.networks, GenerateTask(prompt="a", seed=1))

    def broken(_: Any) -> Any:
        yield next(good.plot(()))
        raise ZeroDivisionError("a secret")

    bad = replace(good, plot=broken)
    one, other = engine.submit([bad, good])
    with pytest.raises(EngineFault) as fault:
        one.result(WAIT)
    assert "secret" not in str(fault.value)
    assert other.result(WAIT).codes == model.generate_image("a", seed=1).codes


def test_a_failing_model_step_fails_its_requests_only(
    model: LladaUni, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = task_work(model.networks, chat(seed=0))
    denoiser = engine._denoiser
    assert denoiser is not None
    with monkeypatch.context() as patch:

        def fail(*_: Any) -> None:
            raise CheckpointError("numbers")

        patch.setattr(denoiser, "step", fail)
        for ticket in engine.submit([work, work]):
            with pytest.raises(CheckpointError):
                ticket.result(WAIT)
    (after,) = engine.submit([work])
    assert after.result(WAIT).text == model.chat([Turn("user", "hello")], seed=0).text


def test_what_is_reported(model: LladaUni, engine: Engine) -> None:
    work = task_work(model.networks, GenerateTask(prompt="a", seed=1, num_steps=6))
    quiet, loud = engine.submit([work]), engine.submit([work], wants=Wants(steps=True, previews=2))
    seen = []
    while not seen or not isinstance(seen[-1], (Done, Failed)):
        seen.append(loud[0].event(WAIT))
    assert isinstance(quiet[0].event(WAIT), Done)
    assert {type(event).__name__ for event in seen} >= {"Started", "StepDone", "BlockDone", "Finished", "FlowStep"}
    assert [event.step for event in seen if isinstance(event, Preview)] == [2, 4]
    assert len([event for event in seen if isinstance(event, FlowStep)]) == 6
    assert all(event.row == loud[0].number for event in seen)
    blocks = [event for event in seen if isinstance(event, BlockDone)]
    assert sum(len(event.ids) for event in blocks) == len(seen[-1].result.codes)


def test_closing_finishes_what_is_under_way(model: LladaUni) -> None:
    engine = Engine(model.networks).start()
    tickets = engine.submit([task_work(model.networks, GenerateTask(prompt="a", seed=n)) for n in range(4)])
    engine.drain()
    with pytest.raises(Draining):
        engine.submit([task_work(model.networks, chat())])
    assert [ticket.result(WAIT).seed for ticket in tickets] == [0, 1, 2, 3]
    engine.close(5)
    assert not engine.status().alive


def test_closing_gives_up_after_a_while(model: LladaUni) -> None:
    engine = Engine(model.networks).start()
    (ticket,) = engine.submit([forever(task_work(model.networks, chat(seed=0)))])
    engine.close(0.1)
    with pytest.raises(Draining):
        ticket.result(WAIT)
    with pytest.raises(LladaUniError):
        engine.submit([task_work(model.networks, chat())])


def test_requests_from_many_threads(model: LladaUni, engine: Engine) -> None:
    results: list[str] = []

    def ask(seed: int) -> None:
        (ticket,) = engine.submit([task_work(model.networks, chat(seed=seed))])
        results.append(ticket.result(WAIT).text)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 12
    assert len(set(results)) == 1, "greedy answers to one question"
