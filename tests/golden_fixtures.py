"""Reads the numeric fixtures of the released code kept in tests/golden (see tests/golden/README.md)."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden"


def load_case(name: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors (prefixed ``weights.``, ``in.``, ``out.``) and the description of one fixture."""
    return load_file(GOLDEN / f"{name}.safetensors"), json.loads((GOLDEN / f"{name}.json").read_text())


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: dict) -> None:
    """Fail unless |actual - expected| <= atol + rtol * |expected| everywhere."""
    torch.testing.assert_close(
        actual.detach().to(expected.dtype), expected, atol=tolerance["atol"], rtol=tolerance["rtol"]
    )
