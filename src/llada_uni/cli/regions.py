"""``llada-uni inpaint``, ``outpaint`` and ``vary``: part of a picture predicted anew, the rest kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out
from llada_uni.cli.filming import check_film_path, follow_filmed
from llada_uni.cli.generate import check_picture_path, write_picture
from llada_uni.errors import ConfigError

if TYPE_CHECKING:
    from llada_uni.pipeline import LladaUni

__all__ = ["inpaint", "outpaint", "register", "vary"]

_REGION = "Region options (exactly one of the first four)"

Picture = Annotated[
    str, typer.Argument(metavar="IMAGE", help="A picture or a codes file (.json); - reads standard input.")
]
Words = Annotated[
    str,
    typer.Argument(
        metavar="PROMPT", help="An instruction with --reference, else what the picture shows; - reads standard input."
    ),
]
Reference = Annotated[
    bool, typer.Option("--reference/--no-reference", help="Show the source picture to the model in the prompt.")
]
Blend = Annotated[
    bool, typer.Option("--blend/--no-blend", help="Keep the source's pixels outside the region, exactly.")
]
BlockLength = Annotated[
    int | None,
    typer.Option("--block-length", metavar="N", help="Tokens predicted together.", rich_help_panel=opt.SAMPLING),
]
GuidanceText = Annotated[
    float | None,
    typer.Option("--guidance-text", metavar="W", help="With --reference; 1 is off.", rich_help_panel=opt.SAMPLING),
]
GuidanceImage = Annotated[
    float | None,
    typer.Option("--guidance-image", metavar="W", help="With --reference; 0 is off.", rich_help_panel=opt.SAMPLING),
]
Scale = Annotated[
    float | None,
    typer.Option("--guidance-scale", metavar="W", help="With --no-reference; 1 is off.", rich_help_panel=opt.SAMPLING),
]


def register(app: typer.Typer) -> None:
    """Add the three commands to ``app``."""
    for command in (inpaint, outpaint, vary):
        app.command(command.__name__)(command)


def inpaint(
    image: Picture,
    prompt: Words,
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    output: opt.Output = None,
    seed: opt.Seed = None,
    as_json: opt.Json = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = None,
    quantize: opt.Quantize = None,
    memory: opt.Memory = None,
    mask: Annotated[
        str | None,
        typer.Option("--mask", metavar="FILE", help="Transparent (or white) = predict.", rich_help_panel=_REGION),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option("--box", metavar="L,T,R,B", help="In pixels of IMAGE.", rich_help_panel=_REGION),
    ] = None,
    cells: Annotated[
        str | None,
        typer.Option("--cells", metavar="R,C;R,C...", help="Rows and columns from 0.", rich_help_panel=_REGION),
    ] = None,
    keep_cells: Annotated[
        str | None,
        typer.Option("--keep-cells", metavar="R,C;R,C...", help="All others are predicted.", rich_help_panel=_REGION),
    ] = None,
    strength: Annotated[
        float, typer.Option("--strength", metavar="S", help="Share of the cells, 0 to 1.", rich_help_panel=_REGION)
    ] = 1.0,
    reference: Reference = True,
    blend: Blend = True,
    film: opt.Film = None,
    block_length: BlockLength = None,
    steps_per_block: opt.StepsPerBlock = None,
    guidance_scale: Scale = None,
    guidance_text: GuidanceText = None,
    guidance_image: GuidanceImage = None,
    confidence_threshold: opt.ConfidenceThreshold = None,
    temperature: opt.Temperature = None,
    num_steps: opt.NumSteps = None,
    decoder: opt.Decoder = None,
    decoder_guidance: opt.DecoderGuidance = None,
    guidance_interval: opt.GuidanceInterval = None,
    step_cache: opt.StepCache = None,
) -> None:
    """Predict a region of a picture anew; everything outside it stays as it is."""
    values = locals()
    where = {
        "mask": mask,
        "box": _parsed_box(box),
        "cells": _parsed_cells(cells, "--cells"),
        "keep_cells": _parsed_cells(keep_cells, "--keep-cells"),
        "strength": strength,
    }
    _run(values, lambda pipeline: pipeline.stream_inpaint, where)


def outpaint(
    image: Picture,
    prompt: Words,
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    output: opt.Output = None,
    size: opt.Size = None,
    seed: opt.Seed = None,
    as_json: opt.Json = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = None,
    quantize: opt.Quantize = None,
    memory: opt.Memory = None,
    anchor: Annotated[
        str,
        typer.Option("--anchor", metavar="PLACE", help="Where the picture lies: center, top, left, bottom-right, ..."),
    ] = "center",
    reference: Reference = True,
    blend: Blend = True,
    film: opt.Film = None,
    block_length: BlockLength = None,
    steps_per_block: opt.StepsPerBlock = None,
    guidance_scale: Scale = None,
    guidance_text: GuidanceText = None,
    guidance_image: GuidanceImage = None,
    confidence_threshold: opt.ConfidenceThreshold = None,
    temperature: opt.Temperature = None,
    num_steps: opt.NumSteps = None,
    decoder: opt.Decoder = None,
    decoder_guidance: opt.DecoderGuidance = None,
    guidance_interval: opt.GuidanceInterval = None,
    step_cache: opt.StepCache = None,
) -> None:
    """Put a picture on a larger one of --size and predict what surrounds it."""
    values = locals()
    height, width = opt.parse_optional_size(size)
    where = {"height": height, "width": width, "anchor": anchor}
    _run(values, lambda pipeline: pipeline.stream_outpaint, where)


def vary(
    image: Picture,
    prompt: Words,
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    output: opt.Output = None,
    seed: opt.Seed = None,
    as_json: opt.Json = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = None,
    quantize: opt.Quantize = None,
    memory: opt.Memory = None,
    strength: Annotated[
        float, typer.Option("--strength", metavar="S", help="Share of the cells that is predicted, 0 to 1.")
    ] = 0.5,
    reference: Reference = False,
    blend: Blend = False,
    film: opt.Film = None,
    block_length: BlockLength = None,
    steps_per_block: opt.StepsPerBlock = None,
    guidance_scale: Scale = None,
    guidance_text: GuidanceText = None,
    guidance_image: GuidanceImage = None,
    confidence_threshold: opt.ConfidenceThreshold = None,
    temperature: opt.Temperature = None,
    num_steps: opt.NumSteps = None,
    decoder: opt.Decoder = None,
    decoder_guidance: opt.DecoderGuidance = None,
    guidance_interval: opt.GuidanceInterval = None,
    step_cache: opt.StepCache = None,
) -> None:
    """Predict a random share of a picture's cells anew."""
    _run(locals(), lambda pipeline: pipeline.stream_vary, {"strength": strength})


