"""SceneBench v1: frozen prompts and questions with exact scores.

Generation has seven categories (the six of GenEval and text rendering); a picture counts when the verifier reads it
and the scene it reads satisfies the prompt. Understanding has eight scored families, with background and style
reported beside. ``overall`` is the mean of the category rates over regular items; items with held-out combinations
are reported separately. ``python -m llada_uni.scenes.bench --output FILE`` repeats the drawing of the items.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.scenes.bench_items import GENERATION_CATEGORIES, UNDERSTANDING_CATEGORIES, build_lines
from llada_uni.scenes.graph import SceneGraph
from llada_uni.scenes.predicates import satisfies
from llada_uni.scenes.questions import Question, is_correct
from llada_uni.scenes.serialise import from_json

__all__ = [
    "GENERATION_CATEGORIES",
    "SCENEBENCH_V1_SHA256",
    "SCORED_FAMILIES",
    "UNDERSTANDING_CATEGORIES",
    "Bench",
    "CategoryScore",
    "GenerationItem",
    "Scores",
    "UnderstandingItem",
    "answer_passes",
    "load_bench",
    "picture_passes",
    "read_frozen",
    "score",
    "select",
    "wilson",
]

SCENEBENCH_V1_SHA256 = "ea8f2ddf3801fa7ae2e5dac8fb31e787167a518ec8ec4ea17c88ce36baaed304"
SCORED_FAMILIES: tuple[str, ...] = tuple(
    name for name in UNDERSTANDING_CATEGORIES if name not in ("background", "style")
)
_FILE = "scenebench_v1.jsonl"
_Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class GenerationItem:
    """A prompt to make a picture from."""

    id: str
    category: str
    prompt: str
    held_out: bool


@dataclass(frozen=True, kw_only=True)
class UnderstandingItem:
    """A scene to render and a question about it; ``category`` is the question's family."""

    id: str
    category: str
    graph: SceneGraph
    question: Question
    held_out: bool


Item = TypeVar("Item", GenerationItem, UnderstandingItem)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The loaded benchmark with the hash of its file."""

    sha256: str
    generation: tuple[GenerationItem, ...]
    understanding: tuple[UnderstandingItem, ...]


@dataclass(frozen=True, kw_only=True)
class CategoryScore:
    """Right items out of ``total``, with the 95 % Wilson interval of the rate."""

    correct: int
    total: int

    @property
    def rate(self) -> float:
        return self.correct / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.correct, self.total)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Result of one task: ``overall`` is the mean rate of the scored categories over regular items."""

    overall: float
    interval: tuple[float, float]
    categories: dict[str, CategoryScore]
    held_out: dict[str, CategoryScore] = field(default_factory=dict)


