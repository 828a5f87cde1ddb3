"""The few-step decoder against the many-step one: the same prompts, the same true codes, the same noise seeds.

Scenes and their captions are drawn from the world, rendered and encoded to their true codes; both decoders turn the
codes back into pictures; a picture counts when the verifier reads it and what it reads satisfies the caption.

python benchmarks/decoders.py --count 1000 --out benchmarks/results/decoders.json
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from typing import Any

from _record import paired_difference, record, write

MANY_STEPS, FEW_STEPS = "normal", "turbo"
_GRIDS = ((8, 8), (8, 8), (8, 12), (12, 8))
_CHUNK = 48


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="nano", help="nano, a hub id or a directory")
    options.add_argument("--count", type=int, default=1000, help="number of prompts")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--square", action="store_true", help="8x8 scenes only")
    options.add_argument("--device", default="auto")
    options.add_argument("--out", type=Path, help="result file")
    return options


def cases(count: int, seed: int, *, square: bool) -> list[tuple[Any, str]]:
    """``count`` scenes with captions, on all trained grids; case i depends on the seed and i alone."""
    from llada_uni.scenes import sample_captioned

    drawn = []
    for index in range(count):
        rng = random.Random(f"decoders/{seed}/{index}")
        grid_h, grid_w = (8, 8) if square else rng.choice(_GRIDS)
        drawn.append(sample_captioned(rng, grid_h=grid_h, grid_w=grid_w))
    return drawn


def outcomes(scenes: list[tuple[Any, str]], pictures: list[Any]) -> list[bool]:
    """Whether each picture is read as a scene that satisfies its caption."""
    from llada_uni.scenes import satisfies, verify

    read = [verify(picture) for picture in pictures]
    return [graph is not None and satisfies(graph, text) for (_, text), graph in zip(scenes, read, strict=True)]


def compare(model: Any, scenes: list[tuple[Any, str]], seed: int) -> dict[str, Any]:
    """Success of the renders themselves and of both decoders, and seconds of decoding."""
    from llada_uni.evaluation.scenebench import decoded_from_true_codes
    from llada_uni.scenes import render

    passed: dict[str, list[bool]] = {"render": [], MANY_STEPS: [], FEW_STEPS: []}
    seconds = dict.fromkeys((MANY_STEPS, FEW_STEPS), 0.0)
    for begin in range(0, len(scenes), _CHUNK):
        part = scenes[begin : begin + _CHUNK]
        renders = [render(graph) for graph, _ in part]
        passed["render"] += outcomes(part, renders)
        for decoder in seconds:
            began = time.perf_counter()
            pictures = decoded_from_true_codes(model, renders, seed=seed + begin, decoder=decoder)
            seconds[decoder] += time.perf_counter() - began
            passed[decoder] += outcomes(part, pictures)
        done = ", ".join(f"{name} {sum(found)}" for name, found in passed.items())
        sys.stderr.write(f"{min(begin + _CHUNK, len(scenes))}/{len(scenes)}: {done}\n")
    return summary(passed, seconds)


def summary(passed: dict[str, list[bool]], seconds: dict[str, float]) -> dict[str, Any]:
    """Rates with Wilson intervals and the paired difference few-step minus many-step."""
    from llada_uni.scenes import wilson

    count = len(passed[MANY_STEPS])
    rates = {
        name: {
            "rate": sum(found) / max(count, 1),
            "interval": list(wilson(sum(found), count)),
            "correct": sum(found),
            "total": count,
        }
        for name, found in passed.items()
    }
    each = {name: round(value / max(count, 1), 4) for name, value in seconds.items()}
    difference = paired_difference(passed[MANY_STEPS], passed[FEW_STEPS])
    return {"rates": rates, "turbo_minus_normal": difference, "encode_and_decode_s_per_picture": each}


def main(arguments: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = parser().parse_args(arguments)

    from llada_uni import LladaUni

    model = LladaUni.from_pretrained(options.model, device=options.device)
    presets = model.networks.package.presets
    numbers = {
        "model": options.model,
        "seed": options.seed,
        "num_steps": {MANY_STEPS: presets.num_steps, FEW_STEPS: presets.turbo_steps},
        **compare(model, cases(options.count, options.seed, square=options.square), options.seed),
    }
    write(record(numbers, device=str(model.networks.device), arguments=arguments), options.out)


if __name__ == "__main__":
    main()
