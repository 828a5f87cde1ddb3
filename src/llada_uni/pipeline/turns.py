"""Conversations as they arrive: turns, or messages in the form that chat interfaces exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llada_uni.errors import PromptError
from llada_uni.pipeline.checks import as_list
from llada_uni.pipeline.tasks import Turn

__all__ = ["as_turns"]


def as_turns(messages: Any) -> tuple[Turn, ...]:
    """``messages`` as turns whose ``images`` are tuples; what the words may be is checked where they become ids.

    A dictionary holds ``role`` and ``content``; other keys mean nothing here. Pictures in it must be data URIs, so that
    messages from elsewhere cannot name files of this machine.

    Raises:
        PromptError: not a list, or an entry that is no turn.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        raise PromptError(f"messages: expected a list of turns, got {type(messages).__name__}")
    return tuple(_turn(message, f"messages[{number}]") for number, message in enumerate(messages))


def _turn(message: Any, where: str) -> Turn:
    if isinstance(message, Mapping):
        turn = _from_mapping(message, where)
    elif isinstance(message, Turn):
        turn = Turn(message.role, message.text, tuple(as_list(message.images)[0]))
    else:
        raise PromptError(f"{where}: expected a Turn or a dictionary, got {type(message).__name__}")
    if turn.role not in ("system", "user", "assistant"):
        raise PromptError(f"{where}: expected the role system, user or assistant, got {turn.role!r}")
    return turn


def _from_mapping(message: Mapping[str, Any], where: str) -> Turn:
    content = message.get("content")
    if isinstance(content, str):
        return Turn(message.get("role", ""), content)
    if not isinstance(content, Sequence):
        raise PromptError(f"{where}: expected content that is a text or a list of parts, got {type(content).__name__}")
    parts = [_part(part, f"{where}.content[{number}]") for number, part in enumerate(content)]
    text = "\n".join(value for kind, value in parts if kind == "text")
    return Turn(message.get("role", ""), text, tuple(value for kind, value in parts if kind == "image"))


def _part(part: Any, where: str) -> tuple[str, str]:
    """("text", words) or ("image", data URI)."""
    values: Mapping[str, Any] = part if isinstance(part, Mapping) else {}
    kind, text = values.get("type"), values.get("text")
    if kind == "text" and isinstance(text, str):
        return "text", text
    if kind == "image_url":
        address = values.get("image_url")
        address = address.get("url") if isinstance(address, Mapping) else address
        if isinstance(address, str) and address[:5].lower() == "data:":
            return "image", address
        raise PromptError(f"{where}: expected image_url with a data URI (data:image/...;base64,...)")
    raise PromptError(f'{where}: expected {{"type": "text", "text": ...}} or {{"type": "image_url", ...}}')
