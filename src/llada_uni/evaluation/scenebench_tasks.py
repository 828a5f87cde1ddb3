"""Runs the task suites of SceneBench on a model: riddles plain and thinking, edits, stories, comparisons, facts.

Pictures are read by the verifier; what counts is in :mod:`llada_uni.scenes.bench_tasks`. The same riddles are asked
twice, without and with thinking, so that the two rates can be compared item by item.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from PIL import Image

from llada_uni.errors import ConfigError
from llada_uni.evaluation.scenebench import Progress
from llada_uni.scenes.bench import CategoryScore, Scores
from llada_uni.scenes.bench_tasks import (
    EditItem,
    QuestionItem,
    RiddleItem,
    StoryItem,
    TaskBench,
    TaskItem,
    answer_passes,
    edit_passes,
    edit_preserves,
    load_task_bench,
    riddle_passes,
    score_tasks,
    select_tasks,
    story_is_steady,
    story_passes,
)
from llada_uni.scenes.graph import CELL_PX, SceneGraph
from llada_uni.scenes.render import render
from llada_uni.scenes.verify import verify

__all__ = [
    "RUNS",
    "TaskModel",
    "run_scenebench_tasks",
    "score_comparisons",
    "score_edits",
    "score_facts",
    "score_riddles",
    "score_stories",
]

RUNS: tuple[str, ...] = ("riddle_plain", "riddle_thinking", "edit", "story", "comparison", "fact")
_BATCH = 16
_MAX_FRAMES = 5
_STORY_PX = 8 * CELL_PX
_ANSWER_TOKENS = 64


class TaskModel(Protocol):
    """The methods of ``LladaUni`` that the suites call; lists in, lists out."""

    @property
    def name(self) -> str:
        """What the model was opened as."""
        ...

    def generate_image(self, prompt: Any, /, **options: Any) -> Any:
        """Prompts to results with ``.image``; ``thinking`` writes a plan first."""
        ...

    def edit_image(self, image: Any, instruction: Any, /, **options: Any) -> Any:
        """For each instruction a picture or a list of pictures, to results with ``.image``."""
        ...

    def generate_interleaved(self, prompt: Any, /, **options: Any) -> Any:
        """Prompts to results with ``.segments``: pictures with ``.image``, and texts (strings, or with ``.text``)."""
        ...

    def understand_image(self, image: Any, question: Any, /, **options: Any) -> Any:
        """For each question a list of pictures, to results with ``.text``."""
        ...

    def chat(self, messages: Any, /, **options: Any) -> Any:
        """One conversation to a result with ``.text``."""
        ...


def run_scenebench_tasks(
    model: TaskModel,
    *,
    limit: int | None = None,
    seed: int = 0,
    runs: Sequence[str] | None = None,
    progress: Progress | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores of ``model`` as one JSON-ready object.

    ``limit`` is the number of items of every run (a balanced subset drawn with ``seed``; the two riddle runs get the
    same); all by default. ``runs`` keeps only these of :data:`RUNS`. ``settings`` are passed on to the methods that
    make pictures.

    Raises:
        ConfigError: an unknown suite or a limit below 1.
    """
    wanted = RUNS if runs is None else tuple(runs)
    unknown = [name for name in wanted if name not in RUNS]
    if unknown:
        raise ConfigError(f"unknown suite {unknown[0]!r}; expected some of {', '.join(RUNS)}")
    bench = load_task_bench()
    start = time.perf_counter()
    report: dict[str, Any] = {"bench": "scenebench-tasks-v1", "sha256": bench.sha256, "model": model.name, "seed": seed}
    for name in wanted:
        items = select_tasks(_items(bench, name), limit=limit, seed=seed)
        report[name] = _RUNNERS[name](model, items, seed, progress, settings or {})
    report["seconds"] = round(time.perf_counter() - start, 1)
    return report


