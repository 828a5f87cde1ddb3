"""What a visitor sees of a request while it is carried out: the state of everything so far, ready for JSON.

States are cumulative, so that it does no harm when some are skipped on the way to the browser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llada_uni.pipeline.results import ImageDone
from llada_uni.protocols import BlockDone, Finished, FlowStep, Started, StepDone
from llada_uni.serving.denoising import Denoising, TextStream

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["Progress"]


class Progress:
    """Follows the events of one request.

    ``codes``: of the picture being written, None where a cell is open; None without a picture. ``steps``: denoising
    steps of what is being written. ``segments``: finished texts of a story, and None for each finished picture.
    """

    def __init__(self, networks: Networks) -> None:
        self._denoising = Denoising(networks)
        self._tokenizer = networks.tokenizer
        self._text = TextStream(networks.tokenizer)
        self._told = ""
        self.phase = "waiting"
        self.steps, self.most = 0, 0
        self.grid: list[int] | None = None
        self.codes: list[int | None] | None = None
        self.segments: list[str | None] = []
        self._confidence: list[float | None] = []
        self._steps_of: list[int | None] = []
        self._tokens: dict[int, tuple[str, float, int]] = {}
        self._flow: list[int] | None = None

    def feed(self, event: Any) -> bool:
        """Take note of an event; returns whether anything is new."""
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, BlockDone) and self.grid is None:
            self._told += self._text.feed(event.ids)
        elif isinstance(event, Finished):
            self._finish()
        elif isinstance(event, FlowStep):
            self.phase, self._flow = "drawing", [event.index + 1, event.num_steps]
        elif isinstance(event, ImageDone):
            self.segments.append(None)
        else:
            return False
        return True

    def state(self) -> dict[str, Any]:
        """Everything so far. ``at``: the step in which each cell was written, from 1; 0 for cells that were given.

        ``tokens``: [text, confidence, step] by position, None where nothing stands yet.
        """
        about: dict[str, Any] = {"phase": self.phase, "step": self.steps, "most": self.most, "flow": self._flow}
        if self.codes is not None:
            about |= {"grid": self.grid, "codes": list(self.codes)}
            about |= {"confidence": list(self._confidence), "at": list(self._steps_of)}
        longest = max(self._tokens, default=-1) + 1
        tokens = [list(self._tokens[place]) if place in self._tokens else None for place in range(longest)]
        return about | {"tokens": tokens, "text": self._told, "segments": list(self.segments)}

    def _start(self, event: Started) -> None:
        told = self._denoising.told(event)
        self.phase, self.steps, self.most, self._flow = "writing", 0, event.max_calls, None
        self.grid, self.codes = told["grid"], None
        if event.grid is None:
            self._text, self._told, self._tokens = TextStream(self._tokenizer), "", {}
            return
        count = event.grid.num_tokens
        known: list[int | None] = [None] * count
        self.codes, self._confidence, self._steps_of = known, [None] * count, [None] * count
        for place, code in zip(told["given"]["positions"], told["given"]["codes"], strict=True):
            known[place], self._steps_of[place] = code, 0

    def _step(self, event: StepDone) -> None:
        self.steps += 1
        told = self._denoising.told(event)
        if self.codes is None:
            for place, text, sure in zip(told["positions"], told["tokens"], told["confidence"], strict=True):
                self._tokens[place] = (text, sure, self.steps)
            return
        for place, code, sure in zip(told["positions"], told["codes"], told["confidence"], strict=True):
            self.codes[place], self._confidence[place], self._steps_of[place] = code, sure, self.steps

    def _finish(self) -> None:
        if self.grid is None:
            self._told += self._text.end()
            self.segments += [self._told] if self._told.strip() else []
        else:
            self.phase = "drawing"
