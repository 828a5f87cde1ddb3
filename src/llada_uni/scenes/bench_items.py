"""How the items of SceneBench v1 were drawn: prompts in the styles of GenEval and questions about random scenes.

The frozen file beside :mod:`llada_uni.scenes.bench` is the benchmark; this module documents and repeats its making.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from llada_uni.errors import ConfigError
from llada_uni.scenes import words
from llada_uni.scenes.geometry import DIRECTIONS
from llada_uni.scenes.graph import BACKGROUNDS, COLOURS, KINDS, SIGN_WORDS, WORLD_VERSION, SceneGraph
from llada_uni.scenes.predicates import parse, requires_held_out
from llada_uni.scenes.questions import Question, sample_question
from llada_uni.scenes.sample import sample_matching, sample_scene
from llada_uni.scenes.serialise import to_json
from llada_uni.scenes.split import HELD_OUT_COUNTS, HELD_OUT_PAIRS, allowed_colours

__all__ = ["GENERATION_CATEGORIES", "UNDERSTANDING_CATEGORIES", "build_lines"]

SEED = 20260401
_NUM_REGULAR, _NUM_HELD_OUT = 112, 28
_NUM_QUESTIONS, _NUM_HELD_OUT_QUESTIONS = 105, 26
_NO_HELD_OUT = ("single_object", "background", "style")
_HELD_OUT_COUNTS = sorted(HELD_OUT_COUNTS)
_HELD_OUT_PAIRS = sorted(HELD_OUT_PAIRS)
_LEADS = ("a photo of ", "a photo of ", "a photo of ", "a picture of ", "a drawing of ", "")


def _thing(rng: random.Random, kind: str, held_out: bool = False) -> str:
    return words.with_article(f"{rng.choice(allowed_colours(kind))} {kind}")


def _rare(rng: random.Random) -> tuple[str, str]:
    """A thing in a held-out colour, and its kind."""
    kind, colour = rng.choice(_HELD_OUT_PAIRS)
    return words.with_article(f"{colour} {kind}"), kind


def _other(rng: random.Random, kind: str) -> str:
    return rng.choice([name for name in KINDS if name != kind])


def _single_object(rng: random.Random, held_out: bool) -> str:
    thing = words.with_article(rng.choice(KINDS))
    where = rng.choice(words.BACKGROUND_PHRASES[rng.choice(BACKGROUNDS)]) if rng.random() < 0.15 else ""
    lead = rng.choice(("a photo of", "a picture of", "a drawing of", "an image of", "there is", "draw", ""))
    return f"{lead} {thing} {where}".strip()


def _two_object(rng: random.Random, held_out: bool) -> str:
    first, second = rng.sample(KINDS, 2)
    one, two = words.with_article(first), words.with_article(second)
    if held_out:
        one, kind = _rare(rng)
        two = words.with_article(_other(rng, kind))
    pair = [one, two]
    rng.shuffle(pair)
    return f"{rng.choice(_LEADS)}{pair[0]} and {pair[1]}"


def _counting(rng: random.Random, held_out: bool) -> str:
    kind, count = rng.choice(_HELD_OUT_COUNTS) if held_out else (rng.choice(KINDS), rng.choice((2, 3, 4)))
    colour = f"{rng.choice(allowed_colours(kind))} " if rng.random() < 0.4 else ""
    return f"{rng.choice(_LEADS)}{words.COUNT_WORDS[count]} {colour}{words.noun(kind, count)}"


def _colours(rng: random.Random, held_out: bool) -> str:
    thing = _rare(rng)[0] if held_out else _thing(rng, rng.choice(KINDS))
    return f"{rng.choice(_LEADS)}{thing}"


def _position(rng: random.Random, held_out: bool) -> str:
    first, second = rng.sample(KINDS, 2)
    one, two = words.with_article(first), words.with_article(second)
    if held_out:
        one, kind = _rare(rng)
        two = words.with_article(_other(rng, kind))
        one, two = (one, two) if rng.random() < 0.5 else (two, one)
    elif rng.random() < 0.15:
        one = f"two {rng.choice(allowed_colours(first))} {words.noun(first, 2)}"
    relation = words.RELATION_PHRASES[rng.choice(DIRECTIONS)][0]
    return f"{rng.choice(_LEADS)}{one} {relation} {two}"


def _attribute_binding(rng: random.Random, held_out: bool) -> str:
    while True:
        first, second = rng.sample(KINDS, 2)
        one, two = _thing(rng, first), _thing(rng, second)
        if held_out:
            one, kind = _rare(rng)
            two = _thing(rng, _other(rng, kind))
        pair = [one, two]
        rng.shuffle(pair)
        if pair[0].split()[1] != pair[1].split()[1]:
            return f"{rng.choice(_LEADS)}{pair[0]} and {pair[1]}"


def _text_rendering(rng: random.Random, held_out: bool) -> str:
    word = rng.choice(SIGN_WORDS)
    shown = f'"{word}"' if rng.random() < 0.7 else word
    sign = f"a sign {rng.choice(words.SIGN_PHRASES)} {shown}"
    lead = rng.choice(_LEADS)
    if not held_out and rng.random() < 0.6:
        return f"{lead}{sign}"
    other = _rare(rng)[0] if held_out else _thing(rng, rng.choice(KINDS))
    joint = rng.choice(("and", "next to", "above", "below"))
    return f"{lead}{sign} {joint} {other}" if rng.random() < 0.7 else f"{lead}{other} and {sign}"


_PROMPTS: dict[str, Callable[[random.Random, bool], str]] = {
    "single_object": _single_object,
    "two_object": _two_object,
    "counting": _counting,
    "colours": _colours,
    "position": _position,
    "attribute_binding": _attribute_binding,
    "text_rendering": _text_rendering,
}
GENERATION_CATEGORIES: tuple[str, ...] = tuple(_PROMPTS)
_ALWAYS: dict[str, tuple[str, ...]] = {"position": ("two red apples left of a house",)}

_ANSWERS: dict[str, tuple[str, ...]] = {
    "existence": ("yes", "no"),
    "count": words.COUNT_WORDS,
    "colour": COLOURS,
    "kind": (*KINDS, "sign"),
    "size": ("small", "large"),
    "relation": ("yes", "no", "what"),
    "coordinates": ("any",),
    "reading": SIGN_WORDS,
    "background": BACKGROUNDS,
    "style": ("flat", "outline"),
}
UNDERSTANDING_CATEGORIES: tuple[str, ...] = tuple(_ANSWERS)
_MARK: dict[bool, dict[str, Any]] = {False: {}, True: {"held_out": True}}


def _distinct_prompts(category: str, held_out: bool) -> list[str]:
    rng = random.Random(f"{SEED} {category} {held_out}")
    wanted = _NUM_HELD_OUT if held_out else _NUM_REGULAR
    found = dict.fromkeys(() if held_out else _ALWAYS.get(category, ()))
    while len(found) < wanted:
        prompt = _PROMPTS[category](rng, held_out)
        requirement = parse(prompt)
        if requires_held_out(requirement) == held_out:
            sample_matching(rng, requirement)
            found[prompt] = None
    return list(found)


def _slot(family: str, answer: str) -> str:
    """The answer class whose frequency is balanced."""
    if answer in _ANSWERS[family]:
        return answer
    return _ANSWERS[family][-1]


def _concerns_held_out(graph: SceneGraph, question: Question) -> bool:
    """Whether the question or its answer names a kind that a held-out combination of the scene is about."""
    counts = Counter(item.kind for item in graph.objects)
    kinds = {item.kind for item in graph.objects if (item.kind, item.colour) in HELD_OUT_PAIRS}
    kinds |= {kind for kind, count in counts.items() if (kind, count) in HELD_OUT_COUNTS}
    said = set(re.findall("[a-z]+", f"{question.text} {question.answer}".lower()))
    return any(kind in said or words.PLURALS[kind] in said for kind in kinds)


def _draw_question(family: str, held_out: bool, rng: random.Random) -> tuple[SceneGraph, Question] | None:
    style = rng.choice(("flat", "outline")) if family == "style" else None
    graph = sample_scene(rng, held_out=held_out, style=style)
    try:
        question = sample_question(graph, rng, family)
    except ConfigError:
        return None
    if held_out and family != "reading" and not _concerns_held_out(graph, question):
        return None
    return graph, question


def _balanced_questions(family: str, held_out: bool) -> list[tuple[SceneGraph, Question]]:
    rng = random.Random(f"{SEED} {family} {held_out}")
    wanted = _NUM_HELD_OUT_QUESTIONS if held_out else _NUM_QUESTIONS
    most = math.ceil(wanted / len(_ANSWERS[family]))
    seen: Counter[str] = Counter()
    found: list[tuple[SceneGraph, Question]] = []
    while len(found) < wanted:
        drawn = _draw_question(family, held_out, rng)
        if drawn is None or seen[_slot(family, drawn[1].answer)] >= most:
            continue
        seen[_slot(family, drawn[1].answer)] += 1
        found.append(drawn)
    return found


def _marks(category: str) -> tuple[bool, ...]:
    return (False,) if category in _NO_HELD_OUT else (False, True)


def _generation_records() -> Iterator[dict[str, Any]]:
    for category in GENERATION_CATEGORIES:
        for held_out in _marks(category):
            for index, prompt in enumerate(_distinct_prompts(category, held_out)):
                name = f"gen-{category}{'-held-out' if held_out else ''}-{index:03d}"
                yield {"id": name, "category": category, "prompt": prompt} | _MARK[held_out]


def _understanding_records() -> Iterator[dict[str, Any]]:
    for family in UNDERSTANDING_CATEGORIES:
        for held_out in _marks(family):
            for index, (graph, question) in enumerate(_balanced_questions(family, held_out)):
                yield {
                    "id": f"und-{family}{'-held-out' if held_out else ''}-{index:03d}",
                    "family": family,
                    "graph": to_json(graph),
                    "question": question.text,
                    "answer": question.answer,
                } | _MARK[held_out]


def build_lines() -> list[str]:
    """The lines of the benchmark file: a header, the generation items, the understanding items.

    Deterministic. A held-out generation item cannot be satisfied without a held-out combination (there are none in
    ``single_object``, whose prompts name a kind alone). A held-out question is about a scene that contains one and,
    except for reading, names its kind.
    """
    header = {"bench": "scenebench", "version": 1, "world": WORLD_VERSION, "seed": SEED}
    records = [header, *_generation_records(), *_understanding_records()]
    return [json.dumps(record, separators=(",", ":"), ensure_ascii=True) for record in records]
