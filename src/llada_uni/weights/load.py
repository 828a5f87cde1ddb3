"""Opens checkpoints: every component from its files to a module, strictly, or one clear line saying what is wrong.

Each ``load_*`` takes a checkpoint root (a directory, or a name that ``catalog.resolve`` knows) and returns a module in
``eval`` mode without gradients. Headers are compared with the configuration before any data is read; a missing, left
over or misshapen key, a truncated file and a number that is not finite raise ``CheckpointError``. ``dtype=None`` means
float32 on the CPU and bfloat16 elsewhere; the selection bias of the routers is float32 always.

The large weights (routed experts of the backbone, attention and feed-forwards of the decoder) may be kept quantised and
may wait elsewhere until they are used: ``quantize`` is "int8", "int4", "fp8", "none" (dense whatever is stored) or None
(integers as stored, everything else dense); ``offload`` is "cpu" (main memory, for a GPU) or "disk". Such networks
compute only; files are then read without mapping (as with ``mapped=False``), one expert at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from llada_uni.backbone.config import BackboneConfig
from llada_uni.backbone.model import Backbone
from llada_uni.config import from_mapping
from llada_uni.decoder.classes import ClassEmbedder, ClassEmbedderConfig
from llada_uni.decoder.dit import Decoder
from llada_uni.decoder.semantic import SemanticEmbedder
from llada_uni.decoder.vae import VAE
from llada_uni.errors import ConfigError, ResourceError
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.weights import keys
from llada_uni.weights.catalog import load_package_config, resolve
from llada_uni.weights.large import Large, blocks_of_decoder, experts_of_backbone, make_room, stream
from llada_uni.weights.materialise import ALWAYS_FLOAT32, Offload, Quantize, Target, materialise
from llada_uni.weights.parts import (
    CLASSES_FOLDER,
    DECODER_FOLDERS,
    SEMANTIC_FILE,
    Variant,
    check_checkpoint,
    load_backbone_config,
    load_decoder_config,
    load_geometry,
    load_image_tokenizer_config,
    load_preprocessor,
    load_semantic_embedder_config,
    load_text_tokenizer,
    load_vae_config,
    load_vocab,
    read_config,
    semantic_store,
)
from llada_uni.weights.plain import unmapped
from llada_uni.weights.quantize import BLOCK
from llada_uni.weights.store import TensorStore, open_folder

__all__ = [
    "NoRandomNumbers",
    "backbone_from_store",
    "check_checkpoint",
    "load_backbone",
    "load_backbone_config",
    "load_class_embedder",
    "load_decoder",
    "load_decoder_config",
    "load_geometry",
    "load_image_tokenizer",
    "load_image_tokenizer_config",
    "load_package_config",
    "load_preprocessor",
    "load_semantic_embedder",
    "load_semantic_embedder_config",
    "load_text_tokenizer",
    "load_vae",
    "load_vae_config",
    "load_vocab",
    "resolve_device",
    "resolve_dtype",
    "weight_block",
]

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_RANDOM = frozenset({"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_"})


class NoRandomNumbers(TorchFunctionMode):
    """Leaves out random initialisation, which on the meta device does nothing but import a compiler for a second."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _RANDOM:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def load_backbone(
    directory: Path | str,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    quantize: Quantize | None = None,
    offload: Offload | None = None,
    mapped: bool = True,
    **implementation: Any,
) -> Backbone:
    """The language model of a checkpoint; ``implementation`` is passed to ``Backbone`` (attention, experts).

    Experts may be stored one by one or stacked, as integers, or in float8 with block factors, which are multiplied out
    unless ``quantize`` says otherwise.

    Raises:
        CheckpointError: files or keys are missing, misshapen, left over, truncated or not finite.
        ConfigError: ``config.json`` is not valid, or ``quantize`` and ``offload`` do not go together.
        ResourceError: no such device, or not enough memory.
    """
    root = resolve(directory)
    target = _target(dtype, device, quantize, offload, block=weight_block(read_config(root / "config.json")))
    return backbone_from_store(load_backbone_config(root), _opened(root, target, mapped), target, **implementation)


def backbone_from_store(config: BackboneConfig, store: TensorStore, target: Target, **implementation: Any) -> Backbone:
    """:func:`load_backbone` for tensors that come from anywhere, read one at a time."""
    build = lambda: Backbone(config, **implementation)  # noqa: E731 - two words
    return _load(build, store, target, rename=keys.backbone_key, large=experts_of_backbone)


def load_image_tokenizer(
    directory: Path | str, *, dtype: torch.dtype | str | None = None, device: torch.device | str = "cpu"
) -> ImageTokenizer:
    """Pixels to codes. Errors as for :func:`load_backbone`."""
    root = resolve(directory)
    config = load_image_tokenizer_config(root)
    store = open_folder(root / "image_tokenizer", exclude=(SEMANTIC_FILE,))
    return _load(lambda: ImageTokenizer(config), store, _target(dtype, device), rename=keys.image_tokenizer_key)


def load_semantic_embedder(
    directory: Path | str, *, dtype: torch.dtype | str | None = None, device: torch.device | str = "cpu"
) -> SemanticEmbedder:
    """Codes to the decoder's condition. Errors as for :func:`load_backbone`."""
    root = resolve(directory)
    config = load_semantic_embedder_config(root)
    store = semantic_store(root)
    return _load(lambda: SemanticEmbedder(config), store, _target(dtype, device))


