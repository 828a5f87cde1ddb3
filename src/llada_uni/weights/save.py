"""Writes checkpoints in the released layout, completely or not at all.

Files are written under temporary names in the same directory, flushed to the disk and renamed at the end; when anything
fails the temporary files are removed, what was there stays, and ``ResourceError`` says why.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from llada_uni.backbone.model import Backbone
from llada_uni.config import to_mapping
from llada_uni.decoder.classes import ClassEmbedder
from llada_uni.decoder.dit import Decoder
from llada_uni.decoder.semantic import SemanticEmbedder
from llada_uni.decoder.vae import VAE
from llada_uni.errors import CheckpointError
from llada_uni.image_tokenizer.config import PreprocessorConfig
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.vocab import TextTokenizer
from llada_uni.weights.catalog import PACKAGE_FILE, PackageConfig
from llada_uni.weights.files import Writer, json_writer, replacing, text_writer, write_files
from llada_uni.weights.keys import ExpertLayout, stored_backbone
from llada_uni.weights.parts import CLASSES_FOLDER, DECODER_FOLDERS, FP8_FLAG, SEMANTIC_FILE, SEMANTIC_PICKLE, Variant
from llada_uni.weights.quantize import FP8

__all__ = [
    "DEFAULT_SHARD_BYTES",
    "Components",
    "check_replaceable",
    "save_backbone",
    "save_checkpoint",
    "save_class_embedder",
    "save_decoder",
    "save_image_tokenizer",
    "save_package_config",
    "save_semantic_embedder",
    "save_text_tokenizer",
    "save_vae",
]

DEFAULT_SHARD_BYTES = 5 * 2**30
_FLOAT32_ENDINGS = ("expert_bias", "_scale_inv", "_scale")


@dataclass(frozen=True, kw_only=True)
class Components:
    """The parts of a checkpoint; those left out are copied from ``base`` by :func:`save_checkpoint`, or absent."""

    backbone: Backbone | None = None
    image_tokenizer: ImageTokenizer | None = None
    preprocessor: PreprocessorConfig | None = None
    semantic_embedder: SemanticEmbedder | None = None
    decoder: Decoder | None = None
    decoder_turbo: Decoder | None = None
    vae: VAE | None = None
    text_tokenizer: TextTokenizer | None = None
    package: PackageConfig | None = None


def save_checkpoint(
    directory: Path | str,
    components: Components,
    *,
    base: Path | None = None,
    dtype: torch.dtype | None = torch.bfloat16,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    expert_layout: ExpertLayout = "separate",
) -> Path:
    """Write a whole checkpoint beside ``directory`` and put it in its place in one move; returns ``directory``.

    ``base`` is an existing checkpoint whose files are taken over first (it may be ``directory`` itself). ``dtype`` is
    the stored dtype, ``None`` as it is; router biases are always float32. An existing directory is replaced only when
    it is empty or a checkpoint.

    Raises:
        CheckpointError: ``directory`` exists and is something else.
        ResourceError: the disk is full or not writable; nothing has changed then.
    """
    target = Path(directory).expanduser().resolve()
    check_replaceable(target)
    if base is not None and not base.is_dir():
        raise CheckpointError(f"no directory {base} to take the other components from")
    options: dict[str, Any] = {"dtype": dtype, "max_shard_bytes": max_shard_bytes}
    with replacing(target) as temporary:
        if base is not None:
            shutil.copytree(base, temporary, dirs_exist_ok=True)
        _save_parts(temporary, components, expert_layout, options)
    return target


def save_backbone(
    directory: Path | str,
    backbone: Backbone,
    *,
    dtype: torch.dtype | None = torch.bfloat16,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    expert_layout: ExpertLayout = "separate",
) -> None:
    """Write ``config.json`` and ``model*.safetensors`` at the root of a checkpoint.

    Raises:
        ResourceError: the disk is full or not writable; nothing has changed then.
    """
    state = stored_backbone(_untied(backbone), expert_layout)
    mapping = backbone.config.to_mapping()
    if expert_layout.endswith("fp8"):
        mapping[FP8_FLAG] = True
    _save_folder(Path(directory), state, mapping, dtype=dtype, max_shard_bytes=max_shard_bytes)


def save_image_tokenizer(
    directory: Path | str,
    tokenizer: ImageTokenizer,
    preprocessor: PreprocessorConfig | None = None,
    *,
    dtype: torch.dtype | None = torch.bfloat16,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Write ``image_tokenizer/`` (the preprocessor's file only when given). Errors as for :func:`save_backbone`."""
    extra = {} if preprocessor is None else {"preprocessor_config.json": json_writer(to_mapping(preprocessor))}
    _save_folder(
        Path(directory) / "image_tokenizer",
        tokenizer.state_dict().items(),
        to_mapping(tokenizer.config),
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
        extra=extra,
        keep=(SEMANTIC_FILE,),
    )


