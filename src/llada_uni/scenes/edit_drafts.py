"""How each edit of one picture is made: its instruction, one right result, and what every right result is."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from llada_uni.scenes import words
from llada_uni.scenes.changes import Change, Wanted, Where
from llada_uni.scenes.geometry import DIRECTIONS, Box, box_of, place_holds, relation_holds
from llada_uni.scenes.graph import BACKGROUNDS, COLOURS, KINDS, MAX_OBJECTS, SIGN_WORDS, SceneGraph, SceneObject
from llada_uni.scenes.referring import centre_of, free_boxes, plain_phrase, referable
from llada_uni.scenes.split import allowed_colours

__all__ = ["DRAFTS", "Draft"]

_SIGN_SHARE, _TWIN_SHARE = 0.08, 0.2
_MOVE_PLACES = ("top left", "top", "top right", "centre", "bottom left", "bottom", "bottom right")
_MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_MOVE_WORDS = {"up": "up", "down": "down", "left": "to the left", "right": "to the right"}
_MOVE_STEPS = (2, 3)

_ADD = ("add {new}", "put {new} into the picture", "draw {new} in the picture")
_ADD_THERE = ("add {new} {where}", "put {new} {where}", "draw {new} {where}")
_REMOVE = ("remove the {ref}", "delete the {ref}", "erase the {ref}", "take away the {ref}")
_REPLACE = ("replace the {ref} with {new}", "swap the {ref} for {new}", "turn the {ref} into {new}")
_RECOLOUR = (
    "make the {ref} {colour}",
    "paint the {ref} {colour}",
    "colour the {ref} {colour}",
    "change the colour of the {ref} to {colour}",
)
_MOVE_TO = ("move the {ref} to the {place}", "shift the {ref} to the {place}", "put the {ref} {where}")
_MOVE_BY = ("move the {ref} {way}", "shift the {ref} {way}")
_MOVE_BESIDE = ("move the {ref} {relation} the {other}", "put the {ref} {relation} the {other}")
_BACKGROUND = (
    "change the background to {name}",
    "set the background to {name}",
    "make the background {name}",
    "show the picture {where}",
)
_STYLE = {
    "outline": (
        "turn it into a line drawing",
        "turn the picture into a line drawing",
        "redraw it in outline style",
        "redraw it as a line drawing",
    ),
    "flat": (
        "turn it into a flat drawing",
        "turn the picture into a flat drawing",
        "redraw it in flat style",
        "redraw it in flat colours",
    ),
}


Draft = tuple[str, SceneGraph, Change]
"""Instruction, target, change."""


def _change(graph: SceneGraph, kept: Sequence[SceneObject], *wanted: Wanted) -> Change:
    return Change(
        kept=tuple(kept),
        wanted=wanted,
        background=graph.background,
        style=graph.style,
        grid=(graph.grid_h, graph.grid_w),
    )


def _without(graph: SceneGraph, item: SceneObject) -> tuple[SceneObject, ...]:
    return tuple(other for other in graph.objects if other is not item)


def _colours(kind: str, held_out: bool | None) -> tuple[str, ...]:
    return allowed_colours(kind) if held_out is False else COLOURS


def _new_thing(source: SceneGraph, rng: random.Random, held_out: bool | None) -> SceneObject:
    """An object that is not placed yet."""
    if rng.random() < _SIGN_SHARE:
        return SceneObject(kind="sign", colour=None, size="small", row=0, column=0, word=rng.choice(SIGN_WORDS))
    there = [item.kind for item in source.objects if item.kind != "sign"]
    kind = rng.choice(there) if there and rng.random() < _TWIN_SHARE else rng.choice(KINDS)
    size = "small" if rng.random() < 0.6 else "large"
    return SceneObject(kind=kind, colour=rng.choice(_colours(kind, held_out)), size=size, row=0, column=0)


def _some_rule(source: SceneGraph, rng: random.Random) -> tuple[str, Where]:
    """Words for a place in the scene, and the rule they state; empty words when none are used."""
    chance = rng.random()
    if chance < 0.3:
        return "", Where()
    named = referable(source, rng)
    if chance < 0.65 or not named:
        place = rng.choice(tuple(words.PLACE_PHRASES))
        return rng.choice(words.PLACE_PHRASES[place]), Where(rule="place", name=place)
    other, text = named[0]
    relation = rng.choice((*DIRECTIONS, "next to"))
    phrase = rng.choice(words.RELATION_PHRASES[relation])
    return f"{phrase} the {text}", Where(rule="relation", name=relation, other=box_of(other))


def _clearly(where: Where, box: Box, grid: tuple[int, int]) -> bool:
    if where.rule == "place":
        return place_holds(box, *grid, where.name, clear=True)
    return where.rule != "relation" or relation_holds(box, where.other, where.name, clear=True)


def _add(source: SceneGraph, rng: random.Random, held_out: bool | None) -> Draft | None:
    if len(source.objects) == MAX_OBJECTS:
        return None
    grid = (source.grid_h, source.grid_w)
    thing, (text, where) = _new_thing(source, rng, held_out), _some_rule(source, rng)
    spots = [box for box in free_boxes(source.objects, thing.cells, grid) if _clearly(where, box, grid)]
    if not spots:
        return None
    row, column, *_ = rng.choice(spots)
    sized = thing.kind != "sign" and rng.random() < 0.4
    new = plain_phrase(thing, size=sized)
    wanted = Wanted(
        kind=thing.kind,
        colour=thing.colour,
        size=thing.size if sized or thing.kind == "sign" else None,
        word=thing.word,
        where=where,
    )
    target = replace(source, objects=(*source.objects, replace(thing, row=row, column=column)))
    instruction = rng.choice(_ADD_THERE if text else _ADD).format(new=new, where=text)
    return instruction, target, _change(source, source.objects, wanted)


def _remove(source: SceneGraph, rng: random.Random, held_out: bool | None) -> Draft | None:
    named = referable(source, rng)
    if len(source.objects) < 2 or not named:
        return None
    item, text = named[0]
    rest = _without(source, item)
    return rng.choice(_REMOVE).format(ref=text), replace(source, objects=rest), _change(source, rest)


def _replace(source: SceneGraph, rng: random.Random, held_out: bool | None) -> Draft | None:
    named = [(item, text) for item, text in referable(source, rng) if item.kind != "sign"]
    if not named:
        return None
    item, text = named[0]
    kind = rng.choice([name for name in KINDS if name != item.kind])
    new = replace(item, kind=kind, colour=rng.choice(_colours(kind, held_out)))
    rest = _without(source, item)
    where = Where(rule="near", point=item.centre)
    instruction = rng.choice(_REPLACE).format(ref=text, new=plain_phrase(new))
    target = replace(source, objects=(*rest, new))
    return instruction, target, _change(source, rest, Wanted(kind=kind, colour=new.colour, where=where))


def _recolour(source: SceneGraph, rng: random.Random, held_out: bool | None) -> Draft | None:
    named = [(item, text) for item, text in referable(source, rng) if item.kind != "sign"]
    if not named:
        return None
    item, text = named[0]
    colours = [name for name in _colours(item.kind, held_out) if name != item.colour]
    new, rest = replace(item, colour=rng.choice(colours)), _without(source, item)
    wanted = _moved(new, Where(rule="at", point=(item.row, item.column)))
    instruction = rng.choice(_RECOLOUR).format(ref=text, colour=new.colour)
    return instruction, replace(source, objects=(*rest, new)), _change(source, rest, wanted)


def _moved(item: SceneObject, where: Where) -> Wanted:
    """The same object under another rule about its place."""
    return Wanted(kind=item.kind, colour=item.colour, size=item.size, word=item.word, where=where)


def _move(source: SceneGraph, rng: random.Random, held_out: bool | None) -> Draft | None:
    named = referable(source, rng)
    if not named:
        return None
    (item, text), rest = named[0], _without(source, named[0][0])
    drawn = rng.choice((_by_way, _to_place, _beside))(item, text, named[1:], (source.grid_h, source.grid_w), rng)
    if drawn is None:
        return None
    instruction, where = drawn
    new = _stepped(item, where, rest, source) if where.rule == "towards" else _nearest(item, where, rest, source)
    if new is None:
        return None
    target = replace(source, objects=(*rest, new))
    return instruction, target, _change(source, rest, _moved(item, where))


_Named = Sequence[tuple[SceneObject, str]]


def _by_way(
    item: SceneObject, text: str, others: _Named, grid: tuple[int, int], rng: random.Random
) -> tuple[str, Where] | None:
    way = rng.choice(tuple(_MOVES))
    instruction = rng.choice(_MOVE_BY).format(ref=text, way=_MOVE_WORDS[way])
    return instruction, Where(rule="towards", name=way, point=item.centre)


def _to_place(
    item: SceneObject, text: str, others: _Named, grid: tuple[int, int], rng: random.Random
) -> tuple[str, Where] | None:
    place = rng.choice(_MOVE_PLACES)
    if place_holds(box_of(item), *grid, place):
        return None
    where = rng.choice(words.PLACE_PHRASES[place])
    instruction = rng.choice(_MOVE_TO).format(ref=text, place=place, where=where)
    return instruction, Where(rule="place", name=place)


def _beside(
    item: SceneObject, text: str, others: _Named, grid: tuple[int, int], rng: random.Random
) -> tuple[str, Where] | None:
    relation = rng.choice((*DIRECTIONS, "next to"))
    if not others or relation_holds(box_of(item), box_of(others[0][0]), relation):
        return None
    other, name = others[0]
    phrase = rng.choice(words.RELATION_PHRASES[relation])
    instruction = rng.choice(_MOVE_BESIDE).format(ref=text, relation=phrase, other=name)
    return instruction, Where(rule="relation", name=relation, other=box_of(other))


def _stepped(item: SceneObject, where: Where, rest: Sequence[SceneObject], source: SceneGraph) -> SceneObject | None:
    free = free_boxes(rest, item.cells, (source.grid_h, source.grid_w))
    down, right = _MOVES[where.name]
    for cells in _MOVE_STEPS:
        box = (item.row + down * cells, item.column + right * cells, *item.cells)
        if box in free:
            return replace(item, row=box[0], column=box[1])
    return None


def _nearest(item: SceneObject, where: Where, rest: Sequence[SceneObject], source: SceneGraph) -> SceneObject | None:
    """The shortest way to a free place that clearly keeps the rule; beside another object straight, not slantwise."""
    grid, start = (source.grid_h, source.grid_w), centre_of(box_of(item))
    spots = [box for box in free_boxes(rest, item.cells, grid) if _clearly(where, box, grid)]
    if not spots:
        return None

    def distance(box: Box) -> tuple[bool, float, Box]:
        row, column = centre_of(box)
        slanted = where.rule == "relation" and not _in_line(box, where.other)
        return slanted, (row - start[0]) ** 2 + (column - start[1]) ** 2, box

    best = min(spots, key=distance)
    return replace(item, row=best[0], column=best[1])


def _in_line(a: Box, b: Box) -> bool:
    """Whether two boxes share rows or columns."""
    rows = a[0] < b[0] + b[2] and b[0] < a[0] + a[2]
    return rows or (a[1] < b[1] + b[3] and b[1] < a[1] + a[3])


def _background(source: SceneGraph, rng: random.Random, held_out: bool | None) -> Draft | None:
    name = rng.choice([other for other in BACKGROUNDS if other != source.background])
    target = replace(source, background=name)
    form = rng.choice(("make it {name}", *_BACKGROUND) if name in ("night", "dusk") else _BACKGROUND)
    instruction = form.format(name=name, where=words.BACKGROUND_PHRASES[name][0])
    return instruction, target, _change(target, source.objects)


def _style(source: SceneGraph, rng: random.Random, held_out: bool | None) -> Draft | None:
    if all(item.kind == "sign" for item in source.objects):
        return None
    target = replace(source, style="outline" if source.style == "flat" else "flat")
    return rng.choice(_STYLE[target.style]), target, _change(target, source.objects)


DRAFTS: dict[str, Callable[[SceneGraph, random.Random, bool | None], Draft | None]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "recolour": _recolour,
    "move": _move,
    "background": _background,
    "style": _style,
}
