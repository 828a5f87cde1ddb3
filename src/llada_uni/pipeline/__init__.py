"""The main path: words to a picture, a picture and a question to words, a picture and an instruction to a picture.

Tasks and results load at once; the model, which needs torch, when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llada_uni.pipeline.results import AnswerDone, EncodedImage, ImageDone, ImageResult, TextResult
from llada_uni.pipeline.story_results import FramePreview, StoryDone, StoryResult, StoryTurn
from llada_uni.pipeline.tasks import (
    AskTask,
    ChatTask,
    EditTask,
    GenerateTask,
    InpaintTask,
    OutpaintTask,
    Turn,
    VaryTask,
)

if TYPE_CHECKING:
    from llada_uni.pipeline.conversation import Conversation
    from llada_uni.pipeline.diffusers_style import LladaUniPipeline
    from llada_uni.pipeline.model import LladaUni
    from llada_uni.pipeline.pixels import PixelOptions
    from llada_uni.sampling.story_state import StoryState

__all__ = [
    "AnswerDone",
    "AskTask",
    "ChatTask",
    "Conversation",
    "EditTask",
    "EncodedImage",
    "FramePreview",
    "GenerateTask",
    "ImageDone",
    "ImageResult",
    "InpaintTask",
    "LladaUni",
    "LladaUniPipeline",
    "OutpaintTask",
    "PixelOptions",
    "StoryDone",
    "StoryResult",
    "StoryState",
    "StoryTurn",
    "TextResult",
    "Turn",
    "VaryTask",
]

_LATER = {
    "LladaUni": "llada_uni.pipeline.model",
    "LladaUniPipeline": "llada_uni.pipeline.diffusers_style",
    "Conversation": "llada_uni.pipeline.conversation",
    "PixelOptions": "llada_uni.pipeline.pixels",
    "StoryState": "llada_uni.sampling.story_state",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
