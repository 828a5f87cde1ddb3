"""What one item of a run cost, read off the results that the model gave: tokens, backbone calls, seconds by station."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from llada_uni.evaluation.items import SuiteModel

__all__ = ["Metered"]


class Metered:
    """A model whose results are looked at on their way out. One of these watches one item.

    ``usage`` adds up the counts of all results; ``timings`` the seconds of all calls by station (results of one call
    share theirs). Results that carry neither (of another kind of model) leave both empty. ``cpu_seconds`` is the
    processor time of this process since it was made.
    """

    def __init__(self, model: SuiteModel) -> None:
        self._model, self._began = model, time.process_time()
        self.usage: dict[str, int] = {}
        self.timings: dict[str, float] = {}

    @property
    def name(self) -> str:
        """What the model was opened as."""
        return self._model.name

    def spent(self) -> dict[str, Any]:
        """Ready for a record."""
        seconds = {name: round(value, 4) for name, value in self.timings.items()}
        used = time.process_time() - self._began
        return {"usage": self.usage, "timings": seconds, "cpu_seconds": round(used, 4)}

    def generate_image(self, prompt: Any, /, **options: Any) -> Any:
        """That of the model."""
        return self._seen(self._model.generate_image(prompt, **options))

    def edit_image(self, image: Any, instruction: Any, /, **options: Any) -> Any:
        """That of the model."""
        return self._seen(self._model.edit_image(image, instruction, **options))

    def understand_image(self, image: Any, question: Any, /, **options: Any) -> Any:
        """That of the model."""
        return self._seen(self._model.understand_image(image, question, **options))

    def generate_interleaved(self, prompt: Any, /, **options: Any) -> Any:
        """That of the model."""
        return self._seen(self._model.generate_interleaved(prompt, **options))

    def __getattr__(self, name: str) -> Any:
        """Whatever else the model has, unwatched."""
        return getattr(self._model, name)

    def _seen(self, results: Any) -> Any:
        every = results if isinstance(results, list) else [results]
        _add(self.usage, (getattr(one, "usage", {}) for one in every))
        _add(self.timings, (getattr(one, "timings", {}) for one in every[:1]))
        return results


def _add(total: dict[str, Any], parts: Iterable[Mapping[str, Any]]) -> None:
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
