"""Questions without a picture, each answerable from a closed table or from the sentence before the question.

Families: ``riddle`` (what is the animal that says meow), ``class`` (is a cat an animal), ``opposite``, ``mix`` (what
colour do red and yellow make), ``number`` (sums, successors, larger and smaller numbers up to four), ``relation`` (the
other side of a statement) and ``said`` (what a description of a scene says).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from llada_uni.errors import ConfigError
from llada_uni.scenes import words
from llada_uni.scenes.captions import canonical_caption
from llada_uni.scenes.clues import CLASSES, CLUES, HELD_OUT_CLUES
from llada_uni.scenes.edits import loosely_written
from llada_uni.scenes.geometry import DIRECTIONS, opposite
from llada_uni.scenes.graph import COLOURS, KINDS, SceneGraph
from llada_uni.scenes.questions import Question, is_correct, sample_question
from llada_uni.scenes.sample import sample_scene
from llada_uni.scenes.split import allowed_colours, is_held_out_pair

__all__ = ["FACT_FAMILIES", "HELD_OUT_SUMS", "MIXES", "OPPOSITES", "known_rightly", "sample_fact"]

MIXES: dict[frozenset[str], str] = {
    frozenset(("red", "yellow")): "orange",
    frozenset(("blue", "yellow")): "green",
    frozenset(("red", "blue")): "purple",
    frozenset(("red", "white")): "pink",
}
OPPOSITES: dict[str, str] = {
    "left": "right", "right": "left", "above": "below", "below": "above", "up": "down", "down": "up", "top": "bottom",
    "bottom": "top", "small": "large", "large": "small", "first": "last", "last": "first",
}  # fmt: skip
HELD_OUT_SUMS: frozenset[tuple[int, int]] = frozenset({(1, 2), (3, 1), (0, 3)})
_DEBATABLE = {"plant": "apple"}  # neither yes nor no is asked
_NUMBERS = words.COUNT_WORDS
_Draw = tuple[str, str]


def _riddle(rng: random.Random, held_out: bool) -> _Draw:
    kind = rng.choice(KINDS)
    clue = rng.choice((HELD_OUT_CLUES if held_out else CLUES)[kind])
    return rng.choice(("what is {}?", "name {}.", "what do you call {}?")).format(clue), kind


def _class(rng: random.Random, held_out: bool) -> _Draw | None:
    if held_out:
        return None
    name = rng.choice(tuple(CLASSES))
    truth = rng.random() < 0.5
    unasked = (*CLASSES[name], _DEBATABLE.get(name))
    others = [kind for kinds in CLASSES.values() for kind in kinds if kind not in unasked]
    kind = rng.choice(CLASSES[name] if truth else others)
    if rng.random() < 0.6:
        return f"is {words.with_article(kind)} {words.with_article(name)}?", "yes" if truth else "no"
    pair = [rng.choice(CLASSES[name]), rng.choice(others)]
    right = pair[0]
    rng.shuffle(pair)
    form = "which is {}, {} or {}?"
    return form.format(words.with_article(name), *(words.with_article(one) for one in pair)), right


def _opposite(rng: random.Random, held_out: bool) -> _Draw | None:
    word = rng.choice(tuple(OPPOSITES))
    forms = ("what is the opposite of {}?", "name the opposite of {}.")
    return None if held_out else (rng.choice(forms).format(word), OPPOSITES[word])


def _mix(rng: random.Random, held_out: bool) -> _Draw | None:
    pair, mixed = rng.choice(tuple(MIXES.items()))
    one, other = rng.sample(sorted(pair), 2)
    forms = ("what colour do {} and {} make?", "which colour do {} and {} make?", "{} and {} make which colour?")
    return None if held_out else (rng.choice(forms).format(one, other), mixed)


def _number(rng: random.Random, held_out: bool) -> _Draw:
    shape = 0.0 if held_out else rng.random()
    if shape < 0.4:
        a, b = rng.choice([(a, b) for a in range(5) for b in range(5 - a) if ((a, b) in HELD_OUT_SUMS) == held_out])
        forms = ("what is {} and {}?", "how many are {} and {}?", "{} and {} make how many?")
        return rng.choice(forms).format(_NUMBERS[a], _NUMBERS[b]), _NUMBERS[a + b]
    a, b = rng.sample(range(5), 2)
    if shape < 0.6:
        return f"is {_NUMBERS[a]} more than {_NUMBERS[b]}?", "yes" if a > b else "no"
    if shape < 0.8:
        word, best = rng.choice((("more", max(a, b)), ("smaller", min(a, b))))
        return f"which is {word}, {_NUMBERS[a]} or {_NUMBERS[b]}?", _NUMBERS[best]
    first = rng.randrange(4)
    if rng.random() < 0.5:
        return f"what comes after {_NUMBERS[first]}?", _NUMBERS[first + 1]
    return f"what comes before {_NUMBERS[first + 1]}?", _NUMBERS[first]


def _thing(rng: random.Random, held_out: bool) -> tuple[str, str]:
    """A kind and a colour, from the pairs kept back for evaluation or from the others."""
    while True:
        kind = rng.choice(KINDS)
        colour = rng.choice(COLOURS if held_out else allowed_colours(kind))
        if is_held_out_pair(kind, colour) == held_out:
            return kind, colour


def _relation(rng: random.Random, held_out: bool) -> _Draw | None:
    (a, colour_a), (b, colour_b) = _thing(rng, held_out), _thing(rng, False)
    if a == b:
        return None
    relation = rng.choice(DIRECTIONS)
    first, second = f"the {colour_a} {a}", f"the {colour_b} {b}"
    fact = f"{first} is {rng.choice(words.RELATION_PHRASES[relation])} {second}."
    if rng.random() < 0.4:
        return f"{fact} where is {second}?", f"{opposite(relation)} {first}"
    if rng.random() < 0.5:
        asked = rng.choice((opposite(relation), relation))
        return f"{fact} is {second} {asked} {first}?", "yes" if asked == opposite(relation) else "no"
    return f"{fact} what is {opposite(relation)} {first}?", b


_SAID = ("existence", "count", "colour", "background")


def _said(rng: random.Random, held_out: bool) -> _Draw | None:
    """A description and a question that its words answer; "picture" is not said, there is none."""
    graph = sample_scene(rng, held_out=held_out, style="flat")
    try:
        question = sample_question(graph, rng, rng.choice(_SAID))
    except ConfigError:  # this scene does not allow the family
        return None
    if "picture" in question.text or _needs_sizes(question):
        return None
    text = question.text[0].lower() + question.text[1:]
    return f"there {_verb(graph)} {canonical_caption(graph)}. {text}", question.answer


def _verb(graph: SceneGraph) -> str:
    return "are" if canonical_caption(graph).startswith(words.COUNT_WORDS[2:]) else "is"


def _needs_sizes(question: Question) -> bool:
    """Whether the question tells things apart by their size, which the description does not give."""
    return any(size in question.text for size in words.SIZE_WORDS)


_BUILDERS: dict[str, Callable[[random.Random, bool], _Draw | None]] = {
    "riddle": _riddle,
    "class": _class,
    "opposite": _opposite,
    "mix": _mix,
    "number": _number,
    "relation": _relation,
    "said": _said,
}
FACT_FAMILIES: tuple[str, ...] = tuple(_BUILDERS)
_WEIGHTS = {"riddle": 2.0, "number": 1.5, "relation": 2.0, "said": 3.0, "opposite": 0.6, "mix": 0.4}
_NEVER_HELD_OUT = ("class", "opposite", "mix")


def sample_fact(rng: random.Random, family: str | None = None, *, held_out: bool = False) -> Question:
    """Draw a question of ``family`` or of a random one; ``held_out`` ones use what training never sees.

    Held out are wordings of clues, sums, and the colour pairs of the world. Raises ``ConfigError`` for an unknown
    family, or one that holds nothing out.
    """
    if family is not None and (family not in _BUILDERS or (held_out and family in _NEVER_HELD_OUT)):
        known = [name for name in FACT_FAMILIES if not (held_out and name in _NEVER_HELD_OUT)]
        raise ConfigError(f"expected one of {', '.join(known)}, got {family!r}; choose one of them")
    while True:
        name = family or rng.choices(FACT_FAMILIES, [_WEIGHTS.get(one, 1.0) for one in FACT_FAMILIES])[0]
        drawn = _BUILDERS[name](rng, held_out)
        if drawn is not None:
            return Question(family=name, text=loosely_written(drawn[0], rng), answer=drawn[1])


def known_rightly(question: Question, answer_text: str) -> bool:
    """Whether ``answer_text`` answers ``question``: the expected words; a relation at their start in any wording."""
    if question.family == "relation":
        return _plainly(answer_text) == _plainly(question.answer)
    return is_correct(question, answer_text)


_WORDINGS = sorted(
    ((phrase, relation) for relation, phrases in words.RELATION_PHRASES.items() for phrase in phrases),
    key=lambda pair: -len(pair[0]),
)


def _plainly(text: str) -> list[str]:
    """Words without case, marks and articles; a relation at the start in its first wording."""
    said = " ".join(re.findall("[a-z]+", text.lower()))
    for phrase, relation in _WORDINGS:
        if said.startswith(f"{phrase} "):
            said = f"{relation} {said[len(phrase) :]}"
            break
    return [word for word in said.split() if word not in ("a", "an", "the")]
