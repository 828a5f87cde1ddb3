"""Seconds of alternatives that take turns, so that noise of the machine hits all of them alike."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

__all__ = ["arguments", "clock", "compared", "copy_rate", "run_options", "seconds", "spread", "take_turns"]

Run = Callable[[int], Any]
"""One measurement; the number of the round lets it take other inputs every time."""


def arguments(text: str | None, *, against: Sequence[str] = ("reference",)) -> argparse.ArgumentParser:
    """What all speed benchmarks understand; ``against``: the baselines that one knows."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "nano", "uni"), default="nano", help="tiny and uni: random weights")
    parser.add_argument("--against", nargs="*", choices=against, default=list(against), help="baselines")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU, else bfloat16")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", "--output", type=Path, help="result file")
    return parser


def run_options(parser: argparse.ArgumentParser, given: list[str] | None) -> argparse.Namespace:
    """Parsed arguments; sets the threads and puts the ``torch`` device and dtype in place of their names."""
    options = parser.parse_args(given)
    if options.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {options.rounds}")
    torch.set_num_threads(options.threads)
    options.device = torch.device(options.device)
    usual = "float32" if options.device.type == "cpu" else "bfloat16"
    options.dtype = getattr(torch, options.dtype or usual)
    return options


def clock(device: torch.device) -> str:
    """What :func:`seconds` reads: "events" of a GPU, else "processor" time of one thread or the "wall" clock."""
    if device.type == "cuda":
        return "events"
    return "processor" if torch.get_num_threads() == 1 else "wall"


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """How long ``run`` takes. On a CPU with one thread this is processor time: that of a machine with no other work."""
    kind = clock(device)
    if kind == "events":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000
    read = time.process_time if kind == "processor" else time.perf_counter
    began = read()
    run()
    return read() - began


@torch.inference_mode()
def take_turns(
    sides: Mapping[str, Run], rounds: int, device: torch.device, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of every side in every round, after ``warm_up`` rounds that do not count; each round begins elsewhere."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(-warm_up, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            took = seconds(partial(sides[name], turn % rounds), device)
            if turn >= 0:
                taken[name].append(took)
    return taken


def spread(values: Sequence[float], digits: int = 6) -> dict[str, float]:
    """Median, least and most."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def compared(taken: Mapping[str, Sequence[float]], ours: str, *, per: float = 1) -> dict[str, Any]:
    """Seconds per item (a side does ``per`` of them), and how many times faster ``ours`` is: round by round."""
    others = [name for name in taken if name != ours]
    return {
        "seconds": {name: spread([one / per for one in values]) for name, values in taken.items()},
        "times_faster": {
            name: spread([a / b for a, b in zip(taken[name], taken[ours], strict=True)], 3) for name in others
        },
    }


def copy_rate(device: torch.device, *, megabytes: int = 256, repeats: int = 5) -> float:
    """Bytes a second that a copy inside the memory of ``device`` reads and writes together, the best of ``repeats``."""
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    best = min(seconds(lambda: target.copy_(source), device) for _ in range(repeats))
    return 2 * source.numel() * 4 / best
