"""Questions about two or three pictures at once, with exact answers.

Families: ``more`` (which picture has more of something), ``which`` (the only one that shows something), ``both`` (is it
in both), ``same_colour``, ``changed`` (the one difference of two pictures), ``total`` (how many in all), ``only`` (what
one picture has and the other lacks) and ``one`` (an ordinary question about one of the pictures).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llada_uni.errors import ConfigError
from llada_uni.scenes import words
from llada_uni.scenes.compositions import ORDINALS
from llada_uni.scenes.edits import EDIT_CATEGORIES, loosely_written, sample_edit
from llada_uni.scenes.graph import COLOURS, KINDS, MAX_OBJECTS, SceneGraph, SceneObject
from llada_uni.scenes.predicates import ObjectSpec, Requirement
from llada_uni.scenes.questions import Question, is_correct, sample_question
from llada_uni.scenes.sample import sample_matching
from llada_uni.scenes.split import allowed_colours, is_held_out

__all__ = [
    "COMPARISON_FAMILIES",
    "PictureSet",
    "Pictures",
    "compared_rightly",
    "sample_comparison",
    "sample_pictures",
]

Pictures = tuple[SceneGraph, ...]
_TRIES = 2000
_THREE_SHARE, _EDITED_SHARE, _SHARED_SHARE = 0.4, 0.35, 0.35
_EDITS = (*EDIT_CATEGORIES[:-3] * 2, *EDIT_CATEGORIES[-3:-1])  # changes of the whole picture half as often
_INNER_FAMILIES = ("existence", "count", "colour", "size", "relation")
_Draw = tuple[str, str]


# --- pictures that belong together ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """Two or three scenes on one grid that questions compare."""

    graphs: Pictures


def sample_pictures(
    rng: random.Random, *, grid_h: int = 8, grid_w: int = 8, held_out: bool | None = False
) -> PictureSet:
    """Two or three pictures worth comparing: they share kinds in different numbers or colours, or one was edited.

    ``held_out``: False, none shows a combination reserved for evaluation; True, some picture does; None, either.
    Raises ``ConfigError`` when none are found.
    """
    for _ in range(_TRIES):
        if rng.random() < _EDITED_SHARE:
            category = rng.choice(_EDITS)
            inside = False if held_out is False else None
            graphs = sample_edit(rng, category, grid_h=grid_h, grid_w=grid_w, held_out=inside).graphs
        else:
            graphs = _related(rng, (grid_h, grid_w), held_out)
        if graphs and held_out in (None, any(is_held_out(graph) for graph in graphs)):
            return PictureSet(graphs=graphs)
    raise ConfigError(f"no comparable pictures found on a {grid_h}x{grid_w} grid; use a larger grid")


def _related(rng: random.Random, grid: tuple[int, int], held_out: bool | None) -> Pictures:
    kinds = rng.sample(KINDS, 3)
    count = 3 if rng.random() < _THREE_SHARE else 2
    shared = rng.choice(_colours(kinds[0], held_out))
    return tuple(_one_of_them(rng, kinds, shared, grid, held_out) for _ in range(count))


def _one_of_them(
    rng: random.Random, kinds: Sequence[str], shared: str, grid: tuple[int, int], held_out: bool | None
) -> SceneGraph:
    """A scene with some of the given kinds; the first of them often in the shared colour."""
    chosen = [kind for kind, share in zip(kinds, (0.85, 0.6, 0.35), strict=True) if rng.random() < share]
    specs, room = [], MAX_OBJECTS
    for kind in chosen or [rng.choice(kinds)]:
        count = min(rng.choice((1, 1, 1, 2, 3)), room)
        if not count:
            break
        keep = kind == kinds[0] and rng.random() < _SHARED_SHARE
        colour = shared if keep else rng.choice(_colours(kind, held_out))
        specs.append(ObjectSpec(count=count, kind=kind, colour=colour))
        room -= count
    while True:
        try:
            return sample_matching(rng, Requirement(objects=tuple(specs)), grid_h=grid[0], grid_w=grid[1])
        except ConfigError:
            specs = [replace(spec, size="small") for spec in specs]


def _colours(kind: str, held_out: bool | None) -> tuple[str, ...]:
    return allowed_colours(kind) if held_out is False else COLOURS


# --- questions -----------------------------------------------------------------------------------------------------


def _count(graph: SceneGraph, kind: str, colour: str | None = None) -> int:
    return sum(item.kind == kind and colour in (None, item.colour) for item in graph.objects)


def _kinds(graphs: Pictures) -> list[str]:
    return sorted({item.kind for graph in graphs for item in graph.objects if item.kind != "sign"})


def _answer(index: int) -> str:
    return f"the {ORDINALS[index]}"


def _more(graphs: Pictures, rng: random.Random) -> _Draw | None:
    """Only when one picture has more than each other."""
    counted = [(kind, [_count(graph, kind) for graph in graphs]) for kind in _kinds(graphs)]
    counted.append(("", [len(graph.objects) for graph in graphs]))
    options = [(kind, counts) for kind, counts in counted if counts.count(max(counts)) == 1]
    if not options:
        return None
    close = [option for option in options if sorted(option[1])[-2] > 0]
    kind, counts = rng.choice(close if close and rng.random() < 0.75 else options)
    things = words.PLURALS[kind] if kind else "objects"
    most = "more" if len(graphs) == 2 else "the most"
    form = rng.choice(("which picture has {} {}?", "which picture shows {} {}?"))
    return form.format(most, things), _answer(counts.index(max(counts)))


def _described(item: SceneObject, rng: random.Random) -> tuple[str, str | None]:
    colour = item.colour if rng.random() < 0.6 else None
    return item.kind, colour


def _named(kind: str, colour: str | None) -> str:
    return words.with_article(f"{colour} {kind}" if colour else kind)


def _which(graphs: Pictures, rng: random.Random) -> _Draw | None:
    if rng.random() < 0.2:
        backgrounds = [graph.background for graph in graphs]
        alone = [name for name in backgrounds if backgrounds.count(name) == 1]
        if alone:
            name = rng.choice(alone)
            text = f"which picture has {words.with_article(name)} background?"
            return text, _answer(backgrounds.index(name))
    things = [_described(item, rng) for graph in graphs for item in graph.objects if item.kind != "sign"]
    rng.shuffle(things)
    for kind, colour in things:
        shown = [_count(graph, kind, colour) > 0 for graph in graphs]
        if sum(shown) == 1:
            forms = ("which picture shows {}?", "which picture has {}?", "in which picture is there {}?")
            return rng.choice(forms).format(_named(kind, colour)), _answer(shown.index(True))
    return None


def _both(graphs: Pictures, rng: random.Random) -> _Draw | None:
    """A "no" names a thing of just one picture."""
    if len(graphs) != 2:
        return None
    truth = rng.random() < 0.5
    things = [_described(item, rng) for graph in graphs for item in graph.objects if item.kind != "sign"]
    rng.shuffle(things)
    for kind, colour in things:
        if all(_count(graph, kind, colour) for graph in graphs) == truth:
            forms = ("is there {} in both pictures?", "do both pictures show {}?", "is {} in both pictures?")
            return rng.choice(forms).format(_named(kind, colour)), "yes" if truth else "no"
    return None


def _same_colour(graphs: Pictures, rng: random.Random) -> _Draw | None:
    if len(graphs) != 2:
        return None
    kinds = [kind for kind in _kinds(graphs) if all(_count(graph, kind) == 1 for graph in graphs)]
    if not kinds:
        return None
    kind = rng.choice(kinds)
    colours = {item.colour for graph in graphs for item in graph.objects if item.kind == kind}
    forms = (
        "is the {} the same colour in both pictures?",
        "does the {} have the same colour in both pictures?",
        "is the colour of the {} the same in both pictures?",
    )
    return rng.choice(forms).format(kind), "yes" if len(colours) == 1 else "no"


def _changed(graphs: Pictures, rng: random.Random) -> _Draw | None:
    answer = _difference(*graphs) if len(graphs) == 2 else None
    if answer is None:
        return None
    forms = (
        "what changed?",
        "what changed between the two pictures?",
        "what changed from the first picture to the second picture?",
        "what is the change in the second picture?",
    )
    return rng.choice(forms), answer


def _difference(a: SceneGraph, b: SceneGraph) -> str | None:
    """The one difference in words, or ``None`` when there is not just one or it cannot be named by the kind alone."""
    gone = [item for item in a.objects if item not in b.objects]
    new = [item for item in b.objects if item not in a.objects]
    if not gone and not new and (a.background == b.background) != (a.style == b.style):
        return "the background" if a.background != b.background else "the style"
    if (a.background, a.style) != (b.background, b.style) or max(len(gone), len(new)) != 1:
        return None
    if any(_count(graph, item.kind) > 1 for graph in (a, b) for item in (*gone, *new)):
        return None
    if not new:
        return f"the {gone[0].kind} is gone"
    if not gone:
        return f"there is a new {new[0].kind}"
    return _altered(gone[0], new[0])


def _altered(old: SceneObject, new: SceneObject) -> str | None:
    if old.kind != new.kind:
        there = max(abs(x - y) for x, y in zip(old.centre, new.centre, strict=True)) <= 1
        return f"the {old.kind} is now {words.with_article(new.kind)}" if there else None
    if (old.row, old.column) == (new.row, new.column) and old.colour != new.colour:
        return f"the colour of the {old.kind}"
    return f"the place of the {old.kind}" if replace(new, row=old.row, column=old.column) == old else None


def _total(graphs: Pictures, rng: random.Random) -> _Draw | None:
    counts = {kind: sum(_count(graph, kind) for graph in graphs) for kind in _kinds(graphs)}
    kinds = [kind for kind, count in counts.items() if count < len(words.COUNT_WORDS)]
    several = [kind for kind in kinds if sum(_count(graph, kind) > 0 for graph in graphs) > 1]
    if not kinds:
        return None
    kind = rng.choice(several if several and rng.random() < 0.8 else kinds)
    many = words.COUNT_WORDS[len(graphs)]
    forms = ("how many {} are there in the {} pictures in all?", "how many {} do the {} pictures show in all?")
    return rng.choice(forms).format(words.PLURALS[kind], many), words.COUNT_WORDS[counts[kind]]


def _only(graphs: Pictures, rng: random.Random) -> _Draw | None:
    if len(graphs) != 2:
        return None
    order = rng.sample((0, 1), 2)
    for one, other in (order, order[::-1]):
        left = {item.kind for item in graphs[one].objects} - {item.kind for item in graphs[other].objects}
        if len(left) == 1:
            text = f"what is in the {ORDINALS[one]} picture but not in the {ORDINALS[other]} picture?"
            return text, left.pop()
    return None


def _one(graphs: Pictures, rng: random.Random) -> _Draw | None:
    index = rng.randrange(len(graphs))
    for family in rng.sample(_INNER_FAMILIES, len(_INNER_FAMILIES)):
        try:
            question = sample_question(graphs[index], rng, family)
        except ConfigError:  # this scene does not allow the family
            continue
        if "picture" not in question.text:
            text = question.text[0].lower() + question.text[1:]
            return f"in the {ORDINALS[index]} picture: {text}", question.answer
    return None


_BUILDERS: dict[str, Callable[[Pictures, random.Random], _Draw | None]] = {
    "more": _more,
    "which": _which,
    "both": _both,
    "same_colour": _same_colour,
    "changed": _changed,
    "total": _total,
    "only": _only,
    "one": _one,
}
COMPARISON_FAMILIES: tuple[str, ...] = tuple(_BUILDERS)


def sample_comparison(graphs: Pictures, rng: random.Random, family: str | None = None) -> Question:
    """Draw a question about ``graphs``, of ``family`` or of a random one among those the pictures allow.

    Raises ``ConfigError`` when the family is unknown or cannot be asked about these pictures.
    """
    if family is not None and family not in _BUILDERS:
        raise ConfigError(f"expected one of {', '.join(COMPARISON_FAMILIES)}, got {family!r}; choose one of them")
    names = list(COMPARISON_FAMILIES) if family is None else [family]
    rng.shuffle(names)
    for name in names:
        drawn = _BUILDERS[name](graphs, rng)
        if drawn is not None:
            return Question(family=name, text=loosely_written(drawn[0], rng), answer=drawn[1])
    raise ConfigError(f"no {family} question can be asked about these pictures; choose another family or pictures")


def compared_rightly(question: Question, answer_text: str) -> bool:
    """Whether ``answer_text`` answers ``question``.

    For a picture's number any wording counts that names that ordinal and no other ("the first picture"); all else must
    be the expected words, case, punctuation and a leading article aside.
    """
    said = re.findall(r"[a-z]+|[0-9]+", answer_text.lower())
    if question.family in ("more", "which"):
        return Counter(word for word in said if word in ORDINALS).keys() == {question.answer.split()[-1]}
    return is_correct(question, answer_text)
