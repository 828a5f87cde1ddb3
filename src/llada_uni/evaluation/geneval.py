"""GenEval's decision: does a picture, as detected objects, satisfy a prompt's include and exclude clauses.

Source: Ghosh et al. 2023, repository ``djghosh13/geneval``, ``evaluation/evaluate_images.py`` (its rules, our code).
The detector and the colour classifier are judges of their own; officially Mask2Former (Swin-S, COCO) and CLIP ViT-L/14.
"""

from __future__ import annotations

import math
from typing import Any

from llada_uni.evaluation.items import DetectedObject, JudgeError

__all__ = ["COLORS", "decide", "kept_objects", "relations"]

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_CONFIDENCE, _COUNTING_CONFIDENCE = 0.3, 0.9
_MOST = 16  # objects of one class
_MARGIN = 0.1  # share of the summed sizes by which centres must be apart
_DIRECTION = 0.5  # least component of the unit offset

Objects = dict[str, list[DetectedObject]]


def kept_objects(found: Objects, tag: str) -> Objects:
    """The objects above 0.3 confidence (0.9 for "counting"), most confident first, at most 16 of a class."""
    least = _COUNTING_CONFIDENCE if tag == "counting" else _CONFIDENCE
    kept = {}
    for name, objects in found.items():
        good = sorted((o for o in objects if o.confidence > least), key=lambda o: -o.confidence)[:_MOST]
        if good:
            kept[name] = good
    return kept


def relations(one: DetectedObject, other: DetectedObject) -> set[str]:
    """Where ``one`` lies relative to ``other``: some of "left of", "right of", "above", "below"."""
    offset = [_middle(one, axis) - _middle(other, axis) for axis in (0, 1)]
    moved = []
    for axis in (0, 1):
        room = _MARGIN * (_length(one, axis) + _length(other, axis))
        moved.append(math.copysign(max(abs(offset[axis]) - room, 0.0), offset[axis]))
    if all(abs(value) < 1e-3 for value in moved):
        return set()
    dx, dy = (value / math.hypot(*offset) for value in moved)
    named = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}
    return {name for name, amount in named.items() if amount > _DIRECTION}


def decide(objects: Objects, metadata: dict[str, Any]) -> tuple[bool, list[str]]:
    """Whether ``objects`` (kept ones) satisfy the clauses, and every reason why not.

    Raises:
        JudgeError: a colour is asked for and the detector gave none.
    """
    reasons: list[str] = []
    groups: list[list[DetectedObject] | None] = []
    for clause in metadata.get("include", []):
        failed = _check(clause, objects, groups)
        reasons += [] if failed is None else [failed]
        groups.append(None if failed else objects.get(clause["class"], [])[: clause["count"]])
    for clause in metadata.get("exclude", []):
        count = len(objects.get(clause["class"], []))
        if count >= clause["count"]:
            reasons.append(f"expected {clause['class']}<{clause['count']}, found {count}")
    return not reasons, reasons


def _check(clause: dict[str, Any], objects: Objects, groups: list[list[DetectedObject] | None]) -> str | None:
    name, count = clause["class"], clause["count"]
    found = objects.get(name, [])[:count]
    if len(found) < count:
        return f"expected {name}>={count}, found {len(found)}"
    if "color" in clause:
        right = sum(_color(one) == clause["color"] for one in found)
        if right < count:
            return f"expected {clause['color']} {name}>={count}, found {right}"
    if "position" in clause:
        relation, target = clause["position"]
        others = groups[target]
        if others is None:
            return f"no target for {name} to be {relation}"
        if any(relation not in relations(one, other) for one in found for other in others):
            return f"expected {name} {relation} target"
    return None


def _color(one: DetectedObject) -> str:
    if one.color is None:
        raise JudgeError("the detector gave no colour for an object whose colour is asked for")
    return one.color


def _middle(one: DetectedObject, axis: int) -> float:
    return (one.box[axis] + one.box[axis + 2]) / 2


def _length(one: DetectedObject, axis: int) -> float:
    return abs(one.box[axis + 2] - one.box[axis])
