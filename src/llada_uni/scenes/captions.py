"""From a scene to sentences: a grammar with paraphrases and several levels of detail.

A caption is always true of its scene and complete in objects: each one is mentioned or counted, so a picture made
from the caption holds nothing else. Size, place and relations are mentioned now and then; relations and places only
when they hold clearly. The outline style is always mentioned. A background other than white is mentioned 19 times in
20, white once in four times: a prompt that names no background almost always means white.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal

from llada_uni.scenes import words
from llada_uni.scenes.geometry import DIRECTIONS, box_of, place_holds, place_name, relation_holds
from llada_uni.scenes.graph import SceneGraph, SceneObject
from llada_uni.scenes.sample import sample_scene

__all__ = [
    "Detail",
    "canonical_caption",
    "caption",
    "caption_for_training",
    "sample_captioned",
    "thing_phrase",
]

Detail = Literal["short", "normal", "full"]
_MENTION_WHITE, _MENTION_OTHER = 0.25, 0.95
_WIDE_PLACES = ("top", "bottom", "left", "right")


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Objects that one noun phrase names together."""

    members: tuple[SceneObject, ...]
    colour: bool = True
    size: bool = False
    place: str | None = None


def thing_phrase(item: SceneObject, *, count: int = 1, colour: bool = True, size: bool = False) -> str:
    """Adjectives and noun without an article: ``"small red apple"``, ``"red apples"``, ``'sign that says "HI"'``."""
    if item.kind == "sign":
        return f'sign that says "{item.word}"'
    parts = [item.size if size else "", item.colour or "" if colour else "", words.noun(item.kind, count)]
    return " ".join(part for part in parts if part)


def _same(members: Sequence[SceneObject], name: str) -> bool:
    return len({getattr(item, name) for item in members}) == 1


def _sort_key(item: SceneObject) -> tuple[float, float]:
    return item.centre


def _by(items: Sequence[SceneObject], *names: str) -> list[tuple[SceneObject, ...]]:
    found: dict[tuple[object, ...], list[SceneObject]] = {}
    for item in items:
        found.setdefault(tuple(getattr(item, name) for name in names), []).append(item)
    return [tuple(members) for members in found.values()]


def _groups(graph: SceneGraph, rng: random.Random, detail: Detail) -> list[_Group]:
    if detail == "full":
        singles = [_Group(members=(item,), size=item.kind != "sign") for item in graph.objects]
        return [replace(g, place=place_name(box_of(g.members[0]), graph.grid_h, graph.grid_w)) for g in singles]
    groups = []
    for members in _by(graph.objects, "kind", "word"):
        if members[0].kind == "sign" or _same(members, "colour"):
            groups.append(_Group(members=members, colour=rng.random() < 0.78))
        elif rng.random() < 0.35:
            groups.append(_Group(members=members, colour=False))
        else:
            groups.extend(_Group(members=part) for part in _by(members, "colour"))
    return groups if detail == "short" else [_detailed(group, graph, rng) for group in groups]


def _detailed(group: _Group, graph: SceneGraph, rng: random.Random) -> _Group:
    members = group.members
    size = members[0].kind != "sign" and _same(members, "size") and rng.random() < 0.3
    place = None
    if rng.random() < 0.16:
        place = place_name(box_of(members[0]), graph.grid_h, graph.grid_w) if len(members) == 1 else None
        wide = [name for name in _WIDE_PLACES if _all_in(members, graph, name)]
        place = rng.choice(wide) if wide and (place is None or rng.random() < 0.4) else place
    return replace(group, size=size, place=place)


def _all_in(members: Sequence[SceneObject], graph: SceneGraph, place: str) -> bool:
    return all(place_holds(box_of(item), graph.grid_h, graph.grid_w, place, clear=True) for item in members)


def _sign_phrase(word: str, rng: random.Random) -> str:
    style = rng.random()
    shown = f'"{word}"' if style < 0.6 else word if style < 0.92 else word.lower()
    verb = rng.choice(("that says", "that says", "saying", "with the word", "that reads", "reading"))
    return f"sign {verb} {shown}"


def _phrase(group: _Group, rng: random.Random) -> str:
    first, count = group.members[0], len(group.members)
    if first.kind == "sign":
        text = _sign_phrase(first.word or "", rng)
    else:
        text = thing_phrase(first, count=count, colour=group.colour, size=group.size)
        if group.size and rng.random() < 0.25:
            text = text.replace(first.size, words.SIZE_WORDS[first.size][1], 1)
    if count > 1:
        text = f"{words.COUNT_WORDS[count]} {text}"
    else:
        text = f"one {text}" if rng.random() < 0.04 else words.with_article(text)
    return f"{text} {rng.choice(words.PLACE_PHRASES[group.place])}" if group.place else text


def _relations(a: _Group, b: _Group) -> list[str]:
    return [
        name
        for name in (*DIRECTIONS, "next to")
        if all(relation_holds(box_of(x), box_of(y), name, clear=True) for x in a.members for y in b.members)
    ]


def _related(groups: list[_Group], rng: random.Random) -> tuple[_Group, str, _Group] | None:
    """A pair of groups with a relation that clearly holds, the four directions preferred."""
    pairs = [(a, b) for a, b in permutations(range(len(groups)), 2)]
    rng.shuffle(pairs)
    for a, b in pairs:
        names = _relations(groups[a], groups[b])
        if names:
            directions = [name for name in names if name != "next to"]
            near = not directions or ("next to" in names and rng.random() < 0.2)
            return groups[a], "next to" if near else rng.choice(directions), groups[b]
    return None


