"""From a request to its result, by stages: a picture, and an answer about a picture.

python benchmarks/end_to_end.py --out benchmarks/results/end_to_end_nano.json
python benchmarks/end_to_end.py --size uni --device cuda --out benchmarks/results/end_to_end_uni.json

"ours" and "reference" differ in the token phase and in nothing else: same prompt, grid, steps and number of ids, same
decoder, all networks in memory. "first" is ours with networks that have to be made or read first. With nano there is
also what a user sees, with the checkpoint's own settings: presets, sampling, and answers that end where they end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from _record import record, write
from _released import denoiser, written
from _sizes import NANO, Networks, shapes
from _timing import arguments, clock, compared, run_options, seconds, spread
from _work import picture_request, text_request
from decoder import NORMAL, TURBO
from llada_uni.grid import TokenGrid
from llada_uni.pipeline.settings import DecodeSettings
from llada_uni.pipeline.stations import draw, returned
from llada_uni.protocols import Denoiser, Request

Stages = dict[str, float]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("--grid", type=int, help="side of pictures in codes (default: 8, and 32 for uni)")
    made.add_argument("--steps", type=int, default=8, help="steps per block of pictures; answers take 32")
    made.add_argument("--decoder", choices=("turbo", "normal"), nargs="+", default=["turbo"])
    made.add_argument("--answer", type=int, default=32, help="ids of the answer")
    made.add_argument("--batches", type=int, nargs="*", default=[1, 8], help="pictures at once")
    made.add_argument("--as-used", action=argparse.BooleanOptionalAction, default=True, help="nano's own settings, too")
    return made


def picture(networks: Networks, side: Denoiser, requests: list[Request], settings: DecodeSettings, grid: int) -> Stages:
    """Seconds of the token phase and of drawing."""
    codes: list[Any] = []
    first, cells = networks.shapes.first_code, TokenGrid(grid, grid)
    tokens = seconds(
        lambda: codes.extend([i - first for i in one.output_ids] for one in written(requests, side)), networks.device
    )
    seeds = list(range(len(requests)))

    def pixels() -> Any:
        return returned(draw(networks, torch.tensor(codes), cells, seeds, settings, at_once=len(seeds)))  # type: ignore[arg-type]

    return {"tokens": tokens, "pixels": seconds(pixels, networks.device)}


def answer(networks: Networks, side: Denoiser, request: Request, grid: int) -> Stages:
    """Seconds of encoding a picture and of the token phase."""
    config = networks.shapes.image_tokenizer.vision_config
    patches = torch.randn(grid * grid, config.patch_features).to(networks.device, networks.dtype)
    encode = seconds(lambda: networks.image_tokenizer(patches, [TokenGrid(grid, grid)]), networks.device)
    return {"encode": encode, "tokens": seconds(lambda: written([request], side), networks.device)}


def by_turns(sides: dict[str, Callable[[int], Stages]], rounds: int) -> dict[str, Any]:
    """Stages of all sides in turns, after one that does not count."""
    names, stages = list(sides), {name: [] for name in sides}
    for turn in range(-1, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found = sides[name](max(turn, 0))
            if turn >= 0:
                stages[name].append(found)
    taken = {name: [sum(one.values()) for one in rows] for name, rows in stages.items()}
    told = compared(taken, names[0])
    split = {
        name: {stage: spread([row[stage] for row in rows])["median"] for stage in rows[0]}
        for name, rows in stages.items()
    }
    sys.stderr.write(f"{split}\n")
    return {**told, "stages": split}


def fixed(networks: Networks, options: Any) -> dict[str, Any]:
    """The same work by every side."""
    found, grid = networks.shapes, options.grid
    names = ["ours", *(["reference"] if "reference" in options.against else [])]
    sides = {name: denoiser(name, networks.backbone, mask_id=found.mask_id) for name in names}
    pictures = [picture_request(found, grid, steps=options.steps, seed=options.seed + n) for n in range(8)]
    questions = [
        text_request(found, num_tokens=options.answer, pictures=1, side=grid, seed=options.seed + n) for n in range(8)
    ]
    rows: dict[str, Any] = {}
    for name in options.decoder:
        settings = {"turbo": TURBO, "normal": NORMAL}[name]
        rows[f"picture, {settings.num_steps} evaluations"] = by_turns(
            {
                one: lambda turn, side=side, use=settings: picture(networks, side, [pictures[turn % 8]], use, grid)
                for one, side in sides.items()
            },
            options.rounds,
        )
    rows[f"answer about a picture, {options.answer} ids"] = by_turns(
        {one: lambda turn, side=side: answer(networks, side, questions[turn % 8], grid) for one, side in sides.items()},
        options.rounds,
    )
    return rows


def batches(networks: Networks, options: Any) -> list[dict[str, Any]]:
    """Pictures at once, each by its own words."""
    ours = denoiser("ours", networks.backbone, mask_id=networks.shapes.mask_id)
    rows = []
    for count in options.batches:
        requests = [picture_request(networks.shapes, options.grid, steps=options.steps, seed=n) for n in range(count)]
        told = by_turns({"ours": lambda _, r=requests: picture(networks, ours, r, TURBO, options.grid)}, options.rounds)
        rows.append({"batch": count, "seconds_each": told["seconds"]["ours"]["median"] / count, **told})
    return rows


def first_request(options: Any) -> Stages:
    """A picture with networks that do not exist yet; also the seconds of making or reading them."""
    networks = Networks(shapes(options.size), device=options.device, dtype=options.dtype, seed=options.seed)
    load = seconds(
        lambda: [networks.backbone, networks.semantic_embedder, networks.decoder("turbo"), networks.vae], options.device
    )
    request = picture_request(networks.shapes, options.grid, steps=options.steps)
    side = denoiser("ours", networks.backbone, mask_id=networks.shapes.mask_id)
    return {"load": load, **picture(networks, side, [request], TURBO, options.grid)}


def as_used(options: Any) -> dict[str, Any]:
    """Nano with its presets: token phases of real requests by every side, and the whole call by ours."""
    from llada_uni import LladaUni
    from llada_uni.pipeline.scripts import job
    from llada_uni.pipeline.tasks import AskTask, GenerateTask

    model = LladaUni.from_pretrained(NANO, device=options.device, dtype=str(options.dtype).removeprefix("torch."))
    networks = model.networks
    shown = model.generate_image("two red apples left of a house", seed=0)
    tasks = {
        "picture": GenerateTask(prompt="two red apples left of a house", seed=0),
        "answer": AskTask(image=shown, question="how many apples are there?", seed=0),
        "answer, four pictures": AskTask(image=[shown] * 4, question="how many apples are there?", seed=0),
    }
    mask, rows = networks.vocab.special.mask, {}
    for name, task in tasks.items():
        made = job(networks, task)
        request = next(made.script(made.pictures))
        results: dict[str, Any] = {}

        def run(one: str, side: Denoiser, request: Request = request, results: dict[str, Any] = results) -> Stages:
            return {"tokens": seconds(lambda: results.__setitem__(one, written([request], side)[0]), options.device)}

        sides = {
            one: partial(_stages, run, one, denoiser(one, networks.backbone, mask_id=mask))
            for one in ["ours", *options.against]
        }
        told = by_turns(sides, options.rounds)
        usage = results["ours"].usage
        call = [seconds(lambda task=task: model.run([task]), options.device) for _ in range(options.rounds)]
        rows[name] = {
            **told, "calls": usage.num_calls, "output_tokens": usage.output_tokens, "whole_call_s": spread(call),
            "same_ids": all(one.output_ids == results["ours"].output_ids for one in results.values()),
        }  # fmt: skip
    return rows


def _stages(run: Callable[[str, Denoiser], Stages], name: str, side: Denoiser, _: int) -> Stages:
    return run(name, side)


@torch.inference_mode()
def main(given: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = run_options(parser(), given)
    options.grid = options.grid or (32 if options.size == "uni" else 8)
    numbers: dict[str, Any] = {
        "size": options.size, "dtype": str(options.dtype).removeprefix("torch."), "clock": clock(options.device),
        "grid": options.grid, "steps_per_block": options.steps, "first": first_request(options),
    }  # fmt: skip
    networks = Networks(shapes(options.size), device=options.device, dtype=options.dtype, seed=options.seed)
    numbers["fixed"] = fixed(networks, options)
    numbers["batches"] = batches(networks, options)
    if options.as_used and options.size == "nano":
        numbers["as_used"] = as_used(options)
    write(record(numbers, device=str(options.device), arguments=given), options.out)


if __name__ == "__main__":
    main()
