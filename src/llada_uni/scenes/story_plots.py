"""How each kind of story is made: its prompt, its frames, its end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llada_uni.errors import ConfigError
from llada_uni.scenes import words
from llada_uni.scenes.captions import thing_phrase
from llada_uni.scenes.geometry import Box, box_of, place_name
from llada_uni.scenes.graph import BACKGROUNDS, COLOURS, KINDS, MAX_OBJECTS, SceneGraph, SceneObject
from llada_uni.scenes.predicates import ObjectSpec, Requirement
from llada_uni.scenes.referring import free_boxes, plain_phrase, stands_in, steps
from llada_uni.scenes.sample import sample_matching
from llada_uni.scenes.split import allowed_colours

__all__ = [
    "Expected",
    "Frame",
    "Plot",
    "plot_assembling",
    "plot_counting",
    "plot_growing",
    "plot_motion",
    "plot_walking",
]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a frame must show: ``caption``, and the one object of kind ``mover`` in ``place`` (where it is named)."""

    caption: str
    mover: str = ""
    place: str = ""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A picture of a story and the caption that stands before it."""

    caption: str
    graph: SceneGraph
    mover: str = ""
    place: str = ""

    @property
    def expected(self) -> Expected:
        """What every right picture in its place shows."""
        return Expected(caption=self.caption, mover=self.mover, place=self.place)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A story without its kind; ``ending`` and ``answer`` are empty for stories that are no puzzles."""

    prompt: str
    frames: tuple[Frame, ...]
    ending: str = ""
    answer: str = ""


_Grid = tuple[int, int]
_LEAST_STEP = 2.0
_WHITE_SHARE, _BYSTANDER_SHARE = 0.6, 0.35
_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")
_STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_STORY_LEADS = ("tell a story in {n} pictures: ", "show a story in {n} pictures: ", "draw {n} pictures: ")
_PUZZLE_LEADS = ("show step by step: ", "draw step by step: ", "step by step: ")
_MOTION = ("{thing} moves from the {first} to the {last}", "{thing} goes from the {first} to the {last}")


def _place(row: int, column: int) -> str:
    """Name of one of the nine places by thirds, 0..2 each."""
    return " ".join(part for part in (_ROWS[row], _COLUMNS[column]) if part) or "centre"


def _thing(rng: random.Random, held_out: bool | None, *, without: Sequence[str] = ()) -> SceneObject:
    """An object that is not placed yet, of a kind not in ``without``."""
    kind = rng.choice([name for name in KINDS if name not in without])
    colour = rng.choice(allowed_colours(kind) if held_out is False else COLOURS)
    return SceneObject(kind=kind, colour=colour, size="small" if rng.random() < 0.6 else "large", row=0, column=0)


def _setting(rng: random.Random) -> tuple[str, str]:
    """A background and the words that tell it at the end of a sentence (none for white)."""
    name = "white" if rng.random() < _WHITE_SHARE else rng.choice(BACKGROUNDS[1:])
    return name, "" if name == "white" else f" {words.BACKGROUND_PHRASES[name][0]}"


def _in_place(item: SceneObject, place: str, others: Sequence[SceneObject], grid: _Grid) -> list[Box]:
    """Free boxes for ``item`` clearly in ``place``."""
    return [box for box in free_boxes(others, item.cells, grid) if stands_in(box, grid, place, clear=True)]


def _visited(
    rng: random.Random, item: SceneObject, places: Sequence[str], others: Sequence[SceneObject], grid: _Grid
) -> list[SceneObject] | None:
    """``item`` in every place in turn, at least two cells further on, in a straight line where that is possible."""
    found: list[SceneObject] = []
    last = ""
    for place in places:
        boxes = _in_place(item, place, others, grid)
        if found:
            here = box_of(found[-1])
            boxes = [box for box in boxes if steps(here, box, last, place) >= _LEAST_STEP]
            boxes = [box for box in boxes if box[0] == here[0] or box[1] == here[1]] or boxes
        if not boxes:
            return None
        box = rng.choice(boxes)
        found.append(replace(item, row=box[0], column=box[1]))
        last = place
    return found


def _bystander(
    rng: random.Random, mover: SceneObject, places: Sequence[str], grid: _Grid, held_out: bool | None
) -> tuple[SceneObject | None, str]:
    """Now and then a second object in a place of its own, and its name."""
    if rng.random() >= _BYSTANDER_SHARE:
        return None, ""
    other = replace(_thing(rng, held_out, without=(mover.kind,)), size="small")
    free = [place for place in words.PLACE_PHRASES if " " in place and place not in places]
    boxes = _in_place(other, rng.choice(free), (), grid) if free else []
    if not boxes:
        return None, ""
    box = rng.choice(boxes)
    placed = replace(other, row=box[0], column=box[1])
    return placed, place_name(box_of(placed), *grid)


def _there(item: SceneObject, place: str) -> str:
    return f"{plain_phrase(item)} {words.PLACE_PHRASES[place][0]}"


