"""Options shared by the commands: one spelling, one help text, one parser each."""

from __future__ import annotations

from typing import Annotated

import typer

from llada_uni.grid import parse_size

__all__ = [
    "ConfidenceThreshold",
    "Crop",
    "Decoder",
    "Device",
    "Dtype",
    "Engine",
    "Film",
    "GuidanceImage",
    "GuidanceScale",
    "GuidanceText",
    "Json",
    "KeepRatio",
    "MaxNewTokens",
    "Model",
    "NumSteps",
    "Output",
    "Revision",
    "Seed",
    "Size",
    "Sprint",
    "StepsPerBlock",
    "System",
    "Temperature",
    "Thinking",
    "ThinkingTemperature",
    "ThinkingTokens",
    "ThinkingTopP",
    "parse_optional_size",
]

COMMON = "Common options"
SAMPLING = "Sampling options (the checkpoint's preset when not given)"

Model = Annotated[
    str,
    typer.Option("--model", metavar="NAME|ID|DIR", help="nano, a hub id or a directory.", rich_help_panel=COMMON),
]
Revision = Annotated[
    str | None,
    typer.Option("--revision", metavar="COMMIT", help="Commit of a hub model.", rich_help_panel=COMMON),
]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", help="Where to write; - for stdout.", rich_help_panel=COMMON),
]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="WIDTHxHEIGHT", help="Size of the picture in pixels.", rich_help_panel=COMMON),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", help="Random seed; drawn and reported when not given.", rich_help_panel=COMMON),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print exactly one JSON object on standard output.", rich_help_panel=COMMON),
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="auto|cpu|cuda", help="Where the networks run.", rich_help_panel=COMMON),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="float32|bfloat16|float16",
        help="Number format (float32 on CPU, bfloat16 on CUDA when not given).",
        rich_help_panel=COMMON,
    ),
]
Engine = Annotated[
    str | None,
    typer.Option("--engine", metavar="usual|captured", help="What drives the backbone.", rich_help_panel=COMMON),
]
Film = Annotated[
    str | None,
    typer.Option("--film", metavar="FILE", help="Also write how it was made: a .gif or .webp."),
]
StepsPerBlock = Annotated[
    int | None,
    typer.Option("--steps-per-block", metavar="N", help="Most steps in one block.", rich_help_panel=SAMPLING),
]
GuidanceScale = Annotated[
    float | None,
    typer.Option("--guidance-scale", metavar="W", help="Guidance; 1 is off.", rich_help_panel=SAMPLING),
]
GuidanceText = Annotated[
    float | None,
    typer.Option("--guidance-text", metavar="W", help="Of the instruction; 1 is off.", rich_help_panel=SAMPLING),
]
GuidanceImage = Annotated[
    float | None,
    typer.Option("--guidance-image", metavar="W", help="Of the pictures; 0 is off.", rich_help_panel=SAMPLING),
]
Crop = Annotated[
    str,
    typer.Option("--crop", metavar="cover|released", help="Scale a picture before cutting, or not."),
]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="A system text of your own.")]
Thinking = Annotated[bool, typer.Option("--thinking", help="Write a plan in words first.")]
ThinkingTokens = Annotated[
    int | None,
    typer.Option("--thinking-tokens", metavar="N", help="Longest plan in tokens.", rich_help_panel=SAMPLING),
]
ThinkingTemperature = Annotated[
    float | None,
    typer.Option("--thinking-temperature", metavar="T", help="Of the plan's words.", rich_help_panel=SAMPLING),
]
ThinkingTopP = Annotated[
    float | None,
    typer.Option("--thinking-top-p", metavar="P", help="Likeliest words of the plan.", rich_help_panel=SAMPLING),
]
ConfidenceThreshold = Annotated[
    float | None,
    typer.Option("--confidence-threshold", metavar="P", help="Commit every token above it.", rich_help_panel=SAMPLING),
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", metavar="T", help="Of the tokens; 0 is greedy.", rich_help_panel=SAMPLING),
]
NumSteps = Annotated[
    int | None,
    typer.Option("--num-steps", metavar="N", help="Velocity evaluations of the decoder.", rich_help_panel=SAMPLING),
]
Decoder = Annotated[
    str | None,
    typer.Option("--decoder", metavar="normal|turbo", help="Which pixel decoder.", rich_help_panel=SAMPLING),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option("--max-new-tokens", metavar="N", help="Longest answer in tokens.", rich_help_panel=SAMPLING),
]
Sprint = Annotated[
    str | None,
    typer.Option("--sprint", metavar="NAME", help="Preset: paper, readme or released.", rich_help_panel=SAMPLING),
]
KeepRatio = Annotated[
    float | None,
    typer.Option("--keep-ratio", metavar="R", help="Share of earlier positions kept.", rich_help_panel=SAMPLING),
]


def parse_optional_size(text: str | None) -> tuple[int | None, int | None]:
    """(height, width) of ``--size WIDTHxHEIGHT``; (None, None) when it is not given.

    Raises:
        SizeError: not of that form.
    """
    return (None, None) if text is None else parse_size(text)
