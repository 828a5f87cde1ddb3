"""Captions are true and complete, and the parser tells true sentences from near misses."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from llada_uni.errors import PromptError
from llada_uni.scenes import canonical_caption, caption_for_training, parse, sample_captioned, sample_scene, satisfies
from llada_uni.scenes.captions import caption
from llada_uni.scenes.graph import BACKGROUNDS, COLOURS, KINDS, SIGN_WORDS, SceneGraph, SceneObject
from llada_uni.scenes.predicates import ObjectSpec, RelationSpec, Requirement, requires_held_out
from llada_uni.scenes.words import RIDDLES


def scene(*objects: SceneObject, background: str = "white", style: str = "flat") -> SceneGraph:
    return SceneGraph(objects=objects, background=background, style=style)


def thing(kind: str, colour: str, row: int, column: int, size: str = "small") -> SceneObject:
    return SceneObject(kind=kind, colour=colour, size=size, row=row, column=column)  # type: ignore[arg-type]


README_SCENE = scene(thing("apple", "red", 0, 0), thing("apple", "red", 5, 1), thing("house", "blue", 2, 5, "large"))


@pytest.mark.parametrize("grid_w", [8, 12])
def test_every_caption_is_true(grid_w: int) -> None:
    rng = random.Random(1)
    for _ in range(3000):
        graph, text = sample_captioned(rng, grid_w=grid_w, held_out=None)
        assert satisfies(graph, text), (text, graph)
        assert parse(text).num_objects == len(graph.objects)


def test_every_level_of_detail_is_true() -> None:
    rng = random.Random(2)
    for _ in range(400):
        graph = sample_scene(rng)
        for detail in ("short", "normal", "full"):
            assert satisfies(graph, caption(graph, rng, detail=detail))
        for full in (False, True):
            assert satisfies(graph, canonical_caption(graph, detail=full))


def test_full_captions_name_everything() -> None:
    rng = random.Random(3)
    for _ in range(200):
        graph = sample_scene(rng)
        specs = parse(caption(graph, rng, detail="full")).objects
        assert all(spec.place and (spec.kind == "sign" or (spec.size and spec.colour)) for spec in specs)


def test_settings_are_mentioned_as_documented() -> None:
    rng = random.Random(4)
    silent = []
    for _ in range(3000):
        graph = sample_scene(rng)
        requirement = parse(caption_for_training(graph, rng))
        if graph.style == "outline":
            assert requirement.style == "outline"
        if requirement.background is None:
            silent.append(graph.background)
    assert silent.count("white") / len(silent) > 0.8


def near_misses(graph: SceneGraph, rng: random.Random) -> Iterator[SceneGraph]:
    """Scenes that differ from ``graph`` in something its caption is bound to mention."""
    objects = graph.objects
    index = rng.randrange(len(objects))
    item = objects[index]
    rest = objects[:index] + objects[index + 1 :]
    other = rng.choice([kind for kind in KINDS if kind not in {o.kind for o in objects}])
    yield replace(graph, objects=rest)
    if len(objects) < 4:
        yield replace(graph, objects=(*objects, item))
    if item.kind != "sign":
        yield replace(graph, objects=(*rest, replace(item, kind=other)))
    else:
        word = rng.choice([word for word in SIGN_WORDS if word != item.word])
        yield replace(graph, objects=(*rest, replace(item, word=word)))


def test_wrong_counts_kinds_and_words_are_false() -> None:
    rng = random.Random(5)
    for _ in range(1500):
        graph, text = sample_captioned(rng)
        for wrong in near_misses(graph, rng):
            assert not satisfies(wrong, text), (text, wrong)


def test_wrong_attributes_are_false_for_full_captions() -> None:
    rng = random.Random(6)
    for _ in range(500):
        graph = sample_scene(rng, num_objects=rng.choice((1, 2)))
        text = canonical_caption(graph, detail=True)
        item, rest = graph.objects[0], graph.objects[1:]
        background = rng.choice([name for name in BACKGROUNDS if name != graph.background])
        wrong = [replace(graph, background=background)]
        if item.kind != "sign":
            colour = rng.choice([name for name in COLOURS if name != item.colour])
            size = "small" if item.size == "large" else "large"
            wrong += [replace(graph, objects=(replace(item, colour=colour), *rest))]
            wrong += [replace(graph, objects=(replace(item, size=size), *rest))]
        assert not any(satisfies(other, text) for other in wrong)
        if graph.style == "outline":
            assert not satisfies(replace(graph, style="flat"), text)


def test_opposite_relations_are_false() -> None:
    rng = random.Random(7)
    swaps = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    tried = 0
    for _ in range(1500):
        graph, text = sample_captioned(rng)
        requirement = parse(text)
        kinds = [spec.kind for spec in requirement.objects]
        if not requirement.relations or len(set(kinds)) < len(kinds):
            continue
        rule = requirement.relations[0]
        if rule.relation in swaps:
            tried += 1
            turned = replace(requirement, relations=(replace(rule, relation=swaps[rule.relation]),))
            assert not satisfies(graph, turned)
    assert tried > 200


def test_the_readme_prompt() -> None:
    requirement = parse("two red apples left of a house")
    assert requirement == Requirement(
        objects=(ObjectSpec(count=2, kind="apple", colour="red"), ObjectSpec(count=1, kind="house")),
        relations=(RelationSpec(subject=0, relation="left of", target=1),),
    )
    assert not requires_held_out(requirement)
    assert satisfies(README_SCENE, requirement)
    apples, house = README_SCENE.objects[:2], README_SCENE.objects[2]
    assert not satisfies(scene(apples[0], house), requirement)
    assert not satisfies(scene(*apples, house, thing("cat", "red", 6, 6)), requirement)
    assert not satisfies(scene(apples[0], replace(apples[1], column=6, row=6), house), requirement)
    assert not satisfies(scene(apples[0], replace(apples[1], colour="green"), house), requirement)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Apple", Requirement(objects=(ObjectSpec(count=1, kind="apple"),))),
        ("A big RED cat!", Requirement(objects=(ObjectSpec(count=1, kind="cat", colour="red", size="large"),))),
        ("red small cat", Requirement(objects=(ObjectSpec(count=1, kind="cat", colour="red", size="small"),))),
        ("2 fish", Requirement(objects=(ObjectSpec(count=2, kind="fish"),))),
        ("a sign saying “open”", Requirement(objects=(ObjectSpec(count=1, kind="sign", word="OPEN"),))),
        ("a sign", Requirement(objects=(ObjectSpec(count=1, kind="sign"),))),
        ("at night, a bell", Requirement(objects=(ObjectSpec(count=1, kind="bell"),), background="night")),
        ("show me a picture of a bell", Requirement(objects=(ObjectSpec(count=1, kind="bell"),))),
        (
            "a night scene with a key on the left, as a line drawing",
            Requirement(objects=(ObjectSpec(count=1, kind="key", place="left"),), background="night", style="outline"),
        ),
        (
            "a star under the sky",
            Requirement(objects=(ObjectSpec(count=1, kind="star"),), background="sky"),
        ),
        (
            "a star on the left of a hat, and a cup under a key",
            Requirement(
                objects=tuple(ObjectSpec(count=1, kind=kind) for kind in ("star", "hat", "cup", "key")),
                relations=(
                    RelationSpec(subject=0, relation="left of", target=1),
                    RelationSpec(subject=2, relation="below", target=3),
                ),
            ),
        ),
    ],
)
def test_parse(prompt: str, expected: Requirement) -> None:
    assert parse(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("", "empty"),
        ("  ?!", "empty"),
        ("a red dinosaur", "dinosaur"),
        ("two apple", "apple"),
        ("a apples", "apples"),
        ("apples", "apples"),
        ("a red green cat", "green"),
        ("a red sign", "sign"),
        ('a sign that says "HELLO"', "hello"),
        ("five cats", "five"),
        ("three cats and two balls", "got 5"),
        ("a cat left of", "end of the prompt"),
        ("a cat and", "end of the prompt"),
        ("a cat at night on grass", "night"),
        ("a cat left of a ball above a key", "above"),
        ("a <|image|> cat", "<"),
        ("une pomme rouge", "une"),
    ],
)
def test_refused_prompts_name_the_offender(prompt: str, named: str) -> None:
    with pytest.raises(PromptError) as error:
        parse(prompt)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_two_things_of_one_kind_need_an_assignment() -> None:
    graph = scene(thing("apple", "green", 0, 0), thing("apple", "red", 0, 5))
    assert satisfies(graph, "a red apple and a green apple")
    assert satisfies(graph, "an apple and a green apple")
    assert satisfies(graph, "two apples")
    assert satisfies(graph, "a red apple right of a green apple")
    assert not satisfies(graph, "a red apple left of a green apple")
    assert not satisfies(graph, "two red apples")
    assert not satisfies(graph, "an apple")


def test_riddles_cover_every_kind_and_never_name_it() -> None:
    assert set(RIDDLES) == set(KINDS)
    for kind, texts in RIDDLES.items():
        assert len(set(texts)) == 3
        assert not any(kind in text.split() for text in texts)
    assert len({text for texts in RIDDLES.values() for text in texts}) == 3 * len(KINDS)
