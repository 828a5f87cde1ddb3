"""The main path, walked by any number of tasks side by side: read pictures, write ids, draw pictures.

Words become a picture in nine stations: token grid and prompt ids (``scripts``, ``requests``), then here block sampler
-> codes -> semantic features -> noise -> flow sampler -> VAE -> picture. Understanding and editing begin one station
earlier, with the image tokenizer; an answer ends after the block sampler.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llada_uni.pipeline.clock import Clock
from llada_uni.pipeline.results import AnswerDone, ImageDone, TextResult
from llada_uni.pipeline.stations import Drawing, draw_all, numbered, read, write
from llada_uni.protocols import Event
from llada_uni.sampling.block_sampler import Granularity

if TYPE_CHECKING:
    from llada_uni.pipeline.jobs import Job, Script
    from llada_uni.pipeline.networks import Networks

__all__ = ["perform"]


def perform(
    networks: Networks, jobs: Sequence[Job], granularity: Granularity = "step", *, at_once: int = 1
) -> Iterator[Event | ImageDone | AnswerDone]:
    """Carry out jobs; row n of every event is ``jobs[n]``, whose result is the one it has alone.

    Answers are done when everything is written, pictures (decoded ``at_once`` together) when all are drawn.
    """
    clock = Clock(networks)
    images = read(networks, [one.pictures for one in jobs])
    if any(images):
        clock.lap("encode")
    scripts = [one.script(codes) for one, codes in zip(jobs, images, strict=True)]
    written = yield from _write_all(networks, scripts, granularity)
    clock.lap("tokens")
    for row, answer in enumerate(written):
        if isinstance(answer, TextResult):
            yield AnswerDone(row=row, result=replace(answer, timings=clock.timings()))
    drawings = {row: one for row, one in enumerate(written) if isinstance(one, Drawing)}
    if drawings:
        pictures = yield from draw_all(networks, drawings, at_once=at_once)
        clock.lap("pixels")
        for row, drawing in drawings.items():
            yield ImageDone(row=row, result=drawing.result(pictures[row], networks.name, clock.timings()))


def _write_all(networks: Networks, scripts: Sequence[Script], granularity: Granularity) -> Iterator[Event]:
    """Run scripts to their ends; returns what each returned.

    All requests there are at a time share the backbone's steps: the first ones of all scripts, then the second ones of
    those that go on.
    """
    written: dict[int, Drawing | TextResult] = {}
    requests = {row: next(script) for row, script in enumerate(scripts)}
    while requests:
        rows = list(requests)
        finished = yield from numbered(write(networks, list(requests.values()), granularity), rows)
        requests = {}
        for row, done in zip(rows, finished, strict=True):
            try:
                requests[row] = scripts[row].send(done)
            except StopIteration as stop:
                written[row] = stop.value
    return [written[row] for row in range(len(scripts))]
