"""What the adapters to other evaluation kits share: pictures and a question to an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["ask", "cut", "open_for_kit"]


def open_for_kit(pretrained: str, *, device: str | None, dtype: str | None) -> Any:
    """The pipeline behind a kit's model arguments.

    Raises:
        CheckpointError, OfflineError, ResourceError, ConfigError: as ``LladaUni.from_pretrained``.
    """
    from llada_uni.pipeline import LladaUni

    return LladaUni.from_pretrained(pretrained, device=device, dtype=dtype)


def ask(model: Any, pictures: Sequence[Any], question: str, **options: Any) -> str:
    """The answer to ``question`` about ``pictures``; without pictures it is a chat turn. None options are left out."""
    given = {name: value for name, value in options.items() if value is not None}
    if pictures:
        return model.understand_image(list(pictures), question, **given).text
    return model.chat([{"role": "user", "content": question}], **given).text


def cut(text: str, stops: str | Sequence[str] | None) -> str:
    """``text`` up to the first of ``stops``, without outer white space; an empty stop is none."""
    wanted = [stops] if isinstance(stops, str) else list(stops or ())
    places = [text.find(stop) for stop in wanted if stop and stop in text]
    return text[: min(places)].strip() if places else text.strip()
