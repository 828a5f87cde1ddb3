"""What every code means: how often cells that carry it show each value of each attribute."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from llada_uni.data.code_pool import CodePool
from llada_uni.data.dense_labels import HEADS, cell_labels

__all__ = ["code_meanings"]


def code_meanings(pool: CodePool, num_codes: int, num_shards: int) -> Tensor:
    """Shares float32 [num_codes, sum of classes], attributes of ``dense_labels.HEADS`` side by side.

    Counted over the first ``num_shards`` shards; the row of a code that does not occur there is 0.
    """
    counts = {name: np.zeros((num_codes, classes), dtype=np.float32) for name, classes in HEADS.items()}
    seen = np.zeros((num_codes, 1), dtype=np.float32)
    for index in range(num_shards):
        scenes, codes = pool.shard(index)
        flat = codes.reshape(-1).astype(np.int64)
        np.add.at(seen, flat, 1)
        for name, values in cell_labels(scenes).items():
            told = values.reshape(-1)
            known = told >= 0
            np.add.at(counts[name], (flat[known], told[known]), 1)
    shares = [count / np.maximum(seen, 1) for count in counts.values()]
    return torch.from_numpy(np.concatenate(shares, axis=1))
