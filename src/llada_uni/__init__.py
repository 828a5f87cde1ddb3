"""LLaDA2.0-Uni: one discrete diffusion language model that reads and writes text and pictures.

    from llada_uni import LladaUni
    model = LladaUni.from_pretrained("nano")
    model.generate_image("two red apples left of a house", seed=7).save("apples.png")

Names are imported when they are first used, so that ``import llada_uni`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llada_uni.diffusion.sprint import Sprint
    from llada_uni.errors import (
        BudgetError,
        CheckpointError,
        ConfigError,
        ImageError,
        LladaUniError,
        OfflineError,
        PromptError,
        ResourceError,
        SizeError,
    )
    from llada_uni.grid import Geometry, TokenGrid
    from llada_uni.pipeline import (
        AskTask,
        ChatTask,
        Conversation,
        EditTask,
        EncodedImage,
        GenerateTask,
        ImageResult,
        InpaintTask,
        LladaUni,
        LladaUniPipeline,
        OutpaintTask,
        PixelOptions,
        TextResult,
        Turn,
        VaryTask,
    )
    from llada_uni.weights.load import (
        load_backbone,
        load_decoder,
        load_image_tokenizer,
        load_package_config,
        load_semantic_embedder,
        load_text_tokenizer,
        load_vae,
    )

    __version__: str

__all__ = [
    "AskTask",
    "BudgetError",
    "ChatTask",
    "CheckpointError",
    "ConfigError",
    "Conversation",
    "EditTask",
    "EncodedImage",
    "GenerateTask",
    "Geometry",
    "ImageError",
    "ImageResult",
    "InpaintTask",
    "LladaUni",
    "LladaUniError",
    "LladaUniPipeline",
    "OfflineError",
    "OutpaintTask",
    "PixelOptions",
    "PromptError",
    "ResourceError",
    "SizeError",
    "Sprint",
    "TextResult",
    "TokenGrid",
    "Turn",
    "VaryTask",
    "__version__",
    "load_backbone",
    "load_decoder",
    "load_image_tokenizer",
    "load_package_config",
    "load_semantic_embedder",
    "load_text_tokenizer",
    "load_vae",
]

_ROOM = {
    **dict.fromkeys([name for name in __all__ if name.endswith("Error")], "llada_uni.errors"),
    "Sprint": "llada_uni.diffusion.sprint",
    **dict.fromkeys(["Geometry", "TokenGrid"], "llada_uni.grid"),
    **dict.fromkeys([name for name in __all__ if name.endswith("Task")], "llada_uni.pipeline"),
    **dict.fromkeys(["Conversation", "Turn"], "llada_uni.pipeline"),
    **dict.fromkeys(
        ["EncodedImage", "ImageResult", "LladaUni", "LladaUniPipeline", "PixelOptions", "TextResult"],
        "llada_uni.pipeline",
    ),
    **dict.fromkeys([name for name in __all__ if name.startswith("load_")], "llada_uni.weights.load"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("llada-uni")
    if name not in _ROOM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_ROOM[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
