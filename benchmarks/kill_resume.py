"""Kills a training with SIGKILL at random moments and compares where it ends with an undisturbed run, bit for bit.

The training is a tiny autoencoder on one core that saves its state after every step, so that many kills fall into the
writing of a state.

python benchmarks/kill_resume.py --kills 50 --out benchmarks/results/kill_resume.json
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _record import record, write
from llada_uni.decoder.config import VAEConfig
from llada_uni.training.checkpoint import TrainState, load_state
from llada_uni.training.config import KeepConfig, OptimConfig, ScheduleConfig, TrainConfig
from llada_uni.training.metrics import read_metrics
from llada_uni.training.objective import Resources
from llada_uni.training.objectives.vae import VaeObjectiveConfig
from llada_uni.training.train import train

_SHAPE = VAEConfig(
    block_out_channels=(4, 4, 8), layers_per_block=1, latent_channels=2, norm_num_groups=2,
    scaling_factor=1.0, shift_factor=0.0, mid_block_add_attention=False,
)  # fmt: skip


def configuration(steps: int) -> TrainConfig:
    """A training in which a step and its saving take about as long."""
    return TrainConfig(
        name="killed",
        objective=VaeObjectiveConfig(vae=_SHAPE, crop_px=32, full_share=0.4),
        steps=steps,
        batch_size=1,
        accumulation=2,
        optim=OptimConfig(lr=1e-2),
        schedule=ScheduleConfig(warmup_steps=5),
        ema_decay=0.9,
        log_every=1,
        checkpoint_seconds=0.0,
        keep=KeepConfig(last=2, best="loss"),
    )


def survive(kills: int, steps: int, seed: int, directory: Path) -> dict[str, Any]:
    """One undisturbed run and one that is killed ``kills`` times and resumed; what happened, as numbers.

    ``kills`` counts processes that were alive when the signal came. ``identical`` is True when weights, averages and
    the optimiser's state are equal bit for bit and every step was logged once.
    """
    source = random.Random(seed)
    whole, killed = directory / "whole", directory / "killed"
    started = time.monotonic()
    _run(whole, steps, None)
    seconds = time.monotonic() - started
    start = _run(directory / "start", 1, None)  # what a process costs before and after its steps
    moments = [0.3 * start + source.uniform(0, 2 * seconds / (1.5 * kills) + start) for _ in range(kills)]
    done = [_run(killed, steps, moment) is None for moment in moments]
    at = _step(killed)
    _run(killed, steps, None)
    a, b = load_state(whole), load_state(killed)
    assert a is not None
    assert b is not None
    logged = [record["step"] for record in read_metrics(killed)]
    return {
        "kills": sum(done),
        "steps": steps,
        "step_after_last_kill": at,
        "identical": _same_run(a, b) and logged == list(range(1, steps + 1)),
    }


def _run(directory: Path, steps: int, moment: float | None) -> float | None:
    """Trains in a process of its own; killed after ``moment`` seconds. Seconds it took, None when it was killed."""
    process = multiprocessing.get_context("fork").Process(target=_train, args=(directory, steps))
    started = time.monotonic()
    process.start()
    process.join(moment)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        return None
    assert process.exitcode == 0, f"the training ended with {process.exitcode}"
    return time.monotonic() - started


def _train(directory: Path, steps: int) -> None:
    config = configuration(steps)
    resources = Resources(out=directory / "out", cache=directory / "cache")
    train(config, config.objective.build(resources, config.seed), directory)


def _step(directory: Path) -> int:
    state = load_state(directory)
    return 0 if state is None else state.step


def _same_run(a: TrainState, b: TrainState) -> bool:
    return all(_same(getattr(a, name), getattr(b, name)) for name in ("step", "horizon", "model", "optimizer", "ema"))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_same(one, other) for one, other in zip(a, b, strict=True))
    return a == b


def main() -> None:
    """Run, show and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="result file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = survive(arguments.kills, arguments.steps, arguments.seed, Path(folder))
    write(record(found, device="cpu"), arguments.out)


if __name__ == "__main__":
    main()
