"""Looks a checkpoint over without running it: every file, every key and shape, and whether the parts fit together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llada_uni.backbone.model import Backbone
from llada_uni.decoder.dit import Decoder
from llada_uni.decoder.semantic import SemanticEmbedder
from llada_uni.decoder.vae import VAE
from llada_uni.errors import CheckpointError, LladaUniError
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.weights import keys, parts
from llada_uni.weights.load import load_backbone, load_decoder, load_image_tokenizer, load_semantic_embedder, load_vae
from llada_uni.weights.store import TensorStore, open_folder

__all__ = ["ComponentReport", "inspect_checkpoint"]

Build = Callable[[], nn.Module]


@dataclass(frozen=True, kw_only=True)
class ComponentReport:
    """One component: its files and size on disk, its parameters, and the first thing wrong with it (None = nothing)."""

    name: str
    files: tuple[str, ...] = ()
    num_bytes: int = 0
    num_parameters: int = 0
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def inspect_checkpoint(directory: Path, *, read_weights: bool = False) -> Iterator[ComponentReport]:
    """Check the components one after the other; nothing raises, problems are reported.

    Headers are compared with the networks that the configurations describe, built without memory. ``read_weights`` also
    loads every component and checks that its numbers are finite.
    """
    yield _guarded("text_tokenizer", lambda: _tokenizer(directory))
    for name, check, load in _networks(directory):
        yield _guarded(name, check, load if read_weights else None)
    yield _guarded("together", lambda: _together(directory))


def _networks(root: Path) -> Iterator[tuple[str, Callable[[], ComponentReport], Callable[[], object]]]:
    yield "backbone", lambda: _backbone(root), lambda: load_backbone(root)
    yield "image_tokenizer", lambda: _image_tokenizer(root), lambda: load_image_tokenizer(root)
    yield "semantic_embedder", lambda: _semantic_embedder(root), lambda: load_semantic_embedder(root)
    variants: list[parts.Variant] = [
        variant for variant, folder in parts.DECODER_FOLDERS.items() if (root / folder).is_dir()
    ]
    for variant in variants:
        yield f"decoder:{variant}", partial(_decoder, root, variant), partial(load_decoder, root, variant)
    yield "vae", lambda: _vae(root), lambda: load_vae(root)


def _guarded(
    name: str, check: Callable[[], ComponentReport], load: Callable[[], object] | None = None
) -> ComponentReport:
    try:
        report = check()
        if load is not None:
            load()
    except LladaUniError as error:
        return ComponentReport(name=name, problem=str(error))
    return report


def _tokenizer(root: Path) -> ComponentReport:
    parts.load_text_tokenizer(root).special_ids()
    path = root / "tokenizer.json"
    return ComponentReport(name="text_tokenizer", files=(path.name,), num_bytes=path.stat().st_size)


def _together(root: Path) -> ComponentReport:
    if not any((root / folder).is_dir() for folder in parts.DECODER_FOLDERS.values()):
        raise CheckpointError(f"{root} has no decoder; expected {' or '.join(parts.DECODER_FOLDERS.values())}")
    parts.check_checkpoint(root)
    return ComponentReport(name="together")


def _backbone(root: Path) -> ComponentReport:
    config = parts.load_backbone_config(root)
    return _matched("backbone", lambda: Backbone(config), open_folder(root), keys.backbone_key)


def _image_tokenizer(root: Path) -> ComponentReport:
    config = parts.load_image_tokenizer_config(root)
    parts.load_preprocessor(root)
    store = open_folder(root / "image_tokenizer", exclude=(parts.SEMANTIC_FILE,))
    return _matched("image_tokenizer", lambda: ImageTokenizer(config), store, keys.image_tokenizer_key)


def _semantic_embedder(root: Path) -> ComponentReport:
    config = parts.load_semantic_embedder_config(root)
    return _matched("semantic_embedder", lambda: SemanticEmbedder(config), parts.semantic_store(root))


def _decoder(root: Path, variant: parts.Variant) -> ComponentReport:
    config = parts.load_decoder_config(root, variant)
    store = open_folder(root / parts.DECODER_FOLDERS[variant])
    return _matched(f"decoder:{variant}", lambda: Decoder(config), store)


def _vae(root: Path) -> ComponentReport:
    config = parts.load_vae_config(root)
    return _matched("vae", lambda: VAE(config), open_folder(root / "vae"))


def _matched(
    name: str, build: Build, store: TensorStore, rename: Callable[[str], str] = keys.plain_key
) -> ComponentReport:
    """Report of a component whose stored keys and shapes fill the network exactly.

    Raises:
        CheckpointError: they do not.
    """
    with torch.device("meta"):
        module = build()
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict(keep_vars=True).items()}
    tied = {key for key, _ in module.named_parameters(remove_duplicate=False)} - dict(module.named_parameters()).keys()
    shapes = {key: shape for key, shape in expected.items() if key not in tied}
    keys.plan(shapes, store.entries, where=store.where, rename=rename)
    files = sorted({entry.path for entry in store.entries.values()})
    return ComponentReport(
        name=name,
        files=tuple(path.name for path in files),
        num_bytes=sum(path.stat().st_size for path in files),
        num_parameters=sum(math.prod(shape) for shape in shapes.values()),
    )
