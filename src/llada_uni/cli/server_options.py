"""Options that every command with a server has: their types, their values, and how a command takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

import typer

from llada_uni.cli import options as opt

__all__ = ["LOAD", "REACH", "Choices", "takes_choices"]

REACH, LOAD = "Who may use it", "How much at once"

Host = Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is every one.", rich_help_panel=REACH)]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 is a free one.", rich_help_panel=REACH)]
ApiKey = Annotated[
    list[str] | None,
    typer.Option(
        "--api-key", envvar="LLADA_UNI_API_KEY", metavar="KEY", help="A bearer key; may be repeated. The variable is "
        "safer: arguments are visible to other users of the machine.", rich_help_panel=REACH,
    ),
]  # fmt: skip
Cors = Annotated[
    list[str] | None,
    typer.Option(
        "--cors", metavar="ORIGIN", help="Web page that may call from a browser; * for all. May be repeated.",
        rich_help_panel=REACH,
    ),
]  # fmt: skip
Fetch = Annotated[
    bool,
    typer.Option(
        "--fetch-images",
        help="Take pictures by public http(s) addresses too.",
        rich_help_panel=REACH,
    ),
]
Name = Annotated[
    list[str] | None,
    typer.Option(
        "--name", metavar="NAME", help="The model's name in requests; may be repeated.", rich_help_panel=REACH
    ),
]
MaxRequests = Annotated[
    int, typer.Option("--max-requests", min=1, help="Under way and waiting; more get 429.", rich_help_panel=LOAD)
]
MaxBranches = Annotated[
    int | None,
    typer.Option("--max-branches", min=12, help="Sequences the backbone holds at once.", rich_help_panel=LOAD),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds a request may take.", rich_help_panel=LOAD)]
MaxBody = Annotated[int, typer.Option("--max-body", min=1, metavar="MIB", help="Largest body.", rich_help_panel=LOAD)]
Drain = Annotated[
    float, typer.Option("--drain", min=1, help="Seconds to finish what is under way when told to stop.",
                        rich_help_panel=LOAD)
]  # fmt: skip
LogErrors = Annotated[
    bool, typer.Option("--log-errors", help="Log messages and traces of errors; they may hold words of requests.")
]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The options of a server's command line; every field is an option, with its default."""

    model: opt.Model = "nano"
    revision: opt.Revision = None
    device: opt.Device = "auto"
    dtype: opt.Dtype = None
    compile_decoder: opt.CompileDecoder = False
    graph_decoder: opt.GraphDecoder = False
    vae_tile: opt.VaeTile = None
    quantize: opt.Quantize = None
    memory: opt.Memory = None
    host: Host = "127.0.0.1"
    port: Port = 8000
    api_key: ApiKey = None
    cors: Cors = None
    fetch_images: Fetch = False
    name: Name = None
    max_requests: MaxRequests = 64
    max_branches: MaxBranches = None
    timeout: Timeout = 600.0
    max_body: MaxBody = 32
    drain: Drain = 60.0
    log_errors: LogErrors = False

    @property
    def opening(self) -> dict[str, Any]:
        """How the model is opened.

        Raises:
            ConfigError: tiles that are too small.
        """
        names = ("revision", "device", "dtype", "quantize", "memory")
        pixels = opt.pixel_options(self.compile_decoder, self.graph_decoder, self.vae_tile)
        return {name: getattr(self, name) for name in names} | {"pixels": pixels}

    @property
    def load(self) -> dict[str, Any]:
        """The engine's settings that were given."""
        given: dict[str, Any] = {"max_requests": self.max_requests, "deadline_s": self.timeout}
        return given if self.max_branches is None else given | {"max_branches": self.max_branches}


def takes_choices(command: Callable[..., None]) -> Callable[..., None]:
    """``command(chosen, *, ...)`` as typer reads it: with the options of :class:`Choices` before its own."""
    hints = get_type_hints(Choices, include_extras=True)
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(Choices)
    ]

    def run(**given: Any) -> None:
        chosen = Choices(**{parameter.name: given.pop(parameter.name) for parameter in shared})
        command(chosen, **given)

    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
    return run
