"""``llada-uni edit IMAGE... INSTRUCTION``: pictures and an instruction to a picture."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llada_uni.cli import options as opt
from llada_uni.cli.generate import check_picture_path, write_picture
from llada_uni.cli.understand import split_inputs

__all__ = ["edit", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("edit")(edit)


def edit(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE... INSTRUCTION", help="Picture files, then what to change; - reads standard input."
        ),
    ],
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
    engine: opt.Engine = None,
    crop: opt.Crop = "cover",
    steps_per_block: opt.StepsPerBlock = None,
    guidance_text: opt.GuidanceText = None,
    guidance_image: opt.GuidanceImage = None,
    confidence_threshold: opt.ConfidenceThreshold = None,
    temperature: opt.Temperature = None,
    num_steps: opt.NumSteps = None,
    decoder: opt.Decoder = None,
    decoder_guidance: opt.DecoderGuidance = None,
    guidance_interval: opt.GuidanceInterval = None,
    step_cache: opt.StepCache = None,
    sprint: opt.Sprint = None,
    keep_ratio: opt.KeepRatio = None,
    compile_decoder: opt.CompileDecoder = False,
    graph_decoder: opt.GraphDecoder = False,
    vae_tile: opt.VaeTile = None,
) -> None:
    """Change a picture, or make one out of several, as an instruction says."""
    images, instruction = split_inputs(inputs, example='edit photo.jpg "make it snow"', what="an instruction")
    path = check_picture_path(output, as_json=as_json)
    height, width = opt.parse_optional_size(size)

    from llada_uni.cli.loading import open_model
    from llada_uni.cli.progress import follow

    pixels = opt.pixel_options(compile_decoder, graph_decoder, vae_tile)
    pipeline = open_model(
        model,
        revision=revision,
        device=device,
        dtype=dtype,
        pixels=pixels,
        quantize=quantize,
        memory=memory,
        engine=engine,
    )
    options: dict[str, Any] = {
        "height": height,
        "width": width,
        "seed": seed,
        "steps_per_block": steps_per_block,
        "guidance_text": guidance_text,
        "guidance_image": guidance_image,
        "confidence_threshold": confidence_threshold,
        "temperature": temperature,
        "num_steps": num_steps,
        "decoder": decoder,
        "decoder_guidance": decoder_guidance,
        "guidance_interval": opt.parse_interval(guidance_interval),
        "step_cache": step_cache,
        "sprint": sprint,
        "keep_ratio": keep_ratio,
        "crop": crop,
    }
    (result,) = follow(pipeline.stream_edit(images, instruction, granularity="block", **options))
    write_picture(result, output, path, stem=instruction, as_json=as_json)
