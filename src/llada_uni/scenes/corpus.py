"""Lines of text in every form the micro-world uses, for training the byte-pair encoding of the small model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from llada_uni.scenes import words
from llada_uni.scenes.captions import caption_for_training, thing_phrase
from llada_uni.scenes.geometry import DIRECTIONS
from llada_uni.scenes.graph import BACKGROUNDS, COLOURS, KINDS, SIGN_WORDS, SceneGraph, SceneObject
from llada_uni.scenes.questions import coordinates_of, sample_question
from llada_uni.scenes.sample import sample_scene

__all__ = ["corpus", "layout_line"]

_MOVES = ("to the left", "to the right", "up", "down")
_ORDINALS = ("first", "second", "third", "fourth")


def layout_line(item: SceneObject, graph: SceneGraph) -> str:
    """One line of a layout plan: ``"apple red small at 250 375"`` (x y in thousandths; a sign gives its word)."""
    x, y = coordinates_of(item, graph)
    name = f"sign {item.word}" if item.kind == "sign" else f"{item.kind} {item.colour} {item.size}"
    return f"{name} at {x} {y}"


def _fields(graph: SceneGraph, rng: random.Random) -> dict[str, str]:
    """A filling for every slot of the edit and story templates."""

    def thing() -> str:
        size = rng.choice(("", "", "small ", "large "))
        return f"{size}{rng.choice(COLOURS)} {rng.choice(KINDS)}"

    def reference() -> str:
        item = rng.choice(graph.objects)
        return "the " + ("sign" if item.kind == "sign" else thing_phrase(item, colour=rng.random() < 0.5))

    place = rng.choice(tuple(words.PLACE_PHRASES))
    return {
        "new": words.with_article(thing()),
        "subject": words.with_article(thing()),
        "ref": reference(),
        "other": f"the {rng.choice(KINDS)}",
        "colour": rng.choice(COLOURS),
        "size": rng.choice(("small", "large", "bigger", "smaller")),
        "place": rng.choice(words.PLACE_PHRASES[place]),
        "place_name": place,
        "direction": rng.choice(_MOVES),
        "relation": rng.choice(words.RELATION_PHRASES[rng.choice(DIRECTIONS)]),
        "background": rng.choice(BACKGROUNDS),
        "night": rng.choice(("night", "dusk", "white")),
        "count": rng.choice(words.COUNT_WORDS[1:]),
        "ordinal": rng.choice(_ORDINALS),
        "plural": words.PLURALS[rng.choice(KINDS)],
    }


def _caption_line(graph: SceneGraph, rng: random.Random) -> str:
    return caption_for_training(graph, rng)


def _question_line(graph: SceneGraph, rng: random.Random) -> str:
    question = sample_question(graph, rng)
    return f"{question.text} {question.answer}"


def _riddle_line(graph: SceneGraph, rng: random.Random) -> str:
    kind = rng.choice(KINDS)
    riddle = rng.choice(words.RIDDLES[kind])
    forms = ("draw {r}.", "a photo of {r}", "{r} in {c} is {k}.", "what is {r}? {k}.", "{r} and {r2}")
    other = rng.choice(words.RIDDLES[rng.choice(KINDS)])
    return rng.choice(forms).format(r=riddle, r2=other, c=rng.choice(COLOURS), k=words.with_article(kind))


def _edit_line(graph: SceneGraph, rng: random.Random) -> str:
    return rng.choice(words.EDIT_TEMPLATES[rng.choice(tuple(words.EDIT_TEMPLATES))]).format(**_fields(graph, rng))


def _story_line(graph: SceneGraph, rng: random.Random) -> str:
    return " ".join(form.format(**_fields(graph, rng)) for form in rng.sample(words.STORY_TEMPLATES, 2))


def _plan_line(graph: SceneGraph, rng: random.Random) -> str:
    separator = rng.choice(("\n", "; "))
    lines = [layout_line(item, graph) for item in graph.objects]
    return separator.join((*lines, f"background {graph.background}", f"style {graph.style}"))


def _word_line(graph: SceneGraph, rng: random.Random) -> str:
    x, y = rng.randrange(0, 1001, 25), rng.randrange(0, 1001, 25)
    return f"{rng.choice(SIGN_WORDS)} {rng.choice(KINDS)} {rng.choice(COLOURS)} {x} {y}"


_LINES: tuple[tuple[Callable[[SceneGraph, random.Random], str], float], ...] = (
    (_caption_line, 0.4),
    (_question_line, 0.22),
    (_riddle_line, 0.08),
    (_edit_line, 0.12),
    (_plan_line, 0.06),
    (_story_line, 0.08),
    (_word_line, 0.04),
)


def corpus(rng: random.Random, num_lines: int) -> Iterator[str]:
    """``num_lines`` texts: captions, questions with answers, riddles, edits, layout plans, stories, stray words.

    About one in twelve is capitalised and one in forty is in capitals. A function of the generator's state alone.
    """
    builders, weights = zip(*_LINES, strict=True)
    for _ in range(num_lines):
        line = rng.choices(builders, weights)[0](sample_scene(rng), rng)
        case = rng.random()
        if case < 0.08:
            line = line[0].upper() + line[1:]
        yield line.upper() if case > 0.975 else line
