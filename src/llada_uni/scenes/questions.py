"""Questions about a scene with exact answers, by family, and the check of an answer.

Answers are one or two words: ``yes``/``no``, a number word, a colour, a kind, ``small``/``large``, a sign's word in
capitals, a background, a style, or two numbers ``"x y"``: the centre of an object in thousandths of the width and of
the height, rounded to 25. Yes/no questions are balanced, and a "no" is a near miss (the right kind in another colour).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from llada_uni.errors import ConfigError, PromptError
from llada_uni.scenes import words
from llada_uni.scenes.captions import canonical_caption, thing_phrase
from llada_uni.scenes.geometry import DIRECTIONS, box_of, opposite, place_holds, place_name, relation_holds
from llada_uni.scenes.graph import COLOURS, KINDS, SceneGraph, SceneObject
from llada_uni.scenes.predicates import ObjectSpec, Requirement, parse
from llada_uni.scenes.split import is_held_out, is_held_out_pair

__all__ = ["FAMILIES", "Question", "coordinates_of", "is_correct", "sample_question"]

_COORDINATE_STEP, _COORDINATE_TOLERANCE = 25, 75
_Draw = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question of one family about a scene, with its exact answer."""

    family: str
    text: str
    answer: str


def coordinates_of(item: SceneObject, graph: SceneGraph) -> tuple[int, int]:
    """Centre of an object as (x, y) in [0, 1000] of the picture's width and height, rounded to 25."""
    row, column = item.centre
    step = _COORDINATE_STEP
    x, y = column / graph.grid_w * 1000, row / graph.grid_h * 1000
    return int(x / step + 0.5) * step, int(y / step + 0.5) * step


def _coordinate_text(item: SceneObject, graph: SceneGraph) -> str:
    x, y = coordinates_of(item, graph)
    return f"{x} {y}"


def _description(item: SceneObject, names: Sequence[str]) -> str:
    if item.kind == "sign":
        return "sign"
    return thing_phrase(item, colour="colour" in names, size="size" in names)


def _reference(graph: SceneGraph, item: SceneObject, rng: random.Random, *, without: str = "") -> str | None:
    """The shortest description that fits only ``item`` (now and then a longer one), or ``None``."""
    options: list[str] = []
    for names in ((), ("colour",), ("size",), ("size", "colour")):
        if without in names:
            continue
        text = _description(item, names)
        if sum(_description(other, names) == text for other in graph.objects) == 1:
            options.append(text)
    if not options:
        return None
    return options[0] if rng.random() < 0.65 else rng.choice(options)


def _referable(graph: SceneGraph, rng: random.Random, *, without: str = "") -> list[tuple[SceneObject, str]]:
    """Objects in random order with a unique description each; those without one are left out."""
    items = list(graph.objects)
    rng.shuffle(items)
    named = [(item, _reference(graph, item, rng, without=without)) for item in items]
    return [(item, text) for item, text in named if text is not None]


def _num_matching(graph: SceneGraph, kind: str | None, colour: str | None) -> int:
    return sum(kind in (None, item.kind) and colour in (None, item.colour) for item in graph.objects)


def _near_misses(graph: SceneGraph) -> list[tuple[str | None, str | None]]:
    """(kind, colour) descriptions that nothing in the scene fits, one attribute away from something there."""
    present = [(item.kind, item.colour) for item in graph.objects]
    strict = not is_held_out(graph)
    found: list[tuple[str | None, str | None]] = []
    for kind, colour in present:
        found += [(kind, other) for other in COLOURS if colour is not None]
        found += [(other, colour) for other in KINDS if colour is not None]
        found += [(other, None) for other in KINDS]
    found += [(None, colour) for colour in COLOURS]
    return [
        (kind, colour)
        for kind, colour in found
        if not _num_matching(graph, kind, colour) and not (strict and kind and is_held_out_pair(kind, colour))
    ]


def _some_description(graph: SceneGraph, rng: random.Random) -> tuple[str | None, str | None]:
    item = rng.choice(graph.objects)
    shape = rng.random()
    if item.colour is None or shape < 0.3:
        return item.kind, None
    return (None, item.colour) if shape < 0.45 else (item.kind, item.colour)


def _some_miss(graph: SceneGraph, rng: random.Random) -> tuple[str | None, str | None]:
    misses = _near_misses(graph)
    wanted = rng.random()
    if wanted < 0.3:
        chosen = [miss for miss in misses if miss[1] is None]
    elif wanted < 0.45:
        chosen = [miss for miss in misses if miss[0] is None]
    else:
        kinds = {item.kind for item in graph.objects}
        near = rng.random() < 0.6
        chosen = [miss for miss in misses if None not in miss and (miss[0] in kinds) == near]
    return rng.choice(chosen or misses)


def _named(kind: str | None, colour: str | None, count: int) -> str:
    thing = words.noun(kind, count) if kind else "object" if count == 1 else "objects"
    return f"{colour} {thing}" if colour else thing


