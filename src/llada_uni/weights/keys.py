"""How stored tensors become parameters, and back.

Our modules carry the released parameter names with the experts of a layer stacked into one tensor per projection. A
checkpoint may hold the experts one by one (released) or stacked; dense, in float8 with block factors, or as 8- or 4-bit
integers with factors for runs of inputs; and its keys may have one of the prefixes that wrappers add. ``plan`` matches
stored headers with parameters before any data is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from llada_uni.errors import CheckpointError
from llada_uni.layers.served import Kind, steps_shape
from llada_uni.weights.quantize import BLOCK, quantize_blocks, scale_shape
from llada_uni.weights.store import StoredTensor

__all__ = [
    "STEPS",
    "ExpertLayout",
    "Part",
    "Plan",
    "backbone_key",
    "image_tokenizer_key",
    "is_stack",
    "plain_key",
    "plan",
    "stored_backbone",
]

ExpertLayout = Literal["separate", "merged", "separate-fp8", "merged-fp8"]
"""How expert weights are stored: one by one (released) or stacked, in the dtype of the rest or in float8."""

STEPS = "_steps"
"""Ending of the key that holds the factors of integers, behind the key of their weight."""

_MERGED = re.compile(r"(.+\.mlp\.experts)\.(gate_proj|up_proj|down_proj)")
_SCALES = ("_scale_inv", "_scale")
_FP8_NAMES = ("F8_E4M3", "float8_e4m3fn")
_INTEGERS: Mapping[str, Kind] = {"U8": "int4", "I8": "int8"}
_FLOAT_NAMES = ("F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One stored tensor that fills a parameter or a slice of it.

    ``kind``: its quantised form, None = dense; ``scale`` is the key of its factors.
    """

    key: str
    scale: str | None
    kind: Kind | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where a parameter comes from: one part, or with ``stacked`` one part per expert."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    stacked: bool


def is_stack(name: str) -> bool:
    """Whether a parameter is a projection of all experts of a layer."""
    return _MERGED.fullmatch(name) is not None


def plain_key(key: str) -> str:
    """Keys that are stored as they are."""
    return key


def backbone_key(key: str) -> str:
    """Canonical key of a backbone tensor: without the prefixes of multi-modal wrappers, with ``model.``."""
    for prefix in ("model.language_model.", "language_model.model.", "language_model."):
        if key.startswith(prefix):
            key = f"model.{key.removeprefix(prefix)}"
    key = key.removeprefix("model.") if key.startswith("model.lm_head.") else key
    bare = key.startswith(("layers.", "word_embeddings.", "norm."))
    return f"model.{key}" if bare else key


def image_tokenizer_key(key: str) -> str:
    """Canonical key of an image tokenizer tensor: with ``model.``."""
    return f"model.{key}" if key.startswith(("visual.", "vqmodel.")) else key


def plan(
    expected: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, StoredTensor],
    *,
    where: Path,
    rename: Callable[[str], str] = plain_key,
    block: tuple[int, int] = BLOCK,
) -> list[Plan]:
    """Match every parameter of ``expected`` (name -> shape) with stored tensors, using each of them exactly once.

    Raises:
        CheckpointError: a key is missing, left over, of another shape, not a float tensor, or float8 without factors.
    """
    matcher = _Matcher(_renamed(stored, rename, where), block)
    plans = [matcher.match(name, shape) for name, shape in expected.items()]
    matcher.finish(where)
    return plans


