"""The micro-world: scenes, their pictures, the sentences about them, and exact checks of both.

The benchmark is imported on first use, so that its module can also be run as a script.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llada_uni.scenes.captions import canonical_caption, caption, caption_for_training, sample_captioned
from llada_uni.scenes.corpus import corpus, layout_line
from llada_uni.scenes.geometry import place_name, relation_holds
from llada_uni.scenes.graph import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    MAX_OBJECTS,
    SIGN_WORDS,
    STYLES,
    WORLD_VERSION,
    SceneGraph,
    SceneObject,
    object_cells,
)
from llada_uni.scenes.predicates import Requirement, parse, satisfies
from llada_uni.scenes.questions import FAMILIES, Question, is_correct, sample_question
from llada_uni.scenes.render import render
from llada_uni.scenes.sample import sample_matching, sample_scene
from llada_uni.scenes.serialise import from_json, to_json
from llada_uni.scenes.split import is_held_out
from llada_uni.scenes.verify import verify

if TYPE_CHECKING:
    from llada_uni.scenes.bench import Bench, load_bench, wilson

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "FAMILIES",
    "KINDS",
    "MAX_OBJECTS",
    "SIGN_WORDS",
    "STYLES",
    "WORLD_VERSION",
    "Bench",
    "Question",
    "Requirement",
    "SceneGraph",
    "SceneObject",
    "canonical_caption",
    "caption",
    "caption_for_training",
    "corpus",
    "from_json",
    "is_correct",
    "is_held_out",
    "layout_line",
    "load_bench",
    "object_cells",
    "parse",
    "place_name",
    "relation_holds",
    "render",
    "sample_captioned",
    "sample_matching",
    "sample_question",
    "sample_scene",
    "satisfies",
    "to_json",
    "verify",
    "wilson",
]

_LATER = {
    "Bench": "llada_uni.scenes.bench",
    "load_bench": "llada_uni.scenes.bench",
    "wilson": "llada_uni.scenes.bench",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LATER[name]), name)
    globals()[name] = value
    return value
