"""Training state of a divided model: a folder to which every process writes its part (torch.distributed.checkpoint).

Parts are stored by the names and shapes of the whole model, so that a folder can be read by any number of processes,
divided in any way, and by one alone. Parameters of the optimiser are numbered as in the one-file state.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from llada_uni.errors import CheckpointError, ResourceError
from llada_uni.training.checkpoint import TrainState, read_state
from llada_uni.training.group import everywhere, is_first, wait
from llada_uni.training.muon import JointOptimizer
from llada_uni.training.optim import parameters_in_order

if TYPE_CHECKING:
    from llada_uni.training.train import Run

__all__ = ["FACTS_FILE", "fill_divided", "place_state", "read_facts", "read_weights", "save_divided"]

FACTS_FILE = "facts.json"
_PROBLEMS = (OSError, RuntimeError, ValueError, KeyError, CheckpointException)


def save_divided(target: Path, run: Run) -> None:
    """Writes the state of ``run`` to the folder ``target``, which appears complete or not at all.

    Every process calls this. A folder that is there already is left as it is.

    Raises:
        ResourceError: the disk is full or not writable; earlier states are untouched.
    """
    if everywhere(target.exists()):
        return
    partial = target.with_name(f".{target.name}.partial")
    try:
        if is_first():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        wait()
        save(_tensors(run), checkpoint_id=partial)
        if is_first():
            (partial / FACTS_FILE).write_text(json.dumps(_facts(run)) + "\n", encoding="utf-8")
            os.replace(partial, target)
        wait()
    except _PROBLEMS as error:
        raise ResourceError(f"cannot write the training state to {target}: {_told(error)}; free disk space") from error


def read_facts(source: Path) -> TrainState:
    """Step, horizon, seconds and configuration of a folder, without tensors.

    Raises:
        CheckpointError: the folder is incomplete.
    """
    facts = _facts_of(source)
    ema = {"average": {}, "num_updates": facts.pop("num_updates")}
    return TrainState(**facts, model={}, optimizer={}, ema=ema)


def fill_divided(source: Path, run: Run) -> None:
    """Fills the model, averages and optimiser of ``run`` from a folder, whatever division wrote it. Every process calls
    this.

    Raises:
        CheckpointError: the folder is incomplete or of another model.
    """
    stored, live = _stored(source), _weights(run)
    missing, extra = sorted(live.keys() - stored.keys()), sorted(_named(stored, "model", "ema") - live.keys())
    if missing or extra:
        raise CheckpointError(f"{source} is of another model: missing {missing[:3]}, not expected {extra[:3]}")
    moments = {key: _like(key, stored[key], run) for key in stored if key.startswith("optimizer/")}
    _load({**live, **moments}, source)
    for key, value in moments.items():
        _, part, index, name = key.split("/")
        _optimizer_state(run, int(part), int(index))[name] = value
    run.ema.num_updates = read_facts(source).ema["num_updates"]


def read_weights(source: Path) -> TrainState:
    """A state in one process, from a file or a folder; of a folder only the weights and averages, which are whole.

    Raises:
        CheckpointError: the file or folder cannot be read.
    """
    if not source.is_dir():
        return read_state(source)
    state = read_facts(source)
    keys = {key: meta for key, meta in _stored(source).items() if not key.startswith("optimizer/")}
    tensors = {key: torch.empty(meta.size, dtype=meta.properties.dtype) for key, meta in keys.items()}
    _load(tensors, source, no_dist=True)
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        (state.model if part == "model" else state.ema["average"])[name] = value
    return state


@torch.no_grad()
def place_state(state: TrainState, run: Run) -> None:
    """Gives every process its part of a whole ``state``, for a ``run`` whose model is divided."""
    for name, live in run.objective.model.state_dict().items():
        live.copy_(_placed(state.model[name], live))
    for name, live in run.ema.average.items():
        live.copy_(_placed(state.ema["average"][name], live))
    run.ema.num_updates = int(state.ema["num_updates"])
    order = parameters_in_order(run.objective.model, run.config.optim)
    for part, own in enumerate(state.optimizer.get("parts", [state.optimizer])):
        for index, fields in own["state"].items():
            placed = {name: _placed(value, order[part][index]) for name, value in fields.items()}
            _optimizer_state(run, part, index).update(placed)


def _tensors(run: Run) -> dict[str, Tensor]:
    tensors = _weights(run)
    for part, parameters in enumerate(parameters_in_order(run.objective.model, run.config.optim)):
        for index in range(len(parameters)):
            fields = _optimizer_state(run, part, index).items()
            tensors |= {f"optimizer/{part}/{index}/{name}": value for name, value in fields}
    return tensors


def _weights(run: Run) -> dict[str, Tensor]:
    model = {f"model/{name}": value for name, value in run.objective.model.state_dict().items()}
    return model | {f"ema/{name}": value for name, value in run.ema.average.items()}


def _optimizer_state(run: Run, part: int, index: int) -> dict[str, Any]:
    optimizer = run.optimizer.parts[part] if isinstance(run.optimizer, JointOptimizer) else run.optimizer
    parameter = parameters_in_order(run.objective.model, run.config.optim)[part][index]
    return optimizer.state[parameter]


def _like(key: str, meta: TensorStorageMetadata, run: Run) -> Tensor:
    _, part, index, _ = key.split("/")
    parameter = parameters_in_order(run.objective.model, run.config.optim)[int(part)][int(index)]
    same = parameter.shape == meta.size
    return torch.zeros_like(parameter) if same else torch.empty(meta.size, dtype=meta.properties.dtype)


def _placed(value: Tensor, live: Tensor) -> Tensor:
    if not isinstance(live, DTensor) or value.shape != live.shape:
        return value
    return distribute_tensor(value.to(live.dtype), live.device_mesh, live.placements, src_data_rank=None)


def _facts(run: Run) -> dict[str, Any]:
    state = run.snapshot()
    return {
        "step": state.step,
        "horizon": state.horizon,
        "seconds": state.seconds,
        "config": state.config,
        "num_updates": run.ema.num_updates,
    }


def _facts_of(source: Path) -> dict[str, Any]:
    try:
        return json.loads((source / FACTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the training state {source}: {error}; delete it to start afresh") from error


def _stored(source: Path) -> dict[str, TensorStorageMetadata]:
    try:
        entries = FileSystemReader(source).read_metadata().state_dict_metadata
    except _PROBLEMS as error:
        raise CheckpointError(f"cannot read the training state {source}: {_told(error)}") from error
    return {key: meta for key, meta in entries.items() if isinstance(meta, TensorStorageMetadata)}


def _load(tensors: dict[str, Any], source: Path, *, no_dist: bool = False) -> None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
            load(tensors, checkpoint_id=source, no_dist=no_dist)
    except _PROBLEMS as error:
        raise CheckpointError(f"cannot read the training state {source}: {_told(error)}") from error


def _named(keys: Mapping[str, Any], *prefixes: str) -> set[str]:
    return {key for key in keys if key.startswith(tuple(f"{prefix}/" for prefix in prefixes))}


def _told(error: BaseException) -> str:
    """The first cause: what DCP wraps names every process."""
    causes = [pair[0] for pair in error.failures.values()] if isinstance(error, CheckpointException) else [error]
    return f"{type(causes[0]).__name__}: {causes[0]}" if causes else str(error)
