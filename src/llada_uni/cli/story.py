"""``llada-uni story PROMPT``: text and pictures in turn."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out
from llada_uni.cli.generate import read_words
from llada_uni.errors import ConfigError, PromptError

if TYPE_CHECKING:
    from llada_uni.pipeline import StoryResult

__all__ = ["register", "story"]

_PAGE = (".html", ".htm")
_NOT_A_DIRECTORY = (".gif", ".jpeg", ".jpg", ".json", ".md", ".pdf", ".png", ".txt", ".webp")
STORY = "Story options (the checkpoint's preset when not given)"


Prompt = Annotated[
    list[str] | None, typer.Argument(metavar="PROMPT", help="What the story is about; - reads standard input.")
]
Pictures = Annotated[
    list[str] | None, typer.Option("--image", metavar="FILE", help="A picture before the prompt; may be repeated.")
]
Going = Annotated[
    str | None,
    typer.Option("--continue-from", metavar="STATE", help="state.json of a story: PROMPT is its next turn."),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR|FILE.html",
        help="Where to write: a directory (Markdown and PNGs) or one page; - for the page on stdout.",
        rich_help_panel=opt.COMMON,
    ),
]
MaxFrames = Annotated[
    int | None, typer.Option("--max-frames", metavar="N", help="Most pictures.", rich_help_panel=STORY)
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option("--max-new-tokens", metavar="N", help="Longest text block in tokens.", rich_help_panel=STORY),
]
MaxImageTokens = Annotated[
    int | None,
    typer.Option("--max-image-tokens", metavar="N", help="Most codes of one picture.", rich_help_panel=STORY),
]
OnBadGrid = Annotated[
    str,
    typer.Option(
        "--on-bad-grid",
        metavar="nearest|stop",
        help="When a picture is announced with a grid that cannot be drawn.",
        rich_help_panel=STORY,
    ),
]
GuidanceScale = Annotated[
    float | None,
    typer.Option("--guidance-scale", metavar="W", help="Of the first picture; 1 is off.", rich_help_panel=STORY),
]
GuidanceText = Annotated[
    float | None,
    typer.Option(
        "--guidance-text", metavar="W", help="Of later pictures, by their text; 1 is off.", rich_help_panel=STORY
    ),
]
GuidanceImage = Annotated[
    float | None,
    typer.Option(
        "--guidance-image",
        metavar="W",
        help="Of later pictures, by the pictures before; 0 is off.",
        rich_help_panel=STORY,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("story")(story)


def story(
    prompt: Prompt = None,
    image: Pictures = None,
    continue_from: Going = None,
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    output: Output = None,
    size: opt.Size = None,
    seed: opt.Seed = None,
    as_json: opt.Json = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = None,
    quantize: opt.Quantize = None,
    memory: opt.Memory = None,
    max_frames: MaxFrames = None,
    max_new_tokens: MaxNewTokens = None,
    max_image_tokens: MaxImageTokens = None,
    on_bad_grid: OnBadGrid = "nearest",
    guidance_scale: GuidanceScale = None,
    guidance_text: GuidanceText = None,
    guidance_image: GuidanceImage = None,
    steps_per_block: opt.StepsPerBlock = None,
    confidence_threshold: opt.ConfidenceThreshold = None,
    temperature: opt.Temperature = None,
    num_steps: opt.NumSteps = None,
    decoder: opt.Decoder = None,
    decoder_guidance: opt.DecoderGuidance = None,
    guidance_interval: opt.GuidanceInterval = None,
    step_cache: opt.StepCache = None,
) -> None:
    """Write a story and draw its pictures; the seed that was used is always printed."""
    words, images = _inputs(prompt, image or [], continue_from)
    path = _target(output, as_json=as_json)
    height, width = opt.parse_optional_size(size)

    from llada_uni.cli.loading import open_model

    given: dict[str, Any] = {
        "images": images, "continue_from": continue_from, "seed": seed, "height": height, "width": width,
        "max_frames": max_frames, "max_new_tokens": max_new_tokens, "max_image_tokens": max_image_tokens,
        "guidance_scale": guidance_scale, "guidance_text": guidance_text, "guidance_image": guidance_image,
        "steps_per_block": steps_per_block, "confidence_threshold": confidence_threshold, "temperature": temperature,
        "num_steps": num_steps, "decoder": decoder, "decoder_guidance": decoder_guidance,
        "guidance_interval": opt.parse_interval(guidance_interval), "step_cache": step_cache,
        "on_bad_grid": on_bad_grid,
    }  # fmt: skip
    pipeline = open_model(model, revision=revision, device=device, dtype=dtype, quantize=quantize, memory=memory)
    result = _followed(pipeline.stream_interleaved(words, **given))
    _write(result, output, path, stem=words or "story", as_json=as_json)


def _inputs(prompt: list[str] | None, images: list[str], continue_from: str | None) -> tuple[str | None, list[Any]]:
    """The prompt and its pictures (paths or bytes of standard input)."""
    if not prompt and continue_from is None:
        raise PromptError('expected a prompt, such as: llada-uni story "a cat that becomes a boat"')
    if (prompt or []).count(out.STANDARD) + images.count(out.STANDARD) > 1:
        raise ConfigError("standard input (-) can be named once only")
    words = read_words(prompt) if prompt else None
    return words, [out.read_stdin_bytes() if name == out.STANDARD else name for name in images]


def _target(output: str | None, *, as_json: bool) -> Path | None:
    """The explicit page or directory, checked before any work is done."""
    if output is None or output == out.STANDARD or Path(output).suffix.lower() in _PAGE:
        return out.target(output, as_json=as_json)
    if not output.strip() or Path(output).suffix.lower() in _NOT_A_DIRECTORY:
        raise ConfigError(f"--output: expected a directory or a name ending in .html, got {output!r}")
    from llada_uni.pipeline.story_results import check_story_directory

    return check_story_directory(Path(output))


def _followed(events: Iterable[Any]) -> StoryResult:
    """Run a story to its end, with one line of progress on a terminal."""
    result: Any = None
    frames, drawing = 0, False
    for event in events:
        kind = type(event).__name__
        if kind == "Started":
            drawing = event.grid is not None
        frames += kind == "ImageDone"
        result = getattr(event, "result", result)
        if kind in ("Started", "BlockDone", "FlowStep") and sys.stderr.isatty():
            sys.stderr.write(f"\r{'picture' if drawing else 'text'} {frames + 1} ")
            sys.stderr.flush()
    if sys.stderr.isatty():
        sys.stderr.write("\r" + " " * 24 + "\r")
    return result


def _write(result: StoryResult, output: str | None, path: Path | None, *, stem: str, as_json: bool) -> None:
    if output == out.STANDARD:
        out.emit(result.html())
        out.note(f"seed {result.seed}")
        return
    path = path or out.free_path(f"{out.slug(stem)}-{result.seed}", "")
    path = result.save_html(path) if path.suffix.lower() in _PAGE else result.save(path)
    if as_json:
        out.emit_json({"output": str(path)} | result.as_dict())
    else:
        count, seconds = len(result.images), result.timings.get("total", 0.0)
        pictures = f"{count} picture{'' if count == 1 else 's'}"
        out.emit(f"{path}  {pictures}, {result.finish_reason}  seed {result.seed}  {seconds:.1f} s")
