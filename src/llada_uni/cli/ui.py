"""``llada-uni ui``: the server with a page on it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llada_uni.cli import output as out
from llada_uni.cli.serve import serve_with
from llada_uni.cli.server_options import LOAD, Choices, takes_choices

__all__ = ["register", "ui"]

LivePicture = Annotated[
    bool,
    typer.Option(
        "--live-picture/--no-live-picture",
        help="Show the picture while its tokens are written; costs decoder time.",
        rich_help_panel=LOAD,
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Open the page in this machine's browser.")]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("ui")(ui)


@takes_choices
def ui(chosen: Choices, *, live_picture: LivePicture = True, open_page: Open = False) -> None:
    """Serve a page for pictures, questions, edits and stories, and the API of llada-uni serve beside it."""
    from llada_uni.ui import app as page

    def mounted(engine: Any, settings: Any) -> Any:
        return page.create_page_app(engine, settings, sketches=live_picture)

    def ready(url: str) -> None:
        if open_page:
            import webbrowser

            webbrowser.open(f"{url}{page.PATH}/")
        out.note(f"page on {url}{page.PATH}/")

    serve_with(chosen, make_app=mounted, on_ready=ready)