def _travel(
    rng: random.Random, grid: _Grid, held_out: bool | None, places: Sequence[str]
) -> tuple[SceneObject, tuple[Frame, ...], str, str] | None:
    """A mover through ``places``: the mover, the frames, words for what stands by, words for the background."""
    item = _thing(rng, held_out)
    other, where = _bystander(rng, item, places, grid, held_out)
    still = () if other is None else (other,)
    stops = _visited(rng, item, places, still, grid)
    if stops is None:
        return None
    background, tail = _setting(rng)
    beside = "" if other is None else f" and {_there(other, where)}"
    frames = tuple(
        Frame(
            caption=f"{_there(item, place)}{beside}{tail}",
            graph=SceneGraph(objects=(stop, *still), background=background, grid_h=grid[0], grid_w=grid[1]),
            mover=item.kind,
            place=place,
        )
        for place, stop in zip(places, stops, strict=True)
    )
    return item, frames, "" if other is None else f". there is {_there(other, where)}", tail


def plot_motion(rng: random.Random, grid: _Grid, held_out: bool | None) -> Plot | None:
    """An object visits two to four places, the last of two or three of them in a straight line."""
    if rng.random() < 0.6:
        (r0, c0), (r1, c1) = (rng.choice([(r, c) for r in (0, 1, 2) for c in (0, 1, 2)]) for _ in range(2))
        if max(abs(r1 - r0), abs(c1 - c0)) < 2 or 1 in (abs(r1 - r0), abs(c1 - c0)):
            return None
        places = [_place(r0, c0), _place((r0 + r1) // 2, (c0 + c1) // 2), _place(r1, c1)]
        form = rng.choice(_MOTION)
    else:
        corners = [_place(r, c) for r in (0, 2) for c in (0, 2)] + ["centre"]
        places = rng.sample(corners, rng.choice((2, 3, 3, 4)))
        form = "{thing} visits the {all}"
    found = _travel(rng, grid, held_out, places)
    if found is None:
        return None
    item, frames, beside, tail = found
    lead = rng.choice(_STORY_LEADS).format(n=words.COUNT_WORDS[len(places)])
    names = ", the ".join(places[:-1]) + f" and the {places[-1]}"
    event = form.format(thing=plain_phrase(item), first=places[0], last=places[-1], all=names)
    return Plot(prompt=f"{lead}{event}{tail}{beside}.", frames=frames)


def plot_walking(rng: random.Random, grid: _Grid, held_out: bool | None) -> Plot | None:
    """A puzzle: an object starts in one of nine places and moves by a third of the picture per step."""
    row, column = rng.randrange(3), rng.randrange(3)
    places, moves = [_place(row, column)], []
    for _ in range(rng.choice((1, 2, 2, 3))):
        ways = [w for w, (r, c) in _STEPS.items() if 0 <= row + r <= 2 and 0 <= column + c <= 2]
        moves.append(rng.choice(ways))
        row, column = row + _STEPS[moves[-1]][0], column + _STEPS[moves[-1]][1]
        places.append(_place(row, column))
    found = _travel(rng, grid, held_out, places)
    if found is None:
        return None
    item, frames, beside, tail = found
    steps = ". then it moves ".join(moves)
    start = f"there is {plain_phrase(item)} {words.PLACE_PHRASES[places[0]][0]}{tail}{beside}"
    subject = "it" if not beside else f"the {item.kind}"
    prompt = f"{rng.choice(_PUZZLE_LEADS)}{start}. {subject} moves {steps}. where is {subject} at last?"
    ending = f"{subject} is {words.PLACE_PHRASES[places[-1]][0]}."
    return Plot(prompt=prompt, frames=frames, ending=ending, answer=places[-1])


def _matching(rng: random.Random, specs: Sequence[ObjectSpec], grid: _Grid, held_out: bool | None) -> SceneGraph | None:
    """A plain scene of the specified things, or ``None`` when they do not fit."""
    try:
        requirement = Requirement(objects=tuple(specs), background="white", style="flat")
        return sample_matching(rng, requirement, grid_h=grid[0], grid_w=grid[1], held_out=None)
    except ConfigError:
        return None


def _counted(item: SceneObject, count: int) -> str:
    return f"{words.COUNT_WORDS[count]} {thing_phrase(item, count=count)}"


def _numbers(
    rng: random.Random, grid: _Grid, item: SceneObject, counts: Sequence[int], setting: tuple[str, str]
) -> tuple[Frame, ...] | None:
    """Frames with so many like objects each; the same objects come and go."""
    spec = ObjectSpec(count=max(counts), kind=item.kind, colour=item.colour, size="small")
    whole = _matching(rng, [spec], grid, None)
    if whole is None:
        return None
    return tuple(
        Frame(
            caption=f"{_counted(item, count)}{setting[1]}",
            graph=replace(whole, objects=whole.objects[:count], background=setting[0]),
        )
        for count in counts
    )


def plot_growing(rng: random.Random, grid: _Grid, held_out: bool | None) -> Plot | None:
    """One object gets large or small, or a number of objects grows or shrinks by one."""
    item, setting = _thing(rng, held_out), _setting(rng)
    if rng.random() < 0.4:
        return _resized(rng, grid, item, setting)
    length = rng.choice((2, 3, 3, 4))
    first = rng.randint(1, MAX_OBJECTS + 1 - length)
    counts = list(range(first, first + length))
    more = rng.random() < 0.6
    counts = counts if more else counts[::-1]
    frames = _numbers(rng, grid, item, counts, setting)
    lead = rng.choice(_STORY_LEADS).format(n=words.COUNT_WORDS[length])
    verb = "is" if counts[0] == 1 else "are"
    event = "one more comes" if more else "one goes away"
    start = f"first there {verb} {_counted(item, counts[0])}{setting[1]}"
    return None if frames is None else Plot(prompt=f"{lead}{start}. then {event} in each picture.", frames=frames)


def _resized(rng: random.Random, grid: _Grid, item: SceneObject, setting: tuple[str, str]) -> Plot | None:
    box = rng.choice(free_boxes((), (3, 3), grid))
    large = replace(item, size="large", row=box[0], column=box[1])
    small = replace(item, size="small", row=box[0] + rng.randint(0, 1), column=box[1] + rng.randint(0, 1))
    grows = rng.random() < 0.6
    frames = tuple(
        Frame(
            caption=f"{plain_phrase(one, size=True)}{setting[1]}",
            graph=SceneGraph(objects=(one,), background=setting[0], grid_h=grid[0], grid_w=grid[1]),
        )
        for one in ((small, large) if grows else (large, small))
    )
    lead = rng.choice(_STORY_LEADS).format(n="two")
    subject = plain_phrase(small if grows else large, size=True)
    return Plot(prompt=f"{lead}{subject} {'grows' if grows else 'shrinks'}{setting[1]}.", frames=frames)


def plot_assembling(rng: random.Random, grid: _Grid, held_out: bool | None) -> Plot | None:
    """Different objects join one after the other, now and then in a named place."""
    length = rng.choice((2, 3, 3, 4))
    items: list[SceneObject] = []
    for _ in range(length):
        items.append(_thing(rng, held_out, without=[item.kind for item in items]))
    places = [rng.choice(tuple(words.PLACE_PHRASES)) if rng.random() < 0.3 else None for _ in items]
    specs = [
        ObjectSpec(count=1, kind=item.kind, colour=item.colour, place=place)
        for item, place in zip(items, places, strict=True)
    ]
    whole = _matching(rng, specs, grid, held_out)
    if whole is None:
        return None
    told = [_there(i, p) if p else plain_phrase(i) for i, p in zip(items, places, strict=True)]
    background, tail = _setting(rng)
    frames = tuple(
        Frame(
            caption=_listed(told[: number + 1]) + tail,
            graph=replace(whole, objects=whole.objects[: number + 1], background=background),
        )
        for number in range(length)
    )
    lead = rng.choice(_STORY_LEADS).format(n=words.COUNT_WORDS[length])
    comings = [f"then {_comes(item, place)}" for item, place in zip(items[1:], places[1:], strict=True)]
    if length > 2:
        comings[-1] = comings[-1].replace("then", "at last", 1)
    return Plot(prompt=f"{lead}first there is {told[0]}{tail}. {'. '.join(comings)}.", frames=frames)


def _comes(item: SceneObject, place: str | None) -> str:
    where = f" {words.PLACE_PHRASES[place][0]}" if place else ""
    return f"{plain_phrase(item)} comes{where}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]


def plot_counting(rng: random.Random, grid: _Grid, held_out: bool | None) -> Plot | None:
    """A puzzle: objects are put in and taken away; how many are there at last?"""
    item, setting = _thing(rng, held_out), _setting(rng)
    counts, steps = [rng.randint(1, MAX_OBJECTS)], []
    for _ in range(rng.choice((1, 2, 2, 3))):
        now = counts[-1]
        change = rng.choice([n for n in range(1 - now, MAX_OBJECTS + 1 - now) if n])
        number = words.COUNT_WORDS[abs(change)]
        steps.append(f"put in {number} more" if change > 0 else f"take away {number}")
        counts.append(now + change)
    frames = _numbers(rng, grid, item, counts, setting)
    if frames is None:
        return None
    verb = "is" if counts[0] == 1 else "are"
    things = thing_phrase(item, count=2, colour=False)
    start = f"there {verb} {_counted(item, counts[0])}{setting[1]}"
    prompt = f"{rng.choice(_PUZZLE_LEADS)}{start}. {'. then '.join(steps)}. how many {things} are there at last?"
    verb, answer = "is" if counts[-1] == 1 else "are", words.COUNT_WORDS[counts[-1]]
    ending = f"there {verb} {answer} {thing_phrase(item, count=counts[-1], colour=False)}."
    return Plot(prompt=prompt, frames=frames, ending=ending, answer=answer)
