"""What baselines answer with: the one field that a scorer looks at."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

__all__ = ["Drawn", "Told"]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture, RGB."""

    image: Image.Image


@dataclass(frozen=True, kw_only=True)
class Told:
    """An answer."""

    text: str
