"""``llada-uni chat TEXT``: the next turn of a conversation."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out
from llada_uni.cli.understand import write_answer
from llada_uni.errors import ConfigError, PromptError

__all__ = ["chat", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("chat")(chat)


def chat(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What you say; - reads a JSON list of messages on standard input.")
    ],
    image: Annotated[
        list[str] | None, typer.Option("--image", metavar="FILE", help="A picture you show; may be repeated.")
    ] = None,
    system: opt.System = None,
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    output: opt.Output = None,
    seed: opt.Seed = None,
    as_json: opt.Json = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = None,
    quantize: opt.Quantize = None,
    memory: opt.Memory = None,
    steps_per_block: opt.StepsPerBlock = None,
    confidence_threshold: opt.ConfidenceThreshold = None,
    temperature: opt.Temperature = None,
    max_new_tokens: opt.MaxNewTokens = None,
    sprint: opt.Sprint = None,
    keep_ratio: opt.KeepRatio = None,
) -> None:
    """Say something, with pictures or without, or continue a conversation given as JSON."""
    path = out.target(output, as_json=as_json)
    messages = _messages(text, image or [], system)

    from llada_uni.cli.loading import open_model
    from llada_uni.cli.progress import follow

    pipeline = open_model(model, revision=revision, device=device, dtype=dtype, quantize=quantize, memory=memory)
    events = pipeline.stream_chat(
        messages,
        seed=seed,
        steps_per_block=steps_per_block,
        confidence_threshold=confidence_threshold,
        temperature=temperature or 0.0,
        max_new_tokens=max_new_tokens,
        sprint=sprint,
        keep_ratio=keep_ratio,
    )
    (result,) = follow(events)
    write_answer(result, path, image or [], as_json=as_json)


def _messages(text: str, images: list[str], system: str | None) -> list[Any]:
    from llada_uni.pipeline import Turn

    opening = [] if system is None else [Turn("system", system)]
    if text != out.STANDARD:
        return [*opening, Turn("user", text, images)]
    if images:
        raise ConfigError("--image belongs to a text; in a list of messages pictures are image_url parts")
    return [*opening, *_stdin_messages()]


def _stdin_messages() -> list[Any]:
    try:
        value = json.loads(out.read_stdin_text())
    except json.JSONDecodeError as error:
        raise PromptError(f"standard input is not valid JSON (line {error.lineno}: {error.msg})") from error
    if not isinstance(value, list):
        raise PromptError(f"standard input: expected a JSON list of messages, got {type(value).__name__}")
    return value
