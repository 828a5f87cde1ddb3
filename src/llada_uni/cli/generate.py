"""``llada-uni generate PROMPT``: words to a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out
from llada_uni.cli.filming import check_film_path, follow_filmed
from llada_uni.errors import PromptError

if TYPE_CHECKING:
    from llada_uni.pipeline import ImageResult

__all__ = ["check_picture_path", "generate", "read_words", "register", "write_picture"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("generate")(generate)


def generate(
    prompt: Annotated[list[str], typer.Argument(metavar="PROMPT", help="What to draw; - reads standard input.")],
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
    steps_per_block: opt.StepsPerBlock = None,
    guidance_scale: opt.GuidanceScale = None,
    confidence_threshold: opt.ConfidenceThreshold = None,
    temperature: opt.Temperature = None,
    num_steps: opt.NumSteps = None,
    decoder: opt.Decoder = None,
    decoder_guidance: opt.DecoderGuidance = None,
    guidance_interval: opt.GuidanceInterval = None,
    step_cache: opt.StepCache = None,
    sprint: opt.Sprint = None,
    keep_ratio: opt.KeepRatio = None,
    thinking: opt.Thinking = False,
    thinking_tokens: opt.ThinkingTokens = None,
    thinking_temperature: opt.ThinkingTemperature = None,
    thinking_top_p: opt.ThinkingTopP = None,
    film: opt.Film = None,
    compile_decoder: opt.CompileDecoder = False,
    graph_decoder: opt.GraphDecoder = False,
    vae_tile: opt.VaeTile = None,
) -> None:
    """Make a picture from words; the seed that was used is always printed."""
    words = read_words(prompt)
    path, film_path = check_picture_path(output, as_json=as_json), check_film_path(film)
    height, width = opt.parse_optional_size(size)

    from llada_uni.cli.loading import open_model

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
    events = pipeline.stream_image(
        words,
        height=height,
        width=width,
        seed=seed,
        steps_per_block=steps_per_block,
        guidance_scale=guidance_scale,
        confidence_threshold=confidence_threshold,
        temperature=temperature,
        num_steps=num_steps,
        decoder=decoder,
        decoder_guidance=decoder_guidance,
        guidance_interval=opt.parse_interval(guidance_interval),
        step_cache=step_cache,
        sprint=sprint,
        keep_ratio=keep_ratio,
        thinking=thinking,
        thinking_tokens=thinking_tokens,
        thinking_temperature=thinking_temperature,
        thinking_top_p=thinking_top_p,
        granularity="block" if film_path is None else "step",
    )
    result, write_film = follow_filmed(pipeline, events, film_path)
    write_picture(result, output, path, stem=words, as_json=as_json)
    write_film()


def read_words(words: list[str]) -> str:
    """The one prompt of a command line; ``-`` reads it from standard input.

    Raises:
        PromptError: several words that were not quoted.
    """
    if len(words) > 1:
        raise PromptError(f"expected one prompt, got {len(words)} words: put the prompt in quotes")
    return out.read_stdin_text() if words[0] == out.STANDARD else words[0]


def check_picture_path(name: str | None, *, as_json: bool) -> Path | None:
    """The explicit path for a picture, checked before any work is done."""
    path = out.target(name, as_json=as_json)
    if path is not None:
        from llada_uni.pipeline.results import picture_kind

        picture_kind(path)
    return path


def write_picture(result: ImageResult, name: str | None, path: Path | None, *, stem: str, as_json: bool) -> None:
    """Write a picture where the command line asked, and say where, with its seed; a plan goes to standard error."""
    if result.thinking is not None and not as_json:
        out.note(f"plan: {result.thinking}")
    if name == out.STANDARD:
        out.write_stdout(result.png_bytes())
        out.note(f"seed {result.seed}")
        return
    path = result.save(path or out.free_path(f"{out.slug(stem)}-{result.seed}", ".png"))
    if as_json:
        out.emit_json({"output": str(path)} | result.as_dict())
    else:
        seconds = result.timings.get("total", 0.0)
        out.emit(f"{path}  {result.image.width}x{result.image.height}  seed {result.seed}  {seconds:.1f} s")
