"""Answers: the released way, diffusers' pipeline and ours, on the same prompts with as many ids and steps.

python benchmarks/text.py --out benchmarks/results/text_nano.json
python benchmarks/text.py --size uni --device cuda --out benchmarks/results/text_uni.json

Every side writes exactly so many ids, one a step, nothing committed early and no stop. Pictures in the prompt are codes
already; encoding them, which is the same for all sides, is measured beside. The peer is diffusers' LLaDA2Pipeline
around our network (prompt and answer fill whole blocks, because it hides what lies behind the answer).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

import torch

from _record import record, write
from _released import CAPTURED, batch_rows, side, written
from _sizes import Networks, Shapes, shapes
from _timing import arguments, clock, compared, run_options, spread, take_turns
from _work import BLOCK, agreement, text_request
from llada_uni.backbone.model import Backbone
from llada_uni.grid import TokenGrid
from llada_uni.protocols import Request


@dataclass(frozen=True)
class Case:
    """A kind of answer: ids to write and pictures in the prompt."""

    name: str
    num_tokens: int
    pictures: int = 0


CASES = (
    Case("words only, 32 ids", 32),
    Case("one picture, 32 ids", 32, 1),
    Case("one picture, 60 ids", 60, 1),
    Case("four pictures, 32 ids", 32, 4),
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__, against=("reference", "diffusers"))
    made.add_argument("--grid", type=int, help="side of pictures in codes (default: 8, and 32 for uni)")
    made.add_argument("--steps", type=int, default=32, help="steps per block")
    made.add_argument("--captured", action="store_true", help="also the engine with whole blocks on the device")
    made.add_argument("--batches", type=int, nargs="*", default=[1, 2, 8, 32], help="answers at once")
    return made


def fitted(found: Shapes, case: Case, options: Any, seed: int) -> Request:
    """The request of a case; its prompt is as long as needed for whole blocks."""
    words = 27 + -(27 + case.pictures * (options.grid**2 + 5) + case.num_tokens) % BLOCK
    return text_request(
        found, num_tokens=case.num_tokens, pictures=case.pictures, side=options.grid, steps=options.steps, words=words,
        seed=seed,
    )  # fmt: skip


def case_row(backbone: Backbone, networks: Networks, case: Case, options: Any) -> dict[str, Any]:
    """One kind of answer by every side."""
    found = networks.shapes
    requests = [fitted(found, case, options, options.seed + n) for n in range(options.rounds)]
    ids: dict[str, dict[int, Any]] = {}

    def through(name: str) -> Any:
        one = side(name, backbone, mask_id=found.mask_id)
        return lambda turn: ids.setdefault(name, {}).__setitem__(turn, written([requests[turn]], one)[0].output_ids)

    sides = {name: through(name) for name in ("ours", "reference") if name == "ours" or name in options.against}
    if options.captured:
        sides[CAPTURED] = through(CAPTURED)
    if "diffusers" in options.against:
        from _diffusers_peers import TextPeer

        peer = TextPeer(backbone)
        sides["diffusers"] = lambda turn: ids.setdefault("diffusers", {}).__setitem__(turn, peer(requests[turn]))
    taken = take_turns(sides, options.rounds, options.device)
    told = compared(taken, "ours")
    sys.stderr.write(f"{case.name}: {told['times_faster']}\n")
    row = {
        "name": case.name,
        "num_tokens": case.num_tokens,
        "prompt_tokens": len(requests[0].prompts[0]),
        **told,
        "tokens_per_s": case.num_tokens / told["seconds"]["ours"]["median"],
        "same_ids": {
            name: agreement(list(ids["ours"].values()), [other[n] for n in ids["ours"]])
            for name, other in ids.items()
            if name != "ours"
        },
    }
    if case.pictures:
        row["encoding_s"] = encoding(networks, case, options)
    return row


def encoding(networks: Networks, case: Case, options: Any) -> dict[str, float]:
    """Seconds to turn the pictures of a prompt into codes."""
    grid, config = TokenGrid(options.grid, options.grid), networks.shapes.image_tokenizer.vision_config
    patches = torch.randn(case.pictures * grid.num_tokens, config.patch_features, device=options.device)
    patches, grids = patches.to(options.dtype), [grid] * case.pictures
    model = networks.image_tokenizer
    return spread(take_turns({"": lambda _: model(patches, grids)}, options.rounds, options.device)[""])


def answers_at_once(backbone: Backbone, found: Shapes, options: Any, name: str) -> list[dict[str, Any]]:
    """Several answers about a picture at once, by one side."""
    case = CASES[1]
    batches = {
        count: [fitted(found, case, options, options.seed + n) for n in range(count)] for count in options.batches
    }
    rows = batch_rows(batches, side(name, backbone, mask_id=found.mask_id), options)
    return [{**row, "tokens_per_s": case.num_tokens / row["seconds_each"]["median"]} for row in rows]


@torch.inference_mode()
def main(given: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = run_options(parser(), given)
    options.grid = options.grid or (32 if options.size == "uni" else 8)
    networks = Networks(shapes(options.size), device=options.device, dtype=options.dtype, seed=options.seed)
    backbone = networks.backbone
    numbers: dict[str, Any] = {
        "size": options.size, "dtype": str(options.dtype).removeprefix("torch."), "clock": clock(options.device),
        "steps_per_block": options.steps, "picture": options.grid,
        "cases": [case_row(backbone, networks, case, options) for case in CASES],
        "batches": answers_at_once(backbone, networks.shapes, options, "ours") if options.batches else [],
    }  # fmt: skip
    if options.captured and options.batches:
        numbers["batches_captured"] = answers_at_once(backbone, networks.shapes, options, CAPTURED)
    write(record(numbers, device=str(options.device), arguments=given), options.out)


if __name__ == "__main__":
    main()
