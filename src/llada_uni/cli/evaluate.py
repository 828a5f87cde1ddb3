"""``llada-uni eval``: published measurements."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llada_uni.cli import evaluate_suites
from llada_uni.cli import options as opt
from llada_uni.cli import output as out
from llada_uni.errors import ConfigError

__all__ = ["register", "scenebench", "tasks"]


def register(app: typer.Typer) -> None:
    """Add the command group to ``app``."""
    group = typer.Typer(help="Measure a model.", no_args_is_help=True)
    group.callback()(_group)
    group.command("scenebench")(scenebench)
    group.command("tasks")(tasks)
    evaluate_suites.register(group)
    app.add_typer(group, name="eval")


def _group() -> None:
    """Measure a model."""


def scenebench(
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    output: opt.Output = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Random seed.", rich_help_panel=opt.COMMON)] = 0,
    as_json: opt.Json = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = None,
    quantize: opt.Quantize = None,
    memory: opt.Memory = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="That many prompts and questions.")] = None,
    category: Annotated[list[str] | None, typer.Option("--category", help="Only this one; may be repeated.")] = None,
    steps_per_block: opt.StepsPerBlock = None,
    guidance_scale: opt.GuidanceScale = None,
    confidence_threshold: opt.ConfidenceThreshold = None,
    temperature: opt.Temperature = None,
    num_steps: opt.NumSteps = None,
    decoder: opt.Decoder = None,
    decoder_guidance: opt.DecoderGuidance = None,
    guidance_interval: opt.GuidanceInterval = None,
    step_cache: opt.StepCache = None,
    directory: Annotated[str | None, typer.Option("--out", metavar="DIR", help="Keep every output there.")] = None,
    shard: evaluate_suites.Shard = "0/1",
) -> None:
    """SceneBench v1: does the picture show what the prompt says, does the answer fit the picture."""
    path = out.target(output, as_json=as_json)
    if directory is None and shard != "0/1":
        raise ConfigError("--shard: expected --out DIR with it, where the shards meet")
    if directory is not None and category:
        raise ConfigError("--category does not work with --out; leave one of them out")

    from llada_uni.cli.loading import open_model
    from llada_uni.evaluation.scenebench import run_scenebench

    pipeline = open_model(model, revision=revision, device=device, dtype=dtype, quantize=quantize, memory=memory)
    settings = {
        "steps_per_block": steps_per_block,
        "guidance_scale": guidance_scale,
        "confidence_threshold": confidence_threshold,
        "temperature": temperature,
        "num_steps": num_steps,
        "decoder": decoder,
        "decoder_guidance": decoder_guidance,
        "guidance_interval": opt.parse_interval(guidance_interval),
        "step_cache": step_cache,
    }
    if directory is not None:
        reports = {
            part: evaluate_suites.run_into(
                f"scenebench_{part}", None, f"{directory}/{part}", lambda: pipeline, seed=seed, limit=limit,
                shard=shard, options=settings,
            )
            for part in ("generation", "understanding")
        }  # fmt: skip
        _show(reports, path, as_json=as_json)
        return
    report = run_scenebench(
        pipeline, limit=limit, seed=seed, categories=category or None, progress=_tell, settings=settings
    )
    _show(report, path, as_json=as_json)


def tasks(
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    output: opt.Output = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Random seed.", rich_help_panel=opt.COMMON)] = 0,
    as_json: opt.Json = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = None,
    quantize: opt.Quantize = None,
    memory: opt.Memory = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="That many items of every suite.")] = None,
    suite: Annotated[list[str] | None, typer.Option("--suite", help="Only this one; may be repeated.")] = None,
) -> None:
    """The task suites: riddles plain and thinking, edits, stories, comparisons, facts."""
    path = out.target(output, as_json=as_json)

    from llada_uni.cli.loading import open_model
    from llada_uni.evaluation.scenebench_tasks import run_scenebench_tasks

    pipeline = open_model(model, revision=revision, device=device, dtype=dtype, quantize=quantize, memory=memory)
    report = run_scenebench_tasks(pipeline, limit=limit, seed=seed, runs=suite or None, progress=_tell)
    _show(report, path, as_json=as_json)


def _show(report: dict[str, Any], path: Path | None, *, as_json: bool) -> None:
    if path is not None:
        import json

        from llada_uni.pipeline.files import write_atomic

        write_atomic(path, (json.dumps(report, indent=2) + "\n").encode())
    if as_json:
        out.emit_json(report)
    else:
        out.emit("\n".join(_lines(report)))


def _tell(part: str, done: int, total: int, correct: int) -> None:
    """Progress on a terminal, on one line that is written over."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        sys.stderr.write(f"\r{part} {done}/{total}, {correct / done:.1%} right {end}")
        sys.stderr.flush()


def _lines(report: dict[str, Any], prefix: str = "") -> list[str]:
    """``a.b  value`` for every number or word in the report."""
    lines: list[str] = []
    for key, value in report.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{prefix}{key}.")
        else:
            shown = f"{value:.4f}" if isinstance(value, float) else str(value)
            lines.append(f"{prefix}{key}  {shown}")
    return lines
