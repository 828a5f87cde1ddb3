"""The twenty recolourable kinds as layered vector icons in unit coordinates (x right, y down).

A layer has a role that decides its colour: ``body`` is the object's colour, ``shade`` and ``light`` are darker
and lighter tones of the same hue, ``dark`` and ``white`` are neutral details. Solid layers make up the
silhouette, which gets the contour; the others only paint inside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llada_uni.scenes.sdf import (
    Sdf,
    box,
    capsule,
    circle,
    cut,
    ellipse,
    mirror,
    polygon,
    polyline,
    smooth,
    turn,
    union,
)

__all__ = ["ICONS", "Layer", "Role"]

Role = Literal["body", "shade", "light", "dark", "white"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One painted region; ``rim`` is the width of a thin line around it in box units (0 = none)."""

    role: Role
    shape: Sdf
    solid: bool = False
    rim: float = 0.0


def _solid(role: Role, shape: Sdf, rim: float = 0.0) -> Layer:
    return Layer(role=role, shape=shape, solid=True, rim=rim)


def _inner(role: Role, shape: Sdf, rim: float = 0.0) -> Layer:
    return Layer(role=role, shape=shape, rim=rim)


def _polar(cx: float, cy: float, radius: float, degrees: float) -> tuple[float, float]:
    angle = math.radians(degrees)
    return cx + radius * math.cos(angle), cy + radius * math.sin(angle)


def _ball() -> list[Layer]:
    band = cut(circle(0.5, -0.42, 0.99), circle(0.5, -0.42, 0.83))
    second = cut(circle(0.5, 1.42, 0.68), circle(0.5, 1.42, 0.6))
    return [
        _solid("body", circle(0.5, 0.5, 0.44)),
        _inner("white", turn(union(band, second), -28), rim=0.03),
        _inner("light", turn(ellipse(0.32, 0.24, 0.07, 0.045), -40, 0.32, 0.24)),
    ]


def _apple() -> list[Layer]:
    half = [(0.5, 0.33), (0.66, 0.25), (0.85, 0.32), (0.93, 0.52), (0.85, 0.77), (0.68, 0.94)]
    outline = smooth([*half, (0.5, 0.9), *reversed(mirror(half[1:]))])
    leaf = polygon(smooth([(0.55, 0.24), (0.64, 0.1), (0.84, 0.07), (0.76, 0.2)]))
    return [
        _solid("dark", polyline([(0.5, 0.36), (0.48, 0.2), (0.43, 0.09)], 0.032)),
        _solid("body", polygon(outline)),
        _solid("shade", leaf, rim=0.03),
        _inner("light", turn(ellipse(0.26, 0.48, 0.055, 0.12), 20, 0.26, 0.48)),
        _inner("dark", polyline([(0.5, 0.4), (0.49, 0.3)], 0.03)),
    ]


def _tree() -> list[Layer]:
    crown = union(circle(0.5, 0.27, 0.21), circle(0.27, 0.46, 0.21), circle(0.73, 0.46, 0.21), circle(0.5, 0.47, 0.24))
    trunk = polygon([(0.43, 0.6), (0.57, 0.6), (0.6, 0.95), (0.4, 0.95)], 0.01)
    tufts = union(*(cut(circle(x, y, 0.09), circle(x + 0.01, y + 0.05, 0.09)) for x, y in _TUFTS))
    return [_solid("dark", trunk), _solid("body", crown), _inner("light", tufts)]


_TUFTS = ((0.45, 0.22), (0.24, 0.42), (0.68, 0.42), (0.47, 0.5))


def _house() -> list[Layer]:
    return [
        _solid("shade", box(0.68, 0.12, 0.82, 0.5)),
        _solid("body", box(0.14, 0.45, 0.86, 0.95, 0.01)),
        _solid("shade", polygon([(0.5, 0.08), (0.93, 0.46), (0.07, 0.46)], 0.02), rim=0.03),
        _inner("dark", box(0.57, 0.62, 0.76, 0.95)),
        _inner("white", box(0.24, 0.6, 0.46, 0.8), rim=0.03),
        _inner("dark", union(box(0.335, 0.6, 0.365, 0.8), box(0.24, 0.685, 0.46, 0.715))),
    ]


