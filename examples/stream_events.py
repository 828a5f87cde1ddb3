"""Watch a picture come into being: codes commit from the most to the least certain, then pixels leave the noise.

python examples/stream_events.py [MODEL]
"""

from __future__ import annotations

import sys

from llada_uni import LladaUni
from llada_uni.pipeline import ImageDone
from llada_uni.protocols import FlowStep, Started, StepDone


def drawn(cells: list[str], columns: int) -> str:
    """The token grid as text: ``#`` final, ``.`` still masked."""
    return "\n".join("".join(cells[first : first + columns]) for first in range(0, len(cells), columns))


def main(name: str = "nano") -> None:
    """One picture, event by event."""
    model = LladaUni.from_pretrained(name)
    cells: list[str] = []
    columns = 1
    for event in model.stream_image("a pink balloon", seed=5):
        if isinstance(event, Started) and event.grid is not None:
            columns, cells = event.grid.grid_w, ["."] * event.grid.num_tokens
        elif isinstance(event, StepDone):
            for position in event.positions:
                if position < len(cells):
                    cells[position] = "#"
            print(f"block {event.block}, step {event.step}: least certain {min(event.confidence):.2f}")
            print(drawn(cells, columns))
        elif isinstance(event, FlowStep):
            print(f"decoder step {event.index + 1} of {event.num_steps}")
        elif isinstance(event, ImageDone):
            print(event.result.save("balloon.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
