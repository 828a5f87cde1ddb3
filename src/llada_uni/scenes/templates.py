"""Banks of rendered templates and the search for the ones that explain a box of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llada_uni.scenes.graph import CELL_PX, COLOURS, KINDS, SIGN_WORDS, STYLES
from llada_uni.scenes.pixels import Picture, gaussian, halve, opponent, patch_means
from llada_uni.scenes.sprites import Sprite, icon_sprite, sign_sprite

__all__ = [
    "MAX_OFFSET_PX",
    "Box",
    "BoxMatch",
    "Candidate",
    "Label",
    "candidates",
    "composite",
    "decide",
    "paste_clipped",
    "sprite_for",
]

MAX_OFFSET_PX = 2
_COARSE_OFFSETS = tuple((dy, dx) for dy in (-2, 0, 2) for dx in (-2, 0, 2))
_BEST_OVERALL = 8
_BEST_OF_OTHERS = 4
# Patches in which the colour of an object is checked, and the rms difference, in levels, that another colour must
# make there for the check to mean anything.
TINT_PATCH_PX = 8
TINT_CONTRAST = 10.0


@dataclass(frozen=True, order=True)
class Label:
    """What a template shows. Signs have colour '' and a word; icons have word ''."""

    kind: str
    colour: str
    word: str
    style: str


@dataclass(frozen=True)
class Box:
    """Top-left cell and size (height, width) of a box, in cells."""

    row: int
    column: int
    cells: tuple[int, int]

    @property
    def window(self) -> tuple[slice, slice]:
        """The box's pixels."""
        top, left = self.row * CELL_PX, self.column * CELL_PX
        return slice(top, top + self.cells[0] * CELL_PX), slice(left, left + self.cells[1] * CELL_PX)


@dataclass(frozen=True, order=True)
class Candidate:
    """A template at an offset (dy, dx) in pixels; ``error`` is its mean square in 8-bit levels."""

    error: float
    label: Label
    offset: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class BoxMatch:
    """The chosen template of a box.

    ``error`` is its mean square in levels at the picture's blur. ``kind_ratio`` and ``colour_ratio`` are that
    error over the error of the best other kind, and of the same kind in another colour or style (0 = perfectly
    clear, 1 = a tie). ``tint_share`` is the largest share by which a patch of the object has moved towards
    another colour (0 = none, 1 = the patch has that colour).
    """

    label: Label
    offset: tuple[int, int]
    error: float
    kind_ratio: float
    colour_ratio: float
    tint_share: float


@dataclass(frozen=True, eq=False)
class _Bank:
    labels: tuple[Label, ...]
    colour: NDArray[np.float32]  # half-resolution premultiplied colour [N, h, w, 3]
    clear: NDArray[np.float32]  # half-resolution background share [N, h, w, 1]


def sprite_for(label: Label, cells: tuple[int, int], light_contour: bool) -> Sprite:
    """The renderer's own sprite of a label."""
    if label.kind == "sign":
        return sign_sprite(label.word, label.style)
    return icon_sprite(label.kind, label.colour, cells[0], label.style, light_contour)


def composite(sprite: Sprite, ground: Picture) -> Picture:
    """Sprite over a float background crop of the same size, float32."""
    return (sprite.colour + ground * sprite.clear) * np.float32(1 / 255)


def paste_clipped(canvas: Picture, sprite: Sprite, top: int, left: int) -> None:
    """Composites a sprite over a float canvas in place; parts beyond the edge are dropped."""
    height, width = sprite.clear.shape[:2]
    y0, x0 = max(0, -top), max(0, -left)
    y1, x1 = min(height, canvas.shape[0] - top), min(width, canvas.shape[1] - left)
    window = canvas[top + y0 : top + y1, left + x0 : left + x1]
    window[...] = composite(Sprite(sprite.colour[y0:y1, x0:x1], sprite.clear[y0:y1, x0:x1]), window)


def _labels(cells: tuple[int, int]) -> list[Label]:
    found = []
    if cells in ((2, 2), (3, 3)):
        found += [Label(k, c, "", s) for k in KINDS for c in COLOURS for s in STYLES]
    if cells[0] == 2:
        found += [Label("sign", "", word, s) for word in SIGN_WORDS if len(word) == cells[1] for s in STYLES]
    return found


@lru_cache(maxsize=16)
def _bank(cells: tuple[int, int], light_contour: bool) -> _Bank:
    labels = _labels(cells)
    sprites = [sprite_for(label, cells, light_contour) for label in labels]
    colour = halve(np.stack([s.colour for s in sprites]).astype(np.float32) / 255)
    clear = halve(np.stack([s.clear for s in sprites]).astype(np.float32) / 255)
    return _Bank(tuple(labels), colour, clear)


