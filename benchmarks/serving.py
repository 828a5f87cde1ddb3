"""Load test of ``llada-uni serve``: many clients at once against the same requests one after another.

python benchmarks/serving.py --out benchmarks/results/serving_nano.json
python benchmarks/serving.py --clients 8 --seconds 10 --count 16

The server runs in a process of its own with its default settings. Four measurements: a short text alone; text, tokens
of pictures (one evaluation of the decoder each) and a mix, one after another and by all clients at once; a short text
while all other clients ask for pictures; and the mix by all clients for some time, with the memory of the server.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from _record import ROOT, record, write

WORDS = ("apples", "boats", "houses", "stars", "fish", "trees")
WARM_UP_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request."""

    kind: str
    path: str
    json: dict[str, Any] | None = None
    data: dict[str, str] | None = None
    files: dict[str, bytes] | None = None


@dataclass
class Tally:
    """What came of calls: answers by status, and seconds by kind of the successful ones."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, call: Call, status: int, seconds: float) -> None:
        self.statuses[status] += 1
        if status == 200:
            self.seconds.setdefault(call.kind, []).append(seconds)


def picture() -> bytes:
    """Something to look at and to change."""
    image, buffer = Image.new("RGB", (128, 128), "white"), io.BytesIO()
    image.paste("red", (30, 40, 80, 90))
    image.save(buffer, "PNG")
    return buffer.getvalue()


def text(seed: int) -> Call:
    """A short text."""
    content = f"how many {WORDS[seed % len(WORDS)]} are there?"
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 32, "seed": seed}
    return Call(kind="text", path="/v1/chat/completions", json=body)


def question(seed: int) -> Call:
    """A question about a picture."""
    uri = "data:image/png;base64," + base64.b64encode(picture()).decode()
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "what colour is it?"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 32, "seed": seed}
    return Call(kind="question", path="/v1/chat/completions", json=body)


def image(seed: int, **options: Any) -> Call:
    """A picture from words."""
    body = {"prompt": f"two red {WORDS[seed % len(WORDS)]}", "seed": seed} | options
    return Call(kind="image", path="/v1/images/generations", json=body)


def change(seed: int) -> Call:
    """A picture from a picture."""
    form = {"prompt": "make it green", "seed": str(seed)}
    return Call(kind="edit", path="/v1/images/edits", data=form, files={"image": picture()})


def mix(count: int) -> list[Call]:
    """Half words, half pictures."""
    kinds = (text, image, question, text, change, image)
    return [kinds[seed % len(kinds)](seed) for seed in range(count)]


async def send(http: httpx.AsyncClient, call: Call, tally: Tally) -> int:
    """One request; what fails without an answer counts as status 0."""
    began = time.perf_counter()
    try:
        reply = await http.post(call.path, json=call.json, data=call.data, files=call.files)
        status = reply.status_code
    except httpx.HTTPError:
        status = 0
    tally.add(call, status, time.perf_counter() - began)
    return status


async def at_once(http: httpx.AsyncClient, calls: Sequence[Call], clients: int, tally: Tally) -> float:
    """All calls by so many clients; seconds."""
    waiting = iter(calls)

    async def client() -> None:
        for call in waiting:
            await send(http, call, tally)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - began


async def compared(http: httpx.AsyncClient, calls: Sequence[Call], clients: int) -> dict[str, Any]:
    """The same calls one after another and at once."""
    serial, parallel = Tally(), Tally()
    one = await at_once(http, calls, 1, serial)
    many = await at_once(http, calls, clients, parallel)
    return {
        "requests": len(calls),
        "one_after_another_s": round(one, 3),
        "at_once_s": round(many, 3),
        "times_faster": round(one / many, 3),
        "statuses": statuses(serial.statuses + parallel.statuses),
    }


async def beside_pictures(http: httpx.AsyncClient, clients: int, count: int) -> list[float]:
    """Seconds of short texts while all other clients ask for pictures."""
    seeds, ending = itertools.count(), asyncio.Event()

    async def painter() -> None:
        while not ending.is_set():
            await send(http, image(next(seeds)), Tally())

    painters = [asyncio.create_task(painter()) for _ in range(clients - 1)]
    await asyncio.sleep(2)
    tally = Tally()
    await at_once(http, [text(seed) for seed in range(count)], 1, tally)
    ending.set()
    await asyncio.gather(*painters)
    return tally.seconds.get("text", [])


async def for_some_time(http: httpx.AsyncClient, clients: int, seconds: float, pid: int) -> dict[str, Any]:
    """The mix by all clients without a pause, and what the server's memory does after a warm-up."""
    tally, memory, ending = Tally(), list[tuple[float, float]](), time.perf_counter() + seconds

    async def client(number: int) -> None:
        for call in itertools.cycle(mix(60)[number % 6 :]):
            if time.perf_counter() >= ending:
                return
            if await send(http, call, tally) == 429:
                await asyncio.sleep(1)

    async def watch() -> None:
        while time.perf_counter() < ending:
            memory.append((seconds - (ending - time.perf_counter()), resident_mib(pid)))
            await asyncio.sleep(0.5)

    await asyncio.gather(watch(), *(client(number) for number in range(clients)))
    later = [mib for at, mib in memory if at >= WARM_UP_SHARE * seconds] or [resident_mib(pid)]
    return {
        "seconds": seconds,
        "statuses": statuses(tally.statuses),
        "requests_per_s": round(tally.statuses[200] / seconds, 3),
        "seconds_by_kind": {kind: summary(values) for kind, values in sorted(tally.seconds.items())},
        "resident_mib_after_warm_up": round(later[0], 1),
        "resident_mib_at_the_end": round(later[-1], 1),
        "growth": round(later[-1] / later[0] - 1, 4),
    }


