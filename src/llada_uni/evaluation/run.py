"""Runs a suite on a model: resumable, sharded over processes, every raw output and verdict kept.

In the output directory: ``run.json`` (what was run, seeds, dtype, versions), ``outputs/I-of-N.jsonl`` (one record per
item), ``verdicts/I-of-N.jsonl``, ``pictures/`` in the layout of the suite's own scorer, ``report.json``, ``report.md``.
"""

from __future__ import annotations

import hashlib
import io
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llada_uni.errors import ConfigError, LladaUniError
from llada_uni.evaluation.items import BadItem, Item, JudgeError, Judges, Output, Suite, SuiteModel
from llada_uni.evaluation.manifest import manifest, settle_manifest
from llada_uni.evaluation.meter import Metered
from llada_uni.evaluation.records import Journal, last_of_each, read_lines
from llada_uni.evaluation.report import write_report
from llada_uni.pipeline.files import write_atomic

__all__ = ["RunSettings", "collect", "item_seed", "load_items", "parse_shard", "run_suite"]

OK, BAD, FAILED, TIMEOUT = "ok", "bad_data", "failed", "timeout"
UNJUDGED, JUDGE_FAILED, JUDGE_TIMEOUT = "unjudged", "judge_failed", "judge_timeout"
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a suite is run. ``shard`` is (index, count), index from 0; ``timeout_s`` is for one item of the model."""

    seed: int = 0
    limit: int | None = None
    shard: tuple[int, int] = (0, 1)
    timeout_s: float | None = None
    retry_failed: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def run_suite(
    suite: Suite,
    data: Path | None,
    out: Path,
    *,
    model: SuiteModel | None,
    judges: Judges | None = None,
    settings: RunSettings | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Perform and judge this shard's items that are not done yet, then write the report over all shards' records.

    With ``model`` None nothing is performed: outputs that are there are judged and the report is written (merging).

    Raises:
        ConfigError: the data cannot be read at all, or ``out`` holds a different run.
        ResourceError: the disk is full or not writable.
    """
    settings = settings or RunSettings()
    entries = load_items(suite, data, limit=settings.limit, seed=settings.seed)
    settle_manifest(out, manifest(suite, data, entries, model=model, settings=settings), resume_only=model is None)
    mine = [entry for index, entry in enumerate(entries) if index % settings.shard[1] == settings.shard[0]]
    if model is not None:
        _perform_all(suite, mine, out, model, settings, tell)
    _judge_all(suite, entries if model is None else mine, out, judges or Judges(), settings, tell)
    return write_report(suite, entries, out)


def load_items(suite: Suite, data: Path | None, *, limit: int | None, seed: int) -> list[Item | BadItem]:
    """The suite's entries, or ``limit`` of them drawn with ``seed``, in the order of the file.

    Raises:
        ConfigError: no such data, no entries, two of one id, or a limit below 1.
    """
    if suite.data_help and (data is None or not data.exists()):
        found = "none given" if data is None else f"nothing at {str(data)!r}"
        raise ConfigError(f"{suite.name}: expected --data with {suite.data_help}; {found}")
    if limit is not None and limit < 1:
        raise ConfigError(f"expected a limit of at least 1, got {limit}")
    entries = [_inside(suite, entry) for entry in suite.load(data)]
    ids = [entry.id for entry in entries]
    if not entries:
        raise ConfigError(f"{suite.name}: {data} holds no items; expected {suite.data_help}")
    if len(set(ids)) < len(ids):
        double = next(name for name in ids if ids.count(name) > 1)
        raise ConfigError(f"{suite.name}: two items are called {double!r} in {data}")
    if limit is None or limit >= len(entries):
        return entries
    kept = set(random.Random(f"{seed}/{suite.name}").sample(range(len(entries)), limit))
    return [entry for index, entry in enumerate(entries) if index in kept]


def _inside(suite: Suite, entry: Item | BadItem) -> Item | BadItem:
    """An item whose pictures would be written outside the output directory is a bad one."""
    if isinstance(entry, Item) and suite.picture_name is not None:
        steps = Path(suite.picture_name(entry, 0))
        if ".." in steps.parts or steps.is_absolute():
            return BadItem(id=entry.id, reason="its id leaves the output directory", parts=entry.parts)
    return entry