def wilson(successes: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of a rate, in [0, 1]; (0, 1) when nothing was tried."""
    if total == 0:
        return 0.0, 1.0
    rate, z2 = successes / total, _Z95 * _Z95
    middle = (rate + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * math.sqrt(rate * (1 - rate) / total + z2 / (4 * total * total))
    low = 0.0 if successes == 0 else middle - half
    return low, 1.0 if successes == total else middle + half


def _generation_item(record: dict[str, object]) -> GenerationItem:
    return GenerationItem(
        id=str(record["id"]),
        category=str(record["category"]),
        prompt=str(record["prompt"]),
        held_out=bool(record.get("held_out", False)),
    )


def _understanding_item(record: dict[str, object]) -> UnderstandingItem:
    family, graph = str(record["family"]), record["graph"]
    assert isinstance(graph, dict)
    return UnderstandingItem(
        id=str(record["id"]),
        category=family,
        graph=from_json(graph),
        question=Question(family=family, text=str(record["question"]), answer=str(record["answer"])),
        held_out=bool(record.get("held_out", False)),
    )


def read_frozen(name: str, sha256: str, path: Path | None = None) -> tuple[str, list[Any]]:
    """Checksum and records of a frozen file of JSON lines (without its head) in the package, or at ``path``.

    Raises ``CheckpointError`` when the file is missing or differs in a single byte from the frozen one.
    """
    source = resources.files("llada_uni.scenes").joinpath(name) if path is None else path
    try:
        data = source.read_bytes()
    except OSError as error:
        raise CheckpointError(f"expected the benchmark file {name}, got {error}; reinstall the package") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CheckpointError(f"{name} was altered: expected sha256 {sha256[:12]}…, got {found[:12]}…; reinstall it")
    return found, [json.loads(line) for line in data.decode("ascii").splitlines()[1:]]


def load_bench(path: Path | None = None) -> Bench:
    """Load SceneBench v1 from the package (or from ``path``).

    Raises ``CheckpointError`` when the file is missing or differs in a single byte from the frozen one.
    """
    found, records = read_frozen(_FILE, SCENEBENCH_V1_SHA256, path)
    return Bench(
        sha256=found,
        generation=tuple(_generation_item(record) for record in records if "prompt" in record),
        understanding=tuple(_understanding_item(record) for record in records if "question" in record),
    )


def picture_passes(item: GenerationItem, graph: SceneGraph | None) -> bool:
    """Whether the scene read from a picture satisfies the prompt; ``None`` (the verifier abstained) is a failure."""
    return graph is not None and satisfies(graph, item.prompt)


def answer_passes(item: UnderstandingItem, answer: str) -> bool:
    """Whether ``answer`` is right."""
    return is_correct(item.question, answer)


def select(items: Sequence[Item], *, limit: int | None = None, seed: int = 0) -> tuple[Item, ...]:
    """A random subset of at most ``limit`` items, spread evenly over categories and held-out marks; all by default.

    The items come round by round, one of each (category, held out) at a time, so any prefix is balanced.
    """
    if limit is None or limit >= len(items):
        return tuple(items)
    if limit < 1:
        raise ConfigError(f"expected a limit of at least 1 item, got {limit}; leave it out for all items")
    rng = random.Random(seed)
    groups: dict[tuple[bool, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.held_out, item.category), []).append(item)
    for group in groups.values():
        rng.shuffle(group)
    rounds = max(len(group) for group in groups.values())
    ordered = [group[index] for index in range(rounds) for group in groups.values() if index < len(group)]
    return tuple(ordered[:limit])


def _by_category(pairs: Iterable[tuple[GenerationItem | UnderstandingItem, bool]]) -> dict[str, CategoryScore]:
    outcomes: dict[str, list[bool]] = {}
    for item, passed in pairs:
        outcomes.setdefault(item.category, []).append(bool(passed))
    return {name: CategoryScore(correct=sum(found), total=len(found)) for name, found in outcomes.items()}


def _overall(scored: Sequence[CategoryScore]) -> tuple[float, tuple[float, float]]:
    """Mean rate and an approximate 95 % interval: the Wilson intervals of independent categories, combined."""
    if not scored:
        return math.nan, (0.0, 1.0)
    mean = sum(item.rate for item in scored) / len(scored)
    below = math.sqrt(sum((item.rate - item.interval[0]) ** 2 for item in scored)) / len(scored)
    above = math.sqrt(sum((item.interval[1] - item.rate) ** 2 for item in scored)) / len(scored)
    return mean, (max(mean - below, 0.0), min(mean + above, 1.0))


def score(items: Sequence[GenerationItem | UnderstandingItem], outcomes: Sequence[bool]) -> Scores:
    """Scores of one task from one outcome per item.

    Raises ``ConfigError`` when the lengths differ.
    """
    if len(items) != len(outcomes):
        raise ConfigError(f"expected one outcome for each of {len(items)} items, got {len(outcomes)}")
    pairs = list(zip(items, outcomes, strict=True))
    regular = _by_category(pair for pair in pairs if not pair[0].held_out)
    scored = (*GENERATION_CATEGORIES, *SCORED_FAMILIES)
    overall, interval = _overall([value for name, value in regular.items() if name in scored])
    held_out = _by_category(pair for pair in pairs if pair[0].held_out)
    return Scores(overall=overall, interval=interval, categories=regular, held_out=held_out)


def _main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m llada_uni.scenes.bench", description="Draw SceneBench v1 again.")
    parser.add_argument("--output", type=Path, help="file to write; without it only the checksums are compared")
    options = parser.parse_args(arguments)
    data = ("\n".join(build_lines()) + "\n").encode("ascii")
    found = hashlib.sha256(data).hexdigest()
    if options.output is not None:
        options.output.write_bytes(data)
    sys.stdout.write(f"drawn {found}\nfrozen {SCENEBENCH_V1_SHA256}\n")
    return 0 if found == SCENEBENCH_V1_SHA256 else 1


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
