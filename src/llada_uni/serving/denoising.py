"""Events of the samplers as a stream shows them: text that only grows, and steps of denoising as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llada_uni.protocols import FlowStep, Started, StepDone

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks
    from llada_uni.vocab import TextTokenizer

__all__ = ["Denoising", "TextStream"]

_HALF = "\ufffd"


class TextStream:
    """Ids of finished blocks to pieces of text whose sum is the whole text, stripped.

    White space at the end and half-written characters wait for what follows.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._sent = ""

    def feed(self, ids: Sequence[int]) -> str:
        """What can be said now."""
        self._ids += ids
        return self._more(self._tokenizer.decode(self._ids).lstrip().rstrip(_HALF).rstrip())

    def end(self) -> str:
        """What was still waiting."""
        return self._more(self._tokenizer.decode(self._ids).strip())

    def _more(self, text: str) -> str:
        if not text.startswith(self._sent):
            return ""
        piece, self._sent = text[len(self._sent) :], text
        return piece


class Denoising:
    """Steps as JSON-ready values: text tokens as strings, picture tokens as codes on their grid."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._count: int | None = None

    def told(self, event: Started | StepDone | FlowStep) -> dict[str, Any]:
        """One event."""
        if isinstance(event, FlowStep):
            return {"type": "flow", "step": event.index + 1, "num_steps": event.num_steps}
        if isinstance(event, Started):
            return self._start(event)
        about = {"type": "step", "block": event.block, "step": event.step}
        rounded = [round(value, 4) for value in event.confidence]
        return about | self._tokens(event.positions, event.ids, rounded)

    def _start(self, event: Started) -> dict[str, Any]:
        self._count = None if event.grid is None else event.grid.num_tokens
        about: dict[str, Any] = {"type": "start", "num_blocks": event.num_blocks, "max_calls": event.max_calls}
        if event.grid is None:
            return about | {"grid": None}
        known = self._tokens(list(event.given), list(event.given.values()), [1.0] * len(event.given))
        return about | {"grid": [event.grid.grid_h, event.grid.grid_w], "given": known}

    def _tokens(self, positions: Sequence[int], ids: Sequence[int], confidence: Sequence[float]) -> dict[str, Any]:
        """What stands at which position; positions behind the last code are no part of a picture."""
        if self._count is None:
            texts = [self._networks.tokenizer.decode([one]) for one in ids]
            return {"positions": list(positions), "tokens": texts, "confidence": list(confidence)}
        kept = [place for place, position in enumerate(positions) if position < self._count]
        return {
            "positions": [positions[place] for place in kept],
            "codes": self._networks.vocab.to_codes([ids[place] for place in kept]),
            "confidence": [confidence[place] for place in kept],
        }
