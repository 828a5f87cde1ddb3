"""Numbers about the server in the text format that Prometheus reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llada_uni.serving.engine import EngineStatus

__all__ = ["Metrics"]

_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_GAUGES = ("requests", "waiting", "reading", "rows", "drawing", "branches", "cached_bytes")
_COUNTERS = {
    "backbone_steps": "Backbone steps.",
    "backbone_branches": "Branches that took part in backbone steps.",
    "decoder_evaluations": "Evaluations of the pixel decoder.",
    "pictures_read": "Pictures turned into codes.",
    "pictures_drawn": "Codes turned into pictures.",
    "prompt_tokens": "Ids in prompts.",
    "output_tokens": "Ids written.",
    "refused": "Requests refused because the server was full.",
}


class Metrics:
    """Counts answers by path and status, and how long they took."""

    def __init__(self) -> None:
        self._answers: Counter[tuple[str, int]] = Counter()
        self._times: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()

    def add(self, path: str, status: int, seconds: float) -> None:
        """One answer. ``path`` must be one of few."""
        self._answers[path, status] += 1
        times = self._times.setdefault(path, [0] * (len(_BOUNDS_S) + 1))
        times[next((place for place, bound in enumerate(_BOUNDS_S) if seconds <= bound), len(_BOUNDS_S))] += 1
        self._seconds[path] += seconds  # type: ignore[assignment]

    def text(self, status: EngineStatus) -> str:
        """Everything, with how the engine is doing."""
        return "\n".join([*self._http(), *_engine(status)]) + "\n"

    def _http(self) -> Iterator[str]:
        yield from _head("http_requests_total", "counter", "Answers by path and status.")
        for (path, code), count in sorted(self._answers.items()):
            yield f'llada_uni_http_requests_total{{path="{path}",status="{code}"}} {count}'
        yield from _head("http_request_seconds", "histogram", "Time until an answer was complete.")
        for path, times in sorted(self._times.items()):
            total = 0
            for bound, count in zip((*_BOUNDS_S, "+Inf"), times, strict=True):
                total += count
                yield f'llada_uni_http_request_seconds_bucket{{path="{path}",le="{bound}"}} {total}'
            yield f'llada_uni_http_request_seconds_sum{{path="{path}"}} {self._seconds[path]:.6f}'
            yield f'llada_uni_http_request_seconds_count{{path="{path}"}} {total}'


def _engine(status: EngineStatus) -> Iterator[str]:
    for name in _GAUGES:
        yield from _head(name, "gauge", f"Engine: {name.replace('_', ' ')} at this moment.")
        yield f"llada_uni_{name} {getattr(status, name)}"
    for name, words in _COUNTERS.items():
        yield from _head(f"{name}_total", "counter", words)
        yield f"llada_uni_{name}_total {status.totals.get(name, 0)}"
    yield from _head("ended_total", "counter", "Requests of the engine by how they ended.")
    for name, count in sorted(status.totals.items()):
        if name.startswith("ended_"):
            yield f'llada_uni_ended_total{{outcome="{name.removeprefix("ended_")}"}} {count}'


def _head(name: str, kind: str, words: str) -> list[str]:
    return [f"# HELP llada_uni_{name} {words}", f"# TYPE llada_uni_{name} {kind}"]
