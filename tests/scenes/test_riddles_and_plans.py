"""Plans a picture obeys, and riddles with one answer."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import llada_uni
from llada_uni.errors import PromptError
from llada_uni.scenes import parse, render, sample_scene, satisfies, verify, words
from llada_uni.scenes.clues import CLASSES, CLUES, HELD_OUT_CLUES, coloured_clue
from llada_uni.scenes.graph import KINDS, SceneGraph, SceneObject
from llada_uni.scenes.thinking import MAX_RIDDLE_OBJECTS, Riddle, layout_plan, obeys, riddle_about

NANO_TEXT = Path(llada_uni.__file__).parent / "nano" / "tokenizer.json"


def riddles(count: int, *, held_out: bool = False) -> list[tuple[SceneGraph, Riddle]]:
    rng = random.Random(5)
    found: list[tuple[SceneGraph, Riddle]] = []
    while len(found) < count:
        graph = sample_scene(rng)
        riddle = riddle_about(graph, rng, held_out=held_out)
        if riddle is not None:
            found.append((graph, riddle))
    return found


def test_a_scene_obeys_its_plan_and_no_other_layout() -> None:
    rng = random.Random(1)
    for _ in range(300):
        graph = sample_scene(rng, held_out=None)
        plan = layout_plan(graph)
        assert obeys(graph, plan)
        assert not obeys(None, plan)
        first, *rest = graph.objects
        if first.kind != "sign":
            other = replace(first, colour="red" if first.colour != "red" else "blue")
            assert not obeys(replace(graph, objects=(other, *rest)), plan)
        assert not obeys(replace(graph, objects=tuple(rest)), plan)
        background = "night" if graph.background != "night" else "white"
        assert not obeys(replace(graph, background=background), plan)
    with pytest.raises(PromptError):
        obeys(sample_scene(rng), "a unicorn on white")


def test_a_plan_names_size_colour_and_place() -> None:
    cat = SceneObject(kind="cat", colour="red", size="small", row=0, column=0)
    apple = SceneObject(kind="apple", colour="blue", size="large", row=3, column=5)
    plan = layout_plan(SceneGraph(objects=(apple, cat)))
    assert plan == "a small red cat at the top left and a large blue apple on the right on white"


def test_plans_and_riddles_are_short_for_the_embedded_model() -> None:
    tokenizer = Tokenizer.from_file(str(NANO_TEXT))
    rng = random.Random(2)
    for _ in range(300):
        assert len(tokenizer.encode(layout_plan(sample_scene(rng, num_objects=4))).ids) <= 60
    said = [riddle.prompt for _, riddle in riddles(100)]
    num_words = sum(len(text.split()) for text in said)
    assert sum(len(tokenizer.encode(text).ids) for text in said) / num_words < 1.3


@pytest.mark.parametrize("held_out", [False, True])
def test_riddles_hide_kinds_and_their_answers_are_true(held_out: bool) -> None:
    table, other = (HELD_OUT_CLUES, CLUES) if held_out else (CLUES, HELD_OUT_CLUES)
    used: set[str] = set()
    for graph, riddle in riddles(150, held_out=held_out):
        assert len(graph.objects) <= MAX_RIDDLE_OBJECTS
        assert satisfies(graph, riddle.answer)
        assert parse(riddle.answer).num_objects == len(graph.objects)
        clues = [clue for clue in told(riddle.prompt) if any(clue in texts for texts in table.values())]
        assert clues, riddle.prompt
        used |= set(clues)
        assert not any(clue in texts for texts in other.values() for clue in told(riddle.prompt))
    assert len(used) > 15


def told(prompt: str) -> list[str]:
    """Clues in a riddle, colours taken out."""
    plain = re.sub(r"\b(red|orange|yellow|green|blue|purple|pink|brown) ", "", prompt)
    every = sorted(chain(*CLUES.values(), *HELD_OUT_CLUES.values()), key=len, reverse=True)
    found = []
    for clue in every:
        if re.search(rf"\b{clue}(?=$|,| and )", plain):
            found.append(clue)
            plain = plain.replace(clue, "")
    return found


def test_unsuitable_scenes_have_no_riddle() -> None:
    rng = random.Random(0)
    cats = tuple(SceneObject(kind="cat", colour="red", size="small", row=0, column=3 * i) for i in range(2))
    sign = SceneObject(kind="sign", colour=None, size="small", row=0, column=0, word="BUS")
    for objects in ((), cats, (sign,)):
        assert riddle_about(SceneGraph(objects=objects), rng) is None


def test_clues_are_unique_and_never_name_their_kind() -> None:
    every = list(chain(*CLUES.values(), *HELD_OUT_CLUES.values()))
    assert len(set(every)) == len(every)
    assert set(CLUES) == set(HELD_OUT_CLUES) == set(KINDS)
    for kind in KINDS:
        assert len(CLUES[kind]) >= 5
        for clue in (*CLUES[kind], *HELD_OUT_CLUES[kind]):
            assert clue.startswith("the ")
            assert not {kind, words.PLURALS[kind]} & set(clue.split())
    assert set(chain(*CLASSES.values())) <= set(KINDS)


def test_held_out_clues_use_words_that_training_clues_teach() -> None:
    known = {word for clue in chain(*CLUES.values()) for word in clue.split()} | {"is"}
    for clue in chain(*HELD_OUT_CLUES.values()):
        assert set(clue.split()) <= known, clue


def test_colours_stand_where_english_puts_them() -> None:
    assert coloured_clue("the animal that flies", "red") == "the red animal that flies"
    assert coloured_clue("the round toy that you throw", "red") == "the round red toy that you throw"
    assert coloured_clue("the fungus", None) == "the fungus"


def test_the_verifier_reads_what_a_riddle_means() -> None:
    for graph, riddle in riddles(3):
        read = verify(render(graph))
        assert read is not None
        assert satisfies(read, riddle.answer)
        assert obeys(read, layout_plan(graph))
