"""The page: tabs, forms and buttons. What they show is drawn by the page's script from the messages of ``runs``."""

from __future__ import annotations

import html
from collections.abc import AsyncGenerator, Callable
from importlib import resources
from typing import Any

import gradio as gr
from gradio import themes

from llada_uni.serving.running import Service
from llada_uni.ui.fields import Field, fields
from llada_uni.ui.orders import Form
from llada_uni.ui.runs import Place, Stops, look, message, run

__all__ = ["HEAD", "ICON", "build", "look_of", "script", "style"]

ICON = (
    "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 4 4' fill='%234f46e5'%3E%3Crect width='1.9' height='1.9' "
    "rx='.4'/%3E%3Crect x='2.1' width='1.9' height='1.9' rx='.4' opacity='.5'/%3E%3Crect y='2.1' width='1.9' "
    "height='1.9' rx='.4' opacity='.7'/%3E%3Crect x='2.1' y='2.1' width='1.9' height='1.9' rx='.4'/%3E%3C/svg%3E"
)
HEAD = f'<meta name="color-scheme" content="light dark"><link rel="icon" href="data:image/svg+xml,{ICON}">'
_SCRIPTS = ("state.js", "elements.js", "stages.js", "brush.js", "inspect.js", "page.js")
_AT_ONCE = 32
_EXAMPLES = {
    "generate": ("a red ball", "a blue fish", "a green star and a yellow house", "a purple boat"),
    "ask": ("what is in the picture?", "what colour is it?", "how many things are there?"),
    "edit": ("make it green", "add a yellow star", "put it on sand"),
    "story": (
        "draw two pictures: a small orange hat grows.",
        "draw three pictures: first there is one pink car. then one more comes in each picture.",
    ),
}
_WORDS = {
    "generate": ("Prompt", "What shall be drawn?", "Draw"),
    "ask": ("Question", "What would you like to know?", "Ask"),
    "edit": ("Instruction", "What shall change?", "Edit"),
    "story": ("Prompt", "What is the story about?", "Tell"),
}


