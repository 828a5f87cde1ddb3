"""Stories in two to four pictures, each with its caption, and step-by-step puzzles with an answer at the end.

The prompt fixes what every picture must show, so a told story can be checked: each picture must satisfy the caption
written before it **and** the expected one, both sentences of the caption grammar, and there must be as many pictures
as asked for. What does not take part in an event stays where it is (:func:`is_steady` measures that beside).

Kinds: ``motion`` (one object visits places), ``growing`` (an object changes its size, or the number grows or shrinks),
``assembling`` (objects join), ``counting`` and ``walking`` (puzzles: how many are left, where does it end).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from llada_uni.errors import ConfigError, PromptError
from llada_uni.scenes import words
from llada_uni.scenes.geometry import Box, box_of
from llada_uni.scenes.graph import SceneGraph
from llada_uni.scenes.predicates import parse, satisfies
from llada_uni.scenes.referring import stands_in, steps
from llada_uni.scenes.split import is_held_out
from llada_uni.scenes.story_plots import (
    Expected,
    Frame,
    Plot,
    plot_assembling,
    plot_counting,
    plot_growing,
    plot_motion,
    plot_walking,
)

__all__ = ["STORY_KINDS", "Expected", "Frame", "Story", "ending_holds", "frames_hold", "is_steady", "sample_story"]

_PLOTS: dict[str, Callable[[random.Random, tuple[int, int], bool | None], Plot | None]] = {
    "motion": plot_motion,
    "growing": plot_growing,
    "assembling": plot_assembling,
    "counting": plot_counting,
    "walking": plot_walking,
}
STORY_KINDS: tuple[str, ...] = tuple(_PLOTS)
_TRIES = 4000
_LEAST_STEP = 1.0


@dataclass(frozen=True, kw_only=True)
class Story:
    """What to tell, the frames of one right telling, and for puzzles the closing sentence with its ``answer``."""

    kind: str
    prompt: str
    frames: tuple[Frame, ...]
    ending: str = ""
    answer: str = ""

    @property
    def graphs(self) -> tuple[SceneGraph, ...]:
        """The pictures in order."""
        return tuple(frame.graph for frame in self.frames)


def sample_story(
    rng: random.Random,
    kind: str | None = None,
    *,
    grid_h: int = 8,
    grid_w: int = 8,
    held_out: bool | None = False,
) -> Story:
    """Draw a story of a random or of the named kind.

    ``held_out``: False, no frame shows a combination reserved for evaluation; True, some frame does; None, either.
    Raises ``ConfigError`` for an unknown kind, or when none is found.
    """
    if kind is not None and kind not in STORY_KINDS:
        raise ConfigError(f"expected one of {', '.join(STORY_KINDS)}, got {kind!r}; choose one of them")
    kind = kind or rng.choice(STORY_KINDS)
    for _ in range(_TRIES):
        plot = _PLOTS[kind](rng, (grid_h, grid_w), held_out)
        if plot is None or held_out not in (None, any(is_held_out(frame.graph) for frame in plot.frames)):
            continue
        return Story(kind=kind, prompt=plot.prompt, frames=plot.frames, ending=plot.ending, answer=plot.answer)
    raise ConfigError(f"no {kind} story found on a {grid_h}x{grid_w} grid; use a larger grid")


def frames_hold(told: Sequence[tuple[str, SceneGraph | None]], expected: Sequence[Expected]) -> bool:
    """Whether every told frame (its caption, the scene read from its picture) shows what it says and what it must.

    The caption must be a sentence of the grammar; ``None`` is a picture the verifier could not read. A mover stands in
    its place on both axes, and at least a cell further on than in the picture before.
    """
    if len(told) != len(expected):
        return False
    stops: list[tuple[Box, str]] = []
    for (caption, graph), wanted in zip(told, expected, strict=True):
        if graph is None or not (_shows(graph, caption) and satisfies(graph, wanted.caption)):
            return False
        if wanted.mover:
            movers = [box_of(item) for item in graph.objects if item.kind == wanted.mover]
            if len(movers) != 1 or not stands_in(movers[0], (graph.grid_h, graph.grid_w), wanted.place):
                return False
            stops.append((movers[0], wanted.place))
    return all(steps(a, b, place_a, place_b) >= _LEAST_STEP for (a, place_a), (b, place_b) in pairwise(stops))


def _shows(graph: SceneGraph, caption: str) -> bool:
    try:
        return satisfies(graph, parse(caption))
    except PromptError:
        return False


def ending_holds(text: str, answer: str) -> bool:
    """Whether the closing sentence gives ``answer`` (a number word or the name of a place) and no other of its sort."""
    said = re.findall(r"[a-z]+|[0-9]+", text.lower())
    if answer in words.COUNT_WORDS:
        return {_number(word) for word in said} - {None} == {answer}
    return {_SIDES[word] for word in said if word in _SIDES} == set(answer.split())


_SIDES = {name: name for name in ("top", "bottom", "left", "right", "centre")}
_SIDES |= {"middle": "centre", "center": "centre"}


def _number(word: str) -> str | None:
    if word.isdigit() and int(word) < len(words.COUNT_WORDS):
        return words.COUNT_WORDS[int(word)]
    return word if word in words.COUNT_WORDS else None


def is_steady(kind: str, graphs: Sequence[SceneGraph | None]) -> bool:
    """Whether from picture to picture everything stays exactly as it was but the one thing that moves or grows.

    In stories where things come and go, all that two neighbouring pictures share must be unchanged.
    """
    return all(a is not None and b is not None and _steady_step(kind, a, b) for a, b in pairwise(graphs))


def _steady_step(kind: str, a: SceneGraph, b: SceneGraph) -> bool:
    if (a.background, a.style) != (b.background, b.style):
        return False
    same = len(set(a.objects) & set(b.objects))
    fewest = min(len(a.objects), len(b.objects))
    changing = kind in ("motion", "walking") or (kind == "growing" and len(a.objects) == len(b.objects))
    return same >= fewest - int(changing)