def score_riddles(
    model: TaskModel,
    items: Sequence[RiddleItem],
    *,
    thinking: bool,
    seed: int = 0,
    progress: Progress | None = None,
    settings: dict[str, Any] | None = None,
) -> Scores:
    """One picture per riddle, seeds ``seed``, ``seed + 1``, …, with or without thinking."""
    outcomes: list[bool] = []
    for begin, part in _batches(items):
        prompts = [item.prompt for item in part]
        results = model.generate_image(prompts, thinking=thinking, seed=_seeds(seed, begin, part), **(settings or {}))
        outcomes += [riddle_passes(item, verify(r.image)) for item, r in zip(part, results, strict=True)]
        _tell(progress, "riddle_thinking" if thinking else "riddle_plain", outcomes, items)
    return score_tasks(items, outcomes)


def score_edits(
    model: TaskModel,
    items: Sequence[EditItem],
    *,
    seed: int = 0,
    progress: Progress | None = None,
    settings: dict[str, Any] | None = None,
) -> tuple[Scores, float]:
    """One edited picture per item, and the mean share of untouched objects that stayed exactly as they were.

    The share is over regular items that have untouched objects, whether or not the edit was made (NaN without any).
    """
    outcomes: list[bool] = []
    kept: list[float] = []
    for begin, part in _batches(items):
        pictures = [_pictures(item.graphs) for item in part]
        words = [item.instruction for item in part]
        results = model.edit_image(pictures, words, seed=_seeds(seed, begin, part), **(settings or {}))
        read = [verify(result.image) for result in results]
        outcomes += [edit_passes(item, graph) for item, graph in zip(part, read, strict=True)]
        pairs = zip(part, read, strict=True)
        kept += [edit_preserves(item, graph) for item, graph in pairs if item.change.kept and not item.held_out]
        _tell(progress, "edit", outcomes, items)
    return score_tasks(items, outcomes), sum(kept) / len(kept) if kept else math.nan


def score_stories(
    model: TaskModel,
    items: Sequence[StoryItem],
    *,
    seed: int = 0,
    progress: Progress | None = None,
    settings: dict[str, Any] | None = None,
) -> tuple[Scores, float]:
    """One story per prompt, and the share of regular stories in which nothing moves that should not.

    Pictures have the size of the suite's scenes (8 x 8 cells, 128 pixels) unless ``settings`` give another; with
    ``height`` and ``width`` None the model chooses it by its headers, and a header it spoils ends a story.
    """
    size = {"height": _STORY_PX, "width": _STORY_PX}
    outcomes: list[bool] = []
    steady: list[bool] = []
    for begin, part in _batches(items):
        prompts, seeds = [item.prompt for item in part], _seeds(seed, begin, part)
        results = model.generate_interleaved(prompts, seed=seeds, max_frames=_MAX_FRAMES, **(size | (settings or {})))
        for item, result in zip(part, results, strict=True):
            told, ending = _told(result.segments)
            outcomes.append(story_passes(item, told, ending))
            steady += [] if item.held_out else [story_is_steady(item, told)]
        _tell(progress, "story", outcomes, items)
    return score_tasks(items, outcomes), sum(steady) / len(steady) if steady else math.nan


def score_comparisons(
    model: TaskModel, items: Sequence[QuestionItem], *, seed: int = 0, progress: Progress | None = None
) -> Scores:
    """One greedy answer per question about two or three rendered scenes."""
    outcomes: list[bool] = []
    for _, part in _batches(items):
        pictures, questions = [_pictures(item.graphs) for item in part], [item.question.text for item in part]
        answers = model.understand_image(pictures, questions, seed=seed, max_new_tokens=_ANSWER_TOKENS)
        outcomes += [answer_passes(item, answer.text) for item, answer in zip(part, answers, strict=True)]
        _tell(progress, "comparison", outcomes, items)
    return score_tasks(items, outcomes)


def score_facts(
    model: TaskModel, items: Sequence[QuestionItem], *, seed: int = 0, progress: Progress | None = None
) -> Scores:
    """One greedy answer per question without a picture, each in a conversation of its own."""
    outcomes: list[bool] = []
    for item in items:
        messages = [{"role": "user", "content": item.question.text}]
        answer = model.chat(messages, seed=seed, max_new_tokens=_ANSWER_TOKENS)
        outcomes.append(answer_passes(item, answer.text))
        _tell(progress, "fact", outcomes, items)
    return score_tasks(items, outcomes)


