"""Questions about several pictures and about none: true answers, near misses, exact checks."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from llada_uni.errors import ConfigError
from llada_uni.scenes import Question, is_held_out, words
from llada_uni.scenes.clues import CLUES, HELD_OUT_CLUES
from llada_uni.scenes.comparisons import (
    COMPARISON_FAMILIES,
    Pictures,
    compared_rightly,
    sample_comparison,
    sample_pictures,
)
from llada_uni.scenes.facts import FACT_FAMILIES, HELD_OUT_SUMS, MIXES, OPPOSITES, known_rightly, sample_fact
from llada_uni.scenes.graph import SceneGraph, SceneObject
from llada_uni.scenes.render import validate


def thing(kind: str, row: int, column: int, colour: str = "red") -> SceneObject:
    return SceneObject(kind=kind, colour=colour, size="small", row=row, column=column)


def scene(*items: SceneObject, background: str = "white") -> SceneGraph:
    return SceneGraph(objects=items, background=background)


def asked(graphs: Pictures, family: str, count: int = 60) -> list[Question]:
    rng = random.Random(family)
    return [sample_comparison(graphs, rng, family) for _ in range(count)]


def answers(graphs: Pictures, family: str, word: str) -> set[str]:
    """Answers of all drawn questions that say ``word``."""
    return {q.answer for q in asked(graphs, family) if word in q.text.lower().replace("?", "").split()}


TWO: Pictures = (
    scene(thing("cat", 0, 0), thing("cat", 0, 3), thing("cup", 5, 5, "blue")),
    scene(thing("cat", 0, 0), thing("cup", 5, 5, "green"), thing("key", 3, 3), background="night"),
)
THREE: Pictures = (*TWO, scene(thing("cat", 0, 0), thing("cat", 0, 3), thing("cat", 5, 5), thing("hat", 5, 0)))


def test_more_names_the_picture_with_the_largest_number() -> None:
    assert answers(TWO, "more", "cats") == {"the first"}
    assert answers(TWO, "more", "keys") == {"the second"}
    assert not answers(TWO, "more", "objects"), "a tie is not asked about"
    assert answers(THREE, "more", "cats") == {"the third"}


def test_which_names_the_only_picture() -> None:
    assert answers(TWO, "which", "key") == {"the second"}
    assert answers(THREE, "which", "hat") == {"the third"}
    assert answers(TWO, "which", "night") == {"the second"}
    assert all("red cat" not in q.text for q in asked(TWO, "which"))


def test_both() -> None:
    assert answers(TWO, "both", "cat") == {"yes"}
    assert answers(TWO, "both", "key") == {"no"}
    assert {q.answer for q in asked(TWO, "both") if "blue cup" in q.text} == {"no"}
    assert {q.answer for q in asked(TWO, "both") if " a cup" in q.text} == {"yes"}
    assert Counter(q.answer for q in asked(TWO, "both", 200))["yes"] in range(60, 140)


def test_same_colour_asks_about_kinds_that_stand_alone() -> None:
    assert answers(TWO, "same_colour", "cup") == {"no"}
    assert not answers(TWO, "same_colour", "cat")
    same = (scene(thing("hat", 0, 0)), scene(thing("hat", 5, 5), thing("cat", 0, 0)))
    assert {q.answer for q in asked(same, "same_colour")} == {"yes"}


@pytest.mark.parametrize(
    ("after", "answer"),
    [
        (scene(thing("cat", 0, 0), thing("cup", 5, 5, "blue"), background="sand"), "the background"),
        (replace(scene(thing("cat", 0, 0), thing("cup", 5, 5, "blue")), style="outline"), "the style"),
        (scene(thing("cat", 0, 0)), "the cup is gone"),
        (scene(thing("cat", 0, 0), thing("cup", 5, 5, "blue"), thing("key", 0, 5)), "there is a new key"),
        (scene(thing("cat", 0, 0), thing("cup", 5, 5, "pink")), "the colour of the cup"),
        (scene(thing("cat", 0, 3), thing("cup", 5, 5, "blue")), "the place of the cat"),
        (scene(thing("cat", 0, 0), thing("apple", 5, 5, "blue")), "the cup is now an apple"),
        (scene(thing("cat", 0, 0), thing("apple", 0, 5, "blue")), None),
        (scene(thing("cat", 0, 0), thing("cup", 5, 5, "pink"), background="sand"), None),
        (scene(thing("cat", 0, 0), thing("cup", 5, 5, "blue"), thing("cat", 0, 5)), None),
        (scene(thing("cat", 0, 0), thing("cup", 5, 5, "blue")), None),
    ],
)
def test_one_difference_in_words(after: SceneGraph, answer: str | None) -> None:
    before = scene(thing("cat", 0, 0), thing("cup", 5, 5, "blue"))
    if answer is None:
        with pytest.raises(ConfigError, match="no changed question"):
            asked((before, after), "changed", 1)
    else:
        assert {q.answer for q in asked((before, after), "changed", 5)} == {answer}


def test_totals_and_what_only_one_has() -> None:
    assert answers(TWO, "total", "cats") == {"three"}
    assert answers(TWO, "total", "cups") == {"two"}
    assert not answers(THREE, "total", "cats"), "six is no number of this world"
    assert {(q.text[11:18], q.answer) for q in asked(TWO, "only", 20)} == {("the sec", "key")}


def test_one_asks_about_the_named_picture() -> None:
    colours = {q.text[7:13].lower(): q.answer for q in asked(TWO, "one", 300) if "colour" in q.text and "cup" in q.text}
    assert colours == {"first ": "blue", "second": "green"}


@pytest.mark.parametrize("family", COMPARISON_FAMILIES)
def test_answers_pass_their_own_check(family: str) -> None:
    rng = random.Random(family)
    seen = 0
    while seen < 40:
        graphs = sample_pictures(rng).graphs
        assert len({(graph.grid_h, graph.grid_w) for graph in graphs}) == 1
        for graph in graphs:
            validate(graph)
            assert not is_held_out(graph)
        try:
            question = sample_comparison(graphs, rng, family)
        except ConfigError:
            continue
        seen += 1
        assert compared_rightly(question, question.answer)
        assert compared_rightly(question, f"{question.answer.upper()}.")
        assert not compared_rightly(question, "perhaps")


def test_pictures_are_named_by_their_number_in_any_words() -> None:
    question = Question(family="more", text="which picture has more cats?", answer="the second")
    for text in ("second", "the second picture", "It is the second one."):
        assert compared_rightly(question, text)
    for text in ("the first", "the first or the second", "two", ""):
        assert not compared_rightly(question, text)


def test_held_out_sets_and_unknown_families() -> None:
    rng = random.Random(3)
    assert all(any(map(is_held_out, sample_pictures(rng, held_out=True).graphs)) for _ in range(10))
    with pytest.raises(ConfigError, match="expected one of more"):
        sample_comparison(TWO, rng, "prettier")
    with pytest.raises(ConfigError, match="no changed question"):
        sample_comparison(THREE, rng, "changed")


# --- facts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FACT_FAMILIES)
def test_facts_pass_their_own_check(family: str) -> None:
    rng = random.Random(family)
    for _ in range(100):
        question = sample_fact(rng, family)
        assert question.family == family
        assert known_rightly(question, question.answer.upper())
        assert not known_rightly(question, "perhaps")


def test_facts_follow_their_tables() -> None:
    rng = random.Random(1)
    for _ in range(300):
        question = sample_fact(rng)
        text, said = question.text.lower(), question.text.lower().rstrip("?.").split()
        if question.family == "opposite":
            assert OPPOSITES[said[-1]] == question.answer
        if question.family == "mix":
            assert any(pair <= set(said) and mixed == question.answer for pair, mixed in MIXES.items())
        if question.family == "riddle":
            assert any(clue in text for clue in CLUES[question.answer])
        if question.family == "number" and " and " in text:
            numbers = [words.COUNT_WORDS.index(word) for word in said if word in words.COUNT_WORDS]
            assert words.COUNT_WORDS[sum(numbers)] == question.answer
            assert tuple(numbers) not in HELD_OUT_SUMS


def test_held_out_facts_use_what_training_never_sees() -> None:
    rng = random.Random(2)
    for _ in range(60):
        question = sample_fact(rng, held_out=True)
        assert question.family in ("riddle", "number", "relation", "said")
        if question.family == "riddle":
            assert any(clue in question.text.lower() for clue in HELD_OUT_CLUES[question.answer])
    for family in ("mix", "gossip"):
        with pytest.raises(ConfigError, match="expected one of riddle, number, relation, said"):
            sample_fact(rng, family, held_out=True)


def test_relations_may_be_said_in_any_wording() -> None:
    question = Question(family="relation", text="", answer="below the red cat")
    for text in ("below the red cat", "Under the red cat.", "beneath red cat"):
        assert known_rightly(question, text)
    for text in ("above the red cat", "below the cat", "the red cat"):
        assert not known_rightly(question, text)