def item_seed(seed: int, item: str, sample: int) -> int:
    """Seed of one sample: it depends on neither shard nor order. Source: SHA-256 of ``seed/item/sample``, 31 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{item}/{sample}".encode()).digest()[:4], "big") >> 1


def parse_shard(text: str) -> tuple[int, int]:
    """(index, count) of ``"I/N"``, index from 0.

    Raises:
        ConfigError: not of that form, or I is not in 0…N-1.
    """
    left, _, right = text.partition("/")
    if left.isdigit() and right.isdigit() and int(left) < int(right):
        return int(left), int(right)
    raise ConfigError(f"--shard: expected I/N with I from 0 to N-1, such as 0/4, got {text!r}")


def collect(out: Path, kind: str) -> dict[str, dict[str, Any]]:
    """The latest record of every item over all shards; ``kind`` is "outputs" or "verdicts"."""
    return last_of_each(sorted(read_lines(sorted((out / kind).glob("*.jsonl"))), key=lambda r: r.get("time", 0.0)))


def _perform_all(
    suite: Suite,
    entries: Sequence[Item | BadItem],
    out: Path,
    model: SuiteModel,
    settings: RunSettings,
    tell: Tell | None,
) -> None:
    done = collect(out, "outputs")
    with Journal(out / "outputs" / _shard_name(settings)) as journal:
        for number, entry in enumerate(entries, 1):
            before = done.get(entry.id)
            if before is None or (settings.retry_failed and before["status"] != OK):
                journal.append(_performed(suite, entry, out, model, settings))
            if tell is not None:
                tell("performed", number, len(entries))


def _performed(
    suite: Suite, entry: Item | BadItem, out: Path, model: SuiteModel, settings: RunSettings
) -> dict[str, Any]:
    record: dict[str, Any] = {"id": entry.id, "time": time.time()}
    if isinstance(entry, BadItem):
        return record | {"status": BAD, "error": entry.reason}
    seeds = [item_seed(settings.seed, entry.id, sample) for sample in range(entry.samples)]
    record |= {"prompt": entry.prompt, "seeds": seeds}
    start, meter = time.perf_counter(), Metered(model)
    try:
        with _time_limit(settings.timeout_s):
            text, images = suite.perform(meter, entry, seeds, settings.options)
    except _TimeUp:
        return record | {"status": TIMEOUT, "error": f"no answer within {settings.timeout_s} s"}
    except LladaUniError as error:
        return record | {"status": FAILED, "error": f"{type(error).__name__}: {error}"}
    except (MemoryError, torch.OutOfMemoryError):
        return record | {"status": FAILED, "error": "out of memory; choose a smaller size or fewer samples"}
    record |= meter.spent()
    names = _store(suite, entry, images, out)
    return record | {"status": OK, "text": text, "pictures": names, "seconds": round(time.perf_counter() - start, 3)}


def _store(suite: Suite, item: Item, images: Sequence[Any], out: Path) -> list[str]:
    names = []
    for index, image in enumerate(images):
        relative = suite.picture_name(item, index) if suite.picture_name else f"{_safe(item.id)}_{index}.png"
        _write(out / "pictures" / relative, _encoded(image, relative))
        names.append(f"pictures/{relative}")
    for relative, content in (suite.extra_files(item) if suite.extra_files else {}).items():
        _write(out / "pictures" / relative, content)
    return names


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)


def _judge_all(
    suite: Suite, entries: Sequence[Item | BadItem], out: Path, judges: Judges, settings: RunSettings, tell: Tell | None
) -> None:
    outputs, verdicts = collect(out, "outputs"), collect(out, "verdicts")
    if suite.judge is None or not _has_judge(suite, judges):
        return
    with Journal(out / "verdicts" / _shard_name(settings)) as journal:
        for number, entry in enumerate(entries, 1):
            output = outputs.get(entry.id)
            if isinstance(entry, Item) and output is not None and output["status"] == OK:
                before = verdicts.get(entry.id)
                stale = before is not None and before.get("output_time") != output["time"]
                if before is None or stale or (settings.retry_failed and before["status"] != OK):
                    journal.append(_judged(suite, entry, output, out, judges))
            if tell is not None:
                tell("judged", number, len(entries))


def _judged(suite: Suite, item: Item, output: dict[str, Any], out: Path, judges: Judges) -> dict[str, Any]:
    record = {"id": item.id, "time": time.time(), "output_time": output["time"]}
    assert suite.judge is not None
    try:
        answer = Output(text=output["text"], pictures=tuple(output["pictures"]))
        verdict = suite.judge(item, answer, out, judges)
    except JudgeError as error:
        status = JUDGE_TIMEOUT if error.timed_out else JUDGE_FAILED
        return record | {"status": status, "error": str(error), "reply": error.reply}
    assert len(verdict.parts) == len(item.parts), f"{suite.name}: {len(verdict.parts)} scores for {item.parts}"
    return record | {"status": OK, "score": verdict.score, "parts": list(verdict.parts), "details": verdict.details}


def _has_judge(suite: Suite, judges: Judges) -> bool:
    return suite.judge_kind == "none" or getattr(judges, suite.judge_kind, None) is not None


def _shard_name(settings: RunSettings) -> str:
    return f"{settings.shard[0]}-of-{settings.shard[1]}.jsonl"


def _encoded(image: Any, name: str) -> bytes:
    buffer = io.BytesIO()
    if name.endswith(".webp"):
        image.save(buffer, "WEBP", lossless=True)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


class _TimeUp(Exception):
    pass


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Raise _TimeUp in the body after ``seconds``; only in a main thread on a system with interval timers."""
    if seconds is None:
        yield
        return
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        raise ConfigError("--timeout works in the main thread on Unix only; leave it out here")

    def ring(*_: Any) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
