"""Which samples are good enough to learn from: the paper's rules, and scorers of your own.

Source: LLaDA2.0-Uni paper §3.2 (pictures) and §3.4 (interleaved clips). The compression rule is printed there upside
down; meant is at least 0.15 bytes of the file per pixel, as LLaDA-Image §3.2 states it.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from PIL import Image

from llada_uni.errors import ConfigError

__all__ = ["PAPER_CLIPS", "PAPER_PICTURES", "ClipFilter", "PictureFilter", "Score", "load_score"]

Scorer = Callable[[Image.Image, str], float]
"""From a picture and the words that go with it to a number; larger is better."""


@dataclass(frozen=True, kw_only=True)
class PictureFilter:
    """Rules for a single picture; the defaults let everything through.

    ``min_side_px``: of the shorter side. ``min_bytes_per_pixel``: size of the file over the number of pixels; heavily
    compressed pictures have few. ``scores``: each must be reached.
    """

    min_side_px: int = 0
    min_bytes_per_pixel: float = 0.0
    scores: tuple[Score, ...] = ()

    def objection(self, image: Image.Image, num_bytes: int, text: str) -> str | None:
        """Why a picture is left out, or None. ``text``: all words of its sample."""
        short = min(image.size)
        if short < self.min_side_px:
            return f"shorter side of {short} pixels, at least {self.min_side_px} are wanted"
        density = num_bytes / (image.width * image.height)
        if density < self.min_bytes_per_pixel:
            return f"{density:.3f} bytes per pixel, at least {self.min_bytes_per_pixel:g} are wanted"
        return next((reason for score in self.scores if (reason := score.objection(image, text))), None)


@dataclass(frozen=True, kw_only=True)
class ClipFilter:
    """Rules for interleaved samples made of video, read from ``meta``; a value that a rule needs must be there.

    ``seconds`` (``meta["duration"]``) and ``frames`` are inclusive ranges, ``min_motion``, ``min_aesthetic`` and
    ``min_clarity`` must be exceeded (``meta["motion"]``, ``["aesthetic"]``, ``["clarity"]``). None: no such rule.
    """

    seconds: tuple[float, float] | None = None
    frames: tuple[int, int] | None = None
    min_motion: float | None = None
    min_aesthetic: float | None = None
    min_clarity: float | None = None

    def objection(self, meta: Mapping[str, Any], num_frames: int) -> str | None:
        """Why a clip is left out, or None."""
        if self.frames is not None and not self.frames[0] <= num_frames <= self.frames[1]:
            return f"{num_frames} frames, {self.frames[0]} to {self.frames[1]} are wanted"
        if self.seconds is not None:
            low, high = self.seconds
            seconds = _number(meta, "duration")
            if seconds is None or not low <= seconds <= high:
                return f"duration of {_told(seconds)}, {low:g} to {high:g} seconds are wanted"
        for name in ("motion", "aesthetic", "clarity"):
            least, value = getattr(self, f"min_{name}"), _number(meta, name)
            if least is not None and (value is None or value <= least):
                return f"{name} of {_told(value)}, more than {least:g} is wanted"
        return None


PAPER_PICTURES = PictureFilter(min_side_px=512, min_bytes_per_pixel=0.15)
PAPER_CLIPS = ClipFilter(seconds=(10, 30), frames=(2, 6), min_motion=4, min_aesthetic=4, min_clarity=0.7)


@dataclass(frozen=True, kw_only=True)
class Score:
    """A number that ``function(picture, text)`` computes and that must be at least ``least``."""

    name: str
    function: Scorer
    least: float

    def objection(self, image: Image.Image, text: str) -> str | None:
        """Why a picture is left out, or None. What the function raises is a reason too."""
        try:
            value = float(self.function(image, text))
        except Exception as error:  # somebody else's code
            return f"{self.name} failed: {type(error).__name__}: {error}"
        if not value >= self.least:
            return f"{self.name} of {value:g}, at least {self.least:g} is wanted"
        return None


def load_score(text: str) -> Score:
    """The score that ``"module:function>=number"`` names; modules of the working directory are found too.

    Raises:
        ConfigError: another form, no such module or function, or not a number.
    """
    name, separator, least = text.partition(">=")
    module_name, colon, function_name = name.strip().partition(":")
    try:
        number = float(least) if separator and colon else math.nan
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ConfigError(f"expected a score such as my_module:my_function>=0.5, got {text!r}")
    function: Any = getattr(_imported(module_name), function_name, None)
    if not callable(function):
        raise ConfigError(f"{module_name} has no function {function_name!r}; it takes a picture and a text")
    return Score(name=f"{module_name}:{function_name}", function=cast(Scorer, function), least=number)


def _imported(name: str) -> Any:
    here = os.getcwd()
    sys.path.append(here)
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"cannot import {name!r} ({error}); it must be installed or in the working folder") from error
    finally:
        sys.path.remove(here)


def _number(meta: Mapping[str, Any], name: str) -> float | None:
    value = meta.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _told(value: float | None) -> str:
    return "unknown value" if value is None else f"{value:g}"
