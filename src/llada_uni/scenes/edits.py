"""Edits: one or two pictures, an instruction in words, and the picture that must come out.

The categories are those of ImgEdit. Every edit is valid by construction: what the instruction does not mention stays
where it is and as it is. :func:`llada_uni.scenes.changes.is_made` decides on a result; no source picture passes it.

Source: ImgEdit (arXiv 2505.20275), the list of categories.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from llada_uni.errors import ConfigError
from llada_uni.scenes.changes import Change, is_made
from llada_uni.scenes.compositions import compose
from llada_uni.scenes.edit_drafts import DRAFTS
from llada_uni.scenes.graph import SceneGraph
from llada_uni.scenes.sample import sample_scene
from llada_uni.scenes.split import is_held_out

__all__ = ["EDIT_CATEGORIES", "Edit", "loosely_written", "sample_edit"]

_TRIES = 4000


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Pictures to edit (one, or two for ``compose``), what to do, one right result, and what every right one is."""

    category: str
    sources: tuple[SceneGraph, ...]
    instruction: str
    target: SceneGraph
    change: Change

    @property
    def graphs(self) -> tuple[SceneGraph, ...]:
        """Sources, then the target."""
        return *self.sources, self.target


EDIT_CATEGORIES: tuple[str, ...] = (*DRAFTS, "compose")
_WEIGHTS = {"compose": 2.0, "move": 1.5, "background": 0.7, "style": 0.7}


def loosely_written(text: str, rng: random.Random) -> str:
    """Now and then capitalised, now and then with a full stop if there is no mark at the end."""
    chance = rng.random()
    if chance < 0.12:
        text = text[0].upper() + text[1:]
    return f"{text}." if 0.06 < chance < 0.18 and text[-1] not in ".?" else text


def sample_edit(
    rng: random.Random,
    category: str | None = None,
    *,
    grid_h: int = 8,
    grid_w: int = 8,
    held_out: bool | None = False,
) -> Edit:
    """Draw an edit of a random or of the named category.

    ``held_out``: False, no picture shows a combination reserved for evaluation; True, the target does; None, either.
    Raises ``ConfigError`` for an unknown category, or when none is found.
    """
    if category is not None and category not in EDIT_CATEGORIES:
        raise ConfigError(f"expected one of {', '.join(EDIT_CATEGORIES)}, got {category!r}; choose one of them")
    if category is None:
        category = rng.choices(EDIT_CATEGORIES, [_WEIGHTS.get(name, 1.0) for name in EDIT_CATEGORIES])[0]
    inside = False if held_out is False else None
    num_sources = 2 if category == "compose" else 1
    for _ in range(_TRIES):
        sources = tuple(sample_scene(rng, grid_h=grid_h, grid_w=grid_w, held_out=inside) for _ in range(num_sources))
        drawn = compose(sources, rng) if category == "compose" else DRAFTS[category](sources[0], rng, held_out)
        if drawn is None or (held_out is not None and is_held_out(drawn[1]) != held_out):
            continue
        instruction, target, change = drawn
        if is_made(change, target) and not any(is_made(change, graph) for graph in sources):
            instruction = loosely_written(instruction, rng)
            return Edit(category=category, sources=sources, instruction=instruction, target=target, change=change)
    raise ConfigError(f"no {category} edit found on a {grid_h}x{grid_w} grid; use a larger grid")
