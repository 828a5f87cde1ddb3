"""Independent streams of random numbers from one seed."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch

__all__ = ["Purpose", "phase_seed", "stream"]

Purpose = Literal["tokens", "order", "plan", "cells", "phase", "decoder_noise", "turbo_renoise"]


def stream(seed: int, purpose: Purpose, index: int = 0) -> torch.Generator:
    """CPU generator for one purpose of one request, and one ``index`` (a block, a step) of it.

    Different seeds, purposes and indices give unrelated numbers. Draw float32 on the CPU and move the result, so that
    neither the batch nor the device nor the order of requests changes it.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def phase_seed(seed: int, index: int) -> int:
    """Seed (32 bits) of one phase of a request that has several: no two phases draw the same numbers."""
    return int(torch.randint(2**32, (), generator=stream(seed, "phase", index)))