def _join(parts: Sequence[str], rng: random.Random) -> str:
    if len(parts) <= 2:
        return (" and " if rng.random() < 0.85 else ", ").join(parts)
    last = rng.choice((" and ", ", and ", ", "))
    return ", ".join(parts[:-1]) + last + parts[-1]


def _body(groups: list[_Group], rng: random.Random, relation_share: float) -> str:
    rest, clauses = list(groups), []
    rng.shuffle(rest)
    while len(rest) >= 2 and rng.random() < relation_share:
        found = _related(rest, rng)
        if found is None:
            break
        a, relation, b = found
        rest = [group for group in rest if group is not a and group is not b]
        a = replace(a, place=None)
        clauses.append(f"{_phrase(a, rng)} {rng.choice(words.RELATION_PHRASES[relation])} {_phrase(b, rng)}")
        relation_share *= 0.6
    return _join([*(_phrase(group, rng) for group in rest), *clauses], rng)


def _mentioned_background(graph: SceneGraph, rng: random.Random) -> str | None:
    share = _MENTION_WHITE if graph.background == "white" else _MENTION_OTHER
    return graph.background if rng.random() < share else None


_LEAD_CHOICES = ("", "", "a photo of", "a photo of", "a picture of", "a drawing of", "an image of", "draw", "there")


def _lead(graph: SceneGraph, rng: random.Random, background: str | None, plural: bool) -> tuple[str, bool, bool]:
    """Opening words, and whether they already told the style and the background."""
    if graph.style == "outline" and rng.random() < 0.6:
        return rng.choice(words.STYLE_LEADS["outline"]), True, False
    if background is not None and rng.random() < 0.12:
        return words.SCENE_LEADS[background][0], False, True
    lead = rng.choice(_LEAD_CHOICES)
    if lead == "there":
        return "there are" if plural else "there is", False, False
    if lead == "draw":
        return rng.choice(("draw", "show", "show me", "make", "paint")), False, False
    return lead, False, False


def _tails(graph: SceneGraph, rng: random.Random, background: str | None, styled: bool) -> list[str]:
    tails = []
    if background is not None:
        tails.append(rng.choice(words.BACKGROUND_PHRASES[background]))
    if not styled and (graph.style == "outline" or rng.random() < 0.05):
        tails.append(rng.choice(words.STYLE_PHRASES[graph.style]))
    rng.shuffle(tails)
    return tails


def caption(graph: SceneGraph, rng: random.Random, *, detail: Detail = "normal") -> str:
    """A true and complete caption of ``graph``, lower case except for the words on signs.

    ``short``: kinds, colours, counts and relations; ``normal``: sizes and places too, now and then; ``full``: every
    object on its own with size, colour and place.
    """
    groups = _groups(graph, rng, detail)
    background = _mentioned_background(graph, rng)
    body = _body(groups, rng, 0.0 if detail == "full" else 0.6)
    plural = body.startswith(words.COUNT_WORDS[2:])
    lead, styled, placed = _lead(graph, rng, background, plural)
    tails = _tails(graph, rng, None if placed else background, styled)
    tail = (", " if tails and rng.random() < 0.15 else " ") + " ".join(tails)
    return f"{lead} {body}{tail}".strip()


def caption_for_training(graph: SceneGraph, rng: random.Random) -> str:
    """A caption of random detail, sometimes without its article, capitalised or with a full stop."""
    detail = rng.choices(("short", "normal", "full"), (0.45, 0.43, 0.12))[0]
    text = caption(graph, rng, detail=detail)
    if len(graph.objects) == 1 and text.startswith(("a ", "an ")) and rng.random() < 0.2:
        bare = text.split(" ", 1)[1]
        text = text if " of " in bare or "scene with" in bare else bare
    if rng.random() < 0.12:
        text = text[0].upper() + text[1:]
    return f"{text}." if rng.random() < 0.12 else text


def canonical_caption(graph: SceneGraph, *, detail: bool = False) -> str:
    """The one description that ``describe`` questions expect: things in reading order, background and outline named.

    With ``detail`` every object stands alone with size, colour and place; otherwise objects of one kind and colour
    are counted together.
    """
    items = sorted(graph.objects, key=_sort_key)
    parts = []
    for members in [(item,) for item in items] if detail else _by(items, "kind", "colour", "word"):
        first, count = members[0], len(members)
        text = thing_phrase(first, count=count, size=detail and first.kind != "sign")
        text = f"{words.COUNT_WORDS[count]} {text}" if count > 1 else words.with_article(text)
        if detail:
            text += f" {words.PLACE_PHRASES[place_name(box_of(first), graph.grid_h, graph.grid_w)][0]}"
        parts.append(text)
    body = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
    lead = f"{words.STYLE_LEADS['outline'][0]} " if graph.style == "outline" else ""
    return f"{lead}{body} {words.BACKGROUND_PHRASES[graph.background][0]}"


def sample_captioned(
    rng: random.Random, *, grid_h: int = 8, grid_w: int = 8, held_out: bool | None = False
) -> tuple[SceneGraph, str]:
    """A random scene and a training caption of it (see :func:`sample_scene`)."""
    graph = sample_scene(rng, grid_h=grid_h, grid_w=grid_w, held_out=held_out)
    return graph, caption_for_training(graph, rng)
