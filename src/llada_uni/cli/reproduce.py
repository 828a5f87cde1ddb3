"""``llada-uni reproduce paper-table-N``: commands, data and expected values, and the analogue on nano."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out

if TYPE_CHECKING:
    from llada_uni.evaluation.reproduce import Recipe

__all__ = ["register", "reproduce"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("reproduce")(reproduce)


def reproduce(
    table: Annotated[str, typer.Argument(metavar="paper-table-N", help="N from 2 to 14.")],
    weights: Annotated[
        str, typer.Option("--weights", metavar="ID|DIR", help="The weights that the printed commands name.")
    ] = "inclusionAI/LLaDA2.0-Uni",
    model: opt.Model = "nano",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Random seed.", rich_help_panel=opt.COMMON)] = 0,
    as_json: opt.Json = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="Items of the analogue.")] = 28,
    directory: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Keep every output of the analogue there.")
    ] = None,
    run: Annotated[bool, typer.Option("--run/--no-run", help="Run the analogue.")] = True,
) -> None:
    """How a table of the paper is made, and the same kind of measurement on nano."""
    from llada_uni.cli.evaluate_suites import tell_progress
    from llada_uni.evaluation.reproduce import find_table, recipe, run_analogue

    number = find_table(table)
    found = recipe(number, model=weights)
    if not as_json:
        out.emit("\n".join(_lines(found)))
    measured = None
    if run:
        from llada_uni.cli.loading import open_model

        pipeline = open_model(model, revision=None, device=device, dtype=dtype)
        with tempfile.TemporaryDirectory() as spare:
            kept = Path(directory or spare)
            measured = run_analogue(number, pipeline, kept, limit=limit, seed=seed, tell=tell_progress)
    if as_json:
        from dataclasses import asdict

        out.emit_json({**asdict(found), "model": model if run else None, "measured": measured})
    elif measured is not None:
        out.emit(f"\nMeasured with {model}, at most {limit} items: {found.analogue}")
        out.emit("\n".join(_scores(measured)))


def _lines(found: Recipe) -> list[str]:
    lines = [f"Table {found.table}: {found.title}", "", "Commands", *(f"  {one}" for one in found.commands)]
    needed = {text: [n for n, t in found.data.items() if t == text] for text in found.data.values()}
    lines += ["", "Data (DATA/NAME stands for your copy)", *(f"  {', '.join(n)}: {t}" for t, n in needed.items())]
    lines += ["", "Expected, as the paper prints it", *(f"  {n}: {_flat(v)}" for n, v in found.expected.items())]
    return [*lines, "", "Not known", *(f"  {one}" for one in found.unknown)]


def _flat(value: Any, *, inside: bool = False) -> str:
    if not isinstance(value, dict):
        return str(value)
    words = ", ".join(f"{key} {_flat(one, inside=True)}" for key, one in value.items())
    return f"({words})" if inside else words


def _scores(measured: dict[str, Any]) -> list[str]:
    lines = []
    for name, one in measured.items():
        overall = one.get("overall") if isinstance(one, dict) else None
        if isinstance(overall, dict):
            low, high = overall["interval"]
            told = f"  {name}: {overall['value']:.3f} ({low:.3f} to {high:.3f}, {overall['items']} items)"
            lines.append(told + _cost(one.get("cost")))
        elif isinstance(overall, float):
            low, high = one["interval"]
            lines.append(f"  {name}: {overall:.3f} ({low:.3f} to {high:.3f})")
        else:
            lines.append(f"  {name}: {one if not isinstance(one, dict) else 'no score'}")
    return lines


def _cost(cost: dict[str, Any] | None) -> str:
    if cost is None:
        return ""
    speed = "" if cost["tokens_per_s"] is None else f", {cost['tokens_per_s']:.1f} tokens/s"
    return f"; {cost['tokens_per_call']:.2f} tokens per forward{speed}, {cost['s_per_item']:.2f} s an item"
