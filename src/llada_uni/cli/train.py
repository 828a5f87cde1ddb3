"""``llada-uni train RECIPE``: one command for every training stage."""

from __future__ import annotations

import typer

__all__ = ["register", "train"]

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("train", context_settings=_PASS_ON, add_help_option=False)(train)


def train(context: typer.Context) -> None:
    """Train a network by a recipe, such as recipes.nano:tokenizer (--help lists the options)."""
    from llada_uni.cli.progress import training_bar
    from llada_uni.training.run import main

    with training_bar() as progress:
        status = main(context.args, progress=progress)
    if status:
        raise typer.Exit(status)
