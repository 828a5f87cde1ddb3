"""Adapters on disk: a small folder that belongs to one network of one checkpoint.

``adapter.json`` says which network, which kind and which targets; ``adapter.safetensors`` holds ``<weight>.down``,
``<weight>.up`` and for DoRA ``<weight>.magnitude``. Nothing of the network itself is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llada_uni import config as configs
from llada_uni.backbone.model import Backbone
from llada_uni.config import to_mapping
from llada_uni.decoder.dit import Decoder
from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.layers.adapters import AdapterConfig, Adapters
from llada_uni.weights.catalog import resolve
from llada_uni.weights.files import json_writer, write_files
from llada_uni.weights.load import load_backbone, load_decoder
from llada_uni.weights.save import Components, save_checkpoint
from llada_uni.weights.store import TensorStore, open_file
from llada_uni.weights.stored import stored_dtype

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "AdapterFile",
    "Component",
    "apply_adapter",
    "merge_adapters",
    "open_adapter",
    "save_adapter",
]

ADAPTER_CONFIG = "adapter.json"
ADAPTER_WEIGHTS = "adapter.safetensors"
Component = Literal["backbone", "decoder", "decoder-turbo"]
_FORMAT = 1
_FOLDERS: dict[str, str] = {"backbone": ".", "decoder": "decoder", "decoder-turbo": "decoder-turbo"}


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """What ``adapter.json`` says. ``base``: the checkpoint it was trained on, as a note; ``format``: of the file."""

    component: Component
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    base: str = ""
    format: int = _FORMAT


def save_adapter(directory: Path | str, adapters: Adapters, component: Component, *, base: str = "") -> None:
    """Write ``adapters`` of the network ``component`` to ``directory``, in the dtype they have.

    Raises:
        ResourceError: the disk is full or not writable; nothing has changed then.
    """
    told = AdapterFile(component=component, adapter=adapters.config, base=base)
    state = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in adapters.state_dict().items()}
    writers = {
        ADAPTER_CONFIG: json_writer(to_mapping(told)),
        ADAPTER_WEIGHTS: lambda path: save_file(state, path, metadata={"format": "pt"}),
    }
    write_files(Path(directory), writers)


def open_adapter(directory: Path | str) -> AdapterFile:
    """Description of the adapter in ``directory``.

    Raises:
        CheckpointError: no adapter there, or one of a newer format.
        ConfigError: ``adapter.json`` is not valid.
    """
    path = Path(directory).expanduser() / ADAPTER_CONFIG
    if not path.is_file():
        raise CheckpointError(f"missing {path}; expected the directory of an adapter")
    told = configs.from_mapping(AdapterFile, configs.read_json(path), source=str(path))
    if told.format != _FORMAT:
        raise CheckpointError(f"{path}: format {told.format} is not known here, expected {_FORMAT}; update llada-uni")
    return told


def apply_adapter(network: nn.Module, directory: Path | str) -> Adapters:
    """Hook the adapter in ``directory`` into ``network``, which is frozen by that; the result can merge itself.

    Raises:
        CheckpointError: it belongs to another kind or size of network, or its file is damaged.
        ConfigError: ``adapter.json`` is not valid.
    """
    told = open_adapter(directory)
    _check_kind(network, told, directory)
    try:
        adapters = Adapters(network, told.adapter)
    except ConfigError as error:
        raise CheckpointError(f"the adapter {directory} does not fit this network: {error}") from error
    try:
        _fill(adapters, open_file(Path(directory).expanduser() / ADAPTER_WEIGHTS))
    except CheckpointError:
        adapters.detach()
        raise
    return adapters.requires_grad_(False).eval()


def merge_adapters(model: Path | str, adapters: list[Path], output: Path | str) -> Path:
    """Write checkpoint ``model`` with ``adapters`` merged into its weights to ``output``, in the released layout.

    Every network keeps its stored dtype (experts in float8 become bfloat16); each changed weight is computed in float32
    and rounded once. ``model`` itself is not changed.

    Raises:
        CheckpointError: an adapter does not fit, or ``output`` is something else than a checkpoint.
        ConfigError: no adapter is given, or ``output`` is ``model``.
        ResourceError: the disk is full or there is too little memory.
    """
    if not adapters:
        raise ConfigError("expected at least one adapter to merge")
    root, target = resolve(model), Path(output).expanduser()
    if target.resolve() == root.resolve():
        raise ConfigError(f"{target} is the checkpoint itself; merge into another directory to keep the original")
    networks: dict[str, Any] = {}
    for path in adapters:
        component = open_adapter(path).component
        if component not in networks:
            networks[component] = _network(root, component)
        apply_adapter(networks[component], path).merge(keep=False)
    names = {"backbone": "backbone", "decoder": "decoder", "decoder-turbo": "decoder_turbo"}
    parts = Components(**{names[component]: network for component, network in networks.items()})
    return save_checkpoint(target, parts, base=root, dtype=None)


def _network(root: Path, component: str) -> Backbone | Decoder:
    kind = stored_dtype(root / _FOLDERS[component])
    if component == "backbone":
        return load_backbone(root, dtype=kind)
    return load_decoder(root, "turbo" if component == "decoder-turbo" else "normal", dtype=kind)


def _check_kind(network: nn.Module, told: AdapterFile, directory: Path | str) -> None:
    wanted = Backbone if told.component == "backbone" else Decoder
    if not isinstance(network, wanted):
        raise CheckpointError(f"{directory} is an adapter of the {told.component}, not of a {type(network).__name__}")


def _fill(adapters: Adapters, store: TensorStore) -> None:
    state = adapters.state_dict()
    missing, extra = sorted(set(state) - set(store.entries)), sorted(set(store.entries) - set(state))
    if missing or extra:
        kind, key = ("missing", missing[0]) if missing else ("unexpected", extra[0])
        raise CheckpointError(f"{store.where} does not fit adapter.json and the network; {kind}: {key}")
    read: dict[str, Tensor] = {key: _checked(store, key, tensor) for key, tensor in state.items()}
    adapters.load_state_dict(read)


def _checked(store: TensorStore, key: str, wanted: Tensor) -> Tensor:
    tensor = store.read(key)
    if tensor.shape != wanted.shape:
        raise CheckpointError(
            f"{store.where}: {key} is {list(tensor.shape)}, the network needs {list(wanted.shape)}; "
            "it was trained on another model"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{store.where}: {key} holds numbers that are not finite; the file is damaged")
    return tensor