def statuses(counts: Counter[int]) -> dict[str, int]:
    """Answers by status, ready for JSON; 0 = none at all."""
    return {str(status): count for status, count in sorted(counts.items())}


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Count, median and 95th percentile."""
    if not seconds:
        return {"count": 0}
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {"count": len(ordered), "median_s": round(statistics.median(ordered), 4), "p95_s": round(p95, 4)}


def resident_mib(pid: int) -> float:
    """Memory of the server in RAM; NaN where the system does not say."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), float("nan"))


@contextmanager
def served(model: str) -> Iterator[tuple[str, int, float]]:
    """A server process: its address, its number and the seconds until it was ready."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "llada_uni", "serve", "--model", model, "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        if not first.startswith("serving "):
            raise SystemExit(first + process.stderr.read())
        ready = time.perf_counter() - began
        reader = threading.Thread(target=process.stderr.read)
        reader.start()
        try:
            yield first.split()[-1], process.pid, ready
        finally:
            process.terminate()
            reader.join()


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=2 * options.clients)
    with served(options.model) as (url, pid, ready):
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
            for call in mix(6):
                await send(http, call, Tally())
            lone = Tally()
            await at_once(http, [text(seed) for seed in range(options.count)], 1, lone)
            tokens = [image(seed, num_steps=1) for seed in range(options.count)]
            parts = {
                "text": await compared(http, [text(seed) for seed in range(options.count)], options.clients),
                "picture_tokens": await compared(http, tokens, options.clients),
                "mix": await compared(http, mix(options.count), options.clients),
            }
            beside = await beside_pictures(http, options.clients, options.count)
            load = await for_some_time(http, options.clients, options.seconds, pid)
    alone = summary(lone.seconds.get("text", []))
    crowded = summary(beside)
    return {
        "model": options.model,
        "clients": options.clients,
        "ready_s": round(ready, 2),
        "compared": parts,
        "short_text_alone": alone,
        "short_text_beside_pictures": crowded,
        "p95_beside_pictures_over_median_alone": round(crowded["p95_s"] / alone["median_s"], 3),
        "load": load,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--clients", type=int, default=32, help="at least 2")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the mix by all clients")
    parser.add_argument("--count", type=int, default=64, help="requests of each comparison")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    write(record(asyncio.run(measure(options)), device="cpu"), options.out)


if __name__ == "__main__":
    main()
