"""``llada-uni convert``: a checkpoint with its experts in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llada_uni.cli import machine
from llada_uni.cli import options as opt
from llada_uni.cli import output as out

__all__ = ["convert", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("convert")(convert)


def convert(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="nano, a hub id or a directory.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Checkpoint directory to write.")],
    quantize: Annotated[
        str, typer.Option("--quantize", metavar="int8|int4|fp8|none", help="Form of the experts.")
    ] = "int4",
    as_json: opt.Json = False,
) -> None:
    """Store the experts as 8- or 4-bit integers, float8 or dense; needs memory for one layer's stack at a time."""
    from llada_uni.weights.convert import convert_checkpoint
    from llada_uni.weights.store import weight_files

    path = convert_checkpoint(model, output, quantize=quantize)  # type: ignore[arg-type]
    size = sum(file.stat().st_size for file in weight_files(path))
    if as_json:
        out.emit_json({"output": str(path), "quantize": quantize, "backbone_bytes": size})
    else:
        out.emit(f"{path}  backbone {machine.human_bytes(size)}, experts {quantize}")
