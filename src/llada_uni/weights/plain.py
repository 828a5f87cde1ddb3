"""Reading tensors by plain file reads, so that a file larger than memory never counts as memory of the process.

A mapped file is quicker to open and may be shared, but every page that was looked at belongs to the process until the
system takes it back; where a memory budget is kept, what is read must be what is counted.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llada_uni.errors import CheckpointError
from llada_uni.weights.store import StoredTensor, TensorStore

__all__ = ["unmapped"]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I8": torch.int8,
    "U8": torch.uint8,
}


def unmapped(store: TensorStore) -> TensorStore:
    """The same tensors, each read into memory of its own when it is asked for; every file is a safetensors file."""
    places = {path: _offsets(path) for path in {entry.path for entry in store.entries.values()}}

    def fetch(entry: StoredTensor) -> Tensor:
        return _read(entry, places[entry.path][entry.key], 0, entry.shape)

    def fetch_row(entry: StoredTensor, row: int) -> Tensor:
        return _read(entry, places[entry.path][entry.key], row, entry.shape[1:])

    return replace(store, fetch=fetch, fetch_row=fetch_row)


def _offsets(path: Path) -> dict[str, int]:
    """Where in the file each tensor begins."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(size))
    return {key: 8 + size + entry["data_offsets"][0] for key, entry in header.items() if key != "__metadata__"}


def _read(entry: StoredTensor, start: int, row: int, shape: tuple[int, ...]) -> Tensor:
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise CheckpointError(f"{entry.path}: {entry.key} has dtype {entry.dtype}, which is not read here")
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = torch.empty(num_bytes, dtype=torch.uint8)
    try:
        with entry.path.open("rb", buffering=0) as file:
            file.seek(start + row * num_bytes)
            view: memoryview = memory.numpy().data
            done = 0
            while done < num_bytes and (count := file.readinto(view[done:])):
                done += count
    except OSError as error:
        raise CheckpointError(f"cannot read {entry.key} from {entry.path}: {error}") from error
    if done < num_bytes:
        raise CheckpointError(f"{entry.path} is truncated: {entry.key} ends after {done} of {num_bytes} bytes")
    return memory.view(dtype).view(shape)
