"""What a form did, as text to copy: Python for this package and a command line for the server. Both run as they are.

Pictures are files beside the text: ``picture.png`` and, for a masked edit, ``mask.png``, whose
transparent parts are written anew.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["MASK", "PICTURE", "Call", "curl_text", "python_text"]

PICTURE, MASK = "picture.png", "mask.png"
_SAVE = (
    'import base64, json, sys; sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)["data"][0]["b64_json"]))'
)
_SAY = 'import json, sys; print(json.load(sys.stdin)["choices"][0]["message"]["content"])'
_SERVER_NAMES = {"max_new_tokens": "max_tokens"}


@dataclass(frozen=True, kw_only=True)
class Call:
    """What was asked for: ``words`` in ``tab``, with ``options`` (keyword names; the seed among them).

    ``shows``: whether a picture goes with it, ``marks``: whether a mask does.
    """

    tab: str
    words: str
    options: Mapping[str, Any] = field(default_factory=dict)
    shows: bool = False
    marks: bool = False


def python_text(call: Call, model: str) -> str:
    """A script that does the same with the package; ``model`` as it was opened."""
    method, first, last = _PYTHON[_kind(call)]
    arguments = [repr(PICTURE)] * call.shows + [repr(call.words)]
    arguments += [f'mask="{MASK}"'] * call.marks + [f"{name}={value!r}" for name, value in call.options.items()]
    line = f"{first} = model.{method}({', '.join(arguments)})"
    if len(line) > 100:
        inside = "".join(f"    {argument},\n" for argument in arguments)
        line = f"{first} = model.{method}(\n{inside})"
    return f"from llada_uni import LladaUni\n\nmodel = LladaUni.from_pretrained({model!r})\n{line}\n{last}\n"


def curl_text(call: Call, url: str, *, needs_key: bool = False) -> str:
    """A command line that asks the server at ``url`` for the same; the key is taken from ``LLADA_UNI_API_KEY``."""
    options = {_SERVER_NAMES.get(name, name): value for name, value in call.options.items()}
    kind = _kind(call)
    if kind == "generate":
        data = shlex.quote(_dumps({"prompt": call.words} | options))
        sent = f"{_curl(url, 'images/generations', needs_key)} \\\n  {_JSON} --data-raw {data}"
        return f"{sent} \\\n  | {_python(_SAVE)} > new.png\n"
    if kind in ("edit", "inpaint"):
        pairs = {"prompt": call.words} | options
        forms = [f"-F image=@{PICTURE}"] + [f"-F mask=@{MASK}"] * call.marks
        forms += [f"--form-string {shlex.quote(f'{name}={_typed(value)}')}" for name, value in pairs.items()]
        sent = " \\\n  ".join([_curl(url, "images/edits", needs_key), *forms])
        return f"{sent} \\\n  | {_python(_SAVE)} > new.png\n"
    if kind == "story":
        body = {"messages": [{"role": "user", "content": call.words}], "modalities": ["text", "image"]} | options
        data = shlex.quote(_dumps(body))
        return f"{_curl(url, 'chat/completions', needs_key)} \\\n  {_JSON} --data-raw {data} > story.json\n"
    return _ask(call, url, options, needs_key)


_PYTHON = {
    "generate": ("generate_image", "result", 'result.save("new.png")'),
    "ask": ("understand_image", "answer", "print(answer.text)"),
    "edit": ("edit_image", "result", 'result.save("new.png")'),
    "inpaint": ("inpaint_image", "result", 'result.save("new.png")'),
    "story": ("generate_interleaved", "story", 'story.save_html("story.html")'),
}
_JSON = '-H "Content-Type: application/json"'


def _kind(call: Call) -> str:
    return "inpaint" if call.marks else call.tab


def _ask(call: Call, url: str, options: Mapping[str, Any], needs_key: bool) -> str:
    """The picture's file is put into the body as a data URI."""
    mark = "PICTURE"
    shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{mark}"}}
    content = [shown, {"type": "text", "text": call.words}]
    body = {"messages": [{"role": "user", "content": content}], **options}
    before, _, after = _dumps(body).partition(mark)
    pieces = f"printf %s {shlex.quote(before)}; base64 < {PICTURE} | tr -d '\\n'; printf %s {shlex.quote(after)}"
    sent = f"{_curl(url, 'chat/completions', needs_key)} \\\n  {_JSON} --data-binary @-"
    return f"{{ {pieces}; }} \\\n  | {sent} \\\n  | {_python(_SAY)}\n"


def _typed(value: Any) -> str:
    """A value as forms hold it: several numbers with commas between them."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _curl(url: str, place: str, needs_key: bool) -> str:
    key = ' -H "Authorization: Bearer $LLADA_UNI_API_KEY"' if needs_key else ""
    return f"curl -sS --fail-with-body {shlex.quote(f'{url}/v1/{place}')}{key}"


def _python(code: str) -> str:
    return f"python3 -c {shlex.quote(code)}"


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
