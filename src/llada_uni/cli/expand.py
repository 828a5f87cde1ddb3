"""``llada-uni expand``: a text-only model gets rows for image codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out
from llada_uni.errors import ConfigError

__all__ = ["expand", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("expand")(expand)


def expand(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="Text-only model: a hub id or a directory.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Checkpoint directory to write.")],
    codes: Annotated[int | None, typer.Option("--codes", metavar="N", help="Size of the codebook.")] = None,
    components: Annotated[
        str | None, typer.Option("--components", metavar="MODEL", help="Take the other networks from this model.")
    ] = None,
    rows: Annotated[
        str, typer.Option("--rows", metavar="random|codebook", help="How embedding rows of codes start.")
    ] = "random",
    head: Annotated[str, typer.Option("--head", metavar="zero|small", help="How their head rows start.")] = "zero",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Random seed.")] = 0,
    as_json: opt.Json = False,
) -> None:
    """Make a text-only LLaDA2.0 model unified: image codes in its embedding and head, text rows untouched."""
    from llada_uni.weights.expand import NewRows, expand_vocabulary
    from llada_uni.weights.parts import load_backbone_config

    if rows not in ("random", "codebook") or head not in ("zero", "small"):
        raise ConfigError(f"expected --rows random or codebook and --head zero or small, got {rows!r} and {head!r}")
    start = NewRows(embedding=rows, head=head, seed=seed)  # type: ignore[arg-type]
    written = expand_vocabulary(source, output, num_codes=codes, components=components, rows=start)
    config = load_backbone_config(written)
    if as_json:
        sizes = {"vocab_size": config.vocab_size, "image_token_offset": config.image_token_offset}
        out.emit_json({"output": str(written), **sizes})
        return
    out.emit(f"{written}  {config.vocab_size} ids, image codes from {config.image_token_offset}")
