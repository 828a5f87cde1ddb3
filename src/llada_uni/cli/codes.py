"""``llada-uni encode`` and ``llada-uni decode``: pictures to codes and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out
from llada_uni.cli.generate import check_picture_path, write_picture
from llada_uni.errors import ConfigError

__all__ = ["decode", "encode", "register"]


def register(app: typer.Typer) -> None:
    """Add both commands to ``app``."""
    app.command("encode")(encode)
    app.command("decode")(decode)


def encode(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A picture file; - reads standard input.")],
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    output: opt.Output = None,
    size: opt.Size = None,
    as_json: opt.Json = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = None,
    quantize: opt.Quantize = None,
    memory: opt.Memory = None,
) -> None:
    """Turn a picture into codes; --size chooses the size that they decode to."""
    path = out.target(output, as_json=as_json)
    height, width = opt.parse_optional_size(size)

    from llada_uni.cli.loading import open_model

    pipeline = open_model(model, revision=revision, device=device, dtype=dtype, quantize=quantize, memory=memory)
    source = out.read_stdin_bytes() if image == out.STANDARD else image
    encoded = pipeline.encode_image(source, height=height, width=width)
    if output == out.STANDARD:
        out.emit_json(encoded.as_dict())
        return
    stem = "picture" if image == out.STANDARD or image.startswith("data:") else Path(image).stem
    path = encoded.save(path or out.free_path(stem, ".codes.json"))
    if as_json:
        out.emit_json({"output": str(path)} | encoded.as_dict())
    else:
        out.emit(f"{path}  {encoded.grid.grid_h}x{encoded.grid.grid_w} codes")


def decode(
    codes: Annotated[str, typer.Argument(metavar="CODES", help="A codes file; - reads standard input.")],
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    output: opt.Output = None,
    seed: opt.Seed = None,
    as_json: opt.Json = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = None,
    quantize: opt.Quantize = None,
    memory: opt.Memory = None,
    num_steps: opt.NumSteps = None,
    decoder: opt.Decoder = None,
    decoder_guidance: opt.DecoderGuidance = None,
    guidance_interval: opt.GuidanceInterval = None,
    step_cache: opt.StepCache = None,
    compile_decoder: opt.CompileDecoder = False,
    graph_decoder: opt.GraphDecoder = False,
    vae_tile: opt.VaeTile = None,
) -> None:
    """Turn codes into a picture."""
    path = check_picture_path(output, as_json=as_json)

    from llada_uni.cli.loading import open_model
    from llada_uni.pipeline import EncodedImage

    encoded = EncodedImage.from_dict(_stdin_json(), source="-") if codes == out.STANDARD else EncodedImage.load(codes)
    pixels = opt.pixel_options(compile_decoder, graph_decoder, vae_tile)
    pipeline = open_model(
        model, revision=revision, device=device, dtype=dtype, pixels=pixels, quantize=quantize, memory=memory
    )
    result = pipeline.decode_image(
        encoded,
        seed=seed,
        num_steps=num_steps,
        decoder=decoder,
        decoder_guidance=decoder_guidance,
        guidance_interval=opt.parse_interval(guidance_interval),
        step_cache=step_cache,
    )
    stem = "picture" if codes == out.STANDARD else Path(codes).name.split(".")[0]
    write_picture(result, output, path, stem=stem, as_json=as_json)


def _stdin_json() -> dict[str, Any]:
    try:
        value = json.loads(out.read_stdin_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"standard input is not valid JSON (line {error.lineno}: {error.msg})") from error
    if not isinstance(value, dict):
        raise ConfigError(f"standard input: expected a JSON object, got {type(value).__name__}")
    return value