def build(service: Service, *, sketches: bool = True) -> gr.Blocks:
    """The page for ``service``; ``sketches``: whether pictures are shown while their tokens are written."""
    stops = Stops()
    name = service.settings.names[0]
    with gr.Blocks(title="llada-uni", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(_widget("header", name=name), elem_classes="ll-plain")
        with gr.Tabs(elem_id="ll-tabs", overflow_behavior="wrap"):
            for tab, title in (("generate", "Generate"), ("ask", "Ask"), ("edit", "Edit"), ("story", "Story")):
                with gr.Tab(title, id=tab, render_children=True, elem_id=f"ll-tab-{tab}"):
                    _form(service, tab, stops, sketches=sketches)
            with gr.Tab("Inspect", id="inspect", render_children=True, elem_id="ll-tab-inspect"):
                gr.HTML(_widget("inspect"), elem_classes="ll-plain")
        gr.HTML(_widget("history"), elem_classes="ll-plain")
        _looking(service)
    blocks.queue(default_concurrency_limit=_AT_ONCE, max_size=4 * _AT_ONCE, api_open=False)
    return blocks


def style() -> str:
    """Rules of the page."""
    return resources.files("llada_uni.ui").joinpath("page.css").read_text("utf-8")


def script() -> str:
    """Script of the page, as the function that Gradio calls when it is loaded."""
    files = resources.files("llada_uni.ui")
    return "() => {\n" + "\n".join(files.joinpath(name).read_text("utf-8") for name in _SCRIPTS) + "}\n"


def look_of() -> themes.Base:
    """Colours, fonts of the visitor's own system, and roundings."""
    theme = themes.Base(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        radius_size="md",
        font=["ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    )
    return theme.set(
        body_background_fill="#f6f7fb",
        body_background_fill_dark="#0d1017",
        block_background_fill="#ffffff",
        block_background_fill_dark="#161b26",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_weight="600",
        block_info_text_size="12px",
        input_background_fill="#f6f7fb",
        input_background_fill_dark="#0f131c",
        input_border_color="#dfe3ee",
        input_border_color_dark="#2a3142",
        input_border_width="1px",
        button_primary_background_fill="#4f46e5",
        button_primary_background_fill_hover="#4338ca",
        button_primary_background_fill_dark="#6366f1",
        button_primary_background_fill_hover_dark="#7c7ff5",
        button_primary_text_color="#ffffff",
        slider_color="#4f46e5",
        slider_color_dark="#818cf8",
    )


def _widget(kind: str, **data: str) -> str:
    """A place that the page's script fills."""
    more = "".join(f' data-{name}="{html.escape(value)}"' for name, value in data.items())
    return f'<div class="ll ll-{kind}" data-ll="{kind}"{more}></div>'


def _form(service: Service, tab: str, stops: Stops, *, sketches: bool) -> None:
    label, hint, verb = _WORDS[tab]
    tab_fields = fields(tab, service.engine.networks)
    with gr.Row(elem_classes="ll-row"):
        with gr.Column(scale=5, min_width=300, elem_classes="ll-controls"):
            if tab in ("ask", "edit"):
                gr.HTML(_widget("well", tab=tab), elem_classes="ll-plain")
            words = gr.Textbox(
                label=label, placeholder=hint, lines=2, max_lines=6, elem_id=f"ll-words-{tab}", submit_btn=False
            )
            gr.HTML(_widget("chips", tab=tab, words="|".join(_EXAMPLES[tab])), elem_classes="ll-plain")
            with gr.Row(elem_classes="ll-buttons"):
                start = gr.Button(verb, variant="primary", elem_id=f"ll-run-{tab}", elem_classes="ll-run")
                stop = gr.Button("Stop", variant="stop", elem_id=f"ll-stop-{tab}", elem_classes="ll-stop")
            with gr.Accordion("Settings", open=False, elem_classes="ll-settings", elem_id=f"ll-settings-{tab}"):
                settings = [_input(tab, field) for field in tab_fields]
        with gr.Column(scale=7, min_width=300, elem_classes="ll-result"):
            gr.HTML(_widget("stage", tab=tab), elem_classes="ll-plain")
    slots = [gr.Textbox(visible=False) for _ in range(3)]
    outputs = [gr.HTML(visible="hidden", js_on_load=None) for _ in range(2)]
    gr.on(
        [start.click, words.submit],
        _runner(service, tab, len(settings), stops, sketches=sketches),
        [words, *settings, *slots],
        outputs,
        js=f"(...values) => window.llada.gather({tab!r}, values)",
        show_progress="hidden",
        api_visibility="private",
        concurrency_limit=_AT_ONCE,
    )
    stop.click(
        lambda number: stops.stop(str(number)[:64]),
        slots[:1],
        None,
        js=f"() => window.llada.stopped({tab!r})",
        show_progress="hidden",
        api_visibility="private",
        concurrency_limit=_AT_ONCE,
    )


def _input(tab: str, field: Field) -> Any:
    """The control of one setting; its explanation stands with it, where a finger can read it too."""
    about: dict[str, Any] = {"label": field.name, "info": field.help, "elem_id": f"ll-{tab}-{field.name}"}
    if field.kind == "slider":
        low, high, step = field.bounds
        return gr.Slider(low, high, value=field.preset, step=step, **about)
    if field.kind == "choice":
        return gr.Dropdown(list(field.choices), value=field.preset, filterable=False, **about)
    if field.kind == "flag":
        return gr.Checkbox(value=bool(field.preset), **about)
    # A text field: an empty number field is sent as 0 once it has been seen.
    return gr.Textbox(value="", placeholder="automatic", lines=1, max_lines=1, **about)


def _runner(service: Service, tab: str, count: int, stops: Stops, *, sketches: bool) -> Callable[..., Any]:
    async def carried_out(request: gr.Request, *sent: Any) -> AsyncGenerator[Any, None]:
        words, values, (picture, mask, number) = sent[0], sent[1 : 1 + count], sent[1 + count :]
        form = Form(tab=tab, words=words, values=values, picture=picture, mask=mask)
        place = Place(number=str(number)[:64], url=_address(request), sketches=sketches, stops=stops)
        async for told in run(service, form, place):
            kept = gr.skip() if told.kept is None else message(told.kept)
            yield message(told.now), kept

    return carried_out


def _looking(service: Service) -> None:
    """A picture chosen for an edit is shown as the model will see it; the page's script presses the button."""
    slots = [gr.Textbox(visible=False) for _ in range(2)]
    seen = gr.HTML(visible="hidden", js_on_load=None)
    button = gr.Button("look", visible="hidden", elem_id="ll-look")

    async def looked(picture: str, number: str) -> str:
        return message(await look(service, picture, str(number)[:64]))

    button.click(
        looked, slots, seen, js="() => window.llada.looking()", show_progress="hidden", api_visibility="private"
    )


def _address(request: gr.Request) -> str:
    """Scheme, host and port by which the visitor reaches the server."""
    base = request.request.base_url if request.request is not None else None
    return "http://127.0.0.1:8000" if base is None else f"{base.scheme}://{base.netloc}"
