"""Finished components into a checkpoint directory, and back for the stages that build on them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.training.objective import Resources
from llada_uni.vocab import TextTokenizer
from llada_uni.weights import load
from llada_uni.weights.catalog import resolve

__all__ = ["frozen", "load_text_tokenizer", "warm_start", "write_json"]

_LOADERS = {
    "backbone": load.load_backbone,
    "image_tokenizer": load.load_image_tokenizer,
    "semantic_embedder": load.load_semantic_embedder,
    "decoder": load.load_decoder,
    "decoder-turbo": lambda directory: load.load_decoder(directory, "turbo"),
    "vae": load.load_vae,
}


def frozen(directory: Path, component: str) -> Any:
    """A component of a checkpoint directory, float32, without gradients, in eval mode.

    Raises:
        CheckpointError: the stage that writes it has not run.
    """
    module = _LOADERS[component](directory)
    return module.float().requires_grad_(False).eval()


def load_text_tokenizer(directory: Path) -> TextTokenizer:
    """The text tokenizer of a checkpoint directory.

    Raises:
        CheckpointError: the stage that writes it has not run.
    """
    path = directory / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(f"missing {path}; run the text tokenizer stage first")
    return TextTokenizer.from_file(path)


def warm_start(model: nn.Module, warm: str | None, component: str, resources: Resources) -> None:
    """Copies the weights of ``component`` from checkpoint ``warm`` into ``model``.

    ``warm``: None = nothing, "out" = the directory being built, else a model name such as "nano" or a directory.

    Raises:
        ConfigError: the shapes differ.
    """
    if warm is None:
        return
    source = frozen(resources.out if warm == "out" else resolve(warm), component)
    try:
        model.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise ConfigError(f"cannot start {component} from {warm}: {error}") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object in one atomic move."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
