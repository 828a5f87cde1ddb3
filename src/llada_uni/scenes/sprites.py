"""Sprites: icons and signs turned into small premultiplied RGBA pictures, each computed once and cached."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from llada_uni.scenes import palette
from llada_uni.scenes.font import glyph
from llada_uni.scenes.graph import CELL_PX
from llada_uni.scenes.sdf import Array
from llada_uni.scenes.shapes import ICONS, Layer

__all__ = ["GLYPH_LEFT_PX", "GLYPH_TOP_PX", "Sprite", "icon_sprite", "paste", "sign_sprite"]

SUPERSAMPLING = 4
MARGIN_PX = 1.5
CONTOUR_WIDTH = {"flat": 0.05, "outline": 0.075}
DARK_CONTOUR_WIDTH = 0.015
PAPER_RIM = 0.028
SHADE_SHIFT = (-0.055, -0.055)
GLYPH_LEFT_PX = 2
GLYPH_TOP_PX = 2
_BOARD_BOTTOM_PX = 18

_INK = (34, 32, 44)
_SIGN_COLOURS: dict[str, dict[str, palette.Rgb]] = {
    "flat": {"board": (255, 243, 212), "frame": (150, 104, 62), "post": (168, 122, 76), "ink": _INK},
    "outline": {"board": palette.PAPER, "frame": (96, 98, 112), "post": palette.PAPER, "ink": _INK},
}


@dataclass(frozen=True, eq=False)
class Sprite:
    """``colour`` uint16 [h, w, 3] is 0..255 times alpha 0..255; ``clear`` uint16 [h, w, 1] is 255 - alpha."""

    colour: NDArray[np.uint16]
    clear: NDArray[np.uint16]


def paste(canvas: NDArray[np.uint8], sprite: Sprite, top_px: int, left_px: int) -> None:
    """Composites ``sprite`` over ``canvas`` uint8 [H, W, 3] in place; the sprite must lie inside."""
    height, width = sprite.clear.shape[:2]
    window = canvas[top_px : top_px + height, left_px : left_px + width]
    window[...] = (window * sprite.clear + sprite.colour + np.uint16(127)) // np.uint16(255)


@cache
def icon_sprite(kind: str, colour: str, cells: int, style: str, light_contour: bool, scale: int = 1) -> Sprite:
    """Sprite of an icon, ``cells * 16 * scale`` pixels square."""
    weights, alpha = _tone_weights(kind, cells, style, light_contour, scale)
    tones = _tones(colour, style, light_contour)
    rgb = np.sum([weight * np.asarray(tones[tone], dtype=np.float64) for tone, weight in weights.items()], axis=0)
    return _sprite(rgb, alpha)


def _tones(colour: str, style: str, light_contour: bool) -> dict[str, palette.Rgb]:
    base = palette.BODY_RGB[colour]
    if style == "outline":
        tint = palette.mix(base, palette.PAPER, 0.8)
        paper = palette.PAPER
        return {"contour": base, "body": paper, "shade": tint, "light": paper, "dark": base, "white": paper}
    return {
        "contour": palette.CONTOUR_LIGHT if light_contour else palette.CONTOUR_DARK,
        "rim": palette.mix(base, palette.CONTOUR_DARK, 0.62),
        "body": base,
        "shade": palette.mix(base, (20, 10, 40), 0.2),
        "light": palette.mix(base, palette.WHITE, 0.45),
        "dark": palette.DETAIL_DARK,
        "white": palette.WHITE,
    }


@lru_cache(maxsize=256)
def _tone_weights(kind: str, cells: int, style: str, light_contour: bool, scale: int) -> tuple[dict[str, Array], Array]:
    """Share of every tone in every pixel of an icon, and their sum, the opacity; all [side, side, 1]."""
    side = cells * CELL_PX * scale * SUPERSAMPLING
    weights: dict[str, Array] = {}
    alpha = np.zeros((side, side, 1))
    for tone, coverage in _layers(kind, style, light_contour, side, MARGIN_PX * scale * SUPERSAMPLING):
        for weight in weights.values():
            weight *= 1 - coverage
        weights[tone] = weights.get(tone, np.zeros_like(alpha)) + coverage
        alpha = alpha * (1 - coverage) + coverage
    return {tone: _pool(weight) for tone, weight in weights.items()}, _pool(alpha)


def _layers(kind: str, style: str, light_contour: bool, side: int, margin: float) -> list[tuple[str, Array]]:
    """Painting order of an icon on the supersampled raster: (tone, coverage in [0, 1], [side, side, 1])."""
    pixels = side - 2 * margin
    width = CONTOUR_WIDTH[style]
    zoom = 1.0 + 2 * (width - CONTOUR_WIDTH["flat"])
    axis = 0.5 + zoom * (np.arange(side) + 0.5 - side / 2) / pixels
    y, x = np.meshgrid(axis, axis, indexing="ij")
    thin_dark = style == "outline" or not light_contour
    inside, contour = _silhouette(ICONS[kind], x, y, width, DARK_CONTOUR_WIDTH if thin_dark else width)
    order = [("contour", contour)]
    for layer in ICONS[kind]:
        order.extend(_painted(layer, x, y, inside, style))
    return [(tone, _cover(distance, pixels / zoom)[..., None]) for tone, distance in order]


def _silhouette(layers: tuple[Layer, ...], x: Array, y: Array, width: float, dark_width: float) -> tuple[Array, Array]:
    """Distances to the union of the solid layers and to that union with its contour."""
    solid = [(layer.shape(x, y), dark_width if layer.role == "dark" else width) for layer in layers if layer.solid]
    inside = np.min([distance for distance, _ in solid], axis=0)
    return inside, np.min([distance - rim for distance, rim in solid], axis=0)


def _painted(layer: Layer, x: Array, y: Array, inside: Array, style: str) -> list[tuple[str, Array]]:
    """What one layer paints, in order: its rim, itself, and the crescent of shade on a solid body."""
    distance = layer.shape(x, y)
    if not layer.solid:
        distance = np.maximum(distance, inside)
    painted: list[tuple[str, Array]] = []
    rim = layer.rim
    if style == "outline" and not layer.solid and layer.role == "white":
        rim = max(rim, PAPER_RIM)
    if rim:
        painted.append(("contour" if style == "outline" else "rim", np.maximum(distance - rim, inside)))
    painted.append((layer.role, distance))
    if layer.role == "body" and layer.solid:
        moved = layer.shape(x - SHADE_SHIFT[0], y - SHADE_SHIFT[1])
        painted.append(("shade", np.maximum(distance, -moved)))
    return painted


def _cover(distance: Array, pixels: float) -> Array:
    return np.rint(np.clip(0.5 - distance * pixels, 0.0, 1.0) * 255) / 255


def _pool(values: Array) -> Array:
    height, width, channels = values.shape
    n = SUPERSAMPLING
    return values.reshape(height // n, n, width // n, n, channels).mean(axis=(1, 3))


def _sprite(premultiplied: Array, alpha: Array) -> Sprite:
    colour = np.rint(premultiplied * 255).astype(np.uint16)
    clear = np.rint(255 * (1 - alpha)).astype(np.uint16)
    room = (255 - clear) * np.uint16(255)
    return Sprite(np.minimum(colour, room), clear)


@cache
def sign_sprite(word: str, style: str, scale: int = 1) -> Sprite:
    """Sprite of a sign: a board with one letter per 16-pixel cell in the upper row, two posts below it."""
    width, height = len(word) * CELL_PX, 2 * CELL_PX
    tones = _SIGN_COLOURS[style]
    rgb = np.zeros((height, width, 3))
    alpha = np.zeros((height, width, 1))
    for left in (6, width - 12):
        _fill(rgb, alpha, (_BOARD_BOTTOM_PX, left, 31, left + 4), tones["frame"])
        _fill(rgb, alpha, (_BOARD_BOTTOM_PX, left + 1, 30, left + 3), tones["post"])
    _fill(rgb, alpha, (0, 0, _BOARD_BOTTOM_PX + 1, width - 2), tones["frame"])
    _fill(rgb, alpha, (1, 1, _BOARD_BOTTOM_PX, width - 3), tones["board"])
    for index, letter in enumerate(word):
        ink = glyph(letter, 2)
        left = index * CELL_PX + GLYPH_LEFT_PX
        window = rgb[GLYPH_TOP_PX : GLYPH_TOP_PX + ink.shape[0], left : left + ink.shape[1]]
        window[ink] = tones["ink"]
    rgb, alpha = (np.repeat(np.repeat(a, scale, axis=0), scale, axis=1) for a in (rgb, alpha))
    return _sprite(rgb, alpha)


def _fill(rgb: Array, alpha: Array, area: tuple[int, int, int, int], colour: palette.Rgb) -> None:
    top, left, bottom, right = area
    rgb[top:bottom, left:right] = colour
    alpha[top:bottom, left:right] = 1.0
