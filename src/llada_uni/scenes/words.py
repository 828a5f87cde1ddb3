"""The closed vocabulary of the micro-world: number words, plurals, phrases and what each of them means.

Everything that speaks (captions, questions, riddles, edits) takes its words from here, and the parser knows no
others, so a sentence is either understood exactly or refused with the offending word.
"""

from __future__ import annotations

from llada_uni.scenes.graph import BACKGROUNDS, KINDS

__all__ = [
    "BACKGROUND_PHRASES",
    "COUNT_WORDS",
    "EDIT_TEMPLATES",
    "EDIT_VERBS",
    "LEADS",
    "PLACE_PHRASES",
    "PLURALS",
    "RELATION_PHRASES",
    "RIDDLES",
    "SCENE_LEADS",
    "SIGN_PHRASES",
    "SIZE_WORDS",
    "STORY_TEMPLATES",
    "STYLE_LEADS",
    "STYLE_PHRASES",
    "article",
    "noun",
    "with_article",
]

COUNT_WORDS: tuple[str, ...] = ("zero", "one", "two", "three", "four")
PLURALS: dict[str, str] = {kind: f"{kind}s" for kind in (*KINDS, "sign")} | {"fish": "fish"}
SIZE_WORDS: dict[str, tuple[str, ...]] = {"small": ("small", "little"), "large": ("large", "big")}

RELATION_PHRASES: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
    "next to": ("next to", "beside"),
}
PLACE_PHRASES: dict[str, tuple[str, ...]] = {
    "top left": ("at the top left", "in the top left", "in the top left corner"),
    "top": ("at the top",),
    "top right": ("at the top right", "in the top right", "in the top right corner"),
    "left": ("on the left", "at the left"),
    "centre": ("in the centre", "in the middle", "in the center"),
    "right": ("on the right", "at the right"),
    "bottom left": ("at the bottom left", "in the bottom left", "in the bottom left corner"),
    "bottom": ("at the bottom",),
    "bottom right": ("at the bottom right", "in the bottom right", "in the bottom right corner"),
}
_SPECIAL_BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "white": ("on white",),
    "sky": ("under the sky", "in the sky", "in front of the sky"),
    "grass": ("on grass", "on the grass", "in the grass"),
    "sand": ("on sand", "on the sand", "on the beach"),
    "dusk": ("at dusk", "in the dusk", "at sunset"),
    "night": ("at night", "in the night", "in the dark"),
}
BACKGROUND_PHRASES: dict[str, tuple[str, ...]] = {
    name: (*_SPECIAL_BACKGROUNDS[name], f"on a {name} background", f"with a {name} background") for name in BACKGROUNDS
}
STYLE_PHRASES: dict[str, tuple[str, ...]] = {
    "flat": ("in flat style", "in flat colours"),
    "outline": ("in outline style", "as a line drawing", "as an outline"),
}

LEADS: tuple[str, ...] = (
    "a photo of", "a picture of", "a drawing of", "an image of", "a scene with", "there is", "there are",
    "draw", "show", "show me", "make", "paint",
)  # fmt: skip
STYLE_LEADS: dict[str, tuple[str, ...]] = {
    "flat": ("a flat drawing of",),
    "outline": ("a line drawing of", "an outline drawing of", "an outline of"),
}
SCENE_LEADS: dict[str, tuple[str, ...]] = {name: (f"a {name} scene with",) for name in BACKGROUNDS}
SIGN_PHRASES: tuple[str, ...] = ("that says", "saying", "with the word", "that reads", "reading")