class _Matcher:
    """Collects every problem before it raises, so that one message shows what is wrong with a checkpoint."""

    def __init__(self, stored: Mapping[str, StoredTensor], block: tuple[int, int]) -> None:
        self.stored = dict(stored)
        self.block = block
        self.missing: list[str] = []
        self.misshapen: list[str] = []
        self.unusable: list[str] = []

    def match(self, name: str, shape: tuple[int, ...]) -> Plan:
        merged = _MERGED.fullmatch(name)
        if name in self.stored or not merged or not self._has_separate(merged[1]):
            return Plan(name=name, shape=shape, parts=(self._take(name, shape),), stacked=False)
        keys = (f"{merged[1]}.{expert}.{merged[2]}.weight" for expert in range(shape[0]))
        return Plan(name=name, shape=shape, parts=tuple(self._take(k, shape[1:]) for k in keys), stacked=True)

    def finish(self, where: Path) -> None:
        extra = [f"{key} {list(entry.shape)}" for key, entry in self.stored.items()]
        found = (
            ("missing", self.missing),
            ("unexpected", extra),
            ("of another shape", self.misshapen),
            ("unusable", self.unusable),
        )
        text = "; ".join(f"{kind}: {_some(items)}" for kind, items in found if items)
        if text:
            raise CheckpointError(f"{where} does not fit its configuration; {text}")

    def _has_separate(self, prefix: str) -> bool:
        return any(key.startswith(f"{prefix}.") and key[len(prefix) + 1].isdigit() for key in self.stored)

    def _take(self, key: str, shape: tuple[int, ...]) -> Part:
        entry = self.stored.pop(key, None)
        if entry is None:
            self.missing.append(f"{key} {list(shape)}")
            return Part(key=key, scale=None)
        kind = _INTEGERS.get(entry.dtype)
        wanted = (*shape[:-1], -(-shape[-1] // 2)) if kind == "int4" else shape
        if entry.shape != wanted:
            self.misshapen.append(f"{key} is {list(entry.shape)}, expected {list(wanted)}")
        if kind is not None:
            return Part(key=entry.key, scale=self._take_steps(key, shape, kind), kind=kind)
        if entry.dtype in _FP8_NAMES:
            return Part(key=entry.key, scale=self._take_scale(key, shape), kind="fp8")
        if entry.dtype not in _FLOAT_NAMES:
            self.unusable.append(f"{key} has dtype {entry.dtype}")
        return Part(key=entry.key, scale=None)

    def _take_scale(self, key: str, shape: tuple[int, ...]) -> str | None:
        name = next((key + ending for ending in _SCALES if key + ending in self.stored), None)
        if name is None:
            self.missing.append(f"{key}_scale_inv {list(scale_shape(shape, self.block))}")
            return None
        entry = self.stored.pop(name)
        wanted = scale_shape(shape, self.block)
        if entry.shape != wanted:
            self.misshapen.append(f"{name} is {list(entry.shape)}, expected {list(wanted)} for blocks of {self.block}")
        return entry.key

    def _take_steps(self, key: str, shape: tuple[int, ...], kind: Kind) -> str | None:
        entry, wanted = self.stored.pop(key + STEPS, None), steps_shape(shape, kind)
        if entry is None:
            self.missing.append(f"{key}{STEPS} {list(wanted)}")
            return None
        if entry.shape != wanted:
            self.misshapen.append(f"{key}{STEPS} is {list(entry.shape)}, expected {list(wanted)}")
        return entry.key


def stored_backbone(state: Mapping[str, Tensor], layout: ExpertLayout = "separate") -> Iterator[tuple[str, Tensor]]:
    """Keys and tensors as a checkpoint of this ``layout`` stores the parameters ``state``; tensors are views."""
    for name, tensor in state.items():
        merged = _MERGED.fullmatch(name)
        if merged is None:
            yield name, tensor
        elif layout.startswith("merged"):
            yield from _maybe_fp8(name, tensor, layout)
        else:
            for expert, weight in enumerate(tensor.unbind(0)):
                yield from _maybe_fp8(f"{merged[1]}.{expert}.{merged[2]}.weight", weight, layout)


def _maybe_fp8(key: str, weight: Tensor, layout: ExpertLayout) -> Iterator[tuple[str, Tensor]]:
    if not layout.endswith("fp8"):
        yield key, weight
        return
    stored, scale = quantize_blocks(weight)
    yield key, stored
    yield key + ("_scale_inv" if layout == "separate-fp8" else "_scale"), scale


def _renamed(stored: Mapping[str, StoredTensor], rename: Callable[[str], str], where: Path) -> dict[str, StoredTensor]:
    renamed: dict[str, StoredTensor] = {}
    for key, entry in stored.items():
        name = rename(key)
        if name in renamed:
            raise CheckpointError(f"{where}: {renamed[name].key} and {key} are the same parameter {name}")
        renamed[name] = entry
    return renamed


def _some(items: Sequence[str], most: int = 3) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
