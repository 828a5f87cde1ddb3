"""Answers agree with an independent reading of the question, and are balanced."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable

import pytest

from llada_uni.errors import ConfigError
from llada_uni.scenes import is_correct, parse, sample_question, sample_scene, satisfies
from llada_uni.scenes.corpus import corpus
from llada_uni.scenes.geometry import place_name
from llada_uni.scenes.graph import COLOURS, KINDS, SceneGraph, SceneObject
from llada_uni.scenes.questions import FAMILIES, Question, coordinates_of
from llada_uni.scenes.words import COUNT_WORDS, PLACE_PHRASES, PLURALS, RELATION_PHRASES

NOUNS = {**{kind: kind for kind in (*KINDS, "sign")}, **{plural: kind for kind, plural in PLURALS.items()}}


def described(text: str, graph: SceneGraph) -> list[SceneObject]:
    """Objects that the size, colour and noun words of ``text`` fit."""
    found = re.findall("[a-z]+", text.lower())
    kinds = [NOUNS[word] for word in found if word in NOUNS]
    colours = [word for word in found if word in COLOURS]
    sizes = [word for word in found if word in ("small", "large")]
    return [
        item
        for item in graph.objects
        if item.kind in (kinds or [item.kind])
        and item.colour in (colours or [item.colour])
        and item.size in (sizes or [item.size])
    ]


def drawn(family: str, number: int, seed: int = 0) -> list[tuple[SceneGraph, Question]]:
    rng = random.Random(f"{family} {seed}")
    found: list[tuple[SceneGraph, Question]] = []
    while len(found) < number:
        graph = sample_scene(rng, held_out=None)
        try:
            found.append((graph, sample_question(graph, rng, family)))
        except ConfigError:
            continue
    return found


def test_existence_and_count() -> None:
    for graph, question in drawn("existence", 600):
        assert question.answer == ("yes" if described(question.text, graph) else "no")
    for graph, question in drawn("count", 600):
        assert question.answer == COUNT_WORDS[len(described(question.text, graph))]


def test_colour_and_size() -> None:
    for graph, question in drawn("colour", 500):
        assert {item.colour for item in described(question.text, graph)} == {question.answer}
    for graph, question in drawn("size", 500):
        text = re.sub(r"small or large|large or small", "", question.text)
        items = described(text, graph)
        assert len(items) == 1
        assert items[0].size == question.answer


def test_coordinates_point_at_the_only_object() -> None:
    for graph, question in drawn("coordinates", 400):
        (item,) = described(question.text, graph)
        x, y = map(int, question.answer.split())
        row, column = item.centre
        assert abs(x - column / graph.grid_w * 1000) <= 12.5
        assert abs(y - row / graph.grid_h * 1000) <= 12.5
        assert x % 25 == y % 25 == 0


def test_kind() -> None:
    for graph, question in drawn("kind", 600):
        text = question.text.lower()
        numbers = re.findall(r"\d+", text)
        places = [name for name, phrases in PLACE_PHRASES.items() if any(phrase in text for phrase in phrases)]
        if numbers:
            items = [item for item in graph.objects if coordinates_of(item, graph) == tuple(map(int, numbers))]
        elif places:
            place = max(places, key=len)
            box = {item: (item.row, item.column, *item.cells) for item in graph.objects}
            items = [item for item in graph.objects if place_name(box[item], graph.grid_h, graph.grid_w) == place]
        else:
            items = described(text, graph)
        assert [item.kind for item in items] == [question.answer], (question, graph)


def side(a: SceneObject, b: SceneObject) -> Callable[[str], bool]:
    """Whether a relation between ``a`` and ``b`` holds by plain comparison of centres."""
    (ar, ac), (br, bc) = a.centre, b.centre
    return {"left of": ac < bc, "right of": ac > bc, "above": ar < br, "below": ar > br}.__getitem__


def share_of(name: str, a: SceneObject, b: SceneObject) -> float:
    """Part of the distance between two centres that lies on the axis of a relation."""
    down, across = a.centre[0] - b.centre[0], a.centre[1] - b.centre[1]
    return abs(down if name in ("above", "below") else across) / (down**2 + across**2) ** 0.5


def test_relations() -> None:
    kinds_of_question = Counter()
    for graph, question in drawn("relation", 800):
        text = question.text.lower()
        phrases = ((name, p) for name, texts in RELATION_PHRASES.items() for p in texts if f" {p} the " in text)
        name, phrase = max(phrases, key=lambda pair: len(pair[1]))
        left, right = text.split(f" {phrase} the ")
        (target,) = described(right, graph)
        if question.answer in ("yes", "no"):
            kinds_of_question[question.answer] += 1
            (subject,) = described(left, graph)
            if question.answer == "yes":
                assert side(subject, target)(name)
            else:
                assert not side(subject, target)(name) or share_of(name, subject, target) < 0.75
        else:
            kinds_of_question["what"] += 1
            candidates = [item for item in graph.objects if item != target and side(item, target)(name)]
            assert question.answer in {item.kind for item in candidates}
    assert min(kinds_of_question.values()) > 150


def test_reading_background_style_and_descriptions() -> None:
    for graph, question in drawn("reading", 60):
        assert [item.word for item in graph.objects if item.word] == [question.answer]
    for graph, question in drawn("background", 60):
        assert question.answer == graph.background
    for graph, question in drawn("style", 60):
        assert question.answer == graph.style
    for graph, question in drawn("describe", 200):
        assert satisfies(graph, question.answer)


@pytest.mark.parametrize("family", ["existence", "relation"])
def test_yes_and_no_are_balanced(family: str) -> None:
    answers = Counter(question.answer for _, question in drawn(family, 1500, seed=1))
    assert abs(answers["yes"] / (answers["yes"] + answers["no"]) - 0.5) < 0.06


def test_misses_never_name_held_out_combinations_in_training_scenes() -> None:
    from llada_uni.scenes.split import HELD_OUT_PAIRS

    rng = random.Random(9)
    for _ in range(1500):
        text = sample_question(sample_scene(rng), rng, rng.choice(("existence", "count"))).text.lower()
        found = re.findall("[a-z]+", text)
        pairs = {(NOUNS[kind], colour) for kind in found if kind in NOUNS for colour in found if colour in COLOURS}
        assert not pairs & HELD_OUT_PAIRS


def test_any_family_is_drawn_when_none_is_asked_for() -> None:
    rng = random.Random(10)
    assert {sample_question(sample_scene(rng), rng).family for _ in range(800)} == set(FAMILIES)


def test_impossible_families_are_refused() -> None:
    graph = SceneGraph(objects=(SceneObject(kind="cat", colour="red", size="small", row=0, column=0),))
    for family in ("reading", "relation", "riddle"):
        with pytest.raises(ConfigError, match=family):
            sample_question(graph, random.Random(0), family)


@pytest.mark.parametrize(
    ("family", "truth", "answer", "right"),
    [
        ("count", "two", "2.", True),
        ("count", "zero", "0", True),
        ("count", "two", "three", False),
        ("kind", "apple", "An apple.", True),
        ("kind", "apple", "", False),
        ("existence", "yes", "Yes!", True),
        ("existence", "yes", "yes no", False),
        ("reading", "OPEN", '"open"', True),
        ("reading", "OPEN", "STOP", False),
        ("coordinates", "500 250", "x 575, y 175", True),
        ("coordinates", "500 250", "600 250", False),
        ("coordinates", "500 250", "500", False),
        ("coordinates", "500 250", "500 250 0", False),
        ("describe", "a red cat and two balls on white", "two balls and a red cat on white", True),
        ("describe", "two red cats on white", "a red cat and a red cat on white", True),
        ("describe", "a red cat and two balls on white", "a red cat and a ball on white", False),
        ("describe", "a red cat on white", "a red cat on grass", False),
        ("describe", "a red cat on white", "mumble", False),
    ],
)
def test_is_correct(family: str, truth: str, answer: str, right: bool) -> None:
    assert is_correct(Question(family=family, text="?", answer=truth), answer) == right


def test_own_answers_are_correct() -> None:
    rng = random.Random(12)
    for _ in range(800):
        question = sample_question(sample_scene(rng), rng)
        assert is_correct(question, question.answer)
        assert not is_correct(question, "nonsense")


def test_corpus_has_every_form() -> None:
    lines = list(corpus(random.Random(13), 3000))
    assert len(lines) == 3000
    text = "\n".join(lines)
    for piece in ("says meow", "background to", "remove the", "move the", " at 250 ", "in two pictures", "STOP"):
        assert piece in text
    assert any(line.isupper() for line in lines)
    assert set(text) <= set(map(chr, range(32, 127))) | {"\n"}


def test_place_words_of_the_parser_agree_with_the_names() -> None:
    for name, phrases in PLACE_PHRASES.items():
        for phrase in phrases:
            assert parse(f"a cat {phrase}").objects[0].place == name
