"""What a suite is made of: items, what a model answered, what a judge said, and how the three are brought together.

Every item of a data file becomes a record, also one that cannot be read (:class:`BadItem`): what fails is reported
beside the score and stays in the denominator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

__all__ = [
    "UNREADABLE",
    "BadItem",
    "DetectedObject",
    "Detector",
    "Item",
    "JudgeError",
    "Judges",
    "Output",
    "Reader",
    "Suite",
    "SuiteModel",
    "Verdict",
    "Viewer",
]

UNREADABLE = "unreadable"  # the category of entries whose own cannot be told


class JudgeError(Exception):
    """A judge did not answer, or answered what cannot be read; ``reply`` is what it said."""

    def __init__(self, message: str, *, reply: str = "", timed_out: bool = False) -> None:
        super().__init__(" ".join(message.split()))
        self.reply, self.timed_out = reply, timed_out


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question, prompt or instruction.

    ``parts`` names the category of every single score that the item gives (one per picture, question or test point),
    so that a failed item counts in each of them. ``images`` are paths or encoded bytes;
    ``reference`` is what the scorer needs, as the data file has it.
    """

    id: str
    prompt: str
    parts: tuple[str, ...]
    images: tuple[Path | bytes, ...] = ()
    reference: dict[str, Any] = field(default_factory=dict)
    samples: int = 1


@dataclass(frozen=True, kw_only=True)
class BadItem:
    """An entry of a data file that cannot be used, and why (``parts`` as far as they are known)."""

    id: str
    reason: str
    parts: tuple[str, ...] = (UNREADABLE,)


@dataclass(frozen=True, kw_only=True)
class Output:
    """What the model answered: words, and the paths of its pictures below the output directory."""

    text: str | None = None
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One score for each of the item's ``parts``, the item's own score, and everything said on the way."""

    score: float
    parts: tuple[float, ...]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DetectedObject:
    """One object: box (left, top, right, bottom) in pixels, confidence, and its colour if that was judged."""

    box: tuple[float, float, float, float]
    confidence: float
    color: str | None = None


class Detector(Protocol):
    """Finds objects. Raises JudgeError when it cannot."""

    def detect(self, picture: Path) -> dict[str, list[DetectedObject]]:
        """Class name to objects, in any order."""
        ...


class Viewer(Protocol):
    """A model that looks at pictures and answers in words. Raises JudgeError when it cannot."""

    def ask(self, pictures: Sequence[Path], question: str) -> str:
        """The reply to ``question`` about ``pictures``."""
        ...


class Reader(Protocol):
    """Reads the words in a picture. Raises JudgeError when it cannot."""

    def read(self, picture: Path) -> list[str]:
        """The lines of text, in reading order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The judges at hand; None where there is none. Items that need an absent judge stay unjudged."""

    detector: Detector | None = None
    viewer: Viewer | None = None
    reader: Reader | None = None


class SuiteModel(Protocol):
    """The methods of ``LladaUni`` that suites call."""

    @property
    def name(self) -> str:
        """What the model was opened as."""
        ...

    def generate_image(self, prompt: Any, /, **options: Any) -> Any:
        """Prompts to results with ``.image``."""
        ...

    def edit_image(self, image: Any, instruction: Any, /, **options: Any) -> Any:
        """Pictures and an instruction to a result with ``.image``."""
        ...

    def understand_image(self, image: Any, question: Any, /, **options: Any) -> Any:
        """Pictures and a question to a result with ``.text``."""
        ...

    def generate_interleaved(self, prompt: Any, /, **options: Any) -> Any:
        """A prompt to a result with ``.segments`` of words and pictures."""
        ...


Answer = tuple[str | None, list[Image.Image]]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A benchmark: how its data is read, its items performed, its pictures named and its outputs scored.

    ``data_help`` says what ``load`` reads; empty for a suite inside the package, whose ``load`` ignores its argument.
    ``judge_kind`` is "none", "detector", "viewer", "reader" or "official" (only the suite's own scorer can judge).
    ``overall`` is "items" (mean over items), "parts" (over all single scores) or "categories" (mean
    of the category means, of ``counted`` only where that is given). ``extras`` names numbers of the verdicts' details
    that are averaged too. ``perfect`` is the highest score. ``format_note`` says what the layouts were
    compared with, or "format unverified"; ``caution`` what keeps a score from being compared with published ones.
    """

    name: str
    title: str
    data_help: str
    load: Callable[[Path | None], list[Item | BadItem]]
    perform: Callable[[SuiteModel, Item, Sequence[int], dict[str, Any]], Answer]
    picture_name: Callable[[Item, int], str] | None = None
    judge: Callable[[Item, Output, Path, Judges], Verdict] | None = None
    judge_kind: str = "none"
    overall: str = "items"
    perfect: float = 1.0
    format_note: str = "format unverified"
    official: str = ""
    counted: tuple[str, ...] = ()
    caution: str = ""
    extras: tuple[str, ...] = ()
    extra_files: Callable[[Item], dict[str, bytes]] | None = None
