"""The command ``llada-uni``: its commands, the bare-prompt form and the boundary where errors become one line."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer

from llada_uni.cli import (
    adapters,
    chat,
    codes,
    convert,
    data,
    doctor,
    edit,
    evaluate,
    expand,
    generate,
    models,
    regions,
    reproduce,
    serve,
    story,
    train,
    ui,
    understand,
)
from llada_uni.cli.output import emit
from llada_uni.errors import ConfigError, LladaUniError, ResourceError

__all__ = ["app", "build_command", "run"]

EXIT_BUG, EXIT_USER, EXIT_INTERRUPT = 1, 2, 130
_ClickException: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    name="llada-uni",
    help="Words to pictures and pictures to words with one discrete diffusion model.\n\n"
    'llada-uni "two red apples" is short for llada-uni generate "two red apples".',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for room in (
    generate,
    edit,
    regions,
    understand,
    chat,
    story,
    serve,
    ui,
    codes,
    models,
    doctor,
    data,
    train,
    adapters,
    expand,
    convert,
    evaluate,
    reproduce,
):
    room.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from llada_uni import __version__

        emit(f"llada-uni {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Words to pictures and pictures to words."""


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 0 done, 2 user error, 1 bug, 130 interrupted.

    Every error of the :class:`~llada_uni.errors.LladaUniError` tree and every wrong option is one line
    ``error: ...`` on standard error. A bug shows its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return _invoke(arguments)
        except (KeyboardInterrupt, typer.Abort):
            return _fail("interrupted", EXIT_INTERRUPT)
        except BrokenPipeError:
            return _reader_left()
        except SystemExit as leave:
            return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        except Exception as error:
            message = _user_message(error)
            if message is not None:
                return _fail(message, EXIT_USER)
            traceback.print_exc()
            return EXIT_BUG


def build_command() -> Any:
    """The command object behind ``llada-uni`` (for tests and generated documentation)."""
    return typer.main.get_command(app)


def _invoke(arguments: list[str]) -> int:
    command = build_command()
    arguments = _with_default_command(arguments, list(command.commands))
    status = command.main(args=arguments, prog_name="llada-uni", standalone_mode=False)
    sys.stdout.flush()
    if status == EXIT_INTERRUPT:
        raise KeyboardInterrupt
    return status if isinstance(status, int) else 0


def _with_default_command(arguments: list[str], commands: list[str]) -> list[str]:
    """``llada-uni "a prompt"`` means ``llada-uni generate "a prompt"``; a misspelt command is caught."""
    if not arguments or arguments[0] in (*commands, "--help", "-h", "--version"):
        return arguments
    if arguments[0].startswith("-"):
        return ["generate", *arguments]
    close = difflib.get_close_matches(arguments[0], commands, n=1, cutoff=0.75)
    if close:
        raise ConfigError(
            f"no command {arguments[0]!r}; did you mean {close[0]!r}? As a prompt: llada-uni generate {arguments[0]!r}"
        )
    return ["generate", *arguments]


def _user_message(error: Exception) -> str | None:
    """One line for an error that is not a bug, else None."""
    if isinstance(error, LladaUniError):
        return str(error)
    if isinstance(error, _ClickException):
        return " ".join(cast(Any, error).format_message().split()) + "; see llada-uni --help"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error):
        return str(ResourceError("out of memory; choose a smaller size, fewer pictures or a smaller model"))
    return None


def _fail(message: str, status: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"error: {message}\n")
    return status


def _reader_left() -> int:
    """The reader of standard output closed it (``| head``): stop quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    sys.stderr.write(f"warning: {' '.join(str(message).split())}\n")