def load_class_embedder(
    directory: Path | str, *, dtype: torch.dtype | str | None = None, device: torch.device | str = "cpu"
) -> ClassEmbedder:
    """Classes of cells to the condition of a class-conditional decoder. Errors as for :func:`load_backbone`."""
    folder = resolve(directory) / CLASSES_FOLDER
    config = from_mapping(ClassEmbedderConfig, read_config(folder / "config.json"), source=str(folder / "config.json"))
    return _load(lambda: ClassEmbedder(config), open_folder(folder), _target(dtype, device))


def load_decoder(
    directory: Path | str,
    variant: Variant = "normal",
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    quantize: Quantize | None = None,
    offload: Offload | None = None,
    mapped: bool = True,
) -> Decoder:
    """The many-step (``"normal"``) or the distilled (``"turbo"``) decoder. Errors as for :func:`load_backbone`."""
    root = resolve(directory)
    config, target = load_decoder_config(root, variant), _target(dtype, device, quantize, offload)
    store = _opened(root / DECODER_FOLDERS[variant], target, mapped)
    return _load(lambda: Decoder(config), store, target, large=blocks_of_decoder)


def load_vae(
    directory: Path | str, *, dtype: torch.dtype | str | None = None, device: torch.device | str = "cpu"
) -> VAE:
    """Pixels to latents and back. Errors as for :func:`load_backbone`."""
    root = resolve(directory)
    config = load_vae_config(root)
    return _load(lambda: VAE(config), open_folder(root / "vae"), _target(dtype, device))


def resolve_device(device: torch.device | str) -> torch.device:
    """``device`` if this machine has it.

    Raises:
        ConfigError: not the name of a device.
        ResourceError: the machine has no such device.
    """
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device: expected cpu, cuda or cuda:N, got {device!r}") from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ResourceError(f"no device {wanted}: this machine has {torch.cuda.device_count()} CUDA devices; use cpu")
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        raise ResourceError("no device mps on this machine; use cpu")
    return wanted


def resolve_dtype(dtype: torch.dtype | str | None, device: torch.device | str = "cpu") -> torch.dtype:
    """Computing dtype: as given (a dtype or its name), else float32 on the CPU and bfloat16 elsewhere.

    Raises:
        ConfigError: not a floating-point dtype of at least 16 bits.
    """
    if dtype is None:
        return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    value = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if value not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise ConfigError(f"dtype: expected float32, bfloat16, float16 or float64, got {dtype!r}")
    return value


def _load(
    build: Callable[[], ModuleT],
    store: TensorStore,
    target: Target,
    *,
    rename: Callable[[str], str] = keys.plain_key,
    large: Large | None = None,
) -> ModuleT:
    """Build on the meta device, match keys, then move the stored tensors in."""
    with torch.device("meta"), NoRandomNumbers():
        module = build()
    aliases = _aliases(module)
    expected = {name: tuple(t.shape) for name, t in module.state_dict().items() if name not in aliases}
    plans = keys.plan(expected, store.entries, where=store.where, rename=rename, block=target.block)
    own, later = make_room(module, plans, target, large, where=store.where)
    state = {plan.name: materialise(plan, store, target) for plan in own}
    empty = {name: tensor for name, tensor in module.state_dict().items() if name not in state and name not in aliases}
    module.load_state_dict(state | empty | {alias: state[name] for alias, name in aliases.items()}, assign=True)
    _retie(module, aliases)
    _fill_unstored(module, target.device)
    stream(module, later, store, target)
    return module.requires_grad_(False).eval()


def _aliases(module: nn.Module) -> dict[str, str]:
    """Parameter names that are second names of another one (tied embeddings) -> the first name."""
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            aliases[name] = first[id(parameter)]
        first.setdefault(id(parameter), name)
    return aliases


def _retie(module: nn.Module, aliases: Mapping[str, str]) -> None:
    for alias, name in aliases.items():
        owner, _, attribute = alias.rpartition(".")
        setattr(module.get_submodule(owner), attribute, module.get_parameter(name))


def _fill_unstored(module: nn.Module, device: torch.device) -> None:
    """A router without a selection bias keeps a bias of zero that no checkpoint stores."""
    for name, buffer in list(module.named_buffers()):
        if buffer.is_meta:
            assert name.endswith(ALWAYS_FLOAT32), f"buffer {name} has no value"
            owner, _, attribute = name.rpartition(".")
            setattr(
                module.get_submodule(owner), attribute, torch.zeros(buffer.shape, dtype=buffer.dtype, device=device)
            )


def _target(
    dtype: torch.dtype | str | None,
    device: torch.device | str,
    quantize: Quantize | None = None,
    offload: Offload | None = None,
    block: tuple[int, int] = BLOCK,
) -> Target:
    found = resolve_device(device)
    return Target(dtype=resolve_dtype(dtype, found), device=found, block=block, quantize=quantize, offload=offload)


def _opened(folder: Path, target: Target, mapped: bool) -> TensorStore:
    store = open_folder(folder)
    return store if mapped and target.quantize is None and target.offload is None else unmapped(store)


def weight_block(raw: Mapping[str, Any]) -> tuple[int, int]:
    """Block size of float8 weights, where the configuration states one."""
    for name in ("quantization_config", "llada_fp8_experts"):
        section = raw.get(name)
        block = section.get("weight_block_size") if isinstance(section, Mapping) else None
        if isinstance(block, list) and len(block) == 2 and all(isinstance(side, int) and side > 0 for side in block):
            return block[0], block[1]
    return BLOCK
