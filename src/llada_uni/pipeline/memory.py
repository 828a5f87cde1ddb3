"""Which form and place every network gets so that all of it stays within a memory budget.

Three ways to need less are tried in this order: everything stays in memory; networks take turns (one of reading,
writing and drawing is in memory at a time); weights wait elsewhere and visit while they are used. Within each the
smallest rounding that fits is taken: the usual dtype, bfloat16, 8-bit experts, 8-bit decoder, 4-bit experts. What the
caller fixes (a dtype, a form of the experts) stays fixed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from llada_uni.errors import ConfigError, ResourceError
from llada_uni.layers.served import Kind
from llada_uni.weights import parts
from llada_uni.weights.catalog import load_package_config
from llada_uni.weights.machine import process_memory
from llada_uni.weights.materialise import Offload, Quantize
from llada_uni.weights.sizes import NetworkSize, network_sizes, stored_kind

__all__ = ["STAGES", "Keeping", "MemoryPlan", "parse_memory", "plan_memory"]

STAGES: Mapping[str, str] = {
    "image_tokenizer": "reading",
    "backbone": "writing",
    "semantic_embedder": "drawing",
    "decoder": "drawing",
    "decoder_turbo": "drawing",
    "vae": "drawing",
}
"""At which station of the main path a network is needed."""
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "K": 10**3, "M": 10**6, "G": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip
_PROCESS = 400 * 10**6  # of an interpreter with torch, where the system does not tell
_SPARE = 32 * 2**20
_PROMPT_TOKENS = 512
_LARGEST_FREE_GRID = 32 * 32  # codes of the largest usual picture where a checkpoint names no grids


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """How networks are kept: form of the experts and of the decoder's large weights (None = as stored), and where.

    ``staged``: networks of one station at a time.
    """

    experts: Quantize | None = None
    decoder: Quantize | None = None
    offload_experts: Offload | None = None
    offload_decoder: Offload | None = None
    staged: bool = False

    def of(self, name: str) -> dict[str, Any]:
        """Keyword arguments of the loader of a network."""
        if name == "backbone":
            return {"quantize": self.experts, "offload": self.offload_experts}
        if name in ("decoder", "decoder_turbo"):
            return {"quantize": self.decoder, "offload": self.offload_decoder}
        return {}

    @property
    def plain(self) -> bool:
        """Whether nothing differs from a checkpoint opened without any such wish."""
        return self == Keeping()


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What will be in memory: every number is bytes.

    ``networks``: by name, on the device (offloaded parts: two of them). ``working``: caches and intermediate results of
    one usual request, an estimate. ``process``: what the interpreter holds already (a CPU). ``waiting``: offloaded
    weights in main memory. ``total`` is the most at one time.
    """

    budget: int
    device: torch.device
    dtype: torch.dtype
    keeping: Keeping
    networks: Mapping[str, int] = field(default_factory=dict)
    working: int = 0
    process: int = 0
    waiting: int = 0

    @property
    def weights(self) -> int:
        """Most bytes of networks at one time."""
        if not self.keeping.staged:
            return sum(self.networks.values())
        stages = dict.fromkeys(STAGES.values(), 0)
        for name, size in self.networks.items():
            stages[STAGES[name]] += size
        return max(stages.values())

    @property
    def total(self) -> int:
        """Most bytes at one time."""
        return self.weights + self.working + self.process

    def lines(self) -> list[str]:
        """The plan in words, one fact a line."""
        keep, dtype = self.keeping, str(self.dtype).removeprefix("torch.")
        told = [f"memory plan: {_gb(self.total)} of {_gb(self.budget)} on {self.device}, {dtype}"]
        for name, size in self.networks.items():
            options = keep.of(name)
            form = options.get("quantize")
            words = [] if form in (None, "none") else [f"{'experts' if name == 'backbone' else 'layers'} in {form}"]
            if options.get("offload"):
                place = "main memory" if options["offload"] == "cpu" else "the disk"
                words.append(f"{'experts' if name == 'backbone' else 'layers'} visit from {place}")
            told.append(f"  {name.replace('_', ' '):<18} {_gb(size):>9}" + (f"  {', '.join(words)}" if words else ""))
        told.append(f"  {'working memory':<18} {_gb(self.working):>9}  estimated, one request")
        if self.process:
            told.append(f"  {'this process':<18} {_gb(self.process):>9}")
        if self.waiting:
            told.append(f"  waiting in main memory: {_gb(self.waiting)}")
        order = "networks take turns: reading, writing, drawing" if keep.staged else "all networks stay in memory"
        return [*told, f"  {order}"]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        keep = {name: getattr(self.keeping, name) for name in self.keeping.__dataclass_fields__}
        numbers = {
            name: getattr(self, name) for name in ("budget", "total", "weights", "working", "process", "waiting")
        }
        return numbers | {"dtype": str(self.dtype).removeprefix("torch."), "networks": dict(self.networks)} | keep


