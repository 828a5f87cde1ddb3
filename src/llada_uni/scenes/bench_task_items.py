"""How the items of the task suites of SceneBench were drawn.

The frozen file beside :mod:`llada_uni.scenes.bench_tasks` is the benchmark; this module documents and repeats its
making. Every category has regular items, whose words and pictures training may show, and held-out ones.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from llada_uni.errors import ConfigError
from llada_uni.scenes.changes import change_to_json
from llada_uni.scenes.comparisons import COMPARISON_FAMILIES, sample_comparison, sample_pictures
from llada_uni.scenes.edits import EDIT_CATEGORIES, Edit, sample_edit
from llada_uni.scenes.facts import FACT_FAMILIES, sample_fact
from llada_uni.scenes.graph import WORLD_VERSION, SceneGraph
from llada_uni.scenes.questions import Question
from llada_uni.scenes.sample import sample_scene
from llada_uni.scenes.serialise import to_json
from llada_uni.scenes.stories import STORY_KINDS, sample_story
from llada_uni.scenes.story_plots import Expected
from llada_uni.scenes.tasks import TASKS_VERSION
from llada_uni.scenes.thinking import riddle_about

__all__ = ["build_lines"]

SEED = 20260715
_REGULAR, _HELD_OUT = 100, 25
_PER_FAMILY, _HELD_OUT_PER_FAMILY = 18, 7
_FACTS_WITHOUT_HELD_OUT = ("class", "opposite", "mix")
_TWO_ANSWERS = ("more", "which", "both", "same_colour")
_MARK: dict[bool, dict[str, Any]] = {False: {}, True: {"held_out": True}}
_Record = dict[str, Any]


def _rng(*parts: object) -> random.Random:
    return random.Random(" ".join(str(part) for part in (SEED, *parts)))


def _named(suite: str, category: str, held_out: bool, index: int) -> _Record:
    """The id, from which suite and category are read back, and the mark."""
    mark = "-held-out" if held_out else ""
    return {"id": f"{suite}-{category}{mark}-{index:03d}"} | _MARK[held_out]


def _sized(held_out: bool) -> int:
    return _HELD_OUT if held_out else _REGULAR


def _riddles(held_out: bool) -> Iterator[_Record]:
    """One or two objects, each prompt once; held-out ones use held-out clues, never held-out combinations."""
    rng = _rng("riddle", held_out)
    found: dict[str, str] = {}
    while len(found) < _sized(held_out):
        riddle = riddle_about(sample_scene(rng, num_objects=rng.choice((1, 2))), rng, held_out=held_out)
        if riddle is not None:
            found.setdefault(riddle.prompt, riddle.answer)
    for index, (prompt, answer) in enumerate(found.items()):
        yield _named("riddle", "riddle", held_out, index) | {"prompt": prompt, "answer": answer}


def _graphs(graphs: Sequence[SceneGraph]) -> list[_Record]:
    return [to_json(graph) for graph in graphs]


def _edit_record(edit: Edit) -> _Record:
    made = [item for item in edit.target.objects if item not in edit.change.kept]
    assert [item.kind for item in made] == [wanted.kind for wanted in edit.change.wanted]
    return {
        "graphs": _graphs(edit.sources),
        "instruction": edit.instruction,
        "change": change_to_json(edit.change, edit.sources),
        "made": [[item.size, item.row, item.column] for item in made],
    }


def _edits(category: str, held_out: bool) -> Iterator[_Record]:
    rng = _rng("edit", category, held_out)
    for index in range(_sized(held_out)):
        edit = sample_edit(rng, category, held_out=held_out)
        yield _named("edit", category, held_out, index) | _edit_record(edit)


def _frame_row(expected: Expected) -> list[str]:
    return [expected.caption, expected.mover, expected.place] if expected.mover else [expected.caption]


def _stories(kind: str, held_out: bool) -> Iterator[_Record]:
    rng = _rng("story", kind, held_out)
    found: dict[str, _Record] = {}
    while len(found) < _sized(held_out):
        story = sample_story(rng, kind, held_out=held_out)
        record: _Record = {"prompt": story.prompt, "frames": [_frame_row(frame.expected) for frame in story.frames]}
        found.setdefault(story.prompt, record | ({"answer": story.answer} if story.answer else {}))
    for index, record in enumerate(found.values()):
        yield _named("story", kind, held_out, index) | record


def _family_size(held_out: bool) -> int:
    return _HELD_OUT_PER_FAMILY if held_out else _PER_FAMILY


def _most(family: str, held_out: bool) -> int:
    """How often one answer may be right, so that a parrot scores at most half."""
    share = 0.5 if family in _TWO_ANSWERS else 0.34
    return math.ceil(share * _family_size(held_out))


def _comparisons(family: str, held_out: bool) -> Iterator[_Record]:
    rng = _rng("comparison", family, held_out)
    seen: Counter[str] = Counter()
    while seen.total() < _family_size(held_out):
        graphs = sample_pictures(rng, held_out=held_out).graphs
        try:
            question = sample_comparison(graphs, rng, family)
        except ConfigError:  # these pictures do not allow the family
            continue
        if seen[question.answer] >= _most(family, held_out):
            continue
        record = _named("comparison", family, held_out, seen.total())
        seen[question.answer] += 1
        yield record | {"graphs": _graphs(graphs), "question": question.text, "answer": question.answer}


def _facts(family: str, held_out: bool) -> Iterator[_Record]:
    rng = _rng("fact", family, held_out)
    found: dict[str, Question] = {}
    wanted = _family_size(held_out)
    while len(found) < wanted:
        question = sample_fact(rng, family, held_out=held_out)
        key = question.text.lower().rstrip(".?")
        if sum(other.answer == question.answer for other in found.values()) < math.ceil(0.5 * wanted):
            found.setdefault(key, question)
    for index, question in enumerate(found.values()):
        yield _named("fact", family, held_out, index) | {"question": question.text, "answer": question.answer}


def build_lines() -> list[str]:
    """The lines of the benchmark file: a header, riddles, edits, stories, comparisons, facts. Deterministic."""
    header = {"bench": "scenebench-tasks", "version": 1, "world": WORLD_VERSION, "tasks": TASKS_VERSION, "seed": SEED}
    records: list[_Record] = [header]
    for held_out in (False, True):
        records += _riddles(held_out)
        for category in EDIT_CATEGORIES:
            records += _edits(category, held_out)
        for kind in STORY_KINDS:
            records += _stories(kind, held_out)
        for family in COMPARISON_FAMILIES:
            records += _comparisons(family, held_out)
        for family in FACT_FAMILIES:
            if not (held_out and family in _FACTS_WITHOUT_HELD_OUT):
                records += _facts(family, held_out)
    return [json.dumps(record, separators=(",", ":"), ensure_ascii=True) for record in records]