def candidates(pixels: Picture, background: Picture, box: Box, light_contour: bool) -> list[Candidate]:
    """The templates that explain a box best, best first; empty when no kind has such a box.

    ``pixels`` and ``background`` are float32 levels [H, W, 3]. The best other kinds are always in the list, and
    some signs, whose thin letters make the coarse search unreliable.
    """
    if not _labels(box.cells):
        return []
    bank = _bank(box.cells, light_contour)
    ground = background[box.window]
    crops = _crops(pixels, box)
    coarse = _coarse_errors(bank, np.stack([crops[offset] for offset in _COARSE_OFFSETS]), ground)
    found = []
    for index in _shortlist(bank.labels, coarse):
        template = composite(sprite_for(bank.labels[index], box.cells, light_contour), ground)
        error, offset = _best_offset(template, crops)
        found.append(Candidate(error, bank.labels[index], offset))
    return sorted(found)


def _crops(pixels: Picture, box: Box) -> dict[tuple[int, int], Picture]:
    """The box's pixels at every offset, edges replicated."""
    reach = MAX_OFFSET_PX
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    rows, columns = box.window
    span = range(-reach, reach + 1)
    return {
        (dy, dx): padded[
            rows.start + reach + dy : rows.stop + reach + dy,
            columns.start + reach + dx : columns.stop + reach + dx,
        ]
        for dy in span
        for dx in span
    }


def _coarse_errors(bank: _Bank, crops: Picture, ground: Picture) -> NDArray[Any]:
    """Mean squared error [N templates] at half resolution, the best over coarse offsets."""
    templates = (bank.colour + bank.clear * halve(ground)).reshape(len(bank.labels), -1)
    seen = halve(crops).reshape(len(crops), -1)
    own = np.einsum("nd,nd->n", templates, templates)[:, None] + np.einsum("kd,kd->k", seen, seen)[None]
    return ((own - 2 * templates @ seen.T) / templates.shape[1]).min(axis=1)


def _shortlist(labels: tuple[Label, ...], errors: NDArray[Any]) -> list[int]:
    order = [int(index) for index in np.argsort(errors)]
    winner = labels[order[0]]
    others = [i for i in order if _shape(labels[i]) != _shape(winner)][:_BEST_OF_OTHERS]
    signs = [i for i in order if labels[i].kind == "sign"][:_BEST_OF_OTHERS]
    return list(dict.fromkeys([*order[:_BEST_OVERALL], *others, *signs]))


def _shape(label: Label) -> tuple[str, str]:
    return label.kind, label.word


def _best_offset(template: Picture, crops: dict[tuple[int, int], Picture]) -> tuple[float, tuple[int, int]]:
    tried = []
    for (dy, dx), crop in crops.items():
        difference = (crop - template).ravel()
        tried.append((float(difference @ difference) / difference.size, abs(dy) + abs(dx), (dy, dx)))
    error, _, offset = min(tried)
    return error, offset


def decide(
    found: Sequence[Candidate], seen: Picture, background: Picture, box: Box, light_contour: bool, blur_px: float
) -> BoxMatch:
    """Re-ranks the candidates of a box at the picture's own blur and measures how clear the winner is.

    ``seen`` is the whole picture in :func:`~llada_uni.scenes.pixels.opponent` coordinates.
    """
    window = seen[box.window]

    def draw(items: Sequence[tuple[Label, tuple[int, int]]]) -> Picture:
        drawn = np.repeat(background[box.window][None], len(items), axis=0)
        for canvas, (label, offset) in zip(drawn, items, strict=True):
            paste_clipped(canvas, sprite_for(label, box.cells, light_contour), *offset)
        return opponent(gaussian(drawn, blur_px))

    drawn = draw([(item.label, item.offset) for item in found])
    errors = ((drawn - window) ** 2).mean(axis=(1, 2, 3))
    winner = int(np.argmin(errors))
    label, offset = found[winner].label, found[winner].offset
    tints = draw([(replace(label, colour=c), offset) for c in COLOURS if c != label.colour and label.colour])
    error = float(errors[winner])
    same = np.array([_shape(item.label) == _shape(label) for item in found])
    tones = [*((tints - window) ** 2).mean(axis=(1, 2, 3)), *np.delete(errors, winner)[np.delete(same, winner)]]
    return BoxMatch(
        label=label,
        offset=offset,
        error=error,
        kind_ratio=_ratio(error, errors[~same]),
        colour_ratio=_ratio(error, tones),
        tint_share=_tint_share(window, drawn[winner], tints),
    )


def _ratio(error: float, others: Sequence[float] | Picture) -> float:
    return error / max(float(min(others)), 1e-6) if len(others) else 0.0


def _tint_share(seen: Picture, drawn: Picture, tints: Picture) -> float:
    """How far any patch of the object [h, w, 3] has moved from its own colour towards a tint [N, h, w, 3]."""
    if not len(tints):
        return 0.0
    direction = tints - drawn
    power = patch_means((direction**2).mean(axis=-1), TINT_PATCH_PX, TINT_PATCH_PX // 2)
    along = patch_means((direction * (seen - drawn)).mean(axis=-1), TINT_PATCH_PX, TINT_PATCH_PX // 2)
    telling = power >= TINT_CONTRAST**2
    return float(np.where(telling, along / np.maximum(power, 1e-6), 0.0).max())
