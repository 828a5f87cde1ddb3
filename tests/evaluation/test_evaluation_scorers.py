"""The native scorers against cases worked out by hand."""

from __future__ import annotations

import pytest

from llada_uni.evaluation.scorers import (
    anls,
    edit_distance,
    exact_count,
    exact_match,
    multiple_choice,
    ocrbench,
    relaxed_accuracy,
    word_scores,
    yes_no,
)


@pytest.mark.parametrize(
    ("reply", "reference", "score"),
    [
        ("100", "100", 1),
        ("105", "100", 1),  # 5 % of the reference, on the edge
        ("105.1", "100", 0),
        ("95", "100", 1),
        ("94.9", "100", 0),
        ("-95", "-100", 1),
        ("95", "-100", 0),
        ("0", "0", 1),
        ("0.001", "0", 0),
        ("1,050", "1000", 1),
        ("$1,000", "1000", 1),
        ("50%", "0.5", 1),
        ("50%", "50", 0),
        ("50%", "51%", 1),
        ("12.", "12", 1),
        ("Yes", "yes", 1),
        (" Brazil ", "brazil", 1),
        ("Brazil.", "Brazil", 0),
        ("about 100", "100", 0),
        ("", "100", 0),
        ("nan", "100", 0),
        ("inf", "100", 0),
        ("1e2", "100", 1),
    ],
)
def test_relaxed_accuracy(reply: str, reference: str, score: int) -> None:
    assert relaxed_accuracy(reply, reference) == score


@pytest.mark.parametrize(
    ("one", "other", "distance"), [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2)]
)
def test_edit_distance(one: str, other: str, distance: int) -> None:
    assert edit_distance(one, other) == edit_distance(other, one) == distance


@pytest.mark.parametrize(
    ("reply", "references", "score"),
    [
        ("kitten", ["kitten"], 1),
        ("KITTEN", ["kitten"], 1),
        ("new  york", ["New York"], 1),
        ("kitten", ["sitting"], 1 - 3 / 7),
        ("kitten", ["dog", "sitting"], 1 - 3 / 7),
        ("abcd", ["abxy"], 0.5),  # exactly the threshold counts
        ("abc", ["axy"], 0),  # 1 - 2/3 is below it
        ("", ["word"], 0),
    ],
)
def test_anls(reply: str, references: list[str], score: float) -> None:
    assert anls(reply, references) == pytest.approx(score)


@pytest.mark.parametrize(
    ("reply", "references", "formula", "score"),
    [
        ("The sign says STOP.", ["stop"], False, 1),
        ("The sign says STO.", ["stop"], False, 0),
        ("two\nlines", ["two lines"], False, 1),
        ("go", ["stop", "go"], False, 1),
        ("x ^ 2 + Y", ["x^2+Y"], True, 1),
        ("x ^ 2 + y", ["x^2+Y"], True, 0),
    ],
)
def test_ocrbench(reply: str, references: list[str], formula: bool, score: int) -> None:
    assert ocrbench(reply, references, formula=formula) == score


OPTIONS = {"A": "a red car", "B": "a blue car", "C": "two dogs", "D": "none"}


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(C)", "C"),
        ("D.", "D"),
        ("B. a blue car", "B"),
        ("B: it is blue", "B"),
        ("B\nbecause it is blue", "B"),
        ("The answer is C", "C"),
        ("The answer is (C).", "C"),
        ("Answer: A", "A"),
        ("First I thought the answer is A, but the answer is B.", "B"),
        ("The answer is a bird.", None),
        ("I choose (D) here", "D"),
        ("either (A) or (B)", None),
        ("a blue car", "B"),
        ("It shows two dogs.", "C"),
        ("A cat sits there", None),
        ("a red car or a blue car", None),
        ("E", None),
        ("", None),
        ("nonesuch", None),
    ],
)
def test_multiple_choice(reply: str, letter: str | None) -> None:
    assert multiple_choice(reply, OPTIONS) == letter


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("No, yes is wrong", "no"),
        ("I think yes", "yes"),
        ("yes or no", "yes"),
        ("it is yes, not no", None),
        ("nothing known", None),
        ("", None),
    ],
)
def test_yes_no(reply: str, word: str | None) -> None:
    assert yes_no(reply) == word


@pytest.mark.parametrize(
    ("reply", "count"),
    [
        ("7", 7),
        ("There are seven ducks.", 7),
        ("seven (7)", 7),
        ("12 ducks", 12),
        ("between 3 and 5", None),
        ("3.5", None),
        ("1,200", None),
        ("3.", 3),
        ("many", None),
        ("", None),
    ],
)
def test_exact_count(reply: str, count: int | None) -> None:
    assert exact_count(reply) == count


def test_exact_match() -> None:
    assert exact_match(" Paris. ", ["London", "paris"]) == 1
    assert exact_match("in Paris", ["Paris"]) == 0


def test_word_scores() -> None:
    # "sale" was read once and is wanted twice; sorted words "big sale" against "big sale sale": 5 of 13 missing
    hits, similarity = word_scores(["BIG", "sale"], ["big sale", "sale"])
    assert hits == [1, 1, 0]
    assert similarity == pytest.approx(1 - 5 / 13)
    assert word_scores([], []) == ([], 1.0)
    assert word_scores([], ["word"]) == ([0.0], 0.0)