def _existence(graph: SceneGraph, rng: random.Random) -> _Draw:
    truth = rng.random() < 0.5
    kind, colour = _some_description(graph, rng) if truth else _some_miss(graph, rng)
    thing = words.with_article(_named(kind, colour, 1))
    form = rng.choice(("is there {}?", "is there {} in the picture?", "do you see {}?", "does the picture show {}?"))
    return form.format(thing), "yes" if truth else "no"


def _count(graph: SceneGraph, rng: random.Random) -> _Draw:
    """Numbers from zero to four, each number that the scene offers being equally likely."""
    present = [(item.kind, item.colour) for item in graph.objects]
    options = {(None, None), *present, *((kind, None) for kind, _ in present)}
    options |= {(None, colour) for _, colour in present if colour}
    by_number: dict[int, list[tuple[str | None, str | None]]] = {}
    for option in sorted(options, key=str):
        by_number.setdefault(_num_matching(graph, *option), []).append(option)
    numbers = sorted(by_number)
    if rng.random() < 0.15:
        number, (kind, colour) = 0, _some_miss(graph, rng)
    else:
        number = rng.choice(numbers)
        kind, colour = rng.choice(by_number[number])
    things = _named(kind, colour, 2)
    form = rng.choice(("how many {} are there?", "how many {} are in the picture?", "count the {}.", "how many {}?"))
    return form.format(things), words.COUNT_WORDS[number]


def _colour(graph: SceneGraph, rng: random.Random) -> _Draw | None:
    named = [(item, text) for item, text in _referable(graph, rng, without="colour") if item.colour]
    if named:
        item, text = named[0]
        forms = ("what colour is the {}?", "which colour does the {} have?", "what color is the {}?")
        return rng.choice((*forms, "the {} is what colour?")).format(text), item.colour or ""
    kinds = Counter(item.kind for item in graph.objects if item.colour)
    for kind in kinds:
        colours = {item.colour for item in graph.objects if item.kind == kind}
        if len(colours) == 1:
            form = rng.choice(("what colour are the {}?", "which colour do the {} have?", "what color are the {}?"))
            return form.format(words.noun(kind, 2)), colours.pop() or ""
    return None


def _kind(graph: SceneGraph, rng: random.Random) -> _Draw | None:
    items = list(graph.objects)
    rng.shuffle(items)
    for item in items:
        options = []
        if item.colour and _num_matching(graph, None, item.colour) == 1:
            forms = ("what is the {} object?", "which object is {}?", "what is {} in the picture?")
            options.append(rng.choice(forms).format(item.colour))
        place = place_name(box_of(item), graph.grid_h, graph.grid_w)
        if sum(place_holds(box_of(other), graph.grid_h, graph.grid_w, place) for other in items) == 1:
            phrase = rng.choice(words.PLACE_PHRASES[place])
            options.append(rng.choice(("what is {}?", "which object is {}?")).format(phrase))
        if rng.random() < 0.25 or not options:
            options = [rng.choice(("what is at {}?", "which object is at {}?")).format(_coordinate_text(item, graph))]
        return rng.choice(options), item.kind
    return None


def _size(graph: SceneGraph, rng: random.Random) -> _Draw | None:
    named = [(item, text) for item, text in _referable(graph, rng, without="size") if item.kind != "sign"]
    if not named:
        return None
    item, text = named[0]
    forms = ("is the {} small or large?", "what size is the {}?", "how big is the {}?", "is the {} large or small?")
    return rng.choice(forms).format(text), item.size


def _what_relation(graph: SceneGraph, rng: random.Random) -> _Draw | None:
    """Asks for the only thing that stands in a relation; near ties are left out."""
    for target, text in _referable(graph, rng):
        for relation in rng.sample(DIRECTIONS, len(DIRECTIONS)):
            others = [item for item in graph.objects if item is not target]
            loose = [item for item in others if relation_holds(box_of(item), box_of(target), relation)]
            if len(loose) == 1 and relation_holds(box_of(loose[0]), box_of(target), relation, clear=True):
                phrase = rng.choice(words.RELATION_PHRASES[relation])
                form = rng.choice(("what is {} the {}?", "which object is {} the {}?"))
                return form.format(phrase, text), loose[0].kind
    return None


def _relation(graph: SceneGraph, rng: random.Random) -> _Draw | None:
    if rng.random() < 0.4:
        found = _what_relation(graph, rng)
        if found is not None:
            return found
    named = _referable(graph, rng)
    for (a, text_a), (b, text_b) in pairwise(named):
        true = [name for name in DIRECTIONS if relation_holds(box_of(a), box_of(b), name, clear=True)]
        if not true:
            continue
        false = [name for name in DIRECTIONS if not relation_holds(box_of(a), box_of(b), name)]
        truth = rng.random() < 0.5
        flipped = opposite(rng.choice(true))
        name = rng.choice(true) if truth else flipped if rng.random() < 0.6 else rng.choice(false)
        phrase = rng.choice(words.RELATION_PHRASES[name])
        form = rng.choice(("is the {} {} the {}?", "can you see the {} {} the {}?"))
        return form.format(text_a, phrase, text_b), "yes" if truth else "no"
    return None


