"""Block diffusion sampling: rows to work, logits to rows and events, and a driver over the two.

``plan`` and ``advance`` are pure; everything with state is behind the denoiser. Between two steps rows may be added
(:func:`start`, then :func:`prefill`) or dropped, whatever the others are doing: no row's result depends on another's.
Whoever drives them instead of :func:`generate` calls ``sampling.sprint.thin`` before every step.

Source: released ``generate_bd`` and ``generate_bd_image``; LLaDA2.0-Uni paper §2.3.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, groupby
from typing import Literal

import torch
from torch import Tensor

from llada_uni.diffusion.unmasking import commit_in_order, commit_positions
from llada_uni.errors import CheckpointError
from llada_uni.protocols import (
    Denoiser,
    Event,
    Request,
    Started,
    StepBatch,
    StepDone,
    Timings,
)
from llada_uni.sampling.choose import choose_ids
from llada_uni.sampling.rows import Row, branch_steps, floats, integers, max_calls, open_row, prefixes
from llada_uni.sampling.seeds import stream
from llada_uni.sampling.settle import settle
from llada_uni.sampling.sprint import check_denoiser, thin
from llada_uni.sampling.wanted import by_branch, fills_in_random_order, priority, wanted_mask

__all__ = ["Granularity", "advance", "alike", "block_draws", "generate", "plan", "prefill", "start"]

Granularity = Literal["step", "block"]
"""Which events are made: every step's, or those of finished blocks only."""


def generate(requests: Sequence[Request], denoiser: Denoiser, *, granularity: Granularity = "step") -> Iterator[Event]:
    """Write the ids of all requests; row n is ``requests[n]``.

    Yields ``Started`` for every row, then events as they happen, ``Finished`` last for each row. No request's result
    depends on the others. Closing the iterator early releases what the denoiser holds.
    """
    check_denoiser(requests, denoiser)
    rows, events = start(requests)
    keys = [key for row in rows for key in row.keys]
    try:
        yield from events
        rows = prefill(rows, denoiser)
        while rows:
            began = time.perf_counter()
            thin(rows, denoiser)
            logits = denoiser.step(plan(rows))
            elapsed = time.perf_counter() - began
            rows, events = advance(rows, logits, elapsed=elapsed, granularity=granularity)
            yield from events
    finally:
        denoiser.release(keys)


def start(requests: Sequence[Request], *, first_number: int = 0) -> tuple[list[Row], list[Event]]:
    """Rows numbered from ``first_number`` and their first events; a row with nothing open is finished at once.

    Raises:
        ConfigError: a request contradicts itself.
    """
    alive: list[Row] = []
    events: list[Event] = []
    for number, request in enumerate(requests, first_number):
        row = open_row(request, number)
        events.append(
            Started(
                row=number,
                grid=request.grid,
                num_blocks=row.num_blocks,
                max_calls=max_calls(row),
                given=request.given,
            ),
        )
        settled, news = settle(row, report_text=True)
        events += news
        alive += [settled] if settled else []
    return alive, events


def prefill(rows: Sequence[Row], denoiser: Denoiser) -> list[Row]:
    """Let the denoiser read the whole prompt blocks of fresh rows."""
    if not rows:
        return []
    began = time.perf_counter()
    wanted = [prefixes(row) for row in rows]
    calls = denoiser.prefill([prefix for group in wanted for prefix in group])
    elapsed = time.perf_counter() - began
    return [
        replace(
            row,
            num_calls=row.num_calls + (calls if any(not prefix.is_empty for prefix in group) else 0),
            timings=replace(row.timings, prefill_s=row.timings.prefill_s + elapsed),
        )
        for row, group in zip(rows, wanted, strict=True)
    ]


def plan(rows: Sequence[Row]) -> StepBatch:
    """The work of the next step: every branch of every row, in order, and the ids and positions with needed logits."""
    branches = tuple(b for row in rows for b in branch_steps(row))
    longest = max(int(b.active_ids.shape[0]) for b in branches)
    return StepBatch(branches=branches, id_range=_id_range(rows), wanted=by_branch(rows, longest))


def advance(
    rows: Sequence[Row], logits: Tensor, *, elapsed: float = 0.0, granularity: Granularity = "step"
) -> tuple[list[Row], list[Event]]:
    """Commit ids from the ``logits`` of ``plan(rows)``.

    Args:
        rows: the rows that were planned.
        logits: float [branches, A, V'] for ``plan(rows).branches`` and its ``id_range``; only ``wanted`` ones are read.
        elapsed: seconds the backbone took, added to the rows' timings.
        granularity: "block" leaves out ``StepDone`` and ``TextDelta``.

    Returns:
        The rows that go on, in the same order, and the events of all rows.

    Raises:
        CheckpointError: the logits are not numbers.
    """
    choices = _choose(rows, logits)
    alive: list[Row] = []
    events: list[Event] = []
    for row, (chosen, confidence, commit) in zip(rows, choices, strict=True):
        stepped = _spend(row, elapsed)
        stepped, news = _write(stepped, chosen, confidence, commit, granularity)
        settled, more = settle(stepped, report_text=granularity == "step")
        events += news + more
        alive += [settled] if settled else []
    return alive, events


