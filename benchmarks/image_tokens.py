"""The token phase of a picture, step by step from the released way to ours.

python benchmarks/image_tokens.py --out benchmarks/results/image_tokens_nano.json
python benchmarks/image_tokens.py --size uni --device cuda --grids 8 16 --out benchmarks/results/image_tokens_uni.json

All sides write the same ids: the same prompts, grid and steps, exactly grid x grid codes, nothing committed early.
Sides differ in one thing each: logits of the whole window, the Python loop over experts, and computing everything again
in every step ("ours" caches; guidance branches are padded to one window wherever whole windows are computed). Apart
from that: the surplus blocks of the released default of 1088 tokens whatever the size, and pictures in batches.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

import torch

from _floors import Machine, backbone_step
from _record import record, write
from _released import CAPTURED, LADDER, batch_rows, denoiser, side, written
from _sizes import Networks, Shapes, shapes
from _timing import arguments, clock, compared, run_options, seconds, take_turns
from _work import BLOCK, Step, agreement, picture_request
from llada_uni.backbone.model import Backbone
from llada_uni.protocols import Request

_RELEASED_LENGTH = 1088


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("--grids", type=int, nargs="*", default=[8, 16], help="sides of square pictures")
    made.add_argument("--ours-only", type=int, nargs="*", default=[24], help="further sides, without baselines")
    made.add_argument("--sides", nargs="+", choices=LADDER, default=list(LADDER), help="what --against reference runs")
    made.add_argument("--steps", type=int, default=8, help="steps per block")
    made.add_argument("--rescale-over", choices=("vocabulary", "allowed"), default="vocabulary", help="as released")
    made.add_argument("--batches", type=int, nargs="*", default=[1, 2, 8], help="pictures at once, smallest grid")
    made.add_argument("--captured", action="store_true", help="also the engine with whole blocks on the device")
    made.add_argument("--surplus", action=argparse.BooleanOptionalAction, default=True)
    return made


def asked(found: Shapes, side: int, options: Any, turn: int) -> Request:
    """The request of one turn."""
    request = picture_request(found, side, steps=options.steps, seed=options.seed + turn)
    return replace(request, guidance=replace(request.guidance, rescale_over=options.rescale_over))


def grid_row(backbone: Backbone, found: Shapes, options: Any, grid: int, names: list[str]) -> dict[str, Any]:
    """One picture of ``grid`` x ``grid`` codes by every side; other words in every round."""
    requests = [asked(found, grid, options, n) for n in range(options.rounds)]
    sides = {name: side(name, backbone, mask_id=found.mask_id) for name in names}
    results: dict[str, dict[int, Any]] = {name: {} for name in names}

    def run(name: str) -> Any:
        return lambda turn: results[name].__setitem__(turn, written([requests[turn]], sides[name])[0])

    taken = take_turns({name: run(name) for name in names}, options.rounds, options.device, warm_up=0)
    ours = results["ours"]
    told = compared(taken, "ours")
    cost = backbone_step(found.backbone, branches=2, context=40 + grid * grid // 2, element=options.dtype.itemsize)
    calls = ours[0].usage.num_calls
    sys.stderr.write(f"{grid} x {grid}: {told['seconds']['ours']['median']:.3f} s\n")
    return {
        "grid": grid,
        "calls": calls,
        **told,
        "floor_s": calls * cost.floor_s(options.machine),
        "same_ids": {
            name: agreement([one.output_ids for one in ours.values()], [results[name][n].output_ids for n in ours])
            for name in names
            if name != "ours"
        },
    }


def pictures_at_once(backbone: Backbone, found: Shapes, options: Any, name: str) -> list[dict[str, Any]]:
    """Several pictures of the smallest grid at once, by one side."""
    grid = min(options.grids + options.ours_only)
    batches = {count: [asked(found, grid, options, n) for n in range(count)] for count in options.batches}
    rows = batch_rows(batches, side(name, backbone, mask_id=found.mask_id), options)
    return [{"grid": grid, **row} for row in rows]


def surplus(backbone: Backbone, found: Shapes, options: Any) -> dict[str, Any]:
    """Blocks after the last code that the released default computes and drops, by the released way and by ours.

    One step of every fourth such block is measured, and counted for as many steps and blocks as there are.
    """
    grid = max(options.grids)
    first, last = -(-(40 + grid * grid) // BLOCK), -(-(40 + _RELEASED_LENGTH) // BLOCK)
    rows: dict[str, float] = {}
    for name in ("reference", "ours"):
        found_s = []
        for block in range(first, last, 4):
            step = Step(found, denoiser(name, backbone, mask_id=found.mask_id), branches=2, context=block * BLOCK)
            step(0)
            found_s.append(seconds(lambda step=step: step(1), options.device))
            step.close()
        rows[name] = options.steps * (last - first) * sum(found_s) / max(len(found_s), 1)
    return {"grid": grid, "surplus_blocks": max(0, last - first), "seconds": rows}


@torch.inference_mode()
def main(given: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = run_options(parser(), given)
    found = shapes(options.size)
    options.machine = Machine.measured(options.device, options.dtype)
    backbone = Networks(found, device=options.device, dtype=options.dtype, seed=options.seed).backbone
    names = [name for name in LADDER if name == "ours" or ("reference" in options.against and name in options.sides)]
    further = [CAPTURED] if options.captured else []
    names += further
    for name in names:
        written([picture_request(found, 4, steps=2)], side(name, backbone, mask_id=found.mask_id))
    numbers: dict[str, Any] = {
        "size": options.size, "dtype": str(options.dtype).removeprefix("torch."), "clock": clock(options.device),
        "steps_per_block": options.steps, "rescale_over": options.rescale_over, "machine": options.machine.as_dict(),
        "grids": [grid_row(backbone, found, options, grid, names) for grid in options.grids]
        + [grid_row(backbone, found, options, grid, ["ours", *further]) for grid in options.ours_only],
        "batches": pictures_at_once(backbone, found, options, "ours") if options.batches else [],
    }  # fmt: skip
    if options.captured and options.batches:
        numbers["batches_captured"] = pictures_at_once(backbone, found, options, CAPTURED)
    if options.surplus and options.grids and "reference" in options.against:
        numbers["surplus"] = surplus(backbone, found, options)
    write(record(numbers, device=str(options.device), arguments=given), options.out)


if __name__ == "__main__":
    main()