def _car() -> list[Layer]:
    cabin = polygon([(0.3, 0.24), (0.66, 0.24), (0.82, 0.5), (0.18, 0.5)], 0.04)
    return [
        _solid("body", cabin),
        _solid("body", box(0.05, 0.45, 0.95, 0.75, 0.09)),
        _inner("white", polygon([(0.33, 0.29), (0.46, 0.29), (0.46, 0.46), (0.25, 0.46)])),
        _inner("white", polygon([(0.54, 0.29), (0.63, 0.29), (0.74, 0.46), (0.54, 0.46)])),
        _inner("white", ellipse(0.9, 0.56, 0.045, 0.05)),
        _solid("dark", union(circle(0.26, 0.75, 0.135), circle(0.74, 0.75, 0.135))),
        _inner("white", union(circle(0.26, 0.75, 0.055), circle(0.74, 0.75, 0.055))),
    ]


def _fish() -> list[Layer]:
    tail = polygon(smooth([(0.28, 0.5), (0.06, 0.24), (0.12, 0.5), (0.06, 0.76)]))
    fin = polygon([(0.4, 0.3), (0.5, 0.14), (0.68, 0.18), (0.72, 0.34)], 0.02)
    belly = polygon([(0.46, 0.7), (0.5, 0.86), (0.64, 0.8), (0.66, 0.68)], 0.02)
    return [
        _solid("shade", union(tail, fin, belly)),
        _solid("body", ellipse(0.58, 0.5, 0.37, 0.26), rim=0.03),
        _inner("white", circle(0.77, 0.44, 0.075)),
        _inner("dark", circle(0.785, 0.44, 0.042)),
        _inner("shade", polyline([(0.6, 0.36), (0.66, 0.5), (0.6, 0.64)], 0.022)),
        _inner("light", ellipse(0.45, 0.45, 0.07, 0.09)),
    ]


def _cat() -> list[Layer]:
    ear = [(0.1, 0.1), (0.12, 0.55), (0.46, 0.28)]
    inner = [(0.17, 0.2), (0.18, 0.38), (0.3, 0.28)]
    whiskers = [
        capsule(0.07, 0.66, 0.24, 0.69, 0.014),
        capsule(0.1, 0.8, 0.25, 0.76, 0.014),
        capsule(0.93, 0.66, 0.76, 0.69, 0.014),
        capsule(0.9, 0.8, 0.75, 0.76, 0.014),
    ]
    return [
        _solid("body", union(polygon(ear, 0.02), polygon(mirror(ear), 0.02), ellipse(0.5, 0.6, 0.43, 0.35))),
        _inner("light", union(polygon(inner, 0.01), polygon(mirror(inner), 0.01))),
        _inner("white", union(ellipse(0.42, 0.76, 0.12, 0.1), ellipse(0.58, 0.76, 0.12, 0.1))),
        _inner("dark", union(ellipse(0.31, 0.54, 0.055, 0.08), ellipse(0.69, 0.54, 0.055, 0.08))),
        _inner("dark", polygon([(0.44, 0.68), (0.56, 0.68), (0.5, 0.75)], 0.015)),
        _inner("dark", union(*whiskers)),
    ]


def _cup() -> list[Layer]:
    handle = cut(ellipse(0.72, 0.54, 0.23, 0.23), ellipse(0.72, 0.54, 0.115, 0.115))
    mug = polygon([(0.07, 0.22), (0.73, 0.22), (0.67, 0.88), (0.13, 0.88)], 0.04)
    return [
        _solid("body", handle),
        _solid("body", mug, rim=0.03),
        _solid("white", ellipse(0.4, 0.2, 0.355, 0.1), rim=0.03),
        _inner("dark", ellipse(0.4, 0.225, 0.26, 0.055)),
        _inner("light", box(0.17, 0.42, 0.25, 0.76, 0.04)),
    ]


def _boat() -> list[Layer]:
    hull = polygon([(0.07, 0.7), (0.93, 0.7), (0.78, 0.92), (0.22, 0.92)], 0.025)
    return [
        _solid("dark", box(0.45, 0.07, 0.5, 0.7)),
        _solid("body", polygon([(0.56, 0.12), (0.9, 0.58), (0.56, 0.58)], 0.02)),
        _solid("light", polygon([(0.4, 0.22), (0.4, 0.58), (0.14, 0.58)], 0.02)),
        _solid("body", hull),
        _inner("white", box(0.16, 0.74, 0.84, 0.79)),
    ]