def save_semantic_embedder(
    directory: Path | str, embedder: SemanticEmbedder, *, dtype: torch.dtype | None = torch.bfloat16
) -> None:
    """Write ``image_tokenizer/sigvq_embedding.safetensors``. Errors as for :func:`save_backbone`."""
    folder = Path(directory) / "image_tokenizer"
    writer = _shard_writer(list(embedder.state_dict().items()), dtype)
    write_files(folder, {SEMANTIC_FILE: writer}, obsolete=[folder / SEMANTIC_PICKLE])


def save_class_embedder(
    directory: Path | str, embedder: ClassEmbedder, *, dtype: torch.dtype | None = torch.bfloat16
) -> None:
    """Write ``classes/``, the condition of a class-conditional decoder. Errors as for :func:`save_backbone`."""
    state, mapping = embedder.state_dict().items(), to_mapping(embedder.config)
    _save_folder(Path(directory) / CLASSES_FOLDER, state, mapping, dtype=dtype, max_shard_bytes=DEFAULT_SHARD_BYTES)


def save_decoder(
    directory: Path | str,
    decoder: Decoder,
    variant: Variant = "normal",
    *,
    dtype: torch.dtype | None = torch.bfloat16,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Write ``decoder/`` or ``decoder-turbo/``. Errors as for :func:`save_backbone`."""
    _save_folder(
        Path(directory) / DECODER_FOLDERS[variant],
        decoder.state_dict().items(),
        to_mapping(decoder.config),
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
    )


def save_vae(
    directory: Path | str,
    vae: VAE,
    *,
    dtype: torch.dtype | None = torch.bfloat16,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Write ``vae/``. Errors as for :func:`save_backbone`."""
    _save_folder(
        Path(directory) / "vae",
        vae.state_dict().items(),
        to_mapping(vae.config),
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
        stem="diffusion_pytorch_model",
    )


def save_text_tokenizer(directory: Path | str, tokenizer: TextTokenizer) -> None:
    """Write ``tokenizer.json``. Errors as for :func:`save_backbone`."""
    write_files(Path(directory), {"tokenizer.json": text_writer(tokenizer.specification)})


def save_package_config(directory: Path | str, package: PackageConfig) -> None:
    """Write ``llada_uni.json``. Errors as for :func:`save_backbone`."""
    write_files(Path(directory), {PACKAGE_FILE: json_writer(to_mapping(package))})


def _save_parts(root: Path, parts: Components, expert_layout: ExpertLayout, options: dict[str, Any]) -> None:
    if parts.backbone is not None:
        save_backbone(root, parts.backbone, expert_layout=expert_layout, **options)
    if parts.image_tokenizer is not None:
        save_image_tokenizer(root, parts.image_tokenizer, parts.preprocessor, **options)
    if parts.semantic_embedder is not None:
        save_semantic_embedder(root, parts.semantic_embedder, dtype=options["dtype"])
    if parts.decoder is not None:
        save_decoder(root, parts.decoder, "normal", **options)
    if parts.decoder_turbo is not None:
        save_decoder(root, parts.decoder_turbo, "turbo", **options)
    if parts.vae is not None:
        save_vae(root, parts.vae, **options)
    if parts.text_tokenizer is not None:
        save_text_tokenizer(root, parts.text_tokenizer)
    if parts.package is not None:
        save_package_config(root, parts.package)


def _save_folder(
    folder: Path,
    state: Iterable[tuple[str, Tensor]],
    mapping: Mapping[str, Any],
    *,
    dtype: torch.dtype | None,
    max_shard_bytes: int,
    extra: Mapping[str, Writer] | None = None,
    stem: str = "model",
    keep: tuple[str, ...] = (),
) -> None:
    """``config.json`` and weights; weight files of an earlier save with other names are deleted afterwards."""
    shards = _shards(state, dtype, max_shard_bytes)
    names = _shard_names(stem, len(shards))
    writers: dict[str, Writer] = {name: _shard_writer(shard, dtype) for name, shard in zip(names, shards, strict=True)}
    if len(shards) > 1:
        writers[f"{stem}.safetensors.index.json"] = json_writer(_index(names, shards, dtype))
    writers |= {"config.json": json_writer(mapping), **(extra or {})}
    stale = (*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json"))
    obsolete = [p for p in stale if p.name not in writers and p.name not in keep and not p.name.startswith(".")]
    write_files(folder, writers, obsolete=obsolete)


def _shards(
    state: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None, max_bytes: int
) -> list[list[tuple[str, Tensor]]]:
    """Runs of tensors of at most ``max_bytes`` each (one tensor is never split); at least one run."""
    shards: list[list[tuple[str, Tensor]]] = [[]]
    filled = 0
    for key, tensor in state:
        size = _num_bytes(key, tensor, dtype)
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((key, tensor))
        filled += size
    return shards


def _shard_names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def _index(names: list[str], shards: list[list[tuple[str, Tensor]]], dtype: torch.dtype | None) -> dict[str, Any]:
    total = sum(_num_bytes(key, tensor, dtype) for shard in shards for key, tensor in shard)
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key, _ in shard}
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def _stored_dtype(key: str, tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    if key.endswith(_FLOAT32_ENDINGS):
        return torch.float32
    return tensor.dtype if dtype is None or tensor.dtype == FP8 else dtype


def _num_bytes(key: str, tensor: Tensor, dtype: torch.dtype | None) -> int:
    return tensor.numel() * _stored_dtype(key, tensor, dtype).itemsize


def _stored(key: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A contiguous copy on the CPU in the stored dtype (a file cannot hold two views of one memory)."""
    return tensor.detach().to("cpu", _stored_dtype(key, tensor, dtype), copy=True).contiguous()


def _shard_writer(shard: list[tuple[str, Tensor]], dtype: torch.dtype | None) -> Writer:
    def write(path: Path) -> None:
        save_file({key: _stored(key, tensor, dtype) for key, tensor in shard}, path, metadata={"format": "pt"})

    return write


def _untied(backbone: Backbone) -> dict[str, Tensor]:
    """Parameters to store: a tied output projection is the embedding and has no entry of its own."""
    state = backbone.state_dict()
    if backbone.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return state


def check_replaceable(target: Path) -> None:
    """May a checkpoint be written there?

    Raises:
        CheckpointError: something else is there.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise CheckpointError(f"{target} is a file; expected a directory to write the checkpoint to")
    known = ("config.json", PACKAGE_FILE, "image_tokenizer", "decoder", "decoder-turbo", "vae", "tokenizer.json")
    if any(target.iterdir()) and not any((target / name).exists() for name in known):
        raise CheckpointError(f"{target} exists and is not a checkpoint; choose another directory")
