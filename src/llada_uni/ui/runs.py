"""One run of a form: joins the engine's requests, and says what the browser shall show as it goes on."""

from __future__ import annotations

import html
import json
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from pydantic import ValidationError

from llada_uni.errors import LladaUniError
from llada_uni.pipeline.results import ImageDone, ImageResult, TextResult
from llada_uni.serving.faults import as_fault
from llada_uni.serving.pictures import data_uri, encoded
from llada_uni.serving.running import Service, Submitted
from llada_uni.serving.tickets import Done, Preview, Wants
from llada_uni.ui.orders import Form, Order, looked_at, order
from llada_uni.ui.progress import Progress
from llada_uni.ui.sketches import Sketcher
from llada_uni.ui.snippets import curl_text, python_text

__all__ = ["Place", "Stops", "Told", "fault_line", "look", "message", "run"]

_log = logging.getLogger("llada_uni.serving")
_PREVIEWS = 6
_PACE_S = 0.1
_SKETCH_PX = 512
_LONGEST_ERROR = 300
_MOST_EARLY = 256


class Stops:
    """Runs that can be stopped by their number, also one whose stop comes before it has begun."""

    def __init__(self) -> None:
        self._live: dict[str, Callable[[], None]] = {}
        self._early: deque[str] = deque(maxlen=_MOST_EARLY)

    def begin(self, number: str, give_up: Callable[[], None]) -> None:
        """A run is under way; ``give_up`` ends it."""
        self._live[number] = give_up
        if number in self._early:
            give_up()

    def end(self, number: str) -> None:
        """It is over."""
        self._live.pop(number, None)

    def stop(self, number: str) -> None:
        """Give a run up."""
        give_up = self._live.get(number)
        if give_up is None:
            self._early.append(number)
        else:
            give_up()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run belongs: its ``number`` (given by the browser), the ``url`` of the server, and how it is stopped.

    ``sketches``: whether pictures are shown while their tokens are written.
    """

    number: str
    url: str
    sketches: bool = True
    stops: Stops = field(default_factory=Stops)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What to show: ``now`` replaces what was shown before, ``kept`` (when it is there) stays."""

    now: dict[str, Any]
    kept: dict[str, Any] | None = None


def message(about: dict[str, Any]) -> str:
    """Values as an element that the page's script reads; nothing in them is ever markup."""
    return f'<div data-llada="{html.escape(json.dumps(about, allow_nan=False), quote=True)}"></div>'


def fault_line(error: Exception) -> str:
    """One line for a visitor; nothing about what only we can mend."""
    if isinstance(error, ValidationError):
        return "The form could not be read; reload the page."
    line = " ".join(str(as_fault(error)).split())
    return line if len(line) <= _LONGEST_ERROR else line[:_LONGEST_ERROR] + "…"


async def run(service: Service, form: Form, place: Place) -> AsyncGenerator[Told, None]:
    """Carry a form out; whatever happens, the last thing told is a result or one line of error.

    When the reader leaves, everything under way is given up.
    """
    about = {"tab": form.tab, "run": place.number}
    try:
        yield Told(now=about | {"state": "running", "phase": "waiting"})
        made = await service.aside(lambda: order(service, form))
        async for told in _Run(service, made, place, about).told():
            yield told
    except Exception as error:  # a visitor sees one line, whatever it was
        if not isinstance(error, LladaUniError):
            _log.error("page: %s", type(error).__name__, exc_info=error if service.settings.show_errors else None)
        failed = about | {"state": "failed", "error": fault_line(error)}
        yield Told(now=failed, kept=failed)


async def look(service: Service, picture: Any, number: str) -> dict[str, Any]:
    """A picture as an edit will see it, or one line of error."""
    about = {"look": number}
    try:
        return about | await service.aside(lambda: looked_at(service, picture))
    except LladaUniError as error:
        return about | {"error": fault_line(error)}


