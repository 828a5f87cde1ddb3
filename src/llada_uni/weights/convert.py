"""Writes a checkpoint with its experts in another form, one weight at a time: memory for one stack is enough.

"fp8" is the layout of the released float8 checkpoint, "none" that of the released bfloat16 one; "int8" and "int4" are
ours: ``<experts>.gate_proj`` holds the integers of all experts of a layer, ``<experts>.gate_proj_steps`` the factors.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from llada_uni.backbone.model import Backbone
from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.layers.served import Served, steps_shape
from llada_uni.weights import keys
from llada_uni.weights.catalog import resolve
from llada_uni.weights.files import Writer, json_writer, replacing, write_files
from llada_uni.weights.load import weight_block
from llada_uni.weights.materialise import Quantize, Target, check_finite, materialise, serve
from llada_uni.weights.parts import FP8_FLAG, load_backbone_config, read_config
from llada_uni.weights.plain import unmapped
from llada_uni.weights.quantize import FP8, quantize_blocks, scale_shape
from llada_uni.weights.save import DEFAULT_SHARD_BYTES, check_replaceable
from llada_uni.weights.store import TensorStore, open_folder
from llada_uni.weights.stored import stored_dtype

__all__ = ["convert_checkpoint"]

_FP8_KEYS = (FP8_FLAG, "quantization_config", "llada_fp8_experts")
_Header = tuple[str, tuple[int, ...], torch.dtype]


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Tensors that are made together: what their headers say, and how to make them."""

    headers: tuple[_Header, ...]
    make: Callable[[], Sequence[Tensor]]

    @property
    def num_bytes(self) -> int:
        return sum(math.prod(shape) * dtype.itemsize for _, shape, dtype in self.headers)


def convert_checkpoint(
    model: Path | str, output: Path | str, *, quantize: Quantize, max_shard_bytes: int = DEFAULT_SHARD_BYTES
) -> Path:
    """Write checkpoint ``model`` to ``output`` with its experts in the form ``quantize``; everything else is copied.

    Raises:
        CheckpointError: an incomplete checkpoint, numbers that are not finite, or ``output`` is something else.
        ConfigError: ``output`` is ``model``, the model has no experts, or they are integers of another kind already.
        ResourceError: the disk is full or not writable; nothing has changed then.
    """
    if quantize not in get_args(Quantize):
        raise ConfigError(f"quantize: expected {', '.join(get_args(Quantize))}, got {quantize!r}")
    root, target = resolve(model), Path(output).expanduser().resolve()
    if target == root.resolve():
        raise ConfigError(f"{target} is the checkpoint itself; convert into another directory to keep the original")
    check_replaceable(target)
    groups = list(_groups(root, quantize))
    raw = {key: value for key, value in read_config(root / "config.json").items() if key not in _FP8_KEYS}
    if quantize == "fp8":
        raw[FP8_FLAG] = True
    with replacing(target) as temporary:
        shutil.copytree(root, temporary, dirs_exist_ok=True, ignore=_without_weights(root))
        write_files(temporary, _writers(groups, max_shard_bytes) | {"config.json": json_writer(raw)})
    return target


