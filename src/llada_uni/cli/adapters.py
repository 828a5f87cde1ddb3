"""``llada-uni adapters``: what an adapter is, and a checkpoint with adapters merged in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out

__all__ = ["merge", "register", "show"]

_Directories = Annotated[list[Path], typer.Argument(metavar="ADAPTER...", help="Directories of adapters.")]
_Directory = Annotated[Path, typer.Argument(metavar="ADAPTER", help="Directory of an adapter.")]
_Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Checkpoint directory to write.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    room = typer.Typer(name="adapters", help="Low-rank adapters: show them, merge them.", no_args_is_help=True)
    room.command("merge")(merge)
    room.command("show")(show)
    app.add_typer(room)


def merge(
    adapters: _Directories,
    output: _Output,
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    as_json: opt.Json = False,
) -> None:
    """Write a checkpoint with adapters merged into its weights; the model itself is not changed."""
    from llada_uni.weights.adapters import merge_adapters
    from llada_uni.weights.catalog import resolve

    written = merge_adapters(resolve(model, revision), adapters, output)
    if as_json:
        out.emit_json({"output": str(written), "model": model, "adapters": [str(path) for path in adapters]})
        return
    out.emit(f"{written}")


def show(adapter: _Directory, as_json: opt.Json = False) -> None:
    """Print which network an adapter changes, its kind and its size."""
    told = _described(adapter)
    if as_json:
        out.emit_json(told)
        return
    for name, value in told.items():
        out.emit(f"{name:<12} {', '.join(value) if isinstance(value, list) else value}")


def _described(adapter: Path) -> dict[str, Any]:
    from llada_uni.config import to_mapping
    from llada_uni.weights.adapters import ADAPTER_WEIGHTS, open_adapter
    from llada_uni.weights.store import open_file

    told = open_adapter(adapter)
    entries = open_file(adapter / ADAPTER_WEIGHTS).entries
    sizes = [_product(entry.shape) for entry in entries.values()]
    fields = to_mapping(told.adapter)
    weights = len({key.rpartition(".")[0] for key in entries})
    return {"component": told.component, "base": told.base, **fields, "weights": weights, "parameters": sum(sizes)}


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
