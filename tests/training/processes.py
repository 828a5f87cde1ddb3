"""Several processes for a test: forked, so that they cost little, and joined by gloo through a file."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def in_processes(count: int, directory: Path, work: Callable[[int], Any], *, timeout: float = 300.0) -> list[Any]:
    """``work(rank)`` in ``count`` processes that are one group; what they returned, by rank.

    A process that raises ends the test with its traceback.
    """
    directory.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(dir=directory))
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_one, args=(rank, count, own, work)) for rank in range(count)]
    for process in processes:
        process.start()
    end = time.monotonic() + timeout
    running = list(processes)
    while running and time.monotonic() < end:
        connection.wait([process.sentinel for process in running], timeout=end - time.monotonic())
        running = [process for process in running if process.is_alive()]
        if any(process.exitcode for process in processes):
            end = min(end, time.monotonic() + 5)  # the others wait for one that will not come
    for process in running:
        process.kill()
    told = "\n".join(path.read_text() for path in sorted(own.glob("failed-*")))
    assert not told, told
    assert not running, f"{len(running)} of {count} processes did not end in {timeout:g} s"
    return [torch.load(own / f"result-{rank}.pt", weights_only=False) for rank in range(count)]


def _one(rank: int, count: int, directory: Path, work: Callable[[int], Any]) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", store=dist.FileStore(str(directory / "store"), count), rank=rank, world_size=count
        )
        torch.save(work(rank), directory / f"result-{rank}.pt")
        dist.destroy_process_group()
    except BaseException:
        (directory / f"failed-{rank}").write_text(traceback.format_exc())
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)
