"""Pictures that take a thought first: layout plans, and riddles that name their objects only by clues.

A plan is one sentence of the caption grammar that gives every object with size, colour and coarse place, so a picture
obeys it when the scene satisfies it. A riddle is a prompt together with the plain prompt it stands for; a picture
solves it when the scene satisfies the plain one. Riddles are the same with and without thinking.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llada_uni.scenes import words
from llada_uni.scenes.captions import canonical_caption
from llada_uni.scenes.clues import CLUES, HELD_OUT_CLUES, coloured_clue
from llada_uni.scenes.geometry import box_of, place_holds
from llada_uni.scenes.graph import SceneGraph, SceneObject
from llada_uni.scenes.predicates import satisfies
from llada_uni.scenes.referring import plain_phrase

__all__ = ["MAX_RIDDLE_OBJECTS", "Riddle", "layout_plan", "obeys", "riddle_about"]

MAX_RIDDLE_OBJECTS = 3
_LEADS = ("", "draw ", "show ", "show me ", "paint ", "a picture of ", "a drawing of ", "a photo of ")
_CLUE_SHARE, _COLOUR_SHARE, _SIDES_SHARE = 0.75, 0.5, 0.6
_SIDES = (("left", "right", "on the left {}, on the right {}"), ("top", "bottom", "at the top {}, at the bottom {}"))


@dataclass(frozen=True, kw_only=True)
class Riddle:
    """``prompt`` with clues, and ``answer``, the prompt in plain words that it stands for."""

    prompt: str
    answer: str


def layout_plan(graph: SceneGraph) -> str:
    """The plan of a scene: objects in reading order with size, colour and place, then the background; at most 60 ids.

    For example ``"a small red cat at the top left and a large blue apple on the right on white"``.
    """
    return canonical_caption(graph, detail=True)


def obeys(graph: SceneGraph | None, plan: str) -> bool:
    """Whether a scene read from a picture is laid out as ``plan`` says. Raises ``PromptError`` for unknown words."""
    return graph is not None and satisfies(graph, plan)


def riddle_about(graph: SceneGraph, rng: random.Random, *, held_out: bool = False) -> Riddle | None:
    """A riddle whose answer is true of ``graph`` and complete, or ``None`` when the scene does not suit.

    Suitable scenes show one to three different kinds. With ``held_out`` all clues are from the held-out table, else
    none is. Backgrounds other than white and outline style are always told.
    """
    kinds = {item.kind for item in graph.objects}
    if not 1 <= len(graph.objects) <= MAX_RIDDLE_OBJECTS or len(kinds) < len(graph.objects) or kinds == {"sign"}:
        return None
    items, sides = _arranged(graph, rng)
    table = HELD_OUT_CLUES if held_out else CLUES
    hidden = [item for item in items if item.kind != "sign" and rng.random() < _CLUE_SHARE]
    hidden = hidden or [rng.choice([item for item in items if item.kind != "sign"])]
    told, meant = zip(*(_told(item, item in hidden, table, rng) for item in items), strict=True)
    tail = _tail(graph)
    if sides is None:
        return Riddle(prompt=f"{rng.choice(_LEADS)}{_joined(told)}{tail}", answer=f"{_joined(meant)}{tail}")
    first, second, form = sides
    placed = [f"{text} {words.PLACE_PHRASES[place][0]}" for text, place in zip(meant, (first, second), strict=True)]
    return Riddle(prompt=f"{form.format(*told)}{tail}", answer=f"{_joined(placed)}{tail}")


def _arranged(graph: SceneGraph, rng: random.Random) -> tuple[list[SceneObject], tuple[str, str, str] | None]:
    """The objects in the order of telling, and the pair of sides they clearly stand on, if that shall be told."""
    items = list(graph.objects)
    rng.shuffle(items)
    if len(items) == 2 and rng.random() < _SIDES_SHARE:
        for first, second, form in rng.sample(_SIDES, len(_SIDES)):
            for pair in (items, items[::-1]):
                if _stands(pair[0], graph, first) and _stands(pair[1], graph, second):
                    return pair, (first, second, form)
    return items, None


def _stands(item: SceneObject, graph: SceneGraph, place: str) -> bool:
    return place_holds(box_of(item), graph.grid_h, graph.grid_w, place, clear=True)


def _told(item: SceneObject, hidden: bool, table: Mapping[str, Sequence[str]], rng: random.Random) -> tuple[str, str]:
    """Words of the riddle and of its answer for one object."""
    if not hidden:
        phrase = plain_phrase(item, size=rng.random() < 0.2)
        return phrase, phrase
    colour = item.colour if rng.random() < _COLOUR_SHARE else None
    meant = words.with_article(f"{colour} {item.kind}" if colour else item.kind)
    return coloured_clue(rng.choice(table[item.kind]), colour), meant


def _joined(parts: Sequence[str]) -> str:
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]


def _tail(graph: SceneGraph) -> str:
    background = "" if graph.background == "white" else f", on a {graph.background} background"
    return background + (", as a line drawing" if graph.style == "outline" else "")
