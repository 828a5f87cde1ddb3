"""The task suites on models whose score is known: one that returns the right renders, and wrong ones."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from llada_uni.errors import ConfigError
from llada_uni.evaluation.scenebench_tasks import (
    RUNS,
    run_scenebench_tasks,
    score_comparisons,
    score_edits,
    score_facts,
    score_riddles,
    score_stories,
)
from llada_uni.scenes import SceneGraph, parse, render, sample_matching
from llada_uni.scenes.bench_tasks import StoryItem, load_task_bench, select_tasks
from llada_uni.scenes.graph import SceneObject
from llada_uni.scenes.referring import stands_in

BENCH = load_task_bench()


class Oracle:
    """Has the methods of ``LladaUni`` that the suites call and knows every right answer."""

    name = "oracle"

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self._riddles = {item.prompt: item.answer for item in BENCH.riddles}
        self._stories = {item.prompt: item for item in BENCH.stories}
        self._questions = {item.question.text: item.question.answer for item in BENCH.facts}

    def generate_image(self, prompts: list[str], **options: Any) -> list[Any]:
        self.calls.append(options | {"count": len(prompts)})
        return [SimpleNamespace(image=render(self.scene(self._riddles[prompt]))) for prompt in prompts]

    def edit_image(self, images: list[list[Image.Image]], instructions: list[str], **options: Any) -> list[Any]:
        self.calls.append(options | {"count": len(instructions)})
        return [SimpleNamespace(image=self.edited(*pair)) for pair in zip(images, instructions, strict=True)]

    def edited(self, images: list[Image.Image], instruction: str) -> Image.Image:
        seen = [image.tobytes() for image in images]
        for item in BENCH.edits:
            if item.instruction == instruction and [render(graph).tobytes() for graph in item.graphs] == seen:
                return render(item.target)
        raise AssertionError(f"never asked: {instruction}")

    def generate_interleaved(self, prompts: list[str], **options: Any) -> list[Any]:
        self.calls.append(options | {"count": len(prompts)})
        return [SimpleNamespace(segments=self.told(self._stories[prompt])) for prompt in prompts]

    def told(self, item: StoryItem) -> list[Any]:
        segments: list[Any] = []
        for number, frame in enumerate(item.frames):
            graph = self.scene(frame.caption) if not frame.mover else standing(frame.caption, frame.mover, frame.place)
            caption = frame.caption if number % 2 else SimpleNamespace(text=frame.caption, image=None)
            segments += [caption, SimpleNamespace(image=render(graph), text=None)]
        return [*segments, f"it is {item.answer}."] if item.answer else segments

    def understand_image(self, images: list[list[Image.Image]], questions: list[str], **options: Any) -> list[Any]:
        self.calls.append(options | {"count": len(questions)})
        return [SimpleNamespace(text=self.compared(*pair)) for pair in zip(images, questions, strict=True)]

    def compared(self, images: list[Image.Image], question: str) -> str:
        seen = [image.tobytes() for image in images]
        for item in BENCH.comparisons:
            if item.question.text == question and [render(graph).tobytes() for graph in item.graphs] == seen:
                return item.question.answer
        raise AssertionError(f"never asked: {question}")

    def chat(self, messages: list[dict[str, str]], **options: Any) -> Any:
        (message,) = messages
        assert message["role"] == "user"
        return SimpleNamespace(text=self._questions[message["content"]])

    def scene(self, caption: str) -> SceneGraph:
        return sample_matching(random.Random(caption), parse(caption))


class Stubborn(Oracle):
    """Always shows one scene that nobody asked for, and always says the same."""

    name = "stubborn"
    fixed = SceneGraph(
        objects=(SceneObject(kind="sign", colour=None, size="small", row=0, column=0, word="ZOO"),), style="outline"
    )

    def scene(self, caption: str) -> SceneGraph:
        return self.fixed

    def edited(self, images: list[Image.Image], instruction: str) -> Image.Image:
        return render(self.fixed)

    def told(self, item: StoryItem) -> list[Any]:
        picture = SimpleNamespace(image=render(self.fixed))
        return [part for frame in item.frames for part in (frame.caption, picture)] + ["perhaps"]

    def compared(self, images: list[Image.Image], question: str) -> str:
        return "perhaps"

    def chat(self, messages: list[dict[str, str]], **options: Any) -> Any:
        return SimpleNamespace(text="perhaps")


class Unmoved(Oracle):
    """Hands back the first picture that it is given."""

    name = "unmoved"

    def edited(self, images: list[Image.Image], instruction: str) -> Image.Image:
        return images[0]


def standing(caption: str, mover: str, place: str) -> SceneGraph:
    """A scene of the caption with the mover in the middle of its third: small, at the most typical place."""
    rng = random.Random(f"{caption} {place}")
    requirement = parse(caption)
    while True:
        graph = sample_matching(rng, requirement)
        (item,) = [one for one in graph.objects if one.kind == mover]
        centred = stands_in((item.row, item.column, *item.cells), (8, 8), place, clear=True)
        if centred and typical(item, place):
            return graph


def typical(item: SceneObject, place: str) -> bool:
    rows = {"top": (0, 1), "bottom": (5, 6)}.get(place.split()[0], (3,))
    columns = {"left": (0, 1), "right": (5, 6)}.get(place.split()[-1], (3,))
    return item.row in rows and item.column in columns


def test_right_pictures_and_answers_score_one() -> None:
    report = run_scenebench_tasks(Oracle(), limit=12)
    assert report["model"] == "oracle"
    for run in RUNS:
        assert report[run]["overall"] == 1.0, run
        assert all(found["rate"] == 1.0 for found in report[run]["held_out"].values()), run
    assert report["edit"]["untouched"] == 1.0
    assert 0.0 <= report["story"]["steady"] <= 1.0
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_wrong_pictures_and_answers_score_nothing() -> None:
    report = run_scenebench_tasks(Stubborn(), limit=12)
    for run in RUNS:
        assert report[run]["overall"] == 0.0, run
        assert all(found["rate"] == 0.0 for found in report[run]["held_out"].values()), run
    assert report["edit"]["untouched"] < 0.2


def test_handing_back_the_source_preserves_everything_and_scores_nothing() -> None:
    items = [item for item in BENCH.edits if item.category not in ("compose", "style", "background")][::40]
    scores, kept = score_edits(Unmoved(), items)
    assert scores.overall == 0.0
    assert kept == 1.0


def test_riddles_are_asked_alike_with_and_without_thinking() -> None:
    model, items = Oracle(), select_tasks(BENCH.riddles, limit=18)
    told: list[tuple[str, int, int, int]] = []
    for thinking in (False, True):
        scores = score_riddles(
            model, items, thinking=thinking, seed=7, progress=lambda *a: told.append(a), settings={"decoder": "normal"}
        )
        assert scores.overall == 1.0
    plain, _, thought, _ = model.calls
    assert plain == {"thinking": False, "seed": list(range(7, 23)), "decoder": "normal", "count": 16}
    assert thought == plain | {"thinking": True}
    assert told == [
        ("riddle_plain", 16, 18, 16), ("riddle_plain", 18, 18, 18),
        ("riddle_thinking", 16, 18, 16), ("riddle_thinking", 18, 18, 18),
    ]  # fmt: skip


def test_stories_do_not_give_the_number_of_pictures_away() -> None:
    model = Oracle()
    items = select_tasks(BENCH.stories, limit=10)
    scores, _ = score_stories(model, items)
    assert scores.overall == 1.0
    assert {call["max_frames"] for call in model.calls} == {5}
    assert {(call["height"], call["width"]) for call in model.calls} == {(128, 128)}
    score_stories(model, items, settings={"height": None, "width": None})
    assert (model.calls[-1]["height"], model.calls[-1]["width"]) == (None, None)


def test_questions_are_asked_about_all_pictures_and_about_none() -> None:
    model = Oracle()
    assert score_comparisons(model, select_tasks(BENCH.comparisons, limit=16)).overall == 1.0
    assert score_facts(model, select_tasks(BENCH.facts, limit=11)).overall == 1.0


def test_runs_are_chosen_by_name() -> None:
    report = run_scenebench_tasks(Oracle(), limit=2, runs=["fact"])
    assert set(report) & set(RUNS) == {"fact"}
    with pytest.raises(ConfigError, match="unknown suite 'poetry'; expected some of riddle_plain"):
        run_scenebench_tasks(Oracle(), runs=["poetry"])
    with pytest.raises(ConfigError, match="at least 1"):
        run_scenebench_tasks(Oracle(), limit=0, runs=["fact"])