def parse_memory(value: int | str) -> int:
    """Bytes of ``"24GB"``, ``"16GiB"``, ``"800 MB"`` or a number of bytes; GB are powers of ten, GiB of two.

    Raises:
        ConfigError: not a positive amount.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or float(match[1]) * unit < 1:
        raise ConfigError(f"memory: expected an amount such as 24GB or 16GiB, got {value!r}")
    return int(float(match[1]) * unit)


def plan_memory(
    root: Path,
    budget: int | str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    fixed_dtype: bool = False,
    quantize: Quantize | None = None,
    offload: Offload | None = None,
    together: bool = False,
) -> MemoryPlan:
    """The first plan within ``budget`` in the order this module describes; reads headers only.

    ``dtype`` is the usual one, final with ``fixed_dtype``; ``quantize`` and ``offload`` fix those of the experts.
    ``together``: for a server, which needs all networks at any time, both decoders included.

    Raises:
        ResourceError: even the smallest plan needs more; the message says how much.
    """
    limit = parse_memory(budget)
    variants = _variants(root, together)
    sizes, held = network_sizes(root, variants), stored_kind(root)
    process = (process_memory() or _PROCESS) if device.type == "cpu" else 0
    least: MemoryPlan | None = None
    for kind, keeping in _candidates(device, dtype, fixed_dtype, held, quantize, offload, together):
        plan = _weighed(root, sizes, held, limit, device, kind, keeping, process)
        if plan.total <= limit:
            return plan
        least = plan if least is None or plan.total < least.total else least
    assert least is not None
    how = ", ".join(f"{name} {value}" for name, value in least.as_dict().items() if name in _HOW and value)
    raise ResourceError(
        f"--memory {_gb(limit)} is too little for {root.name}: the smallest plan needs {_gb(least.total)} "
        f"({how}, {_gb(least.working)} of it for working memory); allow that much, or take a smaller model"
    )


_HOW = ("dtype", "experts", "decoder", "offload_experts", "offload_decoder", "staged")


def _candidates(
    device: torch.device,
    dtype: torch.dtype,
    fixed_dtype: bool,
    held: Kind | None,
    quantize: Quantize | None,
    offload: Offload | None,
    together: bool,
) -> Iterator[tuple[torch.dtype, Keeping]]:
    """All plans, best first."""
    place: Offload = "disk" if device.type == "cpu" else "cpu"
    ladder = list(_precisions(dtype, fixed_dtype, held, quantize, gpu=device.type != "cpu"))
    turns = [False] if together else [False, True]
    if offload is None:
        for staged in turns:
            yield from ((kind, replace(keeping, staged=staged)) for kind, keeping in ladder)
    for staged, both in ((False, False), (True, False), (True, True)):
        if staged not in turns:
            continue
        for kind, keeping in reversed(ladder):  # weights travel in every step: the smallest form first
            where = offload or place
            made = replace(keeping, staged=staged, offload_experts=where)
            if where == "disk" and made.experts not in (None, held):
                continue  # what is on the disk is read as it is
            if both:
                made = replace(made, offload_decoder=where, decoder=None if where == "disk" else made.decoder)
            yield kind, made


def _precisions(
    dtype: torch.dtype, fixed: bool, held: Kind | None, quantize: Quantize | None, *, gpu: bool
) -> Iterator[tuple[torch.dtype, Keeping]]:
    """(dtype, forms) from the most exact to the smallest."""
    yield dtype, Keeping(experts=quantize)
    last = dtype
    if not fixed and dtype == torch.float32:
        last = torch.bfloat16
        yield last, Keeping(experts=quantize)
    if quantize == "none":
        return  # of anything
    if quantize is not None or held in ("int8", "int4"):
        yield last, Keeping(experts=quantize, decoder="int8")
        return
    first = "fp8" if held == "fp8" and gpu else "int8"  # a CPU has no kernel for float8
    yield last, Keeping(experts=first)
    yield last, Keeping(experts=first, decoder="int8")
    yield last, Keeping(experts="int4", decoder="int8")


def _weighed(
    root: Path,
    sizes: Mapping[str, NetworkSize],
    held: Kind | None,
    budget: int,
    device: torch.device,
    dtype: torch.dtype,
    keeping: Keeping,
    process: int,
) -> MemoryPlan:
    stored: dict[str, Kind | None] = {"backbone": held if held in ("int8", "int4") else None}
    networks, waiting = {}, 0
    for name, size in sizes.items():
        options = keeping.of(name)
        form, place = options.get("quantize"), options.get("offload")
        kind = stored.get(name) if form is None else None if form == "none" else cast(Kind, form)
        networks[name] = size.bytes(dtype, device, kind, offloaded=place is not None)
        waiting += size.waiting(dtype, device, kind) if place == "cpu" else 0
    working = _working_memory(root, dtype, sizes, quantised=keeping.experts not in (None, "none"), device=device)
    return MemoryPlan(
        budget=budget,
        device=device,
        dtype=dtype,
        keeping=keeping,
        networks=networks,
        working=working,
        process=process,
        waiting=waiting,
    )


def _working_memory(
    root: Path, dtype: torch.dtype, sizes: Mapping[str, NetworkSize], *, quantised: bool, device: torch.device
) -> int:
    """Estimate for one usual request: keys and values, and the largest of a backbone step, a velocity, a VAE pass."""
    config, package = parts.load_backbone_config(root), load_package_config(root)
    codes = max((h * w for h, w in package.trained_grids or ()), default=_LARGEST_FREE_GRID)
    width = dtype.itemsize
    tokens = min(config.max_position_embeddings, codes + _PROMPT_TOKENS)
    branches, copies = 2, 2
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * width
    step = branches * 64 * config.vocab_size * 4 * 3
    if quantised and device.type != "cpu":  # a projection of all experts of a layer becomes dense at once
        step += config.num_experts * config.moe_intermediate_size * config.hidden_size * width + 2**28
    geometry, vae = parts.load_geometry(root), parts.load_vae_config(root)
    pixels = codes * (geometry.patch_size * geometry.resize_factor) ** 2
    drawn = 3 * pixels * max(vae.block_out_channels[:2]) * width
    name = next((one for one in ("decoder", "decoder_turbo") if one in sizes), None)
    if name is not None:
        decoder = parts.load_decoder_config(root, "normal" if name == "decoder" else "turbo")
        positions = 2 * 4 * codes  # four image tokens and four of the condition for every code
        drawn = max(drawn, branches * positions * (6 * decoder.dim + 3 * decoder.ffn_dim) * width)
    return _SPARE + branches * copies * tokens * per_token + max(step, drawn)


def _variants(root: Path, together: bool) -> tuple[parts.Variant, ...]:
    folders = parts.DECODER_FOLDERS
    there: list[parts.Variant] = [variant for variant in folders if (root / folders[variant]).is_dir()]
    preset = load_package_config(root).presets.decoder
    return tuple(there) if together else tuple(one for one in there if one == preset) or tuple(there[:1])


def _gb(count: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.2f} {name}" if unit == 10**9 else f"{count / unit:.0f} {name}"
    return f"{count / 1000:.0f} kB"
