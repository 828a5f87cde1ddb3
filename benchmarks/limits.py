"""What limits each part: bytes and products of a call, and the least time they take on one H200. No network is run.

python benchmarks/limits.py --out benchmarks/results/limits.json

Everything follows from the configurations (see _floors.py). The rates are those of a copy (read and written bytes
together) and of a dense bfloat16 product on an H200; nano is counted in the dtype it computes in, float32 on a CPU, and
its floors are those of the processor at hand, whose rates are measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from _floors import (
    Cost,
    Machine,
    backbone_step,
    decoder_call,
    expected_experts,
    kv_bytes_per_token,
    networks,
    tokenizer_call,
    vae_call,
)
from _record import record, write
from _sizes import Shapes, shapes
from llada_uni.grid import TokenGrid

H200 = Machine(name="H200", bytes_per_s=4.3e12, flops_per_s=790e12)
BRANCHES = (1, 2, 8, 16)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", "--output", type=Path, help="result file")
    return made


def calls(found: Shapes, side: int, element: int) -> dict[str, tuple[Cost, dict[str, Any]]]:
    """Every kind of call of a picture of ``side`` x ``side`` codes, and what else is to be told of it."""
    grid, context = TokenGrid(side, side), 40 + side * side // 2
    rows: dict[str, tuple[Cost, dict[str, Any]]] = {}
    for branches in BRANCHES:
        for head, ids in (("", None), (", image ids", found.backbone.vocab_size - found.first_code)):
            cost = backbone_step(found.backbone, branches=branches, context=context, head_ids=ids, element=element)
            told = {"tokens": 32 * branches, "experts": expected_experts(found.backbone, 32 * branches)}
            rows[f"backbone step, {branches} x 32 ids{head}"] = cost, told
    for batch in (1, 2):
        rows[f"decoder evaluation, batch {batch}"] = decoder_call(found, grid, batch=batch, element=element), {}
    whole = decoder_call(found, grid, element=element, refined=False)
    once = decoder_call(found, grid, element=element)
    rows["decoder, condition (once a picture)"] = (
        Cost(bytes=whole.bytes - once.bytes, flops=whole.flops - once.flops),
        {},
    )
    rows["VAE"] = vae_call(found, grid, element=element), {}
    rows["image tokenizer"] = tokenizer_call(found, grid, element=element), {}
    return rows


def limits(size: str, side: int, machine: Machine, element: int) -> dict[str, Any]:
    """All calls of one size, and whole pictures made of them."""
    found = shapes(size)
    rows = calls(found, side, element)
    told = {name: cost.as_dict(machine) | also for name, (cost, also) in rows.items()}
    steps = 8 * -(-(side * side + 40 % 32) // 32) + 1  # the prompt ends inside a block; one call for the prompt
    pair, eight = (rows[f"backbone step, {n} x 32 ids"][0].floor_s(machine) for n in (2, 16))
    one, two = (rows[f"decoder evaluation, batch {n}"][0].floor_s(machine) for n in (1, 2))
    wholes = {
        f"token phase, guidance, {steps} calls": steps * pair,
        "the same, 8 pictures at once, each": steps * eight / 8,
        "decoder, 8 evaluations": 8 * one,
        "decoder, 49 x 2 evaluations": 49 * two,
    }
    numbers = networks(found)
    return {
        "size": size, "grid": side, "bytes_per_number": element, "machine": {"name": machine.name, **machine.as_dict()},
        "calls": told, "whole_s": wholes, "parameters": numbers,
        "weights_gb": {name: count * element / 1e9 for name, count in numbers.items()},
        "kv_kib_per_token": kv_bytes_per_token(found.backbone, element) / 1024,
    }  # fmt: skip


def main(given: list[str] | None = None) -> None:
    """Count, show and store."""
    options = parser().parse_args(given)
    torch.set_num_threads(1)
    here = Machine.measured(torch.device("cpu"), torch.float32)
    here = Machine(name="this processor, one thread", bytes_per_s=here.bytes_per_s, flops_per_s=here.flops_per_s)
    numbers = [limits("uni", 32, H200, 2), limits("nano", 8, here, 4)]
    write(record(numbers, arguments=given), options.out)


if __name__ == "__main__":
    main()
