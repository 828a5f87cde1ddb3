"""Attribute combinations and counts that training never sees, by a fixed rule that belongs to the world version.

Every kind still appears in at least seven colours, every colour on at least eighteen kinds, and every count with at
least sixteen kinds, so each word is learnt; what is held out are pairs.
"""

from __future__ import annotations

from collections import Counter

from llada_uni.scenes.graph import COLOURS, KINDS, SceneGraph

__all__ = [
    "HELD_OUT_COUNTS",
    "HELD_OUT_PAIRS",
    "allowed_colours",
    "is_held_out",
    "is_held_out_count",
    "is_held_out_pair",
]

HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    (kind, COLOURS[(3 * index + 1) % len(COLOURS)]) for index, kind in enumerate(KINDS[:16])
)
HELD_OUT_COUNTS: frozenset[tuple[str, int]] = frozenset(
    {("mushroom", 4), ("balloon", 4), ("book", 4), ("bell", 4), ("star", 3), ("cup", 3), ("umbrella", 3), ("hat", 2)}
)
_ALLOWED: dict[str, tuple[str, ...]] = {
    kind: tuple(colour for colour in COLOURS if (kind, colour) not in HELD_OUT_PAIRS) for kind in KINDS
}


def is_held_out_pair(kind: str, colour: str | None) -> bool:
    """Whether objects of ``kind`` in ``colour`` never appear in training."""
    return (kind, colour) in HELD_OUT_PAIRS


def is_held_out_count(kind: str, count: int) -> bool:
    """Whether exactly ``count`` objects of ``kind`` (whatever their colours) never appear in one training scene."""
    return (kind, count) in HELD_OUT_COUNTS


def allowed_colours(kind: str) -> tuple[str, ...]:
    """Colours of ``kind`` that training uses."""
    return _ALLOWED[kind]


def is_held_out(graph: SceneGraph) -> bool:
    """Whether ``graph`` holds a (kind, colour) pair or a (kind, count) pair reserved for evaluation."""
    if any((item.kind, item.colour) in HELD_OUT_PAIRS for item in graph.objects):
        return True
    counts = Counter(item.kind for item in graph.objects)
    return any(pair in HELD_OUT_COUNTS for pair in counts.items())
