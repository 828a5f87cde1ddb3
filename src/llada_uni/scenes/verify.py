"""Picture -> scene graph without any learned part: the exact reader of the micro-world.

Analysis by synthesis. The background is recognised, cells that differ from it are grouped into boxes, each box is
explained by one of the renderer's own templates, and finally the whole scene is drawn again and compared patch by
patch with the picture. Anything unexplained, ambiguous, faded, smeared or blurred makes the reader abstain.

The thresholds here and in ``locate`` were set on rendered scenes, on their mild degradations (blur, noise, JPEG,
colour shift, resampling) and on deliberately wrong pictures; ``benchmarks/verifier.py`` measures what they give.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llada_uni.errors import ConfigError
from llada_uni.scenes.font import GLYPH_HEIGHT, GLYPH_WIDTH, GLYPHS, glyph
from llada_uni.scenes.graph import CELL_PX, SceneGraph, SceneObject
from llada_uni.scenes.locate import UnreadableError, View, boxes, pixels_on_grid, recognise_background
from llada_uni.scenes.pixels import Picture, contrast_gain, gaussian, luma, opponent, patch_rms
from llada_uni.scenes.render import validate
from llada_uni.scenes.sprites import GLYPH_LEFT_PX, GLYPH_TOP_PX
from llada_uni.scenes.templates import (
    MAX_OFFSET_PX,
    Box,
    BoxMatch,
    Candidate,
    Label,
    candidates,
    decide,
    paste_clipped,
    sprite_for,
)

__all__ = ["ObjectReading", "Reading", "read", "verify"]

# Winner over runner-up, as mean squared errors.
MAX_KIND_RATIO = 0.75
MAX_COLOUR_RATIO = 0.75
# Largest share by which a patch of an object may lean towards another colour.
MAX_TINT_SHARE = 0.6
# Correlation of a letter with its glyph, and lead over the second letter.
MIN_LETTER_CORRELATION = 0.8
MIN_LETTER_LEAD = 0.04
# Blurs tried when the scene is drawn again; a picture that fits the last one best is too blurred to be trusted.
BLURS_PX = (0.0, 0.45, 0.7, 0.95, 1.25, 1.6, 2.1)
# Least-squares contrast of each object against its background; ghosts and fades fall below.
GAIN_RANGE = (0.75, 1.25)
# Final comparison over 8x8 patches: rms error <= PATCH_BASE + PATCH_SHARE * rms contrast of the drawn patch.
PATCH_PX = 8
PATCH_STRIDE_PX = 4
PATCH_BASE = 13.0
PATCH_SHARE = 0.22
# Blur and templates are estimated in turns, at most this often.
BLUR_ROUNDS = 3

_Placed = tuple[Box, Label, tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class ObjectReading:
    """One box of the picture and the template that explains it best (None: nothing has such a box).

    ``word`` is what a sign says letter by letter ('?' = unclear). ``gain`` is the object's contrast relative to
    the drawn one, ``worst_patch`` its largest patch error over the allowance (accepted up to 1).
    """

    box: Box
    match: BoxMatch | None
    word: str | None = None
    gain: float | None = None
    worst_patch: float | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Result of :func:`read`: the graph, or None with the reason of the abstention; scores for debugging."""

    graph: SceneGraph | None = None
    reason: str = ""
    background: str | None = None
    objects: tuple[ObjectReading, ...] = field(default=())
    blur_px: float | None = None
    worst_patch: float | None = None


def verify(image: Image.Image | NDArray[np.uint8], *, grid: tuple[int, int] | None = None) -> SceneGraph | None:
    """Reads a picture back into a scene graph; None means abstention (unreadable or not one of our scenes).

    The graph's objects are sorted by row and column. An empty scene reads as style "flat". ``grid`` is
    (grid_h, grid_w); without it, the world's grid with the picture's aspect is taken (8x8, 8x12 or 12x8).
    Pictures of other sizes than 16 pixels per cell are resized first.
    """
    return read(image, grid=grid).graph


