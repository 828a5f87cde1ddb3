"""The samplers of the tasks are frozen: stored codes of groups belong to the scenes that a seed draws.

A change needs a new ``TASKS_VERSION``; ``python tests/scenes/test_frozen_tasks.py`` prints the checksums.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Callable

import pytest

from llada_uni.errors import ConfigError
from llada_uni.scenes import to_json
from llada_uni.scenes.clues import CLASSES, CLUES, HELD_OUT_CLUES
from llada_uni.scenes.facts import HELD_OUT_SUMS, MIXES, OPPOSITES
from llada_uni.scenes.tasks import GROUP_TASKS, TASKS_VERSION, sample_group

GROUPS_SHA256 = "b18fd8b35b2f3ca3b9ca980f82838bd29558a9a538f5fd113524034d56905a6f"
TABLES_SHA256 = "706eabaaf7692b9329a2676546c186d94e9948f1da50e889b93c08bde58d43df"
_GRIDS = ((8, 8), (8, 12), (12, 8))


def groups() -> object:
    """The scenes of groups of every task on every grid."""
    drawn = []
    for task in GROUP_TASKS:
        rng = random.Random(f"frozen {task}")
        for grid_h, grid_w in _GRIDS:
            found = [sample_group(rng, task, grid_h=grid_h, grid_w=grid_w) for _ in range(40)]
            drawn.append([[to_json(graph) for graph in group.graphs] for group in found])
    return [TASKS_VERSION, drawn]


def tables() -> object:
    """Clues, classes and facts, with what is held out of them."""
    mixes = sorted([*sorted(pair), mixed] for pair, mixed in MIXES.items())
    return [CLUES, HELD_OUT_CLUES, CLASSES, OPPOSITES, mixes, sorted(HELD_OUT_SUMS)]


def sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize(("value", "expected"), [(groups, GROUPS_SHA256), (tables, TABLES_SHA256)])
def test_groups_and_tables_are_frozen(value: Callable[[], object], expected: str) -> None:
    assert sha256(value()) == expected, f"{value.__name__} changed: that is another version than {TASKS_VERSION}"


def test_unknown_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of edit, story, comparison"):
        sample_group(random.Random(0), "poem")


if __name__ == "__main__":
    for function in (groups, tables):
        sys.stdout.write(f"{function.__name__} {sha256(function())}\n")
