"""Stories: each frame satisfies its caption, what should stay stays, puzzles end with the right answer."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from llada_uni.errors import ConfigError
from llada_uni.scenes import is_held_out, parse, render, satisfies, verify, words
from llada_uni.scenes.graph import SceneGraph
from llada_uni.scenes.render import validate
from llada_uni.scenes.stories import STORY_KINDS, Story, ending_holds, frames_hold, is_steady, sample_story

GRIDS = ((8, 8), (8, 12), (12, 8))
Told = list[tuple[str, SceneGraph | None]]


def some(kind: str, count: int = 40, held_out: bool | None = False) -> list[Story]:
    rng = random.Random(f"{kind} {held_out}")
    grids = [GRIDS[i % 3] for i in range(count)]
    return [sample_story(rng, kind, grid_h=h, grid_w=w, held_out=held_out) for h, w in grids]


def told(story: Story) -> Told:
    return [(frame.caption, frame.graph) for frame in story.frames]


@pytest.mark.parametrize("kind", STORY_KINDS)
def test_a_right_telling_holds_and_is_steady(kind: str) -> None:
    for story in some(kind):
        assert 2 <= len(story.frames) <= 4
        expected = [frame.expected for frame in story.frames]
        for frame in story.frames:
            validate(frame.graph)
            assert satisfies(frame.graph, parse(frame.caption))
            assert not is_held_out(frame.graph)
        assert frames_hold(told(story), expected)
        assert is_steady(kind, story.graphs)
        assert bool(story.answer) == bool(story.ending) == (kind in ("counting", "walking"))
        if story.answer:
            assert ending_holds(story.ending, story.answer)


@pytest.mark.parametrize("kind", STORY_KINDS)
def test_the_prompt_tells_how_many_pictures(kind: str) -> None:
    for story in some(kind, 20):
        if kind in ("counting", "walking"):
            steps = sum(story.prompt.count(word) for word in ("put in", "take away", " moves "))
            assert len(story.frames) == steps + 1
        else:
            assert f"{words.COUNT_WORDS[len(story.frames)]} pictures:" in story.prompt


@pytest.mark.parametrize("kind", STORY_KINDS)
def test_wrong_tellings_fail(kind: str) -> None:
    for story in some(kind, 20):
        right, expected = told(story), [frame.expected for frame in story.frames]
        caption, graph = right[-1]
        assert graph is not None
        assert not frames_hold(right[:-1], expected)
        assert not frames_hold([*right, right[-1]], expected)
        assert not frames_hold([*right[:-1], (caption, None)], expected)
        assert not frames_hold([*right[:-1], ("once upon a time", graph)], expected)
        assert not frames_hold([*right[:-1], ("a red key and a blue cup and a sign", graph)], expected)
        assert not frames_hold([*right[:-1], (caption, replace(graph, objects=graph.objects[1:]))], expected)
        assert not frames_hold([right[0]] * len(right), expected)
        assert not frames_hold(right[::-1], expected) or right[::-1] == right or kind in ("counting", "walking")


def test_a_mover_must_stand_in_its_third_on_both_axes() -> None:
    story = next(s for s in some("walking", 60) if s.frames[-1].place == "top")
    last = story.frames[-1]
    mover = next(item for item in last.graph.objects if item.kind == last.mover)
    corner = replace(mover, row=0, column=0)
    lazy = replace(last.graph, objects=(corner,))
    expected = replace(last.expected, caption=f"a {mover.colour} {mover.kind}".replace("a orange", "an orange"))
    assert frames_hold([(expected.caption, replace(lazy, objects=(replace(mover, row=0),)))], [expected])
    assert not frames_hold([(expected.caption, lazy)], [expected])


def test_steadiness_notices_what_moves_without_reason() -> None:
    story = next(s for s in some("assembling", 30) if len(s.frames) == 3)
    first, second, third = story.graphs
    drifted = replace(second.objects[0], column=(second.objects[0].column + 1) % 5)
    unsteady = replace(second, objects=(drifted, *second.objects[1:]))
    assert not is_steady("assembling", [first, unsteady, third])
    other = "dusk" if second.background != "dusk" else "sand"
    assert not is_steady("assembling", [first, replace(second, background=other), third])
    assert not is_steady("assembling", [first, None, third])


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("there are four balls.", "four", True),
        ("4 balls", "four", True),
        ("there are four balls, not three", "four", False),
        ("there are balls", "four", False),
        ("it is at the bottom right.", "bottom right", True),
        ("it is on the right.", "bottom right", False),
        ("in the middle", "centre", True),
        ("at the top left", "top", False),
        ("", "top", False),
    ],
)
def test_endings(text: str, answer: str, right: bool) -> None:
    assert ending_holds(text, answer) == right


@pytest.mark.parametrize("kind", STORY_KINDS)
def test_held_out_stories_show_a_held_out_frame(kind: str) -> None:
    for story in some(kind, 3, held_out=True):
        assert any(is_held_out(graph) for graph in story.graphs)


def test_sampling_is_a_function_of_the_generator() -> None:
    assert [sample_story(random.Random(i)) for i in range(20)] == [sample_story(random.Random(i)) for i in range(20)]
    assert {sample_story(random.Random(i)).kind for i in range(60)} == set(STORY_KINDS)
    with pytest.raises(ConfigError, match="expected one of motion"):
        sample_story(random.Random(0), "romance")


@pytest.mark.parametrize("kind", STORY_KINDS)
def test_the_verifier_reads_a_right_telling_as_right(kind: str) -> None:
    for story in some(kind, 2):
        read: Told = [(frame.caption, verify(render(frame.graph))) for frame in story.frames]
        assert frames_hold(read, [frame.expected for frame in story.frames])