def _groups(root: Path, form: Quantize) -> Iterator[_Group]:
    config, raw = load_backbone_config(root), read_config(root / "config.json")
    store = unmapped(open_folder(root))
    with torch.device("meta"):
        module = Backbone(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    plans = keys.plan(shapes, store.entries, where=store.where, rename=keys.backbone_key, block=weight_block(raw))
    target = Target(dtype=stored_dtype(root), device=torch.device("cpu"), block=weight_block(raw), quantize=form)
    stacks = [plan for plan in plans if keys.is_stack(plan.name)]
    if not stacks:
        raise ConfigError(f"{root}: the model has no experts to convert")
    held = stacks[0].parts[0].kind
    if held in ("int8", "int4") and form not in (held, "none"):
        raise ConfigError(f"{root} holds {held} already; convert the original checkpoint to {form} instead")
    for plan in plans:
        if keys.is_stack(plan.name):
            yield from _stack(plan, store, target, form)
        else:
            yield _as_it_is(plan, store)


def _as_it_is(plan: keys.Plan, store: TensorStore) -> _Group:
    (part,) = plan.parts
    if part.kind is not None:
        raise CheckpointError(f"{store.where}: expected {plan.name} as floating-point numbers, got {part.kind}")

    def make() -> Sequence[Tensor]:
        tensor = store.read(part.key)
        check_finite(tensor, plan.name, store.where)
        return (tensor,)

    dtype = _DTYPES[store.entries[part.key].dtype]
    return _Group(headers=((plan.name, plan.shape, dtype),), make=make)


def _stack(plan: keys.Plan, store: TensorStore, target: Target, form: Quantize) -> Iterator[_Group]:
    if form in ("int8", "int4"):
        codes = Served.empty((1, 1, 2), form).codes.dtype  # type: ignore[arg-type]
        width = plan.shape[-1] if form == "int8" else -(-plan.shape[-1] // 2)
        headers = (
            (plan.name, (*plan.shape[:-1], width), codes),
            (plan.name + keys.STEPS, steps_shape(plan.shape, form), torch.bfloat16),  # type: ignore[arg-type]
        )

        def make() -> Sequence[Tensor]:
            made = serve(plan, store, target, form, packed=False)  # type: ignore[arg-type]
            return made.codes, made.scale

        yield _Group(headers=headers, make=make)
        return
    dense = Target(dtype=target.dtype, device=target.device, block=target.block)
    layer, _, projection = plan.name.rpartition(".")
    for expert in range(plan.shape[0]):
        one = _expert(plan, expert)
        yield _separate(f"{layer}.{expert}.{projection}.weight", one, expert, store, dense, fp8=form == "fp8")


def _expert(plan: keys.Plan, expert: int) -> keys.Plan:
    part = plan.parts[expert if plan.stacked else 0]
    return keys.Plan(name=plan.name, shape=plan.shape[1:], parts=(part,), stacked=plan.stacked)


def _separate(key: str, plan: keys.Plan, expert: int, store: TensorStore, target: Target, *, fp8: bool) -> _Group:
    row = None if plan.stacked else expert
    if not fp8:
        make = lambda: (materialise(plan, store, target, row=row),)  # noqa: E731
        return _Group(headers=((key, plan.shape, target.dtype),), make=make)
    headers = ((key, plan.shape, FP8), (f"{key}_scale_inv", scale_shape(plan.shape), torch.float32))
    return _Group(headers=headers, make=lambda: quantize_blocks(materialise(plan, store, target, row=row)))


def _writers(groups: Sequence[_Group], max_bytes: int) -> dict[str, Writer]:
    shards: list[list[_Group]] = [[]]
    for group in groups:
        if shards[-1] and sum(one.num_bytes for one in shards[-1]) + group.num_bytes > max_bytes:
            shards.append([])
        shards[-1].append(group)
    count = len(shards)
    if count == 1:
        return {"model.safetensors": _writer(shards[0])}
    names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in _keys(shard)}
    index = {"metadata": {"total_size": sum(one.num_bytes for one in groups)}, "weight_map": weight_map}
    writers: dict[str, Writer] = {name: _writer(shard) for name, shard in zip(names, shards, strict=True)}
    return writers | {"model.safetensors.index.json": json_writer(index)}


def _keys(shard: Sequence[_Group]) -> list[str]:
    return [key for group in shard for key, _, _ in group.headers]


def _writer(shard: Sequence[_Group]) -> Writer:
    def write(path: Path) -> None:
        tensors: dict[str, Tensor] = {}
        for group in shard:
            for (key, shape, dtype), tensor in zip(group.headers, group.make(), strict=True):
                assert (tuple(tensor.shape), tensor.dtype) == (shape, dtype), key
                tensors[key] = tensor.contiguous()
        save_file(tensors, path, metadata={"format": "pt"})

    return write


def _without_weights(root: Path) -> Callable[[Any, list[str]], list[str]]:
    """Everything but the backbone's own files, which lie at the root."""

    def ignored(folder: Any, names: list[str]) -> list[str]:
        if Path(folder) != root:
            return []
        return [name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))]

    return ignored


_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