def _choose(rows: Sequence[Row], logits: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Chosen ids, confidences and commit mask of every row's active block, each [block_length] on the CPU."""
    id_range = _id_range(rows)
    offset = id_range[0] if id_range else 0
    first = list(accumulate((len(row.prompts) for row in rows), initial=0))
    results: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for group in alike(rows):
        chosen, confidence, commit = _choose_alike([rows[i] for i in group], [first[i] for i in group], logits, offset)
        results.update(zip(group, zip(chosen, confidence, commit, strict=True), strict=True))
    return [results[i] for i in range(len(rows))]


def _choose_alike(
    rows: Sequence[Row], first: Sequence[int], logits: Tensor, offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for rows with equal rules, whose branches are those from ``first`` on: each [rows, block_length]."""
    request = rows[0].request
    sampling, wanted = request.sampling, torch.stack([wanted_mask(row) for row in rows])
    draws = (
        torch.stack([block_draws(row)[row.step] for row in rows])[wanted].to(logits.device)
        if sampling.temperature > 0
        else None
    )
    choice = choose_ids(
        _picked(logits, wanted, first, len(rows[0].prompts)), offset, request, None if draws is None else draws[None]
    )
    chosen, confidence = _spread_out(choice.ids, wanted), _spread_out(choice.confidence, wanted)
    rank = None if choice.rank is None else _spread_out(choice.rank, wanted)
    if fills_in_random_order(rows[0]):
        rank = torch.stack([priority(row) for row in rows])
    open_mask = torch.stack([row.open_mask() for row in rows])
    quota = torch.tensor([row.quota for row in rows])
    threshold = torch.full((len(rows),), sampling.confidence_threshold)
    if sampling.commit_order == "sequential" and rank is None:
        commit = commit_in_order(confidence, open_mask, quota, threshold)
    else:
        commit = commit_positions(confidence, open_mask, quota, threshold, rank)
    if not bool(confidence[commit].isfinite().all()):
        raise CheckpointError("the backbone computed non-finite numbers; expected finite logits: check the weights")
    return chosen, confidence, commit


def _picked(logits: Tensor, wanted: Tensor, first: Sequence[int], num_branches: int) -> Tensor:
    """Logits [1, branches, N, V'] of the N ``wanted`` positions of all rows, out of [R, A, V'] of all branches."""
    row, position = wanted.nonzero(as_tuple=True)
    branch = torch.tensor(first)[row] + torch.arange(num_branches)[:, None]
    places = branch * logits.shape[1] + (position + logits.shape[1] - wanted.shape[1])
    picked = logits.flatten(0, 1).index_select(0, places.flatten().to(logits.device))
    return picked.view(1, *places.shape, -1)


def _spread_out(values: Tensor, wanted: Tensor) -> Tensor:
    """Values [1, N] back at their places [rows, block_length] on the CPU, 0 elsewhere."""
    return torch.zeros(wanted.shape, dtype=values.dtype).masked_scatter_(wanted, values.cpu())


def alike(rows: Sequence[Row]) -> list[list[int]]:
    """Indices of rows, grouped by equal rules, so that each group is one batch."""
    rules = [(r.request.guidance, r.request.allowed, r.request.sampling, r.request.mask_id) for r in rows]
    order = sorted(range(len(rows)), key=lambda i: rules.index(rules[i]))
    return [list(group) for _, group in groupby(order, key=lambda i: rules.index(rules[i]))]


def block_draws(row: Row) -> Tensor:
    """Uniform numbers [steps, block_length] of the row's active block, the same on every machine and in every batch."""
    generator = stream(row.request.seed, "tokens", row.block)
    return torch.rand(len(row.quotas), row.request.sampling.block_length, generator=generator)


def _id_range(rows: Sequence[Row]) -> tuple[int, int] | None:
    if any(row.request.guidance.needs_vocabulary for row in rows):
        return None
    allowed = [row.request.allowed for row in rows]
    return min(a.start for a in allowed), max(a.stop for a in allowed)


def _spend(row: Row, elapsed: float) -> Row:
    timings = Timings(prefill_s=row.timings.prefill_s, denoise_s=row.timings.denoise_s + elapsed)
    return replace(row, num_steps=row.num_steps + 1, num_calls=row.num_calls + 1, cached=row.block, timings=timings)


def _write(
    row: Row, chosen: Tensor, confidence: Tensor, commit: Tensor, granularity: Granularity
) -> tuple[Row, list[Event]]:
    """Put committed ids in place; nothing already final changes."""
    end = row.span(row.block)[1]
    where = commit.nonzero().squeeze(-1)
    positions = where + (end - row.request.sampling.block_length)
    ids = row.ids.index_copy(0, positions, chosen[where])
    events: list[Event] = []
    if granularity == "step":
        events.append(
            StepDone(
                row=row.number,
                block=row.block,
                step=row.step,
                positions=tuple(integers(positions)),
                ids=tuple(integers(chosen[where])),
                confidence=tuple(floats(confidence[where])),
            )
        )
    return replace(row, ids=ids, step=row.step + 1), events
