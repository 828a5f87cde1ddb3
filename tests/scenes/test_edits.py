"""Edits: valid by construction, decided exactly, and never by the source picture."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from llada_uni.errors import ConfigError
from llada_uni.scenes import is_held_out, render, verify
from llada_uni.scenes.changes import Change, Wanted, Where, change_from_json, change_to_json, is_made, untouched_share
from llada_uni.scenes.edits import EDIT_CATEGORIES, Edit, sample_edit
from llada_uni.scenes.graph import BACKGROUNDS, SceneGraph, SceneObject
from llada_uni.scenes.referring import free_boxes, nearest_free, reference, stands_in
from llada_uni.scenes.render import validate

GRIDS = ((8, 8), (8, 12), (12, 8))


def some(category: str, count: int = 40, held_out: bool | None = False) -> list[Edit]:
    rng = random.Random(f"{category} {held_out}")
    grids = [GRIDS[i % 3] for i in range(count)]
    return [sample_edit(rng, category, grid_h=h, grid_w=w, held_out=held_out) for h, w in grids]


def thing(kind: str, row: int, column: int, colour: str | None = "red", size: str = "small") -> SceneObject:
    assert size in ("small", "large")
    return SceneObject(kind=kind, colour=colour, size="large" if size == "large" else "small", row=row, column=column)


@pytest.mark.parametrize("category", EDIT_CATEGORIES)
def test_the_target_passes_and_no_source_does(category: str) -> None:
    for edit in some(category):
        assert len(edit.sources) == (2 if category == "compose" else 1)
        for graph in edit.graphs:
            validate(graph)
            assert not is_held_out(graph)
        assert is_made(edit.change, edit.target)
        assert not any(is_made(edit.change, source) for source in edit.sources)
        assert not is_made(edit.change, None)
        there = {item for source in edit.sources for item in source.objects}
        assert set(edit.change.kept) <= there


@pytest.mark.parametrize("category", EDIT_CATEGORIES)
def test_renders_of_targets_are_read_as_passing(category: str) -> None:
    for edit in some(category, 3):
        assert is_made(edit.change, verify(render(edit.target)))
        assert not any(is_made(edit.change, verify(render(source))) for source in edit.sources)


@pytest.mark.parametrize("category", EDIT_CATEGORIES)
def test_whatever_else_changes_is_a_failure(category: str) -> None:
    for edit in some(category, 15):
        target, change = edit.target, edit.change
        other = next(name for name in BACKGROUNDS if name != target.background)
        assert not is_made(change, replace(target, background=other))
        assert not is_made(change, replace(target, style="flat" if target.style == "outline" else "outline"))
        assert not is_made(change, replace(target, objects=target.objects[1:]))
        extra = thing("key", 20, 20)
        assert not is_made(change, replace(target, objects=(*target.objects, extra)))
        for index, item in enumerate(target.objects):
            if item not in change.kept:
                continue
            moved = replace(item, column=item.column + 1)
            spoilt = replace(target, objects=(*target.objects[:index], moved, *target.objects[index + 1 :]))
            assert not is_made(change, spoilt)
            assert untouched_share(change, spoilt) == pytest.approx(1 - 1 / len(change.kept))


@pytest.mark.parametrize("category", EDIT_CATEGORIES)
def test_changes_survive_json(category: str) -> None:
    for edit in some(category, 20):
        assert change_from_json(change_to_json(edit.change, edit.sources), edit.sources) == edit.change


@pytest.mark.parametrize("category", EDIT_CATEGORIES)
def test_held_out_edits_show_a_held_out_target(category: str) -> None:
    assert all(is_held_out(edit.target) for edit in some(category, 3, held_out=True))


def test_sampling_is_a_function_of_the_generator() -> None:
    assert [sample_edit(random.Random(i)) for i in range(20)] == [sample_edit(random.Random(i)) for i in range(20)]
    assert {sample_edit(random.Random(i)).category for i in range(120)} == set(EDIT_CATEGORIES)
    with pytest.raises(ConfigError, match="expected one of add, remove"):
        sample_edit(random.Random(0), "sharpen")


@pytest.mark.parametrize(
    ("where", "right", "wrong"),
    [
        (Where(rule="at", point=(2, 3)), (2, 3), (2, 4)),
        (Where(rule="near", point=(3, 4)), (3, 3), (4, 3)),
        (Where(rule="place", name="top left"), (0, 0), (0, 5)),
        (Where(rule="relation", name="left of", other=(3, 5, 2, 2)), (3, 0), (0, 5)),
        (Where(rule="towards", name="up", point=(5, 3)), (2, 2), (2, 3)),
        (Where(rule="towards", name="right", point=(3, 3)), (2, 3), (2, 2)),
        (Where(rule="towards", name="left", point=(3, 5)), (2, 2), (2, 5)),
        (Where(rule="towards", name="down", point=(3, 3)), (3, 2), (1, 2)),
    ],
)
def test_rules_about_places(where: Where, right: tuple[int, int], wrong: tuple[int, int]) -> None:
    """Top-left cells of a small object that keeps the rule, and of one that breaks it."""
    assert where.holds((*right, 2, 2), (8, 8))
    assert not where.holds((*wrong, 2, 2), (8, 8))
    assert Where().holds((*wrong, 2, 2), (8, 8))


def test_wanted_things_are_matched_whatever_their_order() -> None:
    wanted = (
        Wanted(kind="cat", colour="red", where=Where(rule="place", name="left")),
        Wanted(kind="cat", colour="red"),
    )
    left, right = thing("cat", 3, 0), thing("cat", 3, 6)
    change = Change(kept=(), wanted=wanted)
    assert is_made(change, SceneGraph(objects=(left, right)))
    assert is_made(change, SceneGraph(objects=(right, left)))
    assert not is_made(change, SceneGraph(objects=(right, thing("cat", 0, 6))))
    assert not is_made(replace(change, grid=(8, 12)), SceneGraph(objects=(left, right)))
    assert untouched_share(change, SceneGraph()) == 1.0


def test_references_fit_one_object_only() -> None:
    rng = random.Random(0)
    twins = SceneGraph(objects=(thing("cat", 3, 0), thing("cat", 3, 6), thing("cup", 0, 3, "blue")))
    assert reference(twins, twins.objects[0], rng) == "cat on the left"
    assert reference(twins, twins.objects[2], rng) in ("cup", "blue cup", "small cup", "small blue cup")
    close = SceneGraph(objects=(thing("cat", 0, 0), thing("cat", 3, 0)))
    assert reference(close, close.objects[0], rng) == "cat at the top left"
    assert reference(close, close.objects[1], rng) is None, "the other cat is on the left too"
    sizes = SceneGraph(objects=(thing("cat", 0, 0), thing("cat", 4, 4, size="large")))
    assert reference(sizes, sizes.objects[1], rng, without="size") == "cat at the bottom right"
    assert reference(sizes, sizes.objects[1], rng) in ("large cat", "large red cat")


def test_free_room_keeps_its_distance() -> None:
    there = (thing("cat", 3, 3),)
    boxes = free_boxes(there, (2, 2), (8, 8))
    assert (0, 0, 2, 2) in boxes
    assert not {(row, column) for row, column, *_ in boxes} & {(r, c) for r in range(1, 6) for c in range(1, 6)}
    assert nearest_free(there, thing("cup", 6, 6), (8, 8)) == thing("cup", 6, 6)
    placed = nearest_free(there, thing("cup", 3, 3), (8, 8))
    assert placed is not None
    validate(SceneGraph(objects=(*there, placed)))
    assert nearest_free(there, thing("cup", 0, 0, size="large"), (5, 5)) is None


@pytest.mark.parametrize(
    ("place", "row", "column"), [("top", 0, 3), ("left", 3, 0), ("centre", 3, 3), ("top left", 0, 0)]
)
def test_thirds_bind_both_axes(place: str, row: int, column: int) -> None:
    assert stands_in((row, column, 2, 2), (8, 8), place)
    assert not stands_in((6, 6, 2, 2), (8, 8), place)
    if place == "top":
        assert not stands_in((0, 0, 2, 2), (8, 8), place)
