"""The main path: words to a picture, a picture and a question to words.

The results load at once; the model, which needs torch, when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llada_uni.pipeline.results import AnswerDone, EncodedImage, ImageDone, ImageResult, TextResult

if TYPE_CHECKING:
    from llada_uni.pipeline.model import LladaUni

__all__ = ["AnswerDone", "EncodedImage", "ImageDone", "ImageResult", "LladaUni", "TextResult"]


def __getattr__(name: str) -> Any:
    if name == "LladaUni":
        from llada_uni.pipeline.model import LladaUni

        return LladaUni
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
