"""``llada-uni ui``: the server with a page on it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out
from llada_uni.cli import serve as base

__all__ = ["register", "ui"]

LivePicture = Annotated[
    bool,
    typer.Option(
        "--live-picture/--no-live-picture",
        help="Show the picture while its tokens are written; costs decoder time.",
        rich_help_panel=base.LOAD,
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Open the page in this machine's browser.")]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("ui")(ui)


def ui(
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = None,
    host: base.Host = "127.0.0.1",
    port: base.Port = 8000,
    api_key: base.ApiKey = None,
    cors: base.Cors = None,
    fetch_images: base.Fetch = False,
    name: base.Name = None,
    max_requests: base.MaxRequests = 64,
    max_branches: base.MaxBranches = None,
    timeout: base.Timeout = 600.0,
    max_body: base.MaxBody = 32,
    drain: base.Drain = 60.0,
    log_errors: base.LogErrors = False,
    compile_decoder: opt.CompileDecoder = False,
    graph_decoder: opt.GraphDecoder = False,
    vae_tile: opt.VaeTile = None,
    quantize: opt.Quantize = None,
    memory: opt.Memory = None,
    live_picture: LivePicture = True,
    open_page: Open = False,
) -> None:
    """Serve a page for pictures, questions, edits and stories, and the API of llada-uni serve beside it."""
    from llada_uni.ui import app as page

    def mounted(engine: Any, settings: Any) -> Any:
        return page.create_page_app(engine, settings, sketches=live_picture)

    def ready(url: str) -> None:
        if open_page:
            import webbrowser

            webbrowser.open(f"{url}{page.PATH}/")
        out.note(f"page on {url}{page.PATH}/")

    base.serve_with(
        base.Choices(
            model=model,
            revision=revision,
            device=device,
            dtype=dtype,
            host=host,
            port=port,
            api_key=api_key,
            cors=cors,
            fetch_images=fetch_images,
            name=name,
            max_requests=max_requests,
            max_branches=max_branches,
            timeout=timeout,
            max_body=max_body,
            drain=drain,
            log_errors=log_errors,
            pixels=opt.pixel_options(compile_decoder, graph_decoder, vae_tile),
            quantize=quantize,
            memory=memory,
        ),
        make_app=mounted,
        on_ready=ready,
    )