class _Run:
    """One order under way."""

    def __init__(self, service: Service, made: Order, place: Place, about: dict[str, Any]) -> None:
        self._service, self._order, self._place, self._about = service, made, place, about
        self._progress = Progress(service.engine.networks)
        self._sketcher = Sketcher(service.engine)
        self._picture: dict[str, Any] = {"picture": None, "pictureStep": 0}
        self._frames: list[dict[str, Any]] = []
        self._began = self._last = time.monotonic()

    async def told(self) -> AsyncGenerator[Told, None]:
        """What to show, until the result."""
        wants = Wants(blocks=True, steps=True, previews=_PREVIEWS)
        submitted = Submitted(self._service.engine, [self._order.work], wants, None)
        self._place.stops.begin(self._place.number, submitted.cancel)
        try:
            async for heard in submitted.events():
                if isinstance(heard.event, Done):
                    yield await self._end(heard.event.result)
                elif isinstance(heard.event, ImageDone):
                    await self._add(heard.event.result)
                    yield Told(now=self._now(), kept=self._about | {"state": "running", "frames": list(self._frames)})
                elif await self._new(heard.event):
                    yield Told(now=self._now())
        finally:
            submitted.cancel()
            self._sketcher.stop()
            self._place.stops.end(self._place.number)

    async def _new(self, event: Any) -> bool:
        """Take note of an event; returns whether it is time to show something."""
        progress = self._progress
        progress.feed(event)
        if isinstance(event, Preview):
            await self._show(event.image, progress.steps)
            return True
        sketch = self._sketcher.take()
        if sketch is not None and progress.phase == "writing":
            await self._show(sketch[1], sketch[0])
        elif self._place.sketches and progress.phase == "writing":
            self._sketcher.offer(progress.codes, progress.grid, progress.steps, self._order.seed)
        due = time.monotonic() - self._last >= _PACE_S
        if due:
            self._last = time.monotonic()
        return due or sketch is not None

    async def _show(self, image: Image.Image, step: int) -> None:
        uri = await self._service.aside(lambda: _small(image))
        self._picture = {"picture": uri, "pictureStep": step}

    async def _add(self, result: ImageResult) -> None:
        """A finished picture of a story."""
        self._frames.append(await self._picture_of(result))
        self._picture = {"picture": None, "pictureStep": 0}

    def _now(self) -> dict[str, Any]:
        return self._about | {"state": "running"} | self._progress.state() | self._picture

    async def _end(self, result: Any) -> Told:
        call, networks = self._order.call, self._service.engine.networks
        keyed = bool(self._service.settings.keys)
        record: dict[str, Any] = {
            "title": call.words,
            "seed": result.seed,
            "seconds": round(time.monotonic() - self._began, 2),
            "usage": dict(result.usage),
            "python": python_text(call, networks.name),
            "curl": curl_text(call, self._place.url, needs_key=keyed),
        }
        if isinstance(result, TextResult):
            record |= {"text": result.text, "reason": result.finish_reason, "settings": _plain(result.settings)}
        elif isinstance(result, ImageResult):
            record |= await self._picture_of(result) | {"thinking": result.thinking}
        else:
            record |= {"reason": result.finish_reason, "segments": self._segments(result.segments)}
        state = self._progress.state()
        done = self._about | {"state": "done", "record": state | record}
        return Told(now=self._about | {"state": "done"}, kept=done)

    def _segments(self, segments: Any) -> list[Any]:
        """Texts as they are, pictures as what was kept of them."""
        frames = iter(self._frames)
        return [one if isinstance(one, str) else next(frames) for one in segments]

    async def _picture_of(self, result: ImageResult) -> dict[str, Any]:
        uri = await self._service.aside(lambda: data_uri(encoded(result.image)))
        state = self._progress.state()
        kept = {name: state.get(name) for name in ("grid", "codes", "confidence", "at", "step")}
        kept |= {"steps": state["step"], "settings": _plain(result.settings), "pictureSeed": result.seed}
        return kept | {"result": uri, "model": result.model, "words": result.prompt}


def _small(image: Image.Image) -> str:
    """A picture on the way, cheap to send."""
    image = image.copy()
    image.thumbnail((_SKETCH_PX, _SKETCH_PX))
    return data_uri(encoded(image, "jpeg", 88), "jpeg")


def _plain(settings: Any) -> dict[str, Any]:
    """Settings that a table can show."""
    plain = {name: f"{value[0]} to {value[1]}" if _is_pair(value) else value for name, value in settings.items()}
    return {name: value for name, value in plain.items() if isinstance(value, (str, int, float, bool))}


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(one, float) for one in value)
