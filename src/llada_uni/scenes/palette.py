"""Colours and static backgrounds of the micro-world, in 8-bit sRGB."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BODY_RGB",
    "CONTOUR_DARK",
    "CONTOUR_LIGHT",
    "DETAIL_DARK",
    "PAPER",
    "WHITE",
    "Rgb",
    "background_array",
    "mix",
]

Rgb = tuple[float, float, float]
_Plane = NDArray[Any]

BODY_RGB: dict[str, Rgb] = {
    "red": (222, 38, 44),
    "orange": (248, 134, 18),
    "yellow": (252, 212, 36),
    "green": (46, 160, 67),
    "blue": (38, 98, 226),
    "purple": (132, 56, 180),
    "pink": (250, 128, 186),
    "brown": (126, 76, 42),
}
CONTOUR_DARK: Rgb = (40, 36, 48)
CONTOUR_LIGHT: Rgb = (238, 238, 248)
DETAIL_DARK: Rgb = (58, 56, 66)
WHITE: Rgb = (255, 255, 255)
PAPER: Rgb = (255, 253, 248)

_STARS = ((0.08, 0.12), (0.31, 0.07), (0.55, 0.16), (0.83, 0.09), (0.94, 0.42), (0.17, 0.55), (0.69, 0.63))


def mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    """``a`` with ``share`` (0..1) of ``b``."""
    return (
        a[0] + (b[0] - a[0]) * share,
        a[1] + (b[1] - a[1]) * share,
        a[2] + (b[2] - a[2]) * share,
    )


@lru_cache(maxsize=64)
def background_array(name: str, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Static background, uint8 [height_px, width_px, 3], read-only. Raises ``KeyError`` for unknown names."""
    ys = (np.arange(height_px) + 0.5) / height_px
    xs = (np.arange(width_px) + 0.5) / width_px
    y, x = np.meshgrid(ys, xs, indexing="ij")
    picture = np.clip(np.rint(_PAINTERS[name](x, y)), 0, 255).astype(np.uint8)
    picture.setflags(write=False)
    return picture


def _blend(x: _Plane, top: Rgb, bottom: Rgb, share: _Plane) -> _Plane:
    share = np.broadcast_to(share, x.shape)[..., None]
    return np.asarray(top, dtype=np.float64) * (1 - share) + np.asarray(bottom, dtype=np.float64) * share


def _puff(x: _Plane, y: _Plane, cx: float, cy: float, rx: float, ry: float) -> _Plane:
    return np.clip(1.0 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2, 0.0, 1.0)


def _over(picture: _Plane, colour: Rgb, share: _Plane) -> _Plane:
    return picture + (np.asarray(colour, dtype=np.float64) - picture) * share[..., None]


def _white(x: _Plane, y: _Plane) -> _Plane:
    return _blend(x, (250, 250, 250), (250, 250, 250), y)


def _sky(x: _Plane, y: _Plane) -> _Plane:
    picture = _blend(x, (166, 212, 246), (222, 241, 252), y)
    cloud = np.maximum(_puff(x, y, 0.24, 0.16, 0.2, 0.07), _puff(x, y, 0.34, 0.12, 0.14, 0.09))
    cloud = np.maximum(cloud, _puff(x, y, 0.76, 0.34, 0.18, 0.06))
    return _over(picture, (255, 255, 255), 0.5 * cloud)


def _grass(x: _Plane, y: _Plane) -> _Plane:
    picture = _blend(x, (224, 242, 196), (186, 222, 152), y)
    hills = np.maximum(_puff(x, y, 0.2, 1.05, 0.6, 0.4), _puff(x, y, 0.85, 1.05, 0.55, 0.28))
    return _over(picture, (172, 212, 138), 0.5 * np.sqrt(hills))


def _sand(x: _Plane, y: _Plane) -> _Plane:
    picture = _blend(x, (250, 238, 206), (236, 214, 168), y)
    dunes = np.maximum(_puff(x, y, 0.75, 1.1, 0.7, 0.45), _puff(x, y, 0.1, 1.1, 0.5, 0.3))
    return _over(picture, (228, 202, 152), 0.45 * np.sqrt(dunes))


def _dusk(x: _Plane, y: _Plane) -> _Plane:
    return _blend(x, (196, 178, 226), (246, 214, 222), y)


def _night(x: _Plane, y: _Plane) -> _Plane:
    picture = _blend(x, (18, 22, 54), (34, 40, 84), y)
    cell = max(1, min(x.shape) // 128) * 1.25
    for cx, cy in _STARS:
        dx, dy = (x - cx) * x.shape[1], (y - cy) * x.shape[0]
        glow = np.clip(1.6 - np.sqrt(dx**2 + dy**2) / cell, 0.0, 1.0)
        picture = _over(picture, (190, 196, 226), 0.75 * glow)
    return picture


_PAINTERS: dict[str, Callable[[_Plane, _Plane], _Plane]] = {
    "white": _white,
    "sky": _sky,
    "grass": _grass,
    "sand": _sand,
    "dusk": _dusk,
    "night": _night,
}
