"""Conversations as chat clients send them: turns of texts and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llada_uni.errors import PromptError
from llada_uni.serving.faults import TooLarge
from llada_uni.serving.limits import Limits
from llada_uni.serving.pictures import read_picture
from llada_uni.serving.work import Said

__all__ = ["check_text_size", "read_messages"]

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def read_messages(messages: Sequence[Any], limits: Limits) -> list[Said]:
    """Turns with their pictures decoded.

    ``content`` is a text, a list of ``text`` and ``image_url`` parts, or null for an assistant; the pictures of an
    assistant may also stand in ``images``, where this server puts them too.

    Raises:
        PromptError: not a conversation, or too many pictures. ImageError: a picture that cannot be read.
        TooLarge: too many words.
    """
    if not messages:
        raise PromptError("messages: expected at least one, got an empty list")
    parts = [_parts(message, f"messages[{number}]") for number, message in enumerate(messages)]
    flat = [part for _, own in parts for part in own]
    check_text_size("".join(value for kind, value in flat if kind == "text"), limits)
    count = sum(kind == "image" for kind, _ in flat)
    if count > limits.max_images:
        raise PromptError(f"messages: expected at most {limits.max_images} pictures, got {count}")
    return [
        Said(role=role, parts=tuple(read_picture(value, limits) if kind == "image" else value for kind, value in own))
        for role, own in parts
    ]


def check_text_size(text: str, limits: Limits) -> None:
    """Refuse more words than the server reads.

    Raises:
        TooLarge: there are more. PromptError: the text is not encodable.
    """
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise PromptError("expected text, got half of a surrogate pair") from error
    if size > limits.text_bytes:
        raise TooLarge(f"the request has {size:,} bytes of text, at most {limits.text_bytes:,} are read")


def _parts(message: Any, where: str) -> tuple[str, list[tuple[str, str]]]:
    if not isinstance(message, Mapping):
        raise PromptError(f"{where}: expected an object with role and content, got {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise PromptError(f"{where}.role: expected {', '.join(_ROLES)}")
    content, own = message.get("content"), _ROLES[role]
    if isinstance(content, str):
        parts = [("text", content)] if content or own != "assistant" else []
    elif isinstance(content, Sequence):
        parts = [_part(part, f"{where}.content[{number}]") for number, part in enumerate(content)]
    elif content is None and own == "assistant":
        parts = []
    else:
        raise PromptError(f"{where}.content: expected a text or a list of parts, got {type(content).__name__}")
    images = message.get("images")
    if own == "assistant" and isinstance(images, Sequence) and not any(kind == "image" for kind, _ in parts):
        parts += [_part(part, f"{where}.images[{number}]") for number, part in enumerate(images)]
    if own == "system" and any(kind == "image" for kind, _ in parts):
        raise PromptError(f"{where}: expected a system message without pictures")
    return own, parts


def _part(part: Any, where: str) -> tuple[str, str]:
    """("text", words) or ("image", address)."""
    values: Mapping[str, Any] = part if isinstance(part, Mapping) else {}
    kind, text = values.get("type"), values.get("text")
    if kind in ("text", "input_text", "output_text") and isinstance(text, str):
        return "text", text
    if kind in ("image_url", "input_image"):
        address = values.get("image_url")
        address = address.get("url") if isinstance(address, Mapping) else address
        if isinstance(address, str):
            return "image", address
    raise PromptError(f'{where}: expected {{"type": "text", "text": ...}} or {{"type": "image_url", ...}}')
