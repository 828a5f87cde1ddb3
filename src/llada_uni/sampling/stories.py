"""Many stories of text and pictures through one block sampler.

Stories share steps whatever phase each of them is in, and none depends on the others. The rows of a story keep their
number, so that the denoiser's prefix of the main sequence survives every change of phase.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from llada_uni.protocols import BranchKey, Denoiser, Event, Finished
from llada_uni.sampling.block_sampler import Granularity, advance, plan, prefill, start
from llada_uni.sampling.interleaved import StoryRules, accept, next_request
from llada_uni.sampling.rows import Row
from llada_uni.sampling.story_state import StoryState

__all__ = ["PhaseDone", "write_stories"]

_BRANCHES = 3


@dataclass(frozen=True, kw_only=True)
class PhaseDone:
    """Event: story ``row`` finished a phase; ``state`` is where it stands now and can be continued from."""

    row: int
    phase: Literal["text", "image"]
    state: StoryState


def write_stories(
    states: Sequence[StoryState], rules: StoryRules, denoiser: Denoiser, *, granularity: Granularity = "step"
) -> Generator[Event | PhaseDone, None, list[StoryState]]:
    """Write all stories to their ends; row n is ``states[n]``.

    Yields the block sampler's events, ``Started`` to ``Finished`` for every phase, then ``PhaseDone``. Between two
    events the caller may do what it likes, such as draw the picture. Closing the generator releases the denoiser.

    Returns:
        The ended stories.
    """
    book = list(states)
    waiting = [row for row, state in enumerate(book) if state.phase != "done"]
    rows: list[Row] = []
    try:
        while rows or waiting:
            fresh, events = _open(book, waiting, rules)
            yield from events
            rows += prefill(fresh, denoiser)
            waiting.clear()
            began = time.perf_counter()
            logits = denoiser.step(plan(rows))
            rows, events = advance(rows, logits, elapsed=time.perf_counter() - began, granularity=granularity)
            for event in events:
                yield event
                if isinstance(event, Finished):
                    done = _close(book, event, rules, denoiser)
                    if done.state.phase != "done":
                        waiting.append(event.row)
                    yield done
    finally:
        denoiser.release(_keys(range(len(book)), 0))
    return book


def _open(book: Sequence[StoryState], waiting: Sequence[int], rules: StoryRules) -> tuple[list[Row], list[Event]]:
    """Rows of the next phase of the waiting stories; each has something open, so none finishes at once."""
    fresh: list[Row] = []
    events: list[Event] = []
    for number in waiting:
        rows, news = start([next_request(book[number], rules)], first_number=number)
        fresh += rows
        events += news
    return fresh, events


def _close(book: list[StoryState], finished: Finished, rules: StoryRules, denoiser: Denoiser) -> PhaseDone:
    """Enter the result in the book; what the denoiser holds of the guidance branches is of no use any more."""
    before = book[finished.row]
    assert before.phase != "done"
    book[finished.row] = accept(before, finished, rules)
    denoiser.release(_keys([finished.row], 0 if book[finished.row].phase == "done" else 1))
    return PhaseDone(row=finished.row, phase=before.phase, state=book[finished.row])


def _keys(rows: Sequence[int], first: int) -> list[BranchKey]:
    return [BranchKey(row, branch) for row in rows for branch in range(first, _BRANCHES)]
