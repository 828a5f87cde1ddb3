"""Samples as foreign files tell them, before their pictures are looked at: captions and conversations in common forms.

A *draft* is a list of turns whose parts are words (``str``) and pictures (``Path`` or ``bytes``).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from llada_uni.data.records import TASKS, Record, Role, Task
from llada_uni.errors import ConfigError

__all__ = [
    "CAPTION_KEYS",
    "QUESTION",
    "Draft",
    "Part",
    "Picture",
    "PictureFinder",
    "Turn",
    "caption_in",
    "captioned",
    "conversation",
    "find_in",
    "from_record",
]

Picture = Path | bytes
Part = str | Picture
PictureFinder = Callable[[Any], Picture]
"""From what a file writes for a picture to the picture. Raises ConfigError."""

CAPTION_KEYS = ("text", "caption", "prompt", "description")
QUESTION = "describe the picture."
"""What is asked when a caption is used as an answer."""
_ROLES: Mapping[str, Role] = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "model": "assistant", "bot": "assistant",
}  # fmt: skip
_PLACE = "<image>"
_TURN_KEYS = ("messages", "conversations")
_PICTURE_KEYS = ("images", "image")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one side says: words and pictures in order. ``learnt``: None means that the assistant's turns are."""

    role: Role
    parts: tuple[Part, ...]
    learnt: bool | None = None

    @property
    def supervised(self) -> bool:
        """Whether the model learns to write this turn."""
        return self.role == "assistant" if self.learnt is None else self.learnt


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A sample whose pictures have not been looked at."""

    id: str
    task: Task
    turns: tuple[Turn, ...]
    weight: float = 1.0
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def captioned(name: str, picture: Picture, caption: object, tasks: Sequence[Task], question: str) -> list[Draft]:
    """A picture and its caption as one sample of each task: ``t2i`` draws it, others answer ``question`` with it.

    Raises:
        ConfigError: the caption is empty or not text.
    """
    if not isinstance(caption, str):
        raise ConfigError(f"expected a caption, got {type(caption).__name__}")
    if not caption.strip():
        raise ConfigError("the caption is empty")
    words, drafts = " ".join(caption.split()), []
    for task in tasks:
        asked: tuple[Part, ...] = (words,) if task == "t2i" else (picture, question)
        told: tuple[Part, ...] = (picture,) if task == "t2i" else (words,)
        turns = (Turn(role="user", parts=asked), Turn(role="assistant", parts=told))
        drafts.append(Draft(id=name if len(tasks) == 1 else f"{name}:{task}", task=task, turns=turns))
    return drafts


def from_record(record: Record, find: PictureFinder) -> Draft:
    """A record as a draft, so that its pictures are looked at like all others.

    Raises:
        ConfigError: a picture that is codes already, or whose file cannot be named.
    """
    turns = []
    for part in record.segments:
        if part.ids is not None:
            raise ConfigError("a record with ids is not imported; give its file to the extraction as it is")
        said = part.text if part.text is not None else find(part.image)
        turns.append(Turn(role=part.role, parts=(said,), learnt=part.supervised))
    draft = Draft(id=record.id, task=record.task, turns=tuple(turns), weight=record.weight, source=record.source)
    return replace(draft, meta=record.meta)


def caption_in(values: Mapping[str, Any]) -> object:
    """The caption among the fields of a sample.

    Raises:
        ConfigError: none of the usual names is there.
    """
    for key in CAPTION_KEYS:
        if values.get(key) is not None:
            return values[key]
    raise ConfigError(f"no caption; expected one of the fields {', '.join(CAPTION_KEYS)}")


def conversation(name: str, values: Mapping[str, Any], find: PictureFinder) -> Draft:
    """A sample from ``messages`` (role, content) or ``conversations`` (from, value), with ``image`` or ``images``.

    A content is a text, in which ``<image>`` stands for the next of the pictures, or a list of parts
    ``{"type": "text", "text"}`` and ``{"type": "image", "image"}`` (also ``image_url``). Pictures that no ``<image>``
    calls for stand before the first user turn. Without ``task`` the kind of turns decides. Other fields become
    ``meta``.

    Raises:
        ConfigError: another form.
    """
    key = next((key for key in _TURN_KEYS if key in values), None)
    if key is None:
        raise ConfigError(
            f"expected the field {' or '.join(_TURN_KEYS)}, or segments; got {', '.join(values) or 'none'}"
        )
    if not isinstance(values[key], list) or not values[key]:
        raise ConfigError(f"{key}: expected a list of turns, got {type(values[key]).__name__}")
    pictures = [find(one) for one in _listed(values)]
    turns = _placed([_turn(one, find) for one in values[key]], pictures)
    meta = {k: v for k, v in values.items() if k not in (key, "id", "task", *_PICTURE_KEYS)}
    inner = meta.pop("meta", {})
    return Draft(id=name, task=_task(values.get("task"), turns), turns=turns, meta={**meta, **_mapping(inner)})


def _listed(values: Mapping[str, Any]) -> list[Any]:
    found = next((values[key] for key in _PICTURE_KEYS if values.get(key) is not None), [])
    return found if isinstance(found, list) else [found]


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"meta: expected an object, got {type(value).__name__}")
    return cast(Mapping[str, Any], value)


def _turn(value: object, find: PictureFinder) -> Turn:
    if not isinstance(value, Mapping):
        raise ConfigError(f"expected a turn with role and content, got {type(value).__name__}")
    name, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise ConfigError(f"expected a role among {', '.join(_ROLES)}, got {name!r}")
    if isinstance(content, str):
        return Turn(role=role, parts=(content,))
    if not isinstance(content, list):
        raise ConfigError(f"expected a text or a list of parts, got {type(content).__name__}")
    return Turn(role=role, parts=tuple(_part(one, find) for one in content))


def _part(value: object, find: PictureFinder) -> Part:
    if isinstance(value, str):
        return value
    kind = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or kind not in ("text", "image", "image_url"):
        raise ConfigError(f"expected a part of type text, image or image_url, got {json.dumps(value)[:80]}")
    if kind == "text":
        if not isinstance(value.get("text"), str):
            raise ConfigError(f"a text part without text: {json.dumps(value)[:80]}")
        return value["text"]
    picture = next((value[key] for key in ("image", "path", "url", "image_url") if value.get(key) is not None), None)
    return find(picture["url"] if isinstance(picture, Mapping) and "url" in picture else picture)


def _placed(turns: Sequence[Turn], pictures: Sequence[Picture]) -> tuple[Turn, ...]:
    """The listed pictures where ``<image>`` stands; where it stands nowhere, before the first user turn."""
    if not pictures:
        return tuple(turns)
    places = sum(part.count(_PLACE) for turn in turns for part in turn.parts if isinstance(part, str))
    if places and places != len(pictures):
        raise ConfigError(f"{places} times {_PLACE} for {len(pictures)} pictures")
    waiting = list(pictures)
    if places:
        return tuple(Turn(role=turn.role, parts=_filled(turn.parts, waiting)) for turn in turns)
    first = next((index for index, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        raise ConfigError("pictures, but no user turn and no <image> says where they belong")
    told = list(turns)
    told[first] = Turn(role="user", parts=(*pictures, *told[first].parts))
    return tuple(told)


def _filled(parts: Sequence[Part], waiting: list[Picture]) -> tuple[Part, ...]:
    """``parts`` with every ``<image>`` replaced by the next waiting picture; blanks around it go."""
    filled: list[Part] = []
    for part in parts:
        if not isinstance(part, str) or _PLACE not in part:
            filled.append(part)
            continue
        for index, words in enumerate(part.split(_PLACE)):
            filled += [waiting.pop(0)] if index else []
            filled += [words.strip()] if words.strip() else []
    return tuple(filled)


def _task(wanted: object, turns: Sequence[Turn]) -> Task:
    if wanted is not None:
        if wanted not in TASKS:
            raise ConfigError(f"task: expected one of {', '.join(TASKS)}, got {wanted!r}")
        return cast(Task, wanted)
    given = sum(not isinstance(part, str) for turn in turns if turn.role != "assistant" for part in turn.parts)
    written = [isinstance(part, str) for turn in turns if turn.role == "assistant" for part in turn.parts]
    if all(written):
        return "vqa" if given else "text"
    if written == [False]:
        return "t2i" if not given else "edit" if given == 1 else "multiref"
    return "interleave"


def find_in(folder: Path | None) -> PictureFinder:
    """Pictures written as a path in ``folder`` (None: no files), as ``data:`` URI, or as bytes in a ``bytes`` field."""

    def find(value: Any) -> Picture:
        inner = value.get("bytes") or value.get("path") if isinstance(value, Mapping) else value
        if isinstance(inner, bytes):
            return inner
        if not isinstance(inner, str) or not inner:
            raise ConfigError(f"expected a picture as a path or a data URI, got {type(value).__name__}")
        if inner[:5].lower() == "data:":
            return _decoded(inner)
        if re.match(r"[a-z][a-z0-9+.-]*://", inner, re.IGNORECASE):
            raise ConfigError(f"expected a local picture, got the address {inner[:80]}; download it first")
        if folder is None:
            raise ConfigError(f"expected the bytes of a picture, got the path {inner[:80]!r}")
        return folder / inner

    return find


def _decoded(uri: str) -> bytes:
    try:
        return base64.b64decode(re.sub(r"\s+", "", uri.partition(",")[2]), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"the data URI holds no valid base64 ({error})") from error
