"""Any mixture of tasks is one batch, and every result is the one its task has alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import llada_uni
from llada_uni.errors import ConfigError, LladaUniError, PromptError
from llada_uni.pipeline import (
    AnswerDone,
    AskTask,
    ChatTask,
    EditTask,
    GenerateTask,
    ImageDone,
    InpaintTask,
    LladaUni,
    OutpaintTask,
    Turn,
    VaryTask,
)
from llada_uni.pipeline import perform as perform_module
from llada_uni.pipeline.stations import write
from llada_uni.pipeline.tasks import Task
from llada_uni.protocols import FlowStep, StepDone

NANO = Path(llada_uni.__file__).parent / "nano"


def mixture(photo: Image.Image, portrait: Image.Image, temperature: float) -> list[Task]:
    warm: dict[str, Any] = {"temperature": temperature}
    return [
        GenerateTask(prompt="two red apples", seed=1, **warm),
        AskTask(image=[photo, portrait], question="how many?", seed=2, max_new_tokens=9, **warm),
        EditTask(image=photo, instruction="add a house", seed=3, guidance_image=1.5, **warm),
        ChatTask(messages=[Turn("user", "hello")], seed=4, max_new_tokens=20, **warm),
        GenerateTask(prompt="three stars", seed=5, thinking=True, thinking_tokens=11, guidance_scale=1.0, **warm),
        EditTask(image=[portrait, photo], instruction="a", seed=6, guidance_text=1.0, height=32, num_steps=2, **warm),
        GenerateTask(prompt="a", seed=7, thinking=True, thinking_tokens=5, height=48, width=32, **warm),
        AskTask(image=portrait, question="what colour is the small boat on the right?", seed=8, raw=True, **warm),
        InpaintTask(image=photo, prompt="add a star", cells=[(0, 1), (1, 1)], seed=9, **warm),
        VaryTask(image=portrait, prompt="a cat", seed=10, guidance_scale=1.0, decoder="normal", **warm),
    ]  # fmt: skip


def essence(result: Any) -> tuple[Any, ...]:
    """What must not depend on the batch."""
    if hasattr(result, "image"):
        return result.codes, result.image.tobytes(), result.thinking, result.settings, result.usage["num_steps"]
    return result.text, result.finish_reason, result.settings, result.usage["num_steps"]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_mixture_gives_what_each_task_gives_alone(
    exact: LladaUni, photo: Image.Image, portrait: Image.Image, temperature: float
) -> None:
    tasks = mixture(photo, portrait, temperature)
    together = exact.run(tasks)
    for task, result in zip(tasks, together, strict=True):
        (alone,) = exact.run([task])
        assert essence(result) == essence(alone), task
        assert result.seed == task.seed


def test_the_methods_do_what_their_tasks_do(model: LladaUni, photo: Image.Image) -> None:
    square = Image.new("RGB", (32, 32), "green")
    pairs = [
        (GenerateTask(prompt="a", seed=1), model.generate_image("a", seed=1)),
        (AskTask(image=photo, question="a", seed=1), model.understand_image(photo, "a", seed=1)),
        (EditTask(image=photo, instruction="a", seed=1), model.edit_image(photo, "a", seed=1)),
        (ChatTask(messages=[Turn("user", "a")], seed=1), model.chat([Turn("user", "a")], seed=1)),
        (
            InpaintTask(image=photo, prompt="a", box=(0, 0, 9, 9), seed=1),
            model.inpaint_image(photo, "a", box=(0, 0, 9, 9), seed=1),
        ),
        (VaryTask(image=photo, prompt="a", seed=1), model.vary_image(photo, "a", seed=1)),
        (OutpaintTask(image=square, prompt="a", width=48, seed=1), model.outpaint_image(square, "a", width=48, seed=1)),
    ]
    for task, result in pairs:
        assert essence(model.run([task])[0]) == essence(result)


def test_all_rows_share_the_steps(
    model: LladaUni, photo: Image.Image, portrait: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def counted(networks: Any, requests: list[Any], granularity: Any) -> Iterator[Any]:
        sizes.append(len(requests))
        return (yield from write(networks, requests, granularity))

    monkeypatch.setattr(perform_module, "write", counted)
    tasks = mixture(photo, portrait, 0.0)
    model.run(tasks)
    assert sizes == [10, 2], "one call for all, one for the pictures after a plan"
    sizes.clear()
    model.run([task for task in tasks if not getattr(task, "thinking", False)])
    assert sizes == [8]


def test_events_carry_the_task_they_belong_to(model: LladaUni, photo: Image.Image, portrait: Image.Image) -> None:
    tasks = mixture(photo, portrait, 0.0)
    events = list(model.stream(tasks))
    done = {event.row: type(event) for event in events if isinstance(event, (AnswerDone, ImageDone))}
    assert [done[row] for row in range(10)] == [
        AnswerDone if isinstance(task, (AskTask, ChatTask)) else ImageDone for task in tasks
    ]
    assert {event.row for event in events if isinstance(event, FlowStep)} == {0, 2, 4, 5, 6, 8, 9}
    assert {event.row for event in events if isinstance(event, StepDone)} == set(range(10))
    last_answer = max(n for n, event in enumerate(events) if isinstance(event, AnswerDone))
    first_pixel = min(n for n, event in enumerate(events) if isinstance(event, FlowStep))
    assert last_answer < first_pixel, "an answer does not wait for pictures to be drawn"


def test_results_come_in_the_order_of_the_tasks(model: LladaUni) -> None:
    tasks = [GenerateTask(prompt="a", seed=1), ChatTask(messages=[Turn("user", "a")], seed=2)]
    assert [result.seed for result in model.run(tasks)] == [1, 2]
    assert [result.seed for result in model.run(tasks[::-1])] == [2, 1]


@pytest.mark.parametrize(
    ("tasks", "error", "message"),
    [
        ([], PromptError, "tasks: expected at least one"),
        ([{"prompt": "a"}], ConfigError, "tasks: expected values of GenerateTask, .*VaryTask, got dict"),
        ([GenerateTask(prompt="a"), GenerateTask(prompt="")], PromptError, "prompt: expected some words"),
        ([GenerateTask(prompt="a", seed=[1, 2])], ConfigError, "seed"),  # type: ignore[arg-type]
    ],
)
def test_one_wrong_task_stops_all_before_anything_is_computed(
    model: LladaUni, tasks: list[Any], error: type[LladaUniError], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.stream(tasks)


@pytest.mark.skipif(not NANO.is_dir(), reason="the embedded model is not built yet")
def test_a_mixture_on_nano(photo: Image.Image, portrait: Image.Image) -> None:
    """Every kind of task, greedy. What nano says and draws here is not judged."""
    nano = LladaUni.from_pretrained("nano", device="cpu", dtype="float64")
    quick: dict[str, Any] = {"temperature": 0, "steps_per_block": 2, "num_steps": 1}
    tasks: list[Task] = [
        GenerateTask(prompt="a red ball on grass", seed=1, **quick),
        AskTask(image=photo, question="how many objects are there?", seed=2, max_new_tokens=4),
        EditTask(image=portrait, instruction="add a red ball", seed=3, **quick),
        ChatTask(messages=[Turn("user", "what is this?")], seed=4, max_new_tokens=4),
        GenerateTask(prompt="a blue fish", seed=5, thinking=True, thinking_tokens=4, guidance_scale=1.0, **quick),
    ]
    together = nano.run(tasks)
    for task, result in zip(tasks, together, strict=True):
        assert essence(result) == essence(nano.run([task])[0])
