"""A story as Markdown and as one HTML page. Whatever user or model wrote is text there, never markup."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llada_uni.pipeline.results import ImageResult

if TYPE_CHECKING:
    from PIL.Image import Image

    from llada_uni.pipeline.story_results import StoryResult, StoryTurn

__all__ = ["html_page", "markdown_page", "plain_markdown"]

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ACTIVE = re.compile(r"([\\`*_\[\]~|#$])")
_LINE_START = re.compile(r"^(\d*)([-+=.)])", re.MULTILINE)
_STYLE = """
:root { color-scheme: light dark; }
body { font: 1.1rem/1.6 Georgia, serif; max-width: 40rem; margin: 3rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.3rem; line-height: 1.3; overflow-wrap: anywhere; }
p { white-space: pre-line; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; }
figure img { width: 100%; max-width: 28rem; height: auto; border-radius: .4rem; display: block; }
.user { border-left: .25rem solid #8886; padding-left: 1rem; margin: 1.5rem 0; font-style: italic; }
.user img { max-width: 12rem; height: auto; border-radius: .4rem; margin-right: .5rem; }
footer { margin-top: 3rem; border-top: 1px solid #8886; padding-top: .5rem; font: .8rem/1.4 system-ui, sans-serif; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html_page(story: StoryResult) -> str:
    """One self-contained page: pictures as data URIs, no script, nothing fetched from anywhere."""
    title = _html(_title(story))
    parts: list[str] = []
    drawn = 0
    for turn in story.turns:
        parts += _html_turn(turn, drawn)
        drawn += sum(isinstance(segment, ImageResult) for segment in turn.segments)
    body = "\n".join(parts)
    return f"""<!doctype html>
<html>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1 dir="auto">{title}</h1>
<main>
{body}
</main>
<footer>{_html(_colophon(story))}</footer>
</body>
</html>
"""


def markdown_page(story: StoryResult) -> str:
    """Markdown beside ``frame-1.png``, ... and, for pictures in the prompts, ``input-1.png``, ..."""
    parts = [f"# {plain_markdown(_title(story))}"]
    inputs = frames = 0
    for turn in story.turns:
        if turn.prompt is not None:
            seen = range(inputs + 1, inputs + len(turn.images) + 1)
            inputs += len(turn.images)
            shown = [f"![Picture {number} of the prompt](input-{number}.png)" for number in seen]
            told = "\n\n".join([*shown, plain_markdown(turn.prompt)])
            parts.append("\n".join(f"> {line}".rstrip() for line in told.split("\n")))
        for segment in turn.segments:
            if isinstance(segment, ImageResult):
                frames += 1
                parts.append(f"![{plain_markdown(_alt(segment, frames))}](frame-{frames}.png)")
            else:
                parts.append(plain_markdown(segment))
    return "\n\n".join([*parts, "---", plain_markdown(_colophon(story))]) + "\n"


def plain_markdown(text: str) -> str:
    """``text`` written so that Markdown shows its characters: no markup and no HTML comes out of it."""
    lines = [line.strip() for line in _clean(text).replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    escaped = _ACTIVE.sub(r"\\\1", "\n".join(lines).strip())
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LINE_START.sub(r"\1\\\2", escaped)


def _html_turn(turn: StoryTurn, frames: int) -> Iterator[str]:
    """The parts of one turn, ``frames`` pictures after the beginning."""
    shown = "".join(
        f'<img src="{_data_uri(image)}" alt="Picture {number} of the prompt">\n'
        for number, image in enumerate(turn.images, 1)
    )
    if turn.prompt is not None:
        yield f'<section class="user">\n{shown}<p dir="auto">{_html(turn.prompt)}</p>\n</section>'
    for segment in turn.segments:
        if isinstance(segment, str):
            yield f'<p dir="auto">{_html(segment)}</p>'
            continue
        frames += 1
        size = f'width="{segment.image.width}" height="{segment.image.height}"'
        source = _data_uri(segment.image)
        yield f'<figure><img src="{source}" alt="{_html(_alt(segment, frames))}" {size}></figure>'


def _alt(frame: ImageResult, number: int) -> str:
    """What the picture shows, in the words that stand before it, on one line."""
    return " ".join((frame.prompt or "").split()) or f"Picture {number}"


def _title(story: StoryResult) -> str:
    words = " ".join((story.turns[0].prompt or "").split()) or "A story"
    return words if len(words) <= 100 else words[:99].rstrip() + "…"


def _colophon(story: StoryResult) -> str:
    return f"Written and drawn by {story.model} with llada-uni, seed {story.seed}, ended by {story.finish_reason}."


def _html(text: str) -> str:
    return html.escape(_clean(text), quote=True)


def _clean(text: str) -> str:
    """Control characters, which neither format may hold, as replacement characters."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _data_uri(image: Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
