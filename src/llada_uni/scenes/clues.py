"""The closed table of riddles: what can be said of each kind without naming it, and which wordings are kept back.

Every clue starts with ``the`` and fits one kind only. A held-out clue says what a training clue of its kind says too,
in other words that training clues use elsewhere, so that it can be understood but not remembered.
"""

from __future__ import annotations

from llada_uni.scenes.graph import KINDS

__all__ = ["CLASSES", "CLUES", "HELD_OUT_CLUES", "coloured_clue"]

CLUES: dict[str, tuple[str, ...]] = {
    "ball": (
        "the round toy that you throw",
        "the toy that you throw",
        "the toy that bounces",
        "the thing you kick in a game",
        "the toy you kick in a game",
    ),
    "apple": (
        "the fruit that grows on a tree",
        "the round fruit that grows on a tree",
        "the crunchy fruit",
        "the fruit that a worm likes",
        "the fruit with a worm",
    ),
    "tree": (
        "the tall plant with a trunk",
        "the plant with a trunk",
        "the plant that apples grow on",
        "the plant that gives shade",
        "the tall plant that gives shade",
    ),
    "house": (
        "the building that people live in",
        "the thing that people live in",
        "the building with a roof and a door",
        "the place called home",
        "the building called home",
    ),
    "car": (
        "the thing with four wheels",
        "the machine with four wheels",
        "the thing that drives on a road",
        "the machine that needs a driver",
        "the thing that needs a driver",
    ),
    "fish": (
        "the animal that swims",
        "the pet that swims",
        "the animal with fins",
        "the animal that lives in water",
        "the pet that lives in water",
    ),
    "cat": (
        "the animal that says meow",
        "the animal that chases mice",
        "the pet that chases mice",
        "the pet with whiskers",
        "the animal with whiskers",
    ),
    "cup": (
        "the thing you drink from",
        "the thing that you drink tea from",
        "the thing that holds tea",
        "the thing that holds hot milk",
        "the thing with one handle for tea",
    ),
    "boat": (
        "the thing that floats on the sea",
        "the thing with a sail",
        "the thing with a sail on the sea",
        "the thing a sailor steers",
        "the thing that a sailor steers",
    ),
    "umbrella": (
        "the thing that keeps rain off",
        "the thing that keeps off the rain",
        "the thing you open when it rains",
        "the roof you carry",
        "the roof that you carry",
    ),
    "star": (
        "the thing that twinkles at night",
        "the light that twinkles at night",
        "the shape with five points",
        "the light far away in space",
        "the thing far away in space",
    ),
    "heart": (
        "the shape that means love",
        "the thing that beats in your chest",
        "the thing in your chest that beats",
        "the shape on a valentine card",
        "the thing on a valentine card",
    ),
    "key": (
        "the thing that opens a lock",
        "the metal thing that opens a lock",
        "the thing you turn in a door",
        "the metal thing for a lock",
        "the thing for a lock",
    ),
    "hat": (
        "the thing you wear on your head",
        "the clothing you wear on your head",
        "the thing that covers your hair",
        "the clothing for a head",
        "the thing for your head",
    ),
    "flower": (
        "the plant that smells sweet",
        "the thing with petals",
        "the plant with petals",
        "the plant that bees visit",
        "the thing that bees visit",
    ),
    "bird": (
        "the animal that flies",
        "the pet that flies",
        "the animal with feathers",
        "the animal that builds a nest",
        "the thing that builds a nest",
    ),
    "mushroom": (
        "the fungus",
        "the soft fungus",
        "the thing with a cap in a forest",
        "the soft thing that grows after rain",
        "the thing that grows after rain",
    ),
    "balloon": (
        "the thing filled with air on a string",
        "the toy filled with air on a string",
        "the party thing that can pop",
        "the toy that floats up",
        "the thing that floats up",
    ),
    "book": (
        "the thing with pages",
        "the thing with many pages",
        "the thing that you read",
        "the thing found in a library",
        "the thing that you find in a library",
    ),
    "bell": (
        "the thing that rings",
        "the metal thing that rings",
        "the thing that goes ding dong",
        "the metal thing that you hear in a tower",
        "the thing that you hear in a tower",
    ),
}
HELD_OUT_CLUES: dict[str, tuple[str, ...]] = {
    "ball": ("the round thing that bounces",),
    "apple": ("the fruit that is crunchy",),
    "tree": ("the tall thing with a trunk",),
    "house": ("the thing called home",),
    "car": ("the machine that drives on a road",),
    "fish": ("the pet with fins",),
    "cat": ("the pet that says meow",),
    "cup": ("the thing with one handle that holds tea",),
    "boat": ("the thing that floats on water",),
    "umbrella": ("the thing that you open when it rains",),
    "star": ("the thing with five points",),
    "heart": ("the thing that means love",),
    "key": ("the metal thing you turn in a door",),
    "hat": ("the clothing that covers your hair",),
    "flower": ("the thing that smells sweet",),
    "bird": ("the pet with feathers",),
    "mushroom": ("the fungus with a cap in a forest",),
    "balloon": ("the party toy that can pop",),
    "book": ("the thing you read",),
    "bell": ("the metal thing that goes ding dong",),
}
CLASSES: dict[str, tuple[str, ...]] = {
    "animal": ("cat", "fish", "bird"),
    "plant": ("tree", "flower"),
    "toy": ("ball", "balloon"),
    "fruit": ("apple",),
    "building": ("house",),
    "shape": ("star", "heart"),
}
"""Which kinds are what; a kind that stands in no class is left out of questions about classes."""

_BEFORE_COLOUR = ("tall", "round", "soft", "crunchy")

assert set(CLUES) == set(HELD_OUT_CLUES) == set(KINDS), "every kind has clues"


def coloured_clue(clue: str, colour: str | None) -> str:
    """``clue`` with a colour where English puts it: ``"the round red toy that you throw"``."""
    if colour is None:
        return clue
    parts = clue.split()
    place = 2 if parts[1] in _BEFORE_COLOUR else 1
    return " ".join((*parts[:place], colour, *parts[place:]))
