"""Line charts as SVG text, with logarithmic axes: what the performance page shows of curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["line_chart"]

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 300, 58, 12, 34, 44
_COLOURS = ("#1f6feb", "#d1561f", "#2b8a3e", "#8a3ffc", "#57606a")


def line_chart(title: str, x_label: str, y_label: str, series: Mapping[str, Points]) -> str:
    """A chart of positive numbers, both axes logarithmic; one line a series, named in a legend.

    Raises:
        ValueError: nothing to draw, or a number that is not positive.
    """
    points = [point for line in series.values() for point in line]
    if not points or min(min(point) for point in points) <= 0:
        raise ValueError(f"{title}: expected positive numbers, got {points}")
    across = _Axis([x for x, _ in points], _LEFT, _WIDTH - _RIGHT)
    up = _Axis([y for _, y in points], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" font-family="sans-serif" font-size="11" fill="#24292f">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 18, title, size=13),
        *_grid(across, up, sorted({x for x, _ in points})),
        _text((_LEFT + _WIDTH) / 2, _HEIGHT - 8, x_label, anchor="middle"),
        f'<text transform="translate(13 {_HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>',
    ]
    for index, (name, line) in enumerate(series.items()):
        parts += _line(name, line, across, up, _COLOURS[index % len(_COLOURS)], index)
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Axis:
    """Logarithm of a number to its place between two edges, with a little room at both ends."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        low, high = math.log(min(values)), math.log(max(values))
        room = 0.06 * (high - low) or 0.5
        self._low, self._span, self._start, self._stop = low - room, high - low + 2 * room, start, stop

    def place(self, value: float) -> float:
        return self._start + (math.log(value) - self._low) / self._span * (self._stop - self._start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times powers of ten inside; only the powers where there are many."""
        low, high = math.exp(self._low), math.exp(self._low + self._span)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [n * 10.0**p for p in powers for n in (1, 2, 5) if low <= n * 10.0**p <= high]
        return found if len(found) <= 7 else [one for one in found if math.isclose(math.log10(one) % 1, 0)]


def _grid(across: _Axis, up: _Axis, marks: Sequence[float]) -> list[str]:
    parts = []
    for value in up.ticks():
        y = up.place(value)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#d8dee4"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{value:g}", anchor="end"))
    for value in marks:
        x = across.place(value)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#d8dee4"/>')
        parts.append(_text(x, _HEIGHT - _BOTTOM + 15, f"{value:g}", anchor="middle"))
    return parts


def _line(name: str, line: Points, across: _Axis, up: _Axis, colour: str, index: int) -> list[str]:
    places = [(across.place(x), up.place(y)) for x, y in sorted(line)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>' for x, y in places]
    top = _TOP + 14 + 15 * index
    legend = [
        f'<path d="M{_LEFT + 8} {top - 4}h18" stroke="{colour}" stroke-width="2"/>',
        _text(_LEFT + 31, top, name),
    ]
    return [f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots, *legend]


def _text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'