def _umbrella() -> list[Layer]:
    lower = box(-1.0, 0.57, 2.0, 3.0)
    scallops = [ellipse(x, 0.58, 0.108, 0.085) for x in (0.165, 0.388, 0.612, 0.835)]
    dome = cut(circle(0.5, 0.57, 0.45), lower, *scallops)
    middle = cut(ellipse(0.5, 0.57, 0.2, 0.45), lower, *scallops)
    hook = [(0.5, 0.5), (0.5, 0.84), (0.52, 0.9), (0.58, 0.93), (0.64, 0.91), (0.67, 0.84)]
    return [
        _solid("dark", polyline(hook, 0.032)),
        _solid("dark", capsule(0.5, 0.08, 0.5, 0.15, 0.03)),
        _solid("body", dome),
        _inner("light", middle),
    ]


def _star() -> list[Layer]:
    points = [_polar(0.5, 0.54, 0.45 if k % 2 == 0 else 0.2, 36 * k - 90) for k in range(10)]
    inner = [_polar(0.5, 0.54, 0.25 if k % 2 == 0 else 0.11, 36 * k - 90) for k in range(10)]
    return [_solid("body", polygon(points, 0.03)), _inner("light", polygon(inner))]


def _heart() -> list[Layer]:
    half = [(0.5, 0.27), (0.63, 0.13), (0.82, 0.12), (0.94, 0.28), (0.9, 0.5), (0.73, 0.73)]
    outline = smooth([*half, (0.5, 0.93), *reversed(mirror(half[1:]))])
    return [
        _solid("body", polygon(outline)),
        _inner("light", turn(ellipse(0.25, 0.33, 0.06, 0.11), 35, 0.25, 0.33)),
    ]


def _key() -> list[Layer]:
    bow = cut(circle(0.19, 0.47, 0.25), circle(0.15, 0.47, 0.095))
    teeth = union(box(0.72, 0.47, 0.82, 0.68, 0.02), box(0.93, 0.47, 1.03, 0.72, 0.02))
    key = union(bow, box(0.4, 0.395, 1.03, 0.55, 0.02), teeth)
    ring = cut(circle(0.19, 0.47, 0.205), circle(0.19, 0.47, 0.16), box(0.12, -1.0, 2.0, 2.0))
    return [_solid("body", turn(key, 45, 0.5, 0.5)), _inner("light", turn(ring, 45, 0.5, 0.5))]


def _hat() -> list[Layer]:
    crown = polygon([(0.25, 0.14), (0.75, 0.14), (0.71, 0.72), (0.29, 0.72)], 0.03)
    return [
        _solid("body", crown),
        _inner("white", box(0.2, 0.53, 0.8, 0.64)),
        _solid("body", ellipse(0.5, 0.76, 0.45, 0.12), rim=0.03),
        _inner("light", box(0.31, 0.2, 0.38, 0.46, 0.03)),
    ]


def _flower() -> list[Layer]:
    petal = circle(0.5, 0.2, 0.14)
    leaf = turn(ellipse(0.67, 0.8, 0.15, 0.065), -32, 0.67, 0.8)
    other = turn(ellipse(0.33, 0.85, 0.13, 0.06), 32, 0.33, 0.85)
    return [
        _solid("shade", union(capsule(0.5, 0.5, 0.5, 0.92, 0.035), leaf, other)),
        *[_solid("body", turn(petal, 72 * k, 0.5, 0.38), rim=0.022) for k in range(5)],
        _inner("body", circle(0.5, 0.38, 0.15)),
        _inner("white", circle(0.5, 0.38, 0.095), rim=0.03),
    ]


