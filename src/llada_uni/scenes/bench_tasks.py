"""The task suites of SceneBench, version 1: frozen riddles, edits, stories, comparisons and facts with exact scores.

A riddle counts when the scene read from the picture satisfies the plain prompt it stands for; an edit when the whole
picture is as :func:`llada_uni.scenes.changes.is_made` demands; a story when each picture satisfies the caption the
model wrote and the expected one, and a puzzle also ends with the right answer; a question when the answer is right.
A suite's ``overall`` is the mean of its category rates over regular items; items with what training never sees are
reported separately. ``python -m llada_uni.scenes.bench_tasks --output FILE`` repeats the drawing of the items.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from llada_uni.errors import ConfigError
from llada_uni.scenes import bench
from llada_uni.scenes.bench import CategoryScore, Scores, read_frozen
from llada_uni.scenes.bench_task_items import build_lines
from llada_uni.scenes.changes import Change, change_from_json, is_made, untouched_share
from llada_uni.scenes.comparisons import compared_rightly
from llada_uni.scenes.facts import known_rightly
from llada_uni.scenes.graph import SceneGraph, SceneObject
from llada_uni.scenes.predicates import satisfies
from llada_uni.scenes.questions import Question
from llada_uni.scenes.serialise import from_json
from llada_uni.scenes.stories import ending_holds, frames_hold, is_steady
from llada_uni.scenes.story_plots import Expected

__all__ = [
    "SCENEBENCH_TASKS_V1_SHA256",
    "SUITES",
    "EditItem",
    "QuestionItem",
    "RiddleItem",
    "StoryItem",
    "TaskBench",
    "TaskItem",
    "answer_passes",
    "edit_passes",
    "edit_preserves",
    "load_task_bench",
    "riddle_passes",
    "score_tasks",
    "select_tasks",
    "story_is_steady",
    "story_passes",
]

SCENEBENCH_TASKS_V1_SHA256 = "3c3049791a1549b85b6b9c06416bfc7273e44e75b30a2b2fbb6f9145f92c6480"
SUITES: tuple[str, ...] = ("riddle", "edit", "story", "comparison", "fact")
_FILE = "scenebench_tasks_v1.jsonl"


@dataclass(frozen=True, kw_only=True)
class TaskItem:
    """What all items have; ``category`` is one of the suite's."""

    id: str
    suite: str
    category: str
    held_out: bool


@dataclass(frozen=True, kw_only=True)
class RiddleItem(TaskItem):
    """A prompt with clues and the plain prompt it stands for; asked with and without thinking."""

    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class EditItem(TaskItem):
    """Scenes to render, what to do with them, what every right result is, and one right result."""

    graphs: tuple[SceneGraph, ...]
    instruction: str
    change: Change
    target: SceneGraph


@dataclass(frozen=True, kw_only=True)
class StoryItem(TaskItem):
    """A story to tell; ``answer`` is empty unless it is a puzzle."""

    prompt: str
    frames: tuple[Expected, ...]
    answer: str = ""


@dataclass(frozen=True, kw_only=True)
class QuestionItem(TaskItem):
    """A question about the rendered ``graphs``, or about none."""

    graphs: tuple[SceneGraph, ...]
    question: Question


@dataclass(frozen=True, kw_only=True)
class TaskBench:
    """The loaded suites with the hash of their file."""

    sha256: str
    riddles: tuple[RiddleItem, ...]
    edits: tuple[EditItem, ...]
    stories: tuple[StoryItem, ...]
    comparisons: tuple[QuestionItem, ...]
    facts: tuple[QuestionItem, ...]


_Record = dict[str, Any]


def _common(record: _Record) -> dict[str, Any]:
    suite, category = record["id"].split("-")[:2]
    return {"id": record["id"], "suite": suite, "category": category, "held_out": record.get("held_out", False)}


def _riddle(record: _Record) -> RiddleItem:
    return RiddleItem(**_common(record), prompt=record["prompt"], answer=record["answer"])


def _edit(record: _Record) -> EditItem:
    graphs = tuple(from_json(value) for value in record["graphs"])
    change = change_from_json(record["change"], graphs)
    return EditItem(
        **_common(record),
        graphs=graphs,
        instruction=record["instruction"],
        change=change,
        target=_target(change, record["made"]),
    )


def _target(change: Change, made: Sequence[tuple[Any, int, int]]) -> SceneGraph:
    new = tuple(
        SceneObject(kind=w.kind, colour=w.colour, word=w.word, size=size, row=row, column=column)
        for w, (size, row, column) in zip(change.wanted, made, strict=True)
    )
    return SceneGraph(
        objects=(*change.kept, *new),
        background=change.background,
        style=change.style,
        grid_h=change.grid[0],
        grid_w=change.grid[1],
    )


def _story(record: _Record) -> StoryItem:
    frames = tuple(Expected(**dict(zip(("caption", "mover", "place"), row, strict=False))) for row in record["frames"])
    return StoryItem(**_common(record), prompt=record["prompt"], frames=frames, answer=record.get("answer", ""))