def read(image: Image.Image | NDArray[np.uint8], *, grid: tuple[int, int] | None = None) -> Reading:
    """As :func:`verify`, with the reason of an abstention and per-object scores."""
    try:
        view = recognise_background(*pixels_on_grid(image, grid))
    except UnreadableError as error:
        return Reading(reason=str(error))
    reading = _explain(view, boxes(view))
    reason = _objection(reading.objects)
    if reason:
        return replace(reading, reason=reason)
    graph = _graph(view, reading.objects)
    try:
        validate(graph)
    except ConfigError as error:
        return replace(reading, reason=str(error))
    return _compare(view, graph, reading)


def _explain(view: View, found: list[Box]) -> Reading:
    """Chooses a template for every box, at the blur of the whole picture."""
    shortlists = [candidates(view.pixels, view.background, box, view.light_contour) for box in found]
    chosen = [(box, items[0].label, items[0].offset) for box, items in zip(found, shortlists, strict=True) if items]
    seen = opponent(view.pixels)
    blur, objects = None, ()
    for _ in range(BLUR_ROUNDS):
        previous, blur = blur, _matching_blur(view, chosen)
        if blur == previous:
            break
        objects = tuple(_choose(view, seen, box, items, blur) for box, items in zip(found, shortlists, strict=True))
        chosen = _chosen(objects)
    return Reading(background=view.background_name, objects=objects, blur_px=blur)


def _choose(view: View, seen: Picture, box: Box, items: list[Candidate], blur_px: float) -> ObjectReading:
    if not items:
        return ObjectReading(box=box, match=None)
    match = decide(items, seen, view.background, box, view.light_contour, blur_px)
    sign = match.label.kind == "sign"
    word = _read_word(view.pixels, box, match.offset, blur_px) if sign else None
    return ObjectReading(box=box, match=match, word=word)


def _chosen(objects: tuple[ObjectReading, ...]) -> list[_Placed]:
    return [(item.box, item.match.label, item.match.offset) for item in objects if item.match]


def _objection(objects: tuple[ObjectReading, ...]) -> str:
    """Why the chosen templates cannot be trusted, or an empty string."""
    for item in objects:
        if item.match is None:
            return f"nothing has a box of {item.box.cells[0]}x{item.box.cells[1]} cells"
        label = item.match.label
        if label.kind == "sign" and item.word != label.word:
            return f"a sign reads {item.word!r}"
        if label.kind != "sign" and item.match.kind_ratio > MAX_KIND_RATIO:
            return f"unclear kind, closest is a {label.colour} {label.kind}"
        if max(item.match.colour_ratio / MAX_COLOUR_RATIO, item.match.tint_share / MAX_TINT_SHARE) > 1.0:
            return f"unclear colour, closest is a {label.colour} {label.kind}"
    if len({item.match.label.style for item in objects if item.match}) > 1:
        return "objects of different styles"
    return ""


_LETTERS = tuple(GLYPHS)


@lru_cache(maxsize=16)
def _glyph_vectors(blur_px: float) -> Picture:
    """Dots of every letter as it looks at a blur, [26, 35], each of mean 0 and norm 1."""
    cells = np.zeros((len(_LETTERS), CELL_PX, CELL_PX, 1), dtype=np.float32)
    for cell, letter in zip(cells, _LETTERS, strict=True):
        _letter_area(cell, 0, 0)[..., 0] = glyph(letter, 2)
    blurred = gaussian(cells, blur_px)
    return np.stack([_dots(_letter_area(cell, 0, 0)) for cell in blurred])


def _letter_area(pixels: Picture, top: int, left: int) -> Picture:
    """The 14x10 pixels of the letter in the cell at (top, left)."""
    top, left = top + GLYPH_TOP_PX, left + GLYPH_LEFT_PX
    return pixels[top : top + 2 * GLYPH_HEIGHT, left : left + 2 * GLYPH_WIDTH]


def _dots(area: Picture) -> Picture:
    dots = area.mean(axis=-1).reshape(GLYPH_HEIGHT, 2, GLYPH_WIDTH, 2).mean(axis=(1, 3)).ravel()
    dots = dots - dots.mean()
    return dots / max(float(np.linalg.norm(dots)), 1e-6)


