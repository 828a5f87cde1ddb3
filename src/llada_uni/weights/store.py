"""The tensors of one checkpoint folder: headers at once, data on demand."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llada_uni.errors import CheckpointError

__all__ = ["StoredTensor", "TensorStore", "open_file", "open_folder", "open_pickle", "weight_files"]

_SHARD = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.safetensors")
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies and what its header says; ``dtype`` is the name in the file, such as ``BF16``."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class TensorStore:
    """Stored keys with a way to read them. ``where`` names the folder or file in messages.

    ``fetch_row`` reads one entry of the first dimension; without it the whole tensor is fetched for that.
    """

    where: Path
    entries: Mapping[str, StoredTensor]
    fetch: Callable[[StoredTensor], Tensor]
    fetch_row: Callable[[StoredTensor, int], Tensor] | None = None

    def read(self, key: str) -> Tensor:
        """The tensor on the CPU, in the stored dtype; its memory may be the file itself, so copy what you keep."""
        return self.fetch(self.entries[key])

    def read_row(self, key: str, row: int) -> Tensor:
        """``read(key)[row]``, without the rest where the store can."""
        entry = self.entries[key]
        return self.fetch(entry)[row] if self.fetch_row is None else self.fetch_row(entry, row)


def open_folder(folder: Path, *, exclude: Iterable[str] = ()) -> TensorStore:
    """All tensors of the safetensors files in ``folder``, except the file names in ``exclude``.

    An index file decides where it exists; otherwise every file counts, whatever its name. Shards must be complete.

    Raises:
        CheckpointError: no weights; a file is missing, truncated or of another kind; a key is stored twice, or not
            where the index says.
    """
    store = _open_files(folder, weight_files(folder, exclude=exclude))
    _check_index(folder, store.entries)
    return store


def open_file(path: Path) -> TensorStore:
    """All tensors of one safetensors file, whatever stands beside it.

    Raises:
        CheckpointError: the file is truncated or of another kind.
    """
    return _open_files(path, [path])


def _open_files(where: Path, paths: Iterable[Path]) -> TensorStore:
    handles: dict[Path, Any] = {}
    entries: dict[str, StoredTensor] = {}
    for path in paths:
        handles[path] = _open(path)
        for key in handles[path].keys():  # noqa: SIM118 - a handle, not a mapping
            if key in entries:
                raise CheckpointError(f"{where}: {key} is stored in {entries[key].path.name} and in {path.name}")
            part = handles[path].get_slice(key)
            entries[key] = StoredTensor(path=path, key=key, shape=tuple(part.get_shape()), dtype=part.get_dtype())

    def fetch(entry: StoredTensor) -> Tensor:
        try:
            return handles[entry.path].get_tensor(entry.key)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"cannot read {entry.key} from {entry.path}: {error}") from error

    return TensorStore(where=where, entries=entries, fetch=fetch)


def open_pickle(path: Path) -> TensorStore:
    """Tensors of a file written by ``torch.save``; only tensors are ever unpickled.

    Raises:
        CheckpointError: the file is missing, truncated, or holds something else than named tensors.
    """
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is truncated or not a tensor file: {reason}") from error
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path}: expected named tensors, got {type(content).__name__}")
    tensors: dict[str, Tensor] = {str(key): value for key, value in content.items()}
    entries = {
        key: StoredTensor(path=path, key=key, shape=tuple(t.shape), dtype=str(t.dtype).removeprefix("torch."))
        for key, t in tensors.items()
    }
    return TensorStore(where=path, entries=entries, fetch=lambda entry: tensors[entry.key])


def weight_files(folder: Path, *, exclude: Iterable[str] = ()) -> list[Path]:
    """Weight files of ``folder`` in name order.

    Raises:
        CheckpointError: the folder is missing, has none, or lacks one that an index or a shard name announces.
    """
    if not folder.is_dir():
        raise CheckpointError(f"missing directory {folder}; expected the released checkpoint layout")
    index = _index(folder)
    if index is not None:
        names = sorted(set(index.values()))
    else:
        hidden = set(exclude)
        found = (p.name for p in folder.glob("*.safetensors") if not p.name.startswith("."))
        names = sorted(name for name in found if name not in hidden)
    if not names:
        raise CheckpointError(f"no *.safetensors file in {folder}; the checkpoint is incomplete")
    absent = [name for name in _with_siblings(names) if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(f"{folder}: missing {', '.join(absent[:3])} ({len(absent)} of {len(names)} weight files)")
    return [folder / name for name in names]


def _with_siblings(names: list[str]) -> list[str]:
    """``names`` and every shard that their numbering announces."""
    wanted = dict.fromkeys(names)
    for name in names:
        if match := _SHARD.fullmatch(name):
            total = int(match[3])
            wanted |= dict.fromkeys(f"{match[1]}-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1))
    return list(wanted)


def _index(folder: Path) -> dict[str, str] | None:
    """Key -> file name of the folder's index, or None without one."""
    paths = sorted(p for p in folder.glob("*.safetensors.index.json") if not p.name.startswith("."))
    if not paths:
        return None
    if len(paths) > 1:
        raise CheckpointError(
            f"{folder}: expected one index, got {', '.join(p.name for p in paths)}; delete the others"
        )
    try:
        content = json.loads(paths[0].read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{paths[0]} is truncated or not JSON: {error}") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(_is_plain_name(name) for name in weight_map.values()):
        raise CheckpointError(f"{paths[0]}: expected a weight_map of keys to file names")
    return weight_map


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and name == Path(name).name and name not in ("", ".", "..")


def _check_index(folder: Path, entries: Mapping[str, StoredTensor]) -> None:
    index = _index(folder)
    if index is None:
        return
    actual = {key: entry.path.name for key, entry in entries.items()}
    wrong = sorted(key for key in index.keys() | actual.keys() if index.get(key) != actual.get(key))
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f"{folder}: the index puts {key} in {index.get(key, 'no file')}, it is in {actual.get(key, 'no file')}"
            + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "")
        )


def _open(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            raise CheckpointError(f"{path} is a git-lfs pointer, not the weights; fetch them with 'git lfs pull'")
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {error}") from error