def _question(record: _Record) -> QuestionItem:
    common = _common(record)
    question = Question(family=common["category"], text=record["question"], answer=record["answer"])
    graphs = tuple(from_json(value) for value in record.get("graphs", ()))
    return QuestionItem(**common, graphs=graphs, question=question)


_READERS: dict[str, Callable[[_Record], TaskItem]] = {
    "riddle": _riddle,
    "edit": _edit,
    "story": _story,
    "comparison": _question,
    "fact": _question,
}


def load_task_bench(path: Path | None = None) -> TaskBench:
    """Load the suites from the package (or from ``path``).

    Raises ``CheckpointError`` when the file is missing or differs in a single byte from the frozen one.
    """
    found, records = read_frozen(_FILE, SCENEBENCH_TASKS_V1_SHA256, path)
    items: dict[str, list[Any]] = {suite: [] for suite in SUITES}
    for record in records:
        suite = record["id"].split("-")[0]
        items[suite].append(_READERS[suite](record))
    riddles, edits, stories, comparisons, facts = (tuple(items[suite]) for suite in SUITES)
    return TaskBench(sha256=found, riddles=riddles, edits=edits, stories=stories, comparisons=comparisons, facts=facts)


def riddle_passes(item: RiddleItem, graph: SceneGraph | None) -> bool:
    """Whether the scene read from a picture is what the riddle means; ``None`` (the verifier abstained) is not."""
    return graph is not None and satisfies(graph, item.answer)


def edit_passes(item: EditItem, graph: SceneGraph | None) -> bool:
    """Whether the change was made and every untouched object is exactly as before."""
    return is_made(item.change, graph)


def edit_preserves(item: EditItem, graph: SceneGraph | None) -> float:
    """Share of the untouched objects that are exactly as before, whatever else was done."""
    return untouched_share(item.change, graph)


def story_passes(item: StoryItem, told: Sequence[tuple[str, SceneGraph | None]], ending: str) -> bool:
    """Whether all frames (caption, scene read from the picture) hold, and the closing words answer a puzzle.

    A story that is no puzzle may end as it likes.
    """
    return frames_hold(told, item.frames) and (not item.answer or ending_holds(ending, item.answer))


def story_is_steady(item: StoryItem, told: Sequence[tuple[str, SceneGraph | None]]) -> bool:
    """Whether what takes no part in the story stays as it is from picture to picture (not part of passing)."""
    return len(told) == len(item.frames) and is_steady(item.category, [graph for _, graph in told])


def answer_passes(item: QuestionItem, answer: str) -> bool:
    """Whether ``answer`` is right."""
    check = compared_rightly if item.suite == "comparison" else known_rightly
    return check(item.question, answer)


def select_tasks(items: Sequence[TaskItem], *, limit: int | None = None, seed: int = 0) -> tuple[Any, ...]:
    """A random subset of at most ``limit`` items, spread evenly over categories and held-out marks; all by default.

    Raises ``ConfigError`` for a limit below 1.
    """
    return bench.select(cast("Sequence[bench.GenerationItem]", items), limit=limit, seed=seed)


def score_tasks(items: Sequence[TaskItem], outcomes: Sequence[bool]) -> Scores:
    """Scores of one suite from one outcome per item: all its categories count alike.

    Raises ``ConfigError`` when the lengths differ.
    """
    if len(items) != len(outcomes):
        raise ConfigError(f"expected one outcome for each of {len(items)} items, got {len(outcomes)}")
    pairs = list(zip(items, outcomes, strict=True))
    regular = _rates([(item, passed) for item, passed in pairs if not item.held_out])
    held_out = _rates([(item, passed) for item, passed in pairs if item.held_out])
    if not regular:
        return Scores(overall=math.nan, interval=(0.0, 1.0), categories={}, held_out=held_out)
    found, count = list(regular.values()), len(regular)
    mean = sum(one.rate for one in found) / count
    below = math.sqrt(sum((one.rate - one.interval[0]) ** 2 for one in found)) / count
    above = math.sqrt(sum((one.interval[1] - one.rate) ** 2 for one in found)) / count
    interval = max(mean - below, 0.0), min(mean + above, 1.0)
    return Scores(overall=mean, interval=interval, categories=regular, held_out=held_out)


def _rates(pairs: Sequence[tuple[TaskItem, bool]]) -> dict[str, CategoryScore]:
    rates: dict[str, CategoryScore] = {}
    for item, passed in pairs:
        so_far = rates.get(item.category, CategoryScore(correct=0, total=0))
        rates[item.category] = replace(so_far, correct=so_far.correct + bool(passed), total=so_far.total + 1)
    return rates


def _main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m llada_uni.scenes.bench_tasks", description="Draw the task suites of SceneBench v1 again."
    )
    parser.add_argument("--output", type=Path, help="file to write; without it only the checksums are compared")
    options = parser.parse_args(arguments)
    data = ("\n".join(build_lines()) + "\n").encode("ascii")
    found = hashlib.sha256(data).hexdigest()
    if options.output is not None:
        options.output.write_bytes(data)
    sys.stdout.write(f"drawn {found}\nfrozen {SCENEBENCH_TASKS_V1_SHA256}\n")
    return 0 if found == SCENEBENCH_TASKS_V1_SHA256 else 1


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
