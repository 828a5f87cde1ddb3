"""Scores beside what they cost: the analogue of the paper's Tables 13 and 14 on SceneBench.

Every setting is a run of a suite in a folder of its own, so that a measurement goes on where it stopped and every
output is kept. Tokens per forward are ids written per backbone call, prefill included and guidance branches counted as
one; tokens per second are over the time of the token phase, as the paper's Table 13 speaks of throughput.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llada_uni.evaluation.items import SuiteModel
from llada_uni.evaluation.run import RunSettings, collect, run_suite
from llada_uni.evaluation.suites import find_suite

__all__ = ["DECODERS", "PARTS", "SPEEDS", "TABLE_13", "TABLE_14", "Setting", "cost", "measure", "measure_all"]

Tell = Callable[[str, int, int], None]
PARTS = ("generation", "understanding")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of a table: its name, what is passed on to the model, and the tasks it is for."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...] = PARTS


TABLE_13 = (Setting(name="plain"), Setting(name="sprint", options={"sprint": "paper"}))
"""The paper's comparison: plain decoding and SPRINT."""
TABLE_14 = (
    Setting(name="normal decoder", options={"decoder": "normal"}, parts=("generation",)),
    Setting(name="turbo decoder", options={"decoder": "turbo"}, parts=("generation",)),
)
"""The paper's comparison: the full decoder and the distilled one."""
SPEEDS = (
    TABLE_13[0],
    *(Setting(name=f"{steps} steps a block", options={"steps_per_block": steps}) for steps in (16, 8, 4, 2)),
    *(Setting(name=f"SPRINT {name}", options={"sprint": name}) for name in ("paper", "readme", "released")),
)
"""Steps and SPRINT presets, for both tasks: Table 13 with more rows. ``plain`` is the checkpoint's own preset."""
DECODERS = tuple(
    Setting(name=f"{kind}, {steps} steps", options={"decoder": kind, "num_steps": steps}, parts=("generation",))
    for kind, counts in (("normal", (20, 8)), ("turbo", (8, 4, 2, 1)))
    for steps in counts
)
"""Velocity evaluations of both pixel decoders: Table 14 with more rows."""


def measure_all(
    model: SuiteModel,
    settings: Sequence[Setting],
    out: Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    parts: Sequence[str] = PARTS,
    tell: Tell | None = None,
) -> dict[str, dict[str, Any]]:
    """:func:`measure` of every setting and each of its tasks that ``parts`` names, by ``"task, setting"``.

    Raises:
        ConfigError: ``out`` holds another measurement.
    """
    return {
        f"{part}, {setting.name}": measure(model, part, setting, out, limit=limit, seed=seed, tell=tell)
        for setting in settings
        for part in setting.parts
        if part in parts
    }


def measure(
    model: SuiteModel,
    part: str,
    setting: Setting,
    out: Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Score and cost of one task of SceneBench, "generation" or "understanding", under one setting.

    ``items``, ``overall`` and ``categories`` are those of the suite's report; ``cost`` is :func:`cost` of its outputs.

    Raises:
        ConfigError: the folder of this setting below ``out`` holds another run.
    """
    folder = out / f"{part}, {setting.name}".replace(", ", "-").replace(" ", "-")
    run = RunSettings(seed=seed, limit=limit, options=setting.options)
    report = run_suite(find_suite(f"scenebench_{part}"), None, folder, model=model, settings=run, tell=tell)
    found = {"items": report["items"], **(report["score"] or {"overall": None, "categories": {}})}
    return found | {"options": setting.options, "cost": cost(list(collect(folder, "outputs").values()))}


def cost(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Means over the outputs that were made and say what they cost (``items`` of them); None where none does.

    ``tokens_per_call`` and ``tokens_per_s`` are ratios of sums. Seconds are of the wall clock, loading left out, but
    for ``cpu_s_per_item``.
    """
    told = [record for record in records if record["status"] == "ok" and record.get("usage")]
    if not told:
        return None
    count = len(told)
    total = {
        name: sum(one["usage"].get(name, 0) for one in told) for name in ("output_tokens", "num_steps", "num_calls")
    }
    tokens_s = sum(one["timings"].get("tokens", 0.0) for one in told)
    whole_s = sum(one["timings"].get("total", 0.0) - one["timings"].get("load", 0.0) for one in told)
    return {
        "items": count,
        "tokens_per_item": total["output_tokens"] / count,
        "steps_per_item": total["num_steps"] / count,
        "calls_per_item": total["num_calls"] / count,
        "tokens_per_call": total["output_tokens"] / max(total["num_calls"], 1),
        "tokens_per_s": total["output_tokens"] / tokens_s if tokens_s else None,
        "tokens_s_per_item": tokens_s / count,
        "pixels_s_per_item": sum(one["timings"].get("pixels", 0.0) for one in told) / count,
        "s_per_item": whole_s / count,
        "cpu_s_per_item": sum(one.get("cpu_seconds", 0.0) for one in told) / count,
    }
