"""What the files of a checkpoint say about its components: configurations, vocabulary, sizes, and whether they agree.

Nothing here reads weights; the semantic embedder and the condition width of a foreign decoder are told by headers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from llada_uni import config as configs
from llada_uni.backbone.config import BackboneConfig
from llada_uni.decoder.config import DecoderConfig, SemanticEmbedderConfig, VAEConfig
from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.grid import Geometry
from llada_uni.image_tokenizer.config import ImageTokenizerConfig, PreprocessorConfig
from llada_uni.vocab import TextTokenizer, Vocab
from llada_uni.weights.catalog import PACKAGE_FILE, load_package_config, resolve
from llada_uni.weights.store import TensorStore, open_file, open_folder, open_pickle

__all__ = [
    "CLASSES_FOLDER",
    "DECODER_FOLDERS",
    "FP8_FLAG",
    "SEMANTIC_FILE",
    "SEMANTIC_PICKLE",
    "Variant",
    "check_checkpoint",
    "load_backbone_config",
    "load_decoder_config",
    "load_geometry",
    "load_image_tokenizer_config",
    "load_preprocessor",
    "load_semantic_embedder_config",
    "load_text_tokenizer",
    "load_vae_config",
    "load_vocab",
    "read_config",
    "semantic_store",
]

ConfigT = TypeVar("ConfigT")
Variant = Literal["normal", "turbo"]

DECODER_FOLDERS: Mapping[Variant, str] = {"normal": "decoder", "turbo": "decoder-turbo"}
CLASSES_FOLDER = "classes"
SEMANTIC_FILE = "sigvq_embedding.safetensors"
SEMANTIC_PICKLE = "sigvq_embedding.pt"
FP8_FLAG = "use_fp8_experts"
_RELEASED_AXES_LENS = (32768, 1024, 1024)  # the released loader overwrites what the file says


def load_text_tokenizer(directory: Path | str) -> TextTokenizer:
    """The text tokenizer of a checkpoint.

    Raises:
        CheckpointError: ``tokenizer.json`` is missing or unusable.
    """
    path = resolve(directory) / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"missing {path}; expected the released checkpoint layout")
    return TextTokenizer.from_file(path)


def load_vocab(directory: Path | str, tokenizer: TextTokenizer | None = None) -> Vocab:
    """The unified vocabulary: sizes from ``config.json``, control ids from the tokenizer (loaded unless given).

    Raises:
        CheckpointError: the two disagree, or the model has no image codes.
    """
    root = resolve(directory)
    config = load_backbone_config(root)
    if config.image_token_offset is None:
        raise CheckpointError(
            f"{root / 'config.json'}: the vocabulary has no image codes (image_token_offset is absent)"
        )
    return (tokenizer or load_text_tokenizer(root)).vocab(
        text_vocab_size=config.image_token_offset,
        num_codes=config.vocab_size - config.image_token_offset,
        pad_token_id=config.pad_token_id,
        picture_start_id=config.picture_start_id,
    )


def load_geometry(directory: Path | str) -> Geometry:
    """All sizes of a checkpoint, from its configuration files.

    Raises:
        CheckpointError: a configuration file is missing.
        ConfigError: the numbers contradict each other.
    """
    root = resolve(directory)
    present: list[Variant] = [v for v, folder in DECODER_FOLDERS.items() if (root / folder).is_dir()]
    variant = present[0] if present else "normal"
    return load_package_config(root).geometry(
        patch_size=load_image_tokenizer_config(root).vision_config.patch_size,
        vae_factor=load_vae_config(root).factor,
        dit_patch=load_decoder_config(root, variant).patch_size,
    )


def load_backbone_config(directory: Path | str) -> BackboneConfig:
    """``config.json`` of a checkpoint."""
    root = resolve(directory)
    return _backbone_config(root, read_config(root / "config.json"))


def load_image_tokenizer_config(directory: Path | str) -> ImageTokenizerConfig:
    """``image_tokenizer/config.json`` of a checkpoint."""
    root = resolve(directory)
    return _parse(ImageTokenizerConfig.from_mapping, root, root / "image_tokenizer" / "config.json")


def load_preprocessor(directory: Path | str) -> PreprocessorConfig:
    """``image_tokenizer/preprocessor_config.json`` of a checkpoint."""
    root = resolve(directory)
    return _parse(PreprocessorConfig.from_mapping, root, root / "image_tokenizer" / "preprocessor_config.json")


def load_semantic_embedder_config(directory: Path | str) -> SemanticEmbedderConfig:
    """Sizes of the semantic embedder, which only its tensors tell."""
    return _semantic_config(semantic_store(resolve(directory)))


def load_decoder_config(directory: Path | str, variant: Variant = "normal") -> DecoderConfig:
    """``config.json`` of a decoder.

    In a foreign checkpoint the width of the condition follows the tensors and the position tables have the released
    lengths, because the released loader overwrites both.
    """
    root = resolve(directory)
    if variant not in DECODER_FOLDERS:
        raise ConfigError(f"decoder: expected one of {', '.join(DECODER_FOLDERS)}, got {variant!r}")
    folder = root / DECODER_FOLDERS[variant]
    if not folder.is_dir():
        there = [v for v, name in DECODER_FOLDERS.items() if (root / name).is_dir()]
        raise CheckpointError(f"{root} has no {variant} decoder; it has: {', '.join(there) or 'none'}")
    config = _parse(DecoderConfig.from_mapping, root, folder / "config.json")
    if _is_own(root):
        return config
    entry = open_folder(folder).entries.get("semantic_embedder.0.weight")
    width = entry.shape[0] if entry is not None and len(entry.shape) == 1 else config.cap_feat_dim
    return dataclasses.replace(config, cap_feat_dim=width, axes_lens=_RELEASED_AXES_LENS)


def load_vae_config(directory: Path | str) -> VAEConfig:
    """``vae/config.json`` of a checkpoint."""
    root = resolve(directory)
    return _parse(VAEConfig.from_mapping, root, root / "vae" / "config.json")


def check_checkpoint(directory: Path | str) -> None:
    """Compare the components of a checkpoint with each other: configurations and headers only, no weights.

    Raises:
        CheckpointError: two components do not fit together, or one is missing.
        ConfigError: a configuration file is not valid.
    """
    root = resolve(directory)
    vocab, geometry = load_vocab(root), load_geometry(root)
    vision, semantic = load_image_tokenizer_config(root), load_semantic_embedder_config(root)
    codes = {"image_tokenizer": vision.vq_config.num_embeddings, "sigvq": semantic.num_codes}
    _agree(root, "the number of codes", backbone=vocab.num_codes, **codes)
    patches = {"image_tokenizer": vision.vision_config.patch_size, "preprocessor": load_preprocessor(root).patch_size}
    _agree(root, "patch_size", **patches)
    for variant, folder in DECODER_FOLDERS.items():
        if (root / folder).is_dir():
            decoder = load_decoder_config(root, variant)
            _agree(root, "condition width", sigvq=semantic.width, **{f"{variant}_decoder": decoder.cap_feat_dim})
            channels = load_vae_config(root).latent_channels
            _agree(root, "latent channels", vae=channels, **{f"{variant}_decoder": decoder.in_channels})
    for grid in geometry.trained_grids or ():
        vocab.header(grid)


def semantic_store(root: Path) -> TensorStore:
    """Tensors of the semantic embedder, from the safetensors file or from the released pickle.

    Raises:
        CheckpointError: neither file is there, or it is damaged.
    """
    folder = root / "image_tokenizer"
    if (folder / SEMANTIC_FILE).is_file():
        return open_file(folder / SEMANTIC_FILE)
    if (folder / SEMANTIC_PICKLE).is_file():
        return open_pickle(folder / SEMANTIC_PICKLE)
    raise CheckpointError(f"missing {folder / SEMANTIC_FILE} (or {SEMANTIC_PICKLE}); expected the released layout")


def _semantic_config(store: TensorStore) -> SemanticEmbedderConfig:
    entry = store.entries.get("prior_token_embedding.weight")
    if entry is None or len(entry.shape) != 2:
        found = list(entry.shape) if entry else "nothing"
        raise CheckpointError(f"{store.where}: expected prior_token_embedding.weight [codes, width], got {found}")
    return SemanticEmbedderConfig(num_codes=entry.shape[0], width=entry.shape[1])


def _backbone_config(root: Path, raw: Mapping[str, Any]) -> BackboneConfig:
    known = {key: value for key, value in raw.items() if key != FP8_FLAG}  # each tensor says whether it is float8
    return BackboneConfig.from_mapping(known, source=str(root / "config.json"), foreign=not _is_own(root))


def _parse(build: Callable[..., ConfigT], root: Path, path: Path) -> ConfigT:
    return build(read_config(path), source=str(path), foreign=not _is_own(root))


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file of a checkpoint.

    Raises:
        CheckpointError: there is no such file.
        ConfigError: it is not a JSON object.
    """
    if not path.is_file():
        raise CheckpointError(f"missing {path}; expected the released checkpoint layout")
    return configs.read_json(path)


def _is_own(root: Path) -> bool:
    """Whether our tools wrote the checkpoint, so that unknown configuration keys are mistakes."""
    return (root / PACKAGE_FILE).is_file()


def _agree(root: Path, what: str, **values: int) -> None:
    if len(set(values.values())) != 1:
        found = ", ".join(f"{name} {value}" for name, value in values.items())
        raise CheckpointError(f"{root}: the components disagree about {what}: {found}")