_PASSED_ON = (
    "seed", "reference", "blend", "block_length", "steps_per_block", "guidance_scale", "guidance_text",
    "guidance_image", "confidence_threshold", "temperature", "num_steps", "decoder",
    "decoder_guidance", "guidance_interval", "step_cache",
)  # fmt: skip


def _run(values: dict[str, Any], task: Callable[[LladaUni], Callable[..., Any]], where: dict[str, Any]) -> None:
    """What the three commands share; ``values`` are the command's arguments by name, ``where`` names the cells."""
    if (values["image"], values["prompt"]).count(out.STANDARD) > 1:
        raise ConfigError("standard input (-) can be named once only")
    as_json, values["guidance_interval"] = values["as_json"], opt.parse_interval(values["guidance_interval"])
    path = check_picture_path(values["output"], as_json=as_json)
    film = check_film_path(values["film"])
    prompt = out.read_stdin_text() if values["prompt"] == out.STANDARD else values["prompt"]

    from llada_uni.cli.loading import open_model

    source = _source(values["image"])
    opened = {name: values[name] for name in ("revision", "device", "dtype", "quantize", "memory")}
    pipeline = open_model(values["model"], **opened)
    events = task(pipeline)(source, prompt, **where, **{name: values[name] for name in _PASSED_ON})
    result, write_film = follow_filmed(pipeline, events, film)
    write_picture(result, values["output"], path, stem=prompt, as_json=as_json)
    if result.settings["resized_from"]:
        width, height = result.settings["resized_from"]
        out.note(f"the picture of {width}x{height} was scaled and cropped to the size of the result")
    write_film()


def _source(name: str) -> Any:
    """A picture's path or bytes, or the content of a codes file."""
    if name == out.STANDARD:
        return out.read_stdin_bytes()
    if Path(name).suffix.lower() == ".json":
        from llada_uni.pipeline import EncodedImage

        return EncodedImage.load(name)
    return name


def _parsed_box(text: str | None) -> tuple[int, ...] | None:
    """Raises ConfigError for anything but four whole numbers."""
    if text is None:
        return None
    if not re.fullmatch(r"\s*-?\d{1,9}\s*(,\s*-?\d{1,9}\s*){3}", text):
        raise ConfigError(f"--box: expected LEFT,TOP,RIGHT,BOTTOM such as 32,32,96,96, got {text!r}")
    return tuple(int(number) for number in text.split(","))


def _parsed_cells(text: str | None, option: str) -> list[tuple[int, ...]] | None:
    """Raises ConfigError for anything but pairs of whole numbers."""
    if text is None:
        return None
    pairs = [pair for pair in text.split(";") if pair.strip()]
    if not pairs or not all(re.fullmatch(r"\s*\d{1,9}\s*,\s*\d{1,9}\s*", pair) for pair in pairs):
        raise ConfigError(f"{option}: expected ROW,COLUMN;ROW,COLUMN such as '2,3;2,4', got {text!r}")
    return [tuple(int(number) for number in pair.split(",")) for pair in pairs]
