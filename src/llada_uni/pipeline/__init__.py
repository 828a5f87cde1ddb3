"""The main path: words to a picture, a picture and a question to words.

The results load at once; the model, which needs torch, when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llada_uni.pipeline.results import AnswerDone, EncodedImage, ImageDone, ImageResult, TextResult
from llada_uni.pipeline.story_results import FramePreview, StoryDone, StoryResult, StoryTurn

if TYPE_CHECKING:
    from llada_uni.pipeline.model import LladaUni
    from llada_uni.sampling.story_state import StoryState

__all__ = [
    "AnswerDone",
    "EncodedImage",
    "FramePreview",
    "ImageDone",
    "ImageResult",
    "LladaUni",
    "StoryDone",
    "StoryResult",
    "StoryState",
    "StoryTurn",
    "TextResult",
]


def __getattr__(name: str) -> Any:
    if name == "LladaUni":
        from llada_uni.pipeline.model import LladaUni

        return LladaUni
    if name == "StoryState":
        from llada_uni.sampling.story_state import StoryState

        return StoryState
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