def _coordinates(graph: SceneGraph, rng: random.Random) -> _Draw | None:
    named = _referable(graph, rng)
    if not named:
        return None
    item, text = named[0]
    forms = ("where is the {}?", "give the position of the {}.", "at which point is the {}?", "find the {}.")
    return rng.choice(forms).format(text), _coordinate_text(item, graph)


def _reading(graph: SceneGraph, rng: random.Random) -> _Draw | None:
    shown = [item.word for item in graph.objects if item.word]
    if len(shown) != 1:
        return None
    forms = ("what does the sign say?", "which word is on the sign?", "read the sign.", "what is written on the sign?")
    return rng.choice(forms), shown[0]


def _background(graph: SceneGraph, rng: random.Random) -> _Draw:
    forms = ("what is the background?", "which background does the picture have?", "name the background.")
    return rng.choice(forms), graph.background


def _style(graph: SceneGraph, rng: random.Random) -> _Draw:
    forms = ("is the style flat or outline?", "which style is the picture in?", "name the style.")
    return rng.choice(forms), graph.style


def _describe(graph: SceneGraph, rng: random.Random) -> _Draw:
    if rng.random() < 0.6:
        return rng.choice(("describe the picture.", "what is in the picture?")), canonical_caption(graph)
    return "describe the picture in detail.", canonical_caption(graph, detail=True)


_BUILDERS: dict[str, Callable[[SceneGraph, random.Random], _Draw | None]] = {
    "existence": _existence,
    "count": _count,
    "colour": _colour,
    "kind": _kind,
    "size": _size,
    "relation": _relation,
    "coordinates": _coordinates,
    "reading": _reading,
    "background": _background,
    "style": _style,
    "describe": _describe,
}
FAMILIES: tuple[str, ...] = tuple(_BUILDERS)
_WEIGHTS: dict[str, float] = {"relation": 2.0, "reading": 3.0, "background": 0.4, "style": 0.4, "describe": 1.2}


def _loosely_written(text: str, rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.12:
        return text[0].upper() + text[1:]
    return text[:-1] if chance < 0.18 else text


def sample_question(graph: SceneGraph, rng: random.Random, family: str | None = None) -> Question:
    """Draw a question about ``graph``, of ``family`` or of a random one among those the scene allows.

    Raises ``ConfigError`` when the family is unknown, or cannot be asked about this scene (a reading question without
    a sign, a relation question about a single object).
    """
    if family is not None and family not in _BUILDERS:
        raise ConfigError(f"expected one of the families {', '.join(FAMILIES)}, got {family!r}; choose one of them")
    names = list(FAMILIES) if family is None else [family]
    while names:
        name = rng.choices(names, [_WEIGHTS.get(name, 1.0) for name in names])[0]
        drawn = _BUILDERS[name](graph, rng)
        if drawn is not None:
            return Question(family=name, text=_loosely_written(drawn[0], rng), answer=drawn[1])
        names.remove(name)
    raise ConfigError(f"no {family} question can be asked about this scene; choose another family or scene")


def _normalised(answer: str) -> str:
    tokens: list[str] = re.findall(r"[a-z]+|[0-9]+", answer.lower())
    numbers = {str(value): word for value, word in enumerate(words.COUNT_WORDS)}
    if len(tokens) > 1 and tokens[0] in ("a", "an", "the"):
        tokens = tokens[1:]
    return " ".join(numbers.get(token, token) for token in tokens)


def _things(requirement: Requirement) -> Counter[ObjectSpec]:
    found: Counter[ObjectSpec] = Counter()
    for spec in requirement.objects:
        found[replace(spec, count=1)] += spec.count
    return found


def _same_description(expected: str, answer: str) -> bool:
    try:
        a, b = parse(expected), parse(answer)
    except PromptError:
        return False
    return _things(a) == _things(b) and (a.background, a.style) == (b.background, b.style)


def _near(expected: str, answer: str) -> bool:
    a, b = ([int(text) for text in re.findall(r"\d+", words_)] for words_ in (expected, answer))
    return len(b) == 2 and all(abs(x - y) <= _COORDINATE_TOLERANCE for x, y in zip(a, b, strict=True))


_CHECKS: dict[str, Callable[[str, str], bool]] = {"coordinates": _near, "describe": _same_description}


def is_correct(question: Question, answer_text: str) -> bool:
    """Whether ``answer_text`` answers ``question``.

    Case, punctuation, a leading article and digits for number words do not matter. Coordinates must be two numbers
    within 75 thousandths of the truth on both axes; a description must name the same things, background and style.
    """
    check = _CHECKS.get(question.family)
    if check is not None:
        return check(question.answer, answer_text)
    return _normalised(question.answer) == _normalised(answer_text)