def _read_word(pixels: Picture, box: Box, offset: tuple[int, int], blur_px: float) -> str:
    """Letters of a sign's upper cells; '?' for a letter that is not clear."""
    pixels = np.pad(pixels, ((MAX_OFFSET_PX, MAX_OFFSET_PX), (MAX_OFFSET_PX, MAX_OFFSET_PX), (0, 0)), mode="edge")
    top, left = (MAX_OFFSET_PX + offset[0] + box.row * CELL_PX, MAX_OFFSET_PX + offset[1] + box.column * CELL_PX)
    word = ""
    for index in range(box.cells[1]):
        correlation = _glyph_vectors(blur_px) @ _dots(-_letter_area(pixels, top, left + index * CELL_PX))
        second, first = np.argsort(correlation)[-2:]
        sure = correlation[first] >= MIN_LETTER_CORRELATION
        sure = sure and correlation[first] - correlation[second] >= MIN_LETTER_LEAD
        word += _LETTERS[first] if sure else "?"
    return word


def _graph(view: View, objects: tuple[ObjectReading, ...]) -> SceneGraph:
    styles = {item.match.label.style for item in objects if item.match}
    return SceneGraph(
        objects=tuple(_object(item.box, item.match) for item in objects if item.match),
        background=view.background_name,
        style=styles.pop() if styles else "flat",
        grid_h=view.grid[0],
        grid_w=view.grid[1],
    )


def _object(box: Box, match: BoxMatch) -> SceneObject:
    return SceneObject(
        kind=match.label.kind,
        colour=match.label.colour or None,
        size="large" if box.cells == (3, 3) else "small",
        row=box.row,
        column=box.column,
        word=match.label.word or None,
    )


def _compare(view: View, graph: SceneGraph, reading: Reading) -> Reading:
    """Draws the scene again, at the picture's own blur, and accepts only if every patch agrees."""
    blur = reading.blur_px or 0.0
    drawn = _redraw(view, _chosen(reading.objects))
    ground = opponent(view.background)
    seen = opponent(view.pixels) - ground
    expected = opponent(gaussian(drawn, blur)) - ground
    error = patch_rms(seen - expected, PATCH_PX, PATCH_STRIDE_PX)
    excess = error / (PATCH_BASE + PATCH_SHARE * patch_rms(expected, PATCH_PX, PATCH_STRIDE_PX))
    objects = tuple(_with_scores(item, seen, expected, excess) for item in reading.objects)
    worst = float(excess.max())
    reason = ""
    if blur == BLURS_PX[-1]:
        reason = "too blurred"
    elif any(not GAIN_RANGE[0] <= (item.gain or 0.0) <= GAIN_RANGE[1] for item in objects):
        reason = "an object is faded or overdrawn"
    elif worst > 1.0:
        reason = f"a patch differs from the scene by {worst:.2f} times the allowance"
    return replace(
        reading,
        graph=None if reason else graph,
        reason=reason,
        objects=objects,
        blur_px=blur,
        worst_patch=worst,
    )


def _redraw(view: View, chosen: list[_Placed]) -> Picture:
    drawn = view.background.copy()
    for box, label, offset in chosen:
        sprite = sprite_for(label, box.cells, view.light_contour)
        paste_clipped(drawn, sprite, box.row * CELL_PX + offset[0], box.column * CELL_PX + offset[1])
    return drawn


def _matching_blur(view: View, chosen: list[_Placed]) -> float:
    seen, plane = luma(view.pixels), luma(_redraw(view, chosen))
    errors = [float(((seen - gaussian(plane, sigma)) ** 2).mean()) for sigma in BLURS_PX]
    return BLURS_PX[int(np.argmin(errors))]


def _with_scores(item: ObjectReading, seen: Picture, expected: Picture, excess: Picture) -> ObjectReading:
    rows, columns = item.box.window
    last = PATCH_PX // PATCH_STRIDE_PX - 1
    patches = excess[
        max(0, rows.start // PATCH_STRIDE_PX - last) : rows.stop // PATCH_STRIDE_PX,
        max(0, columns.start // PATCH_STRIDE_PX - last) : columns.stop // PATCH_STRIDE_PX,
    ]
    gain = contrast_gain(seen[rows, columns], expected[rows, columns])
    return replace(item, gain=gain, worst_patch=float(patches.max()))
