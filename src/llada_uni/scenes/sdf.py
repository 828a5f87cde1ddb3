"""Signed distance functions of plane shapes, evaluated with numpy: negative inside, positive outside.

Coordinates are unit coordinates of an object's box: x to the right, y down, both 0..1 over the drawable box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Sdf",
    "box",
    "capsule",
    "circle",
    "cut",
    "ellipse",
    "grow",
    "mirror",
    "polygon",
    "polyline",
    "shift",
    "smooth",
    "turn",
    "union",
]

Array = NDArray[Any]
Sdf = Callable[[Array, Array], Array]
Point = tuple[float, float]


def circle(cx: float, cy: float, radius: float) -> Sdf:
    """Disc around (cx, cy)."""
    return lambda x, y: np.sqrt((x - cx) ** 2 + (y - cy) ** 2) - radius


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Sdf:
    """Axis-parallel ellipse; the distance is first-order exact at the contour."""

    def distance(x: Array, y: Array) -> Array:
        u, v = x - cx, y - cy
        level = np.sqrt((u / rx) ** 2 + (v / ry) ** 2)
        slope = np.sqrt((u / rx**2) ** 2 + (v / ry**2) ** 2)
        return level * (level - 1.0) / np.maximum(slope, 1e-9)

    return distance


def box(x0: float, y0: float, x1: float, y1: float, rounding: float = 0.0) -> Sdf:
    """Rectangle from (x0, y0) to (x1, y1) with corner radius ``rounding``."""

    def distance(x: Array, y: Array) -> Array:
        u = np.abs(x - (x0 + x1) / 2) - (x1 - x0) / 2 + rounding
        v = np.abs(y - (y0 + y1) / 2) - (y1 - y0) / 2 + rounding
        outside = np.sqrt(np.maximum(u, 0.0) ** 2 + np.maximum(v, 0.0) ** 2)
        return outside + np.minimum(np.maximum(u, v), 0.0) - rounding

    return distance


def capsule(ax: float, ay: float, bx: float, by: float, radius: float) -> Sdf:
    """All points within ``radius`` of the segment from a to b."""
    length = (bx - ax) ** 2 + (by - ay) ** 2

    def distance(x: Array, y: Array) -> Array:
        along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0.0, 1.0)
        return np.sqrt((x - ax - along * (bx - ax)) ** 2 + (y - ay - along * (by - ay)) ** 2) - radius

    return distance


def polyline(points: Sequence[Point], radius: float) -> Sdf:
    """A stroke of width 2 * ``radius`` with round caps through ``points``."""
    return union(*(capsule(*a, *b, radius) for a, b in pairwise(points)))


def polygon(points: Sequence[Point], rounding: float = 0.0) -> Sdf:
    """Simple polygon, grown by ``rounding`` with round corners."""
    edges = list(zip(points, [*points[1:], points[0]], strict=True))

    def distance(x: Array, y: Array) -> Array:
        nearest = np.full_like(x, np.inf)
        inside = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in edges:
            nearest = np.minimum(nearest, capsule(ax, ay, bx, by, 0.0)(x, y))
            if ay != by:
                crosses = (ay > y) != (by > y)
                inside ^= crosses & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
        return np.where(inside, -nearest, nearest) - rounding

    return distance


def smooth(points: Sequence[Point], samples: int = 6) -> list[Point]:
    """Vertices of the closed Catmull-Rom curve through ``points``."""
    count = len(points)
    curve: list[Point] = []
    for i in range(count):
        p0, p1, p2, p3 = (points[(i + k) % count] for k in (-1, 0, 1, 2))
        for step in range(samples):
            t = step / samples
            curve.append((_catmull(p0[0], p1[0], p2[0], p3[0], t), _catmull(p0[1], p1[1], p2[1], p3[1], t)))
    return curve


def _catmull(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def mirror(points: Sequence[Point]) -> list[Point]:
    """``points`` reflected at x = 0.5."""
    return [(1.0 - x, y) for x, y in points]


def union(*shapes: Sdf) -> Sdf:
    """Union of shapes; exact outside, which is where contours are drawn."""

    def distance(x: Array, y: Array) -> Array:
        result = shapes[0](x, y)
        for shape in shapes[1:]:
            result = np.minimum(result, shape(x, y))
        return result

    return distance


def cut(shape: Sdf, *others: Sdf) -> Sdf:
    """``shape`` without ``others``."""
    return lambda x, y: np.maximum(shape(x, y), -union(*others)(x, y))


def grow(shape: Sdf, amount: float) -> Sdf:
    """Shape grown (or shrunk, for a negative amount) by a distance."""
    return lambda x, y: shape(x, y) - amount


def shift(shape: Sdf, dx: float, dy: float) -> Sdf:
    """Shape moved by (dx, dy)."""
    return lambda x, y: shape(x - dx, y - dy)


def turn(shape: Sdf, degrees: float, cx: float = 0.5, cy: float = 0.5) -> Sdf:
    """Shape turned clockwise (as seen on the screen) around (cx, cy)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def distance(x: Array, y: Array) -> Array:
        u, v = x - cx, y - cy
        return shape(cx + cos * u + sin * v, cy - sin * u + cos * v)

    return distance
