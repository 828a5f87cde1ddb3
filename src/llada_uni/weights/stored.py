"""In which number format a network is stored."""

from __future__ import annotations

from pathlib import Path

import torch

from llada_uni.weights.store import open_folder

__all__ = ["stored_dtype"]

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype of most matrices in ``folder``; bfloat16 where they are float8.

    Raises:
        CheckpointError: no weights, or damaged ones.
    """
    entries = open_folder(folder).entries.values()
    names = [entry.dtype for entry in entries if len(entry.shape) >= 2 and entry.dtype in _DTYPES]
    return _DTYPES[max(set(names), key=names.count, default="BF16")]
