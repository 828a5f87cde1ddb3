"""One denoising step of the backbone: batch, context and experts, against the released way and against the floor.

python benchmarks/backbone_step.py --out benchmarks/results/backbone_step_nano.json
python benchmarks/backbone_step.py --size uni --device cuda --calls 20 --out benchmarks/results/backbone_step_uni.json

A step is 32 positions, half of them masked, of every branch, behind its context; only logits of image ids are made.
Branches are guidance branches as well as requests: a picture with guidance is a batch of 2. Every call has other ids.
"ours" attends to cached contexts; "reference" computes whole windows again (see _released.py). The floor is what the
device needs to read the weights that take part, or for the products, at rates measured in the same run.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

import torch

from _floors import Machine, backbone_step
from _record import record, write
from _released import denoiser
from _sizes import Networks, Shapes, filled, shapes
from _timing import arguments, clock, compared, run_options, take_turns
from _work import Step, distinct_experts
from llada_uni.backbone.model import Backbone


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], help="branches in a step")
    made.add_argument("--contexts", type=int, nargs="+", default=[64, 256, 1024, 4096], help="ids before the block")
    made.add_argument("--experts", type=int, nargs="*", default=[8, 32, 128], help="in layers like the model's")
    made.add_argument("--context", type=int, default=256, help="of the other curves")
    made.add_argument("--reference-up-to", type=int, default=4096, help="most window positions of the reference")
    made.add_argument("--calls", type=int, default=3, help="steps in one measurement")
    return made


def measure(backbone: Backbone, found: Shapes, options: Any, *, branches: int, context: int) -> dict[str, Any]:
    """One point: seconds of a step, the floor, and how many experts were read."""
    names = ["ours"]
    if "reference" in options.against and branches * (context + 32) <= options.reference_up_to:
        names.append("reference")
    steps = {
        name: Step(found, denoiser(name, backbone, mask_id=found.mask_id), branches=branches, context=context,
                   variants=options.calls, seed=options.seed)
        for name in names
    }  # fmt: skip

    def calls(name: str) -> Any:
        return lambda turn: [steps[name](call) for call in range(options.calls)]

    taken = take_turns({name: calls(name) for name in names}, options.rounds, options.device)
    experts = distinct_experts(backbone.routers(), steps["ours"])
    for step in steps.values():
        step.close()
    cost = backbone_step(
        found.backbone,
        branches=branches,
        context=context,
        head_ids=found.backbone.vocab_size - found.first_code,
        experts=experts,
        element=options.dtype.itemsize,
    )
    told = compared(taken, "ours", per=options.calls)
    floor = cost.floor_s(options.machine)
    sys.stderr.write(f"{branches} x {context}: {1000 * told['seconds']['ours']['median']:.2f} ms\n")
    return {
        "branches": branches,
        "context": context,
        "num_experts": found.backbone.num_experts,
        **told,
        "distinct_experts": experts,
        **cost.as_dict(options.machine),
        "share_of_floor": floor / told["seconds"]["ours"]["median"],
    }


def with_experts(found: Shapes, count: int) -> Shapes:
    """The same layers with ``count`` experts, in as many groups as fit."""
    groups = min(found.backbone.n_group, max(1, count // 2))
    top = min(found.backbone.topk_group, groups)
    return replace(found, backbone=replace(found.backbone, num_experts=count, n_group=groups, topk_group=top))


@torch.inference_mode()
def main(given: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = run_options(parser(), given)
    found = shapes(options.size)
    options.machine = Machine.measured(options.device, options.dtype)
    backbone = Networks(found, device=options.device, dtype=options.dtype, seed=options.seed).backbone
    numbers: dict[str, Any] = {
        "size": options.size, "dtype": str(options.dtype).removeprefix("torch."), "clock": clock(options.device),
        "machine": options.machine.as_dict(),
        "batch": [measure(backbone, found, options, branches=n, context=options.context) for n in options.batches],
        "context": [measure(backbone, found, options, branches=1, context=n) for n in options.contexts],
        "experts": [],
    }  # fmt: skip
    del backbone
    for count in options.experts:
        other = with_experts(found, count)
        model = filled(lambda config=other.backbone: Backbone(config), device=options.device, dtype=options.dtype)
        numbers["experts"].append(measure(model, other, options, branches=2, context=options.context))
        del model
    write(record(numbers, device=str(options.device), arguments=given), options.out)


if __name__ == "__main__":
    main()
