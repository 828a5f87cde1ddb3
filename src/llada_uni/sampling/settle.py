"""What follows from ids that became final: reported text, finished blocks, the end of a row."""

from __future__ import annotations

from dataclasses import replace

from llada_uni.grid import TokenGrid
from llada_uni.protocols import BlockDone, Event, Finished, FinishReason, HeaderSeen, TextDelta, Usage
from llada_uni.sampling.rows import Row, integers

__all__ = ["settle"]


def settle(row: Row, *, report_text: bool) -> tuple[Row | None, list[Event]]:
    """Announce final text, close finished blocks, and finish the row (None) where its rules say so.

    Text ends at the first stop id before which everything is final; a picture, and text without a stop id, when all
    ``num_tokens`` ids are final, even if surplus positions behind them are still open: those cannot change them.

    Source: released ``generate_bd``, which looks for the stop id from the start of the prompt; we look behind it.
    """
    reason, length = _end(row)
    events: list[Event] = []
    if report_text and row.request.grid is None:
        row, events = _report(row, length - (reason in ("stop", "header")))
    while reason or not bool(row.open_mask().any()):
        first, last = row.span(row.block)
        final = integers(row.ids[first : min(last, length) if reason else last])
        events.append(
            BlockDone(row=row.number, block=row.block, start=first, ids=tuple(final), num_steps=row.step),
        )
        if reason and last >= length:
            return None, events + _finish(row, reason, length)
        row = replace(row, block=row.block + 1, step=0)
    return row, events


def _end(row: Row) -> tuple[FinishReason | None, int]:
    """Why the row ends and after how many output ids; without a reason, how many leading ids are final."""
    request = row.request
    ids = integers(row.ids[: request.num_tokens])
    final = ids.index(request.mask_id) if request.mask_id in ids else len(ids)
    stop = next((i for i, token in enumerate(ids[:final]) if token in request.stop_ids), None)
    if stop is not None:
        return ("header" if _header(row, stop + 1) else "stop"), stop + 1
    if final == len(ids):
        return ("length" if request.grid is None else "image"), final
    return None, final


def _report(row: Row, length: int) -> tuple[Row, list[Event]]:
    if length <= row.reported:
        return row, []
    ids = tuple(integers(row.ids[row.reported : length]))
    return replace(row, reported=length), [TextDelta(row=row.number, start=row.reported, ids=ids)]


def _finish(row: Row, reason: FinishReason, length: int) -> list[Event]:
    usage = Usage(
        prompt_tokens=row.prompt_length,
        output_tokens=length,
        num_blocks=row.block + 1,
        num_steps=row.num_steps,
        num_calls=row.num_calls,
    )
    ids = tuple(integers(row.ids[:length]))
    done = Finished(row=row.number, reason=reason, output_ids=ids, usage=usage, timings=row.timings)
    grid = _header(row, length)
    if reason != "header" or grid is None:
        return [done]
    return [HeaderSeen(row=row.number, grid_h=grid.grid_h, grid_w=grid.grid_w), done]


def _header(row: Row, length: int) -> TokenGrid | None:
    """Grid of the picture header that the first ``length`` output ids end with."""
    read = row.request.header_grid
    return read((*row.request.prompts[0], *integers(row.ids[:length]))) if read else None