_Runner = Callable[[TaskModel, tuple[Any, ...], int, Progress | None, dict[str, Any]], dict[str, Any]]


def _riddle_run(thinking: bool) -> _Runner:
    def run(
        model: TaskModel, items: tuple[Any, ...], seed: int, progress: Progress | None, settings: dict[str, Any]
    ) -> dict[str, Any]:
        return _as_dict(score_riddles(model, items, thinking=thinking, seed=seed, progress=progress, settings=settings))

    return run


def _edit_run(
    model: TaskModel, items: tuple[Any, ...], seed: int, progress: Progress | None, settings: dict[str, Any]
) -> dict[str, Any]:
    scores, kept = score_edits(model, items, seed=seed, progress=progress, settings=settings)
    return _as_dict(scores) | {"untouched": _number(kept)}


def _story_run(
    model: TaskModel, items: tuple[Any, ...], seed: int, progress: Progress | None, settings: dict[str, Any]
) -> dict[str, Any]:
    scores, steady = score_stories(model, items, seed=seed, progress=progress, settings=settings)
    return _as_dict(scores) | {"steady": _number(steady)}


def _comparison_run(
    model: TaskModel, items: tuple[Any, ...], seed: int, progress: Progress | None, settings: dict[str, Any]
) -> dict[str, Any]:
    return _as_dict(score_comparisons(model, items, seed=seed, progress=progress))


def _fact_run(
    model: TaskModel, items: tuple[Any, ...], seed: int, progress: Progress | None, settings: dict[str, Any]
) -> dict[str, Any]:
    return _as_dict(score_facts(model, items, seed=seed, progress=progress))


_RUNNERS: dict[str, _Runner] = {
    "riddle_plain": _riddle_run(False),
    "riddle_thinking": _riddle_run(True),
    "edit": _edit_run,
    "story": _story_run,
    "comparison": _comparison_run,
    "fact": _fact_run,
}


def _items(bench: TaskBench, run: str) -> Sequence[TaskItem]:
    suites = {"edit": bench.edits, "story": bench.stories, "comparison": bench.comparisons, "fact": bench.facts}
    return suites.get(run, bench.riddles)


def _batches(items: Sequence[Any]) -> list[tuple[int, Sequence[Any]]]:
    return [(begin, items[begin : begin + _BATCH]) for begin in range(0, len(items), _BATCH)]


def _seeds(seed: int, begin: int, part: Sequence[object]) -> list[int]:
    return [seed + begin + offset for offset in range(len(part))]


def _pictures(graphs: Sequence[SceneGraph]) -> list[Image.Image]:
    return [render(graph) for graph in graphs]


def _told(segments: Sequence[Any]) -> tuple[list[tuple[str, SceneGraph | None]], str]:
    """Pictures as the verifier reads them, each with the words since the picture before, and the words at the end."""
    told: list[tuple[str, SceneGraph | None]] = []
    words = ""
    for segment in segments:
        image = getattr(segment, "image", None)
        if image is None:
            words = f"{words} {segment if isinstance(segment, str) else segment.text}".strip()
        else:
            told.append((words, verify(image)))
            words = ""
    return told, words


def _tell(progress: Progress | None, part: str, outcomes: Sequence[bool], items: Sequence[object]) -> None:
    if progress is not None:
        progress(part, len(outcomes), len(items), sum(outcomes))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _as_dict(scores: Scores) -> dict[str, Any]:
    return {
        "overall": _number(scores.overall),
        "interval": list(scores.interval),
        "categories": {name: _category(value) for name, value in sorted(scores.categories.items())},
        "held_out": {name: _category(value) for name, value in sorted(scores.held_out.items())},
    }


def _category(value: CategoryScore) -> dict[str, Any]:
    return {"rate": value.rate, "interval": list(value.interval), "correct": value.correct, "total": value.total}
