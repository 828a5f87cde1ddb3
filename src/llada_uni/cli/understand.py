"""``llada-uni understand IMAGE... QUESTION``: pictures and a question to words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out
from llada_uni.errors import ConfigError, PromptError
from llada_uni.pipeline.files import write_atomic

if TYPE_CHECKING:
    from llada_uni.pipeline import TextResult

__all__ = ["register", "split_inputs", "understand", "write_answer"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("understand")(understand)


def understand(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE... QUESTION", help="Picture files, then the question; - reads standard input."),
    ],
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    output: opt.Output = None,
    seed: opt.Seed = None,
    as_json: opt.Json = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = None,
    quantize: opt.Quantize = None,
    memory: opt.Memory = None,
    engine: opt.Engine = None,
    steps_per_block: opt.StepsPerBlock = None,
    confidence_threshold: opt.ConfidenceThreshold = None,
    temperature: opt.Temperature = None,
    max_new_tokens: opt.MaxNewTokens = None,
    sprint: opt.Sprint = None,
    keep_ratio: opt.KeepRatio = None,
    raw: Annotated[bool, typer.Option("--raw", help="The prompt form without any role.")] = False,
    system: opt.System = None,
) -> None:
    """Answer a question about one picture, or about several read together."""
    images, question = split_inputs(inputs, example='understand photo.jpg "what is it?"', what="a question")
    path = out.target(output, as_json=as_json)

    from llada_uni.cli.loading import open_model
    from llada_uni.cli.progress import follow

    pipeline = open_model(
        model, revision=revision, device=device, dtype=dtype, quantize=quantize, memory=memory, engine=engine
    )
    events = pipeline.stream_answer(
        images,
        question,
        seed=seed,
        steps_per_block=steps_per_block,
        confidence_threshold=confidence_threshold,
        temperature=temperature or 0.0,
        max_new_tokens=max_new_tokens,
        sprint=sprint,
        keep_ratio=keep_ratio,
        raw=raw,
        system=system,
        granularity="block",
    )
    (result,) = follow(events)
    write_answer(result, path, inputs[:-1], as_json=as_json)


def split_inputs(inputs: list[str], *, example: str, what: str) -> tuple[list[Any], str]:
    """Pictures (paths or bytes of standard input) and the words at the end of a command line.

    Raises:
        PromptError: only one of the two; the message shows ``example``. ConfigError: standard input named twice.
    """
    if len(inputs) < 2:
        raise PromptError(f"expected pictures and {what}, such as: llada-uni {example}")
    if inputs.count(out.STANDARD) > 1:
        raise ConfigError("standard input (-) can be named once only")
    words = out.read_stdin_text() if inputs[-1] == out.STANDARD else inputs[-1]
    return [out.read_stdin_bytes() if name == out.STANDARD else name for name in inputs[:-1]], words


def write_answer(result: TextResult, path: Path | None, images: list[str], *, as_json: bool) -> None:
    """Print an answer, write it to ``path`` if there is one, and say its seed."""
    if path is not None:
        write_atomic(path, (result.text + "\n").encode())
    if as_json:
        out.emit_json({"images": images} | result.as_dict())
    else:
        out.emit(result.text)
        out.note(f"seed {result.seed}")
