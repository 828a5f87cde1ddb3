"""Edits with two pictures: an object of one goes into the other, both are combined, a background is carried over."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from llada_uni.scenes import words
from llada_uni.scenes.changes import Change, Wanted, Where
from llada_uni.scenes.geometry import box_of, place_holds
from llada_uni.scenes.graph import MAX_OBJECTS, SceneGraph, SceneObject
from llada_uni.scenes.referring import free_boxes, nearest_free, referable

__all__ = ["ORDINALS", "compose"]

ORDINALS = ("first", "second", "third")
_INSERT = (
    "put the {ref} of the {one} picture into the {other} picture",
    "add the {ref} of the {one} picture to the {other} picture",
    "copy the {ref} of the {one} picture into the {other} picture",
    "take the {ref} of the {one} picture and put it into the {other} picture",
)
_INSERT_THERE = (
    "put the {ref} of the {one} picture {where} of the {other} picture",
    "take the {ref} of the {one} picture and put it {where} of the {other} picture",
)
_COMBINE = (
    "combine the two pictures {where}",
    "combine the objects of both pictures {where}",
    "show the objects of the two pictures in one picture {where}",
)
_CARRY = (
    "show the {one} picture with the background of the {other} picture",
    "give the {one} picture the background of the {other} picture",
    "put the objects of the {one} picture on the background of the {other} picture",
)


def compose(sources: Sequence[SceneGraph], rng: random.Random) -> tuple[str, SceneGraph, Change] | None:
    """Instruction, one right result and what every right one is; ``None`` when these two pictures do not allow it.

    An object keeps kind, colour and size; it stands where it stood if there is room, but any place counts unless the
    instruction names one. What is in the receiving picture stays unchanged.
    """
    order = [0, 1]
    rng.shuffle(order)
    names = {"one": ORDINALS[order[0]], "other": ORDINALS[order[1]]}
    one, other = sources[order[0]], sources[order[1]]
    chance = rng.random()
    if chance < 0.55:
        return _insert(one, other, names, rng)
    return _combine(sources, rng) if chance < 0.78 else _carry(one, other, names, rng)


def _change(graph: SceneGraph, kept: Sequence[SceneObject], wanted: Sequence[Wanted]) -> Change:
    return Change(
        kept=tuple(kept),
        wanted=tuple(wanted),
        background=graph.background,
        style=graph.style,
        grid=(graph.grid_h, graph.grid_w),
    )


def _wanted(item: SceneObject, where: Where | None = None) -> Wanted:
    return Wanted(kind=item.kind, colour=item.colour, size=item.size, word=item.word, where=where or Where())


def _insert(
    one: SceneGraph, other: SceneGraph, names: dict[str, str], rng: random.Random
) -> tuple[str, SceneGraph, Change] | None:
    named = referable(one, rng)
    if not named or len(other.objects) == MAX_OBJECTS:
        return None
    item, text = named[0]
    grid = (other.grid_h, other.grid_w)
    if rng.random() < 0.7:
        where, form, phrase, placed = Where(), rng.choice(_INSERT), "", nearest_free(other.objects, item, grid)
    else:
        place = rng.choice(tuple(words.PLACE_PHRASES))
        where, form, phrase = Where(rule="place", name=place), rng.choice(_INSERT_THERE), words.PLACE_PHRASES[place][0]
        spots = [b for b in free_boxes(other.objects, item.cells, grid) if place_holds(b, *grid, place, clear=True)]
        spot = rng.choice(spots) if spots else box_of(item)
        placed = replace(item, row=spot[0], column=spot[1]) if spots else None
    if placed is None:
        return None
    target = replace(other, objects=(*other.objects, placed))
    instruction = form.format(ref=text, where=phrase, **names)
    return instruction, target, _change(other, other.objects, [_wanted(item, where)])


def _combine(sources: Sequence[SceneGraph], rng: random.Random) -> tuple[str, SceneGraph, Change] | None:
    first, second = sources
    if len(first.objects) + len(second.objects) > MAX_OBJECTS or first.style != second.style:
        return None
    grid, objects = (first.grid_h, first.grid_w), list(first.objects)
    for item in second.objects:
        placed = nearest_free(objects, item, grid)
        if placed is None:
            return None
        objects.append(placed)
    background = rng.choice(tuple(words.BACKGROUND_PHRASES))
    target = replace(first, objects=tuple(objects), background=background)
    instruction = rng.choice(_COMBINE).format(where=words.BACKGROUND_PHRASES[background][0])
    return instruction, target, _change(target, (), [_wanted(item) for item in objects])


def _carry(
    one: SceneGraph, other: SceneGraph, names: dict[str, str], rng: random.Random
) -> tuple[str, SceneGraph, Change] | None:
    if one.background == other.background:
        return None
    target = replace(one, background=other.background)
    return rng.choice(_CARRY).format(**names), target, _change(target, one.objects, [])
