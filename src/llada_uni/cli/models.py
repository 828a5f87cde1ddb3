"""``llada-uni models``: what --model accepts."""

from __future__ import annotations

from typing import Any

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out

__all__ = ["models", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("models")(models)


def models(as_json: opt.Json = False) -> None:
    """List the models that have a name, and whether they are on this machine."""
    from llada_uni.weights.catalog import KNOWN_MODELS

    found = [_describe(name, text) for name, text in KNOWN_MODELS.items()]
    if as_json:
        out.emit_json({"models": found})
        return
    for model in found:
        out.emit(f"{model['name']:<30} {'here    ' if model['path'] else 'download'}  {model['description']}")
    out.note("any directory in the released layout and any organisation/name on the hub works too")


def _describe(name: str, text: str) -> dict[str, Any]:
    from llada_uni.errors import LladaUniError
    from llada_uni.weights.catalog import resolve

    path = None
    try:
        path = str(resolve(name)) if name == "nano" else _cached(name)
    except LladaUniError as error:
        text = f"{text} ({error})"
    return {"name": name, "description": text, "path": path}


def _cached(name: str) -> str | None:
    """Directory of a hub model that is complete in the download cache; the network is never asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return snapshot_download(name, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
