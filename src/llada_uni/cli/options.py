"""Options shared by the commands: one spelling, one help text, one parser each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llada_uni.errors import ConfigError
from llada_uni.grid import parse_size

if TYPE_CHECKING:
    from llada_uni.pipeline.pixels import PixelOptions

__all__ = [
    "CompileDecoder",
    "ConfidenceThreshold",
    "Crop",
    "Decoder",
    "DecoderGuidance",
    "Device",
    "Dtype",
    "Engine",
    "Film",
    "GraphDecoder",
    "GuidanceImage",
    "GuidanceInterval",
    "GuidanceScale",
    "GuidanceText",
    "Json",
    "KeepRatio",
    "MaxNewTokens",
    "Memory",
    "Model",
    "NumSteps",
    "Output",
    "Quantize",
    "Revision",
    "Seed",
    "Size",
    "Sprint",
    "StepCache",
    "StepsPerBlock",
    "System",
    "Temperature",
    "Thinking",
    "ThinkingTemperature",
    "ThinkingTokens",
    "ThinkingTopP",
    "VaeTile",
    "parse_interval",
    "parse_optional_size",
    "pixel_options",
]

COMMON = "Common options"
SAMPLING = "Sampling options (the checkpoint's preset when not given)"
DRAWING = "How pictures are drawn"

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
Quantize = Annotated[
    str | None,
    typer.Option(
        "--quantize", metavar="int8|int4|fp8|none", help="Form of the backbone's experts.", rich_help_panel=COMMON
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory", metavar="AMOUNT", help="Stay within this, such as 24GB; shows the plan.", rich_help_panel=COMMON
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
DecoderGuidance = Annotated[
    float | None,
    typer.Option("--decoder-guidance", metavar="W", help="Of the pixel decoder; 1 is off.", rich_help_panel=SAMPLING),
]
GuidanceInterval = Annotated[
    str | None,
    typer.Option(
        "--guidance-interval",
        metavar="LOW,HIGH",
        help="Decoder's times, 0 noise to 1 picture, that are guided.",
        rich_help_panel=SAMPLING,
    ),
]
StepCache = Annotated[
    float | None,
    typer.Option(
        "--step-cache", metavar="R", help="Reuse decoder steps that change less, 0 to 1.", rich_help_panel=SAMPLING
    ),
]
CompileDecoder = Annotated[
    bool,
    typer.Option("--compile-decoder", help="Translate the decoder first; the first picture waits.",
                 rich_help_panel=DRAWING),
]  # fmt: skip
GraphDecoder = Annotated[
    bool,
    typer.Option("--graph-decoder", help="Capture the decoder's steps as CUDA graphs.", rich_help_panel=DRAWING),
]
VaeTile = Annotated[
    int | None,
    typer.Option(
        "--vae-tile",
        metavar="PX",
        help="Largest tile of the autoencoder; 0 never tiles, very large pictures are tiled when not given.",
        rich_help_panel=DRAWING,
    ),
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


def parse_interval(text: str | None) -> tuple[float, float] | None:
    """The two times of ``--guidance-interval LOW,HIGH``; None when it is not given.

    Raises:
        ConfigError: not two numbers.
    """
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--guidance-interval: expected LOW,HIGH such as 0.1,0.8, got {text!r}") from None
    return low, high


def pixel_options(compile_decoder: bool, graph_decoder: bool, vae_tile: int | None) -> PixelOptions:
    """What ``--compile-decoder``, ``--graph-decoder`` and ``--vae-tile`` say.

    Raises:
        ConfigError: tiles that are too small.
    """
    from llada_uni.pipeline.pixels import PixelOptions

    return PixelOptions(compile_decoder=compile_decoder, graph_decoder=graph_decoder, vae_tile_px=vae_tile)