RIDDLES: dict[str, tuple[str, ...]] = {
    "ball": ("the round toy that you throw", "the toy that bounces", "the thing you kick in a game"),
    "apple": ("the fruit that grows on a tree", "the crunchy fruit", "the fruit that a worm likes"),
    "tree": ("the tall plant with a trunk", "the plant that apples grow on", "the plant that gives shade"),
    "house": ("the building that people live in", "the thing with a roof and a door", "the place called home"),
    "car": ("the thing with four wheels", "the thing that drives on a road", "the machine that needs a driver"),
    "fish": ("the animal that swims", "the animal with fins", "the animal that lives in water"),
    "cat": ("the animal that says meow", "the animal that chases mice", "the pet with whiskers"),
    "cup": ("the thing you drink from", "the thing that holds tea", "the thing with one handle for hot milk"),
    "boat": ("the thing that floats on the sea", "the thing with a sail", "the thing a sailor steers"),
    "umbrella": ("the thing that keeps rain off", "the thing you open when it rains", "the roof you carry"),
    "star": ("the thing that twinkles at night", "the shape with five points", "the light far away in space"),
    "heart": ("the shape that means love", "the thing that beats in your chest", "the shape on a valentine card"),
    "key": ("the thing that opens a lock", "the thing you turn in a door", "the small metal thing for a lock"),
    "hat": ("the thing you wear on your head", "the thing that covers your hair", "the clothing for a head"),
    "flower": ("the plant that smells sweet", "the thing with petals", "the plant that bees visit"),
    "bird": ("the animal that flies", "the animal with feathers", "the animal that builds a nest"),
    "mushroom": ("the fungus", "the thing with a cap in a forest", "the soft thing that grows after rain"),
    "balloon": ("the thing filled with air on a string", "the party thing that can pop", "the toy that floats up"),
    "book": ("the thing with pages", "the thing that you read", "the thing found in a library"),
    "bell": ("the thing that rings", "the thing that goes ding dong", "the metal thing that you hear in a tower"),
}  # fmt: skip

EDIT_VERBS: dict[str, tuple[str, ...]] = {
    "add": ("add", "put", "draw"),
    "remove": ("remove", "delete", "take away", "erase"),
    "replace": ("replace", "swap", "turn"),
    "recolour": ("make", "colour", "paint", "change"),
    "move": ("move", "shift"),
    "resize": ("make", "grow", "shrink"),
    "background": ("change", "set", "make"),
    "style": ("turn", "redraw"),
    "compose": ("take", "combine", "copy"),
}
EDIT_TEMPLATES: dict[str, tuple[str, ...]] = {
    "add": ("add {new}", "add {new} {place}", "put {new} {relation} {ref}", "draw {new} {place}"),
    "remove": ("remove {ref}", "delete {ref}", "take away {ref}", "erase {ref}"),
    "replace": ("replace {ref} with {new}", "swap {ref} for {new}", "turn {ref} into {new}"),
    "recolour": (
        "make {ref} {colour}",
        "colour {ref} {colour}",
        "paint {ref} {colour}",
        "change the colour of {ref} to {colour}",
    ),
    "move": (
        "move {ref} to the {place_name}",
        "shift {ref} to the {place_name}",
        "move {ref} {direction}",
        "move {ref} {relation} {other}",
    ),
    "resize": ("make {ref} {size}", "make {ref} bigger", "make {ref} smaller", "grow {ref}", "shrink {ref}"),
    "background": ("change the background to {background}", "set the background to {background}", "make it {night}"),
    "style": ("turn it into a line drawing", "redraw it in flat style", "redraw it in outline style"),
    "compose": (
        "take {ref} from the first picture and {other} from the second picture",
        "copy {ref} from the second picture into the first picture",
        "combine the two pictures",
    ),
}  # fmt: skip
STORY_TEMPLATES: tuple[str, ...] = (
    "tell a story in {count} pictures: {subject} moves {direction}.",
    "first there is {subject}.",
    "now {ref} moves {direction}.",
    "then {ref} is {place}.",
    "{ref} grows.",
    "{ref} shrinks.",
    "then {new} comes {place}.",
    "at last {ref} is {relation} {other}.",
    "step {count}: put {new} {place}.",
    "show step by step how {ref} goes to {other}.",
    "which picture has more {plural}? the {ordinal} picture.",
    "what changed between the first picture and the {ordinal} picture? {ref} is gone.",
)


def article(word: str) -> str:
    """``"an"`` before a vowel letter, else ``"a"`` (every word of this world follows the letter rule)."""
    return "an" if word[0].lower() in "aeiou" else "a"


def with_article(phrase: str) -> str:
    """``phrase`` with the indefinite article its first word needs."""
    return f"{article(phrase)} {phrase}"


def noun(kind: str, count: int) -> str:
    """Name of ``count`` objects of ``kind``: singular for one, else plural."""
    return kind if count == 1 else PLURALS[kind]
