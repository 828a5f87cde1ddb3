"""Wall-clock seconds of a request by station, loading apart."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["Clock"]


class Clock:
    """Starts when it is made; ``lap`` names the seconds since the last lap that were not spent loading networks."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._began = self._last = time.perf_counter()
        self._load_began = self._load_last = networks.load_s
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Close the station ``name``; stations that come again add up."""
        now, loaded = time.perf_counter(), self._networks.load_s
        spent = now - self._last - (loaded - self._load_last)
        self._laps[name] = self._laps.get(name, 0.0) + spent
        self._last, self._load_last = now, loaded

    def timings(self) -> dict[str, float]:
        """Seconds: ``load``, one entry per lap, ``total``; shared by all rows of a batch."""
        loaded = self._networks.load_s - self._load_began
        seconds = {"load": loaded, **self._laps, "total": self._last - self._began}
        return {name: round(value, 4) for name, value in seconds.items()}
