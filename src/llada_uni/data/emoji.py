"""Real pictures with words from a public registry: emoji of one meaning in several styles, as samples of three tasks.

The same concept in several styles gives text to image with style words, captions, and edits whose answer is a real
picture. Concepts, not pictures, are kept out for evaluation, because the styles of one concept look alike; skin tones
are left out for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llada_uni.data.drafts import Draft, Turn
from llada_uni.data.emoji_packages import GROUPS, STYLES, Concept, EmojiPackages, fetch_packages
from llada_uni.data.filters import PictureFilter
from llada_uni.data.importing import ImportResult, ImportRules, import_records
from llada_uni.data.records import Skipped, Task
from llada_uni.data.token_loader import is_held_out_id
from llada_uni.errors import ConfigError

__all__ = ["QUESTION", "EmojiOptions", "describe", "emoji_drafts", "import_emoji", "instruction", "is_held_out_concept"]

QUESTION = "what is this emoji?"
_WORDS: Mapping[str, str] = {"3d": "3D", "flat": "flat", "noto": "drawn"}


@dataclass(frozen=True, kw_only=True)
class EmojiOptions:
    """Which concepts and styles, at ``side_px`` pixels on white; ``held_out_share`` of the concepts are kept out.

    Raises:
        ConfigError: an unknown group or style, fewer than one of them, or a number out of range.
    """

    groups: tuple[str, ...] = ("smileys", "animals", "food", "travel", "activities", "objects")
    styles: tuple[str, ...] = ("3d", "flat", "noto")
    tasks: tuple[Task, ...] = ("t2i", "cap", "edit")
    side_px: int = 128
    held_out_share: float = 0.1
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("groups", GROUPS), ("styles", STYLES), ("tasks", ("t2i", "cap", "edit"))):
            unknown = [one for one in getattr(self, name) if one not in known]
            if unknown or not getattr(self, name):
                raise ConfigError(
                    f"{name}: expected some of {', '.join(known)}, got {unknown[0] if unknown else 'none'}"
                )
        if not 0 <= self.held_out_share < 1:
            raise ConfigError(f"held_out_share: expected a number from 0 to below 1, got {self.held_out_share}")
        for name, value in (("side_px", self.side_px), ("limit", self.limit)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")


def describe(label: str, style: str) -> str:
    """The words for a concept in a style, such as "a 3D rocket emoji"."""
    return f"a {_WORDS[style]} {label} emoji"


def instruction(style: str) -> str:
    """The words that ask for another style, such as "make it a flat emoji"."""
    return f"make it a {_WORDS[style]} emoji"


def is_held_out_concept(label: str, share: float) -> bool:
    """Whether a concept is kept out of training: always the same ones, about ``share`` of them."""
    return is_held_out_id(f"emoji {label}", share)


def emoji_drafts(found: EmojiPackages, options: EmojiOptions, *, held_out: bool) -> Iterator[Draft | Skipped]:
    """The samples of all concepts that are kept out, or of all others: pictures from words, captions, changes of style.

    A style that lacks a concept is told as skipped.
    """
    chosen = [c for c in found.concepts if is_held_out_concept(c.label, options.held_out_share) == held_out]
    for concept in chosen[: options.limit]:
        pictures: dict[str, bytes] = {}
        for style in options.styles:
            try:
                picture = found.picture(concept, style)
            except ConfigError as error:
                yield Skipped(id=f"{concept.slug}/{style}", reason=str(error))
                continue
            if picture is None:
                yield Skipped(id=f"{concept.slug}/{style}", reason=f"no {style} picture of {concept.label!r}")
            else:
                pictures[style] = picture
        yield from _drafts_of(concept, pictures, options.tasks)


def import_emoji(
    packages: Path,
    out: Path,
    options: EmojiOptions | None = None,
    pictures: PictureFilter | None = None,
    *,
    report: Callable[[int, int], None] | None = None,
) -> tuple[ImportResult, ImportResult]:
    """Records of the concepts to train on in ``out/train`` and of those kept out in ``out/held_out``.

    Packages that ``packages`` lacks are fetched first. ``report`` is called with the numbers of records and of skipped
    samples of the part at work.

    Raises:
        ConfigError: npm or the library that draws SVG pictures is missing, or nothing is left.
        OfflineError: the registry cannot be reached. ResourceError: the disk is full or not writable.
    """
    options = options or EmojiOptions()
    fetch_packages(packages, options.styles)
    found = EmojiPackages.open(packages, options.styles, options.groups, options.side_px)
    rules = ImportRules(pictures=pictures or PictureFilter())
    train = import_records(
        emoji_drafts(found, options, held_out=False), out / "train", rules, name="emoji", report=report
    )
    held_out = import_records(
        emoji_drafts(found, options, held_out=True), out / "held_out", rules, name="emoji", report=report
    )
    return train, held_out


def _drafts_of(concept: Concept, pictures: Mapping[str, bytes], tasks: Sequence[Task]) -> Iterator[Draft]:
    for style, picture in pictures.items():
        if "t2i" in tasks:
            for number, words in enumerate(_phrases(concept.label, style)):
                yield _draft(concept, "t2i", f"{style}-{number}", (words,), (picture,), style=style)
        if "cap" in tasks:
            told = describe(concept.label, style)
            yield _draft(concept, "cap", style, (picture, QUESTION), (told,), style=style)
    if "edit" in tasks:
        for source, before in pictures.items():
            for style, after in pictures.items():
                if source != style:
                    asked = instruction(style)
                    yield _draft(
                        concept, "edit", f"{source}-{style}", (before, asked), (after,), style=style, source=source
                    )


def _phrases(label: str, style: str) -> tuple[str, ...]:
    """Ways to ask for a picture; who names no style gets the first one."""
    plain = (f"a {label} emoji",) if style == next(iter(_WORDS)) else ()
    return (describe(label, style), f"{label}, {_WORDS[style]} emoji", *plain)


def _draft(
    concept: Concept, task: Task, name: str, asked: tuple[Any, ...], told: tuple[Any, ...], **facts: str
) -> Draft:
    turns = (Turn(role="user", parts=asked), Turn(role="assistant", parts=told))
    meta = {"concept": concept.label, "group": concept.group, **facts}
    return Draft(id=f"{concept.slug}/{task}/{name}", task=task, turns=turns, source="emoji", meta=meta)
