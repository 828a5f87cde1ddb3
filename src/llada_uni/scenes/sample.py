"""Random scenes that are valid by construction: whole cells, inside the grid, one free cell between any two boxes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from llada_uni.errors import ConfigError
from llada_uni.scenes.geometry import DIRECTIONS, Box, place_holds, relation_holds
from llada_uni.scenes.graph import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    MAX_OBJECTS,
    SIGN_WORDS,
    SceneGraph,
    SceneObject,
    object_cells,
)
from llada_uni.scenes.predicates import Requirement
from llada_uni.scenes.split import allowed_colours, is_held_out

__all__ = ["sample_matching", "sample_scene"]

Size = Literal["small", "large"]
_COUNT_WEIGHTS = (0.27, 0.36, 0.23, 0.14)
_SIGN_SHARE, _OUTLINE_SHARE, _WHITE_SHARE, _SMALL_SHARE = 0.12, 0.12, 0.30, 0.55
_COUNTED_SHARE, _GROUPS_SHARE, _TWIN_SHARE = 0.34, 0.36, 0.12
_PLACE_TRIES, _DRAW_TRIES = 24, 400


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """An object before it has a position."""

    kind: str
    colour: str | None
    size: Size
    word: str | None = None

    @property
    def cells(self) -> tuple[int, int]:
        return object_cells(self.kind, self.size, self.word)


_Rules = Sequence[tuple[int, str, int]]
_Spot = tuple[int, int, int, int]


@lru_cache(maxsize=512)
def _spots(grid_h: int, grid_w: int, height: int, width: int) -> tuple[_Spot, ...]:
    """Every position of a box as (row, column, cells it covers, cells it covers or touches), sets as bit masks."""

    def mask(top: int, left: int, bottom: int, right: int) -> int:
        rows = range(max(top, 0), min(bottom, grid_h))
        return sum(1 << (row * grid_w + col) for row in rows for col in range(max(left, 0), min(right, grid_w)))

    return tuple(
        (r, c, mask(r, c, r + height, c + width), mask(r - 1, c - 1, r + height + 1, c + width + 1))
        for r in range(grid_h - height + 1)
        for c in range(grid_w - width + 1)
    )


def _agrees(index: int, box: Box, placed: Mapping[int, Box], rules: _Rules) -> bool:
    for subject, relation, target in rules:
        if subject == index and target in placed:
            if not relation_holds(box, placed[target], relation, clear=True):
                return False
        elif target == index and subject in placed and not relation_holds(placed[subject], box, relation, clear=True):
            return False
    return True


def _place_once(
    rng: random.Random,
    shapes: Sequence[tuple[int, int]],
    grid: tuple[int, int],
    rules: _Rules,
    places: Mapping[int, str],
) -> list[Box] | None:
    order = list(range(len(shapes)))
    rng.shuffle(order)
    order.sort(key=lambda index: -shapes[index][0])
    taken, placed = 0, {}
    for index in order:
        height, width = shapes[index]
        free = [spot for spot in _spots(*grid, height, width) if not spot[2] & taken]
        if rules:
            free = [s for s in free if _agrees(index, (s[0], s[1], height, width), placed, rules)]
        if index in places:
            where = places[index]
            free = [s for s in free if place_holds((s[0], s[1], height, width), *grid, where, clear=True)]
        if not free:
            return None
        row, column, _, grown = rng.choice(free)
        taken |= grown
        placed[index] = (row, column, height, width)
    return [placed[index] for index in range(len(shapes))]


def _build(
    rng: random.Random,
    drafts: Sequence[_Draft],
    grid: tuple[int, int],
    rules: _Rules = (),
    places: Mapping[int, str] | None = None,
) -> tuple[SceneObject, ...] | None:
    """Objects at free positions that keep every rule clearly, or ``None`` when none were found."""
    shapes = [draft.cells for draft in drafts]
    for _ in range(_PLACE_TRIES):
        boxes = _place_once(rng, shapes, grid, rules, places or {})
        if boxes is not None:
            return tuple(
                SceneObject(kind=d.kind, colour=d.colour, size=d.size, word=d.word, row=box[0], column=box[1])
                for d, box in zip(drafts, boxes, strict=True)
            )
    return None


def _size(rng: random.Random) -> Size:
    return "small" if rng.random() < _SMALL_SHARE else "large"


def _colours_of(kind: str, held_out: bool | None) -> tuple[str, ...]:
    return allowed_colours(kind) if held_out is False else COLOURS


def _draw_group(rng: random.Random, kind: str, count: int, held_out: bool | None) -> list[_Draft]:
    """``count`` objects of one kind, mostly of one colour and one size."""
    colours = _colours_of(kind, held_out)
    colour, size = rng.choice(colours), _size(rng)
    one_colour, one_size = rng.random() < 0.72, rng.random() < 0.85
    return [
        _Draft(
            kind=kind,
            colour=colour if one_colour else rng.choice(colours),
            size=size if one_size else _size(rng),
        )
        for _ in range(count)
    ]


def _draw_distinct(rng: random.Random, count: int, held_out: bool | None) -> list[_Draft]:
    """Objects of different kinds; now and then they share a colour, or two share the kind and differ in colour."""
    kinds = rng.sample(KINDS, count)
    if count == 2 and rng.random() < _TWIN_SHARE:
        kinds[1] = kinds[0]
        pair = rng.sample(_colours_of(kinds[0], held_out), 2)
        return [_Draft(kind=kind, colour=colour, size=_size(rng)) for kind, colour in zip(kinds, pair, strict=True)]
    shared = rng.choice(COLOURS) if rng.random() < 0.2 else None
    drafts = []
    for kind in kinds:
        colours = _colours_of(kind, held_out)
        colour = shared if shared in colours else rng.choice(colours)
        drafts.append(_Draft(kind=kind, colour=colour, size=_size(rng)))
    return drafts


def _draw_contents(rng: random.Random, count: int, held_out: bool | None) -> tuple[list[_Draft], _Rules]:
    mode = rng.random()
    if count >= 2 and mode < _COUNTED_SHARE:
        return _draw_group(rng, rng.choice(KINDS), count, held_out), ()
    if count >= 3 and mode < _COUNTED_SHARE + _GROUPS_SHARE:
        first = rng.randint(1, count - 1)
        kinds = rng.sample(KINDS, 2)
        drafts = _draw_group(rng, kinds[0], first, held_out) + _draw_group(rng, kinds[1], count - first, held_out)
        if rng.random() < 0.3:
            return drafts, ()
        relation = rng.choice(DIRECTIONS)
        return drafts, [(a, relation, b) for a in range(first) for b in range(first, count)]
    return _draw_distinct(rng, count, held_out), ()


def _draw(rng: random.Random, count: int | None, held_out: bool | None) -> tuple[list[_Draft], _Rules]:
    if rng.random() < _SIGN_SHARE:
        others = rng.choice((0, 0, 1, 1, 2)) if count is None else count - 1
        sign = _Draft(kind="sign", colour=None, size="small", word=rng.choice(SIGN_WORDS))
        drafts = [sign, *_draw_distinct(rng, others, held_out)] if others else [sign]
        return drafts, ()
    if count is None:
        count = rng.choices((1, 2, 3, 4), _COUNT_WEIGHTS)[0]
    return _draw_contents(rng, count, held_out)


def _background(rng: random.Random) -> str:
    return "white" if rng.random() < _WHITE_SHARE else rng.choice(BACKGROUNDS[1:])


def _style(rng: random.Random) -> str:
    return "outline" if rng.random() < _OUTLINE_SHARE else "flat"


def sample_scene(
    rng: random.Random,
    *,
    grid_h: int = 8,
    grid_w: int = 8,
    num_objects: int | None = None,
    held_out: bool | None = False,
    background: str | None = None,
    style: str | None = None,
) -> SceneGraph:
    """Draw a scene on a ``grid_h`` x ``grid_w`` lattice.

    ``held_out``: False never, True always, None sometimes contains a combination reserved for evaluation
    (:mod:`llada_uni.scenes.split`). ``num_objects``, ``background`` and ``style`` fix those parts. The result is a
    function of the generator's state alone. Raises ``ConfigError`` when no such scene exists.
    """
    if num_objects is not None and not 1 <= num_objects <= MAX_OBJECTS:
        raise ConfigError(f"expected num_objects between 1 and {MAX_OBJECTS}, got {num_objects}; choose fewer")
    for _ in range(_DRAW_TRIES):
        drafts, rules = _draw(rng, num_objects, held_out)
        objects = _build(rng, drafts, (grid_h, grid_w), rules)
        if objects is None:
            continue
        graph = SceneGraph(
            objects=objects,
            background=background or _background(rng),
            style=style or _style(rng),
            grid_h=grid_h,
            grid_w=grid_w,
        )
        if held_out is None or is_held_out(graph) == held_out:
            return graph
    raise ConfigError(f"no scene found on a {grid_h}x{grid_w} grid with {num_objects} objects; use a larger grid")


def _draft_requirement(rng: random.Random, requirement: Requirement, held_out: bool | None) -> list[_Draft]:
    drafts = []
    for spec in requirement.objects:
        group_size = _size(rng)
        for _ in range(spec.count):
            if spec.kind == "sign":
                word = spec.word or rng.choice(SIGN_WORDS)
                drafts.append(_Draft(kind="sign", colour=None, size="small", word=word))
                continue
            size: Size = "large" if (spec.size or group_size) == "large" else "small"
            colour = spec.colour or rng.choice(_colours_of(spec.kind, held_out))
            drafts.append(_Draft(kind=spec.kind, colour=colour, size=size))
    return drafts


def sample_matching(
    rng: random.Random,
    requirement: Requirement,
    *,
    grid_h: int = 8,
    grid_w: int = 8,
    held_out: bool | None = None,
) -> SceneGraph:
    """Draw a scene that satisfies ``requirement`` clearly; what it leaves free is random (style flat, mostly white).

    Raises ``ConfigError`` when none is found, for example when the required boxes do not fit on the grid, or when
    ``held_out`` is False and the requirement itself is held out.
    """
    slots = [index for index, spec in enumerate(requirement.objects) for _ in range(spec.count)]
    rules = [
        (a, rule.relation, b)
        for rule in requirement.relations
        for a, slot_a in enumerate(slots)
        for b, slot_b in enumerate(slots)
        if slot_a == rule.subject and slot_b == rule.target
    ]
    wanted = [requirement.objects[slot].place for slot in slots]
    places = {index: place for index, place in enumerate(wanted) if place is not None}
    for _ in range(_DRAW_TRIES):
        drafts = _draft_requirement(rng, requirement, held_out)
        objects = _build(rng, drafts, (grid_h, grid_w), rules, places)
        if objects is None:
            continue
        plain = "white" if rng.random() < 0.8 else rng.choice(BACKGROUNDS[1:])
        graph = SceneGraph(
            objects=objects,
            background=requirement.background or plain,
            style=requirement.style or "flat",
            grid_h=grid_h,
            grid_w=grid_w,
        )
        if held_out is None or is_held_out(graph) == held_out:
            return graph
    raise ConfigError(f"no scene found on a {grid_h}x{grid_w} grid for {requirement}; ask for less")