def _bird() -> list[Layer]:
    body = union(ellipse(0.46, 0.57, 0.34, 0.24), circle(0.69, 0.34, 0.2))
    tail = polygon([(0.24, 0.5), (0.05, 0.3), (0.05, 0.62), (0.2, 0.68)], 0.02)
    wing = polygon(smooth([(0.22, 0.48), (0.42, 0.44), (0.6, 0.54), (0.46, 0.7), (0.3, 0.66)]))
    legs = union(capsule(0.42, 0.76, 0.42, 0.93, 0.022), capsule(0.56, 0.76, 0.56, 0.93, 0.022))
    feet = union(capsule(0.42, 0.93, 0.5, 0.93, 0.022), capsule(0.56, 0.93, 0.64, 0.93, 0.022))
    return [
        _solid("dark", union(legs, feet)),
        _solid("dark", polygon([(0.84, 0.27), (0.95, 0.37), (0.84, 0.43)], 0.01)),
        _solid("body", union(body, tail)),
        _inner("shade", wing, rim=0.025),
        _inner("white", circle(0.74, 0.3, 0.065)),
        _inner("dark", circle(0.755, 0.3, 0.036)),
    ]


def _mushroom() -> list[Layer]:
    half = [(0.5, 0.06), (0.74, 0.12), (0.91, 0.32), (0.94, 0.52), (0.8, 0.58)]
    cap = polygon(smooth([*half, (0.5, 0.57), *reversed(mirror(half[1:]))]))
    stem = polygon(smooth([(0.37, 0.5), (0.63, 0.5), (0.68, 0.86), (0.6, 0.95), (0.4, 0.95), (0.32, 0.86)]))
    spots = union(circle(0.5, 0.22, 0.085), ellipse(0.26, 0.38, 0.08, 0.09), ellipse(0.74, 0.38, 0.08, 0.09))
    return [_solid("white", stem), _solid("body", cap, rim=0.03), _inner("white", spots)]


def _balloon() -> list[Layer]:
    half = [(0.5, 0.06), (0.71, 0.12), (0.81, 0.32), (0.74, 0.51)]
    skin = polygon(smooth([*half, (0.5, 0.69), *reversed(mirror(half[1:]))]))
    string = [(0.5, 0.74), (0.54, 0.8), (0.52, 0.86), (0.47, 0.9), (0.5, 0.96)]
    return [
        _solid("dark", polyline(string, 0.024)),
        _solid("shade", polygon([(0.5, 0.67), (0.57, 0.77), (0.43, 0.77)], 0.01)),
        _solid("body", skin),
        _inner("light", turn(ellipse(0.36, 0.28, 0.055, 0.11), 20, 0.36, 0.28)),
    ]


def _book() -> list[Layer]:
    return [
        _solid("body", box(0.14, 0.06, 0.87, 0.95, 0.04)),
        _inner("white", box(0.2, 0.81, 0.9, 0.91), rim=0.03),
        _inner("shade", box(0.1, 0.06, 0.26, 0.95)),
        _inner("white", box(0.37, 0.19, 0.77, 0.43, 0.02), rim=0.03),
        _inner("dark", union(box(0.43, 0.25, 0.71, 0.29), box(0.43, 0.34, 0.63, 0.38))),
    ]


def _bell() -> list[Layer]:
    half = [(0.5, 0.12), (0.66, 0.2), (0.72, 0.4), (0.78, 0.62), (0.93, 0.76)]
    skirt = polygon(smooth([*half, (0.5, 0.8), *reversed(mirror(half[1:]))]))
    return [
        _solid("dark", cut(circle(0.5, 0.13, 0.085), circle(0.5, 0.13, 0.03))),
        _solid("dark", circle(0.5, 0.85, 0.1)),
        _solid("body", union(skirt, box(0.07, 0.7, 0.93, 0.8, 0.05))),
        _inner("shade", box(0.2, 0.64, 0.8, 0.69)),
        _inner("light", turn(ellipse(0.38, 0.38, 0.045, 0.14), 8, 0.38, 0.38)),
    ]


_MAKERS: dict[str, Callable[[], list[Layer]]] = {
    "ball": _ball,
    "apple": _apple,
    "tree": _tree,
    "house": _house,
    "car": _car,
    "fish": _fish,
    "cat": _cat,
    "cup": _cup,
    "boat": _boat,
    "umbrella": _umbrella,
    "star": _star,
    "heart": _heart,
    "key": _key,
    "hat": _hat,
    "flower": _flower,
    "bird": _bird,
    "mushroom": _mushroom,
    "balloon": _balloon,
    "book": _book,
    "bell": _bell,
}

ICONS: dict[str, tuple[Layer, ...]] = {kind: tuple(make()) for kind, make in _MAKERS.items()}
