"""Writes docs/reference.md from docstrings and from the command tree; a test holds that it is up to date.

python docs/make_reference.py
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("reference.md")
_HEAD = """\
# Reference

Written by `python docs/make_reference.py` from the docstrings; do not edit. The guides explain, this page lists.

[The package](#the-package) · [Loading components](#loading-components) · [The micro-world](#the-micro-world) ·
[The command line](#the-command-line)
"""
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|exc|data):`~?([\w.]+)`")
_SECTIONS = {"Args": "Arguments", "Returns": "Returns", "Raises": "Errors", "Yields": "Yields"}
_SECTION = re.compile(rf"^({'|'.join(_SECTIONS)}):\s*(.*)$")
_ENTRY = re.compile(r"^([\w*, ]+(?:\[[^\]]*\])?): (.*)$")
_SHOWN_LINE = 110


def build() -> str:
    """The whole page."""
    parts = [_HEAD, *package(), *loaders(), *world(), *command_line()]
    return "\n".join(part.rstrip() + "\n" for part in parts)


# --- Python ---------------------------------------------------------------------------------------------------------


def package() -> Iterator[str]:
    """Names exported by ``llada_uni`` itself; the loaders have their own chapter."""
    module = importlib.import_module("llada_uni")
    yield "## The package\n\n`from llada_uni import ...`"
    names = [name for name in module.__all__ if not name.startswith(("load_", "_"))]
    errors = [name for name in names if name.endswith("Error")]
    for name in sorted(set(names) - set(errors), key=lambda name: (name != "LladaUni", name)):
        yield from entry(name, getattr(module, name))
    errors.sort(key=lambda name: (name != "LladaUniError", name))
    yield "### Errors\n\n" + "\n".join(f"- `{name}`: {one_line(getattr(module, name))}" for name in errors)


def loaders() -> Iterator[str]:
    """The component loaders."""
    module = importlib.import_module("llada_uni.weights.load")
    yield f"## Loading components\n\n`from llada_uni.weights.load import ...`\n\n{prose(module.__doc__)}"
    for name in module.__all__:
        if name.startswith("load_"):
            yield from entry(name, getattr(module, name))


def world() -> Iterator[str]:
    """Names exported by ``llada_uni.scenes``."""
    module = importlib.import_module("llada_uni.scenes")
    yield f"## The micro-world\n\n`from llada_uni.scenes import ...`\n\n{prose(module.__doc__)}"
    for name in module.__all__:
        yield from entry(name, getattr(module, name))


def entry(name: str, value: Any) -> Iterator[str]:
    """One public name: a class with its fields and methods, a function, or a constant."""
    if inspect.isclass(value):
        yield f"### `{name}`\n\n{prose(value.__doc__)}"
        yield from fields(value)
        yield from methods(value)
    elif callable(value):
        yield f"### `{name}`\n\n{signature(name, value)}\n\n{prose(value.__doc__)}"
    else:
        yield f"### `{name}`\n\n`{value!r}`"


def fields(owner: type) -> Iterator[str]:
    """Fields of a dataclass with types and defaults."""
    if not hasattr(owner, "__dataclass_fields__"):
        return
    lines = []
    for name, field in owner.__dataclass_fields__.items():
        plain = isinstance(field.default, bool | int | float | str | tuple | None)
        lines.append(f"- `{name}: {field.type}`" + (f" = `{field.default!r}`" if plain else ""))
    yield "\n".join(lines)


def methods(owner: type) -> Iterator[str]:
    """Public methods and properties that the class and its own bases define and describe."""
    bases = [base for base in owner.__mro__ if base.__module__.startswith("llada_uni")]
    found = {name: value for base in reversed(bases) for name, value in vars(base).items()}
    own_first = sorted(found, key=lambda name: name not in vars(owner))
    for name in own_first:
        value = found[name]
        if name.startswith("_"):
            continue
        if isinstance(value, property) and value.__doc__:
            yield f"#### `{owner.__name__}.{name}`\n\n{prose(value.__doc__)}"
        target = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if inspect.isfunction(target) and target.__doc__:
            yield f"#### `{owner.__name__}.{name}`\n\n{signature(name, target)}\n\n{prose(target.__doc__)}"


def signature(name: str, function: Any) -> str:
    """The head of the definition as a code block, one argument a line where it is long."""
    found = inspect.signature(function)
    shown = [argument(item) for key, item in found.parameters.items() if key not in ("self", "cls")]
    first = next((i for i, one in enumerate(found.parameters.values()) if one.kind is one.KEYWORD_ONLY), None)
    starred = any(item.kind is item.VAR_POSITIONAL for item in found.parameters.values())
    if first is not None and not starred:
        shown.insert(first - (len(found.parameters) - len(shown)), "*")
    result = "" if found.return_annotation is found.empty else f" -> {found.return_annotation}"
    line = f"def {name}({', '.join(shown)}){result}: ..."
    if len(line) > _SHOWN_LINE:
        line = f"def {name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){result}: ..."
    return f"```python\n{line}\n```"


def argument(item: inspect.Parameter) -> str:
    """``name: type = default``."""
    star = {item.VAR_POSITIONAL: "*", item.VAR_KEYWORD: "**"}.get(item.kind, "")
    kind = "" if item.annotation is item.empty else f": {item.annotation}"
    value = json.dumps(item.default) if isinstance(item.default, str) else repr(item.default)
    default = "" if item.default is item.empty else f" = {value}"
    return f"{star}{item.name}{kind}{default}"


def one_line(value: Any) -> str:
    """The first sentence or line of a docstring."""
    return prose(value.__doc__).split("\n\n")[0].replace("\n", " ")


def prose(text: str | None) -> str:
    """A docstring as markdown: roles become code, sections of arguments and errors become lists."""
    lines = inspect.cleandoc(_ROLE.sub(lambda found: f"`{found[1].rsplit('.', 1)[-1]}`", text or "")).splitlines()
    shown: list[str] = []
    index = 0
    while index < len(lines):
        found = _SECTION.match(lines[index])
        index += 1
        if found is None:
            shown.append(lines[index - 1])
            continue
        end = next(
            (i for i in range(index, len(lines)) if lines[i].strip() and not lines[i].startswith(" ")), len(lines)
        )
        shown += ["", f"**{_SECTIONS[found[1]]}**: {found[2]}".rstrip(": "), "", *bullets(lines[index:end]), ""]
        index = end
    return re.sub(r"\n{3,}", "\n\n", "\n".join(shown)).replace("``", "`").strip()


def bullets(lines: list[str]) -> list[str]:
    """Indented ``name: text`` entries as list items."""
    shown: list[str] = []
    for line in textwrap.dedent("\n".join(lines)).splitlines():
        found = _ENTRY.match(line)
        if found:
            shown.append(f"- `{found[1]}`: {found[2]}")
        elif line.strip():
            shown.append(f"  {line.strip()}" if shown else line.strip())
    return shown


# --- the command line -----------------------------------------------------------------------------------------------


def command_line() -> Iterator[str]:
    """Every command with its arguments and options."""
    from llada_uni.cli.main import build_command

    root = build_command()
    yield f"## The command line\n\n{prose(root.help)}"
    yield from command("llada-uni", root)


def command(name: str, found: Any) -> Iterator[str]:
    """A command or a group with everything below it."""
    inner = getattr(found, "commands", {})
    if name.endswith(" train"):
        yield f"### `{name}`\n\n{prose(found.help)}\n\n{training_options()}"
        return
    if not inner:
        yield f"### `{name}{usage(found)}`\n\n{prose(found.help)}\n\n{options(found)}"
    for key, value in inner.items():
        yield from command(f"{name} {key}", value)


def usage(found: Any) -> str:
    """Positional arguments of a command."""
    return "".join(f" {item.metavar or item.name.upper()}" for item in found.params if not item.opts[0].startswith("-"))


def options(found: Any) -> str:
    """A table of the options of a command."""
    rows = ["| option | meaning | default |", "|---|---|---|"]
    for item in found.params:
        flags = ", ".join((*item.opts, *item.secondary_opts))
        if not flags.startswith("-"):
            continue
        value = "" if item.is_flag else f" {item.metavar or item.name.upper()}"
        given = isinstance(item.default, str | int | float) and item.default is not False
        default = f"`{item.default}`" if given else ""
        shown = f"{flags}{value}".replace("|", "\\|")
        rows.append(f"| `{shown}` | {item.help} | {default} |")
    return "\n".join(rows)


def training_options() -> str:
    """The options of ``llada-uni train``, which has a parser of its own."""
    from llada_uni.training.run import _parser

    rows = ["| option | meaning |", "|---|---|"]
    for action in _parser()._actions:
        if action.dest == "help":
            continue
        value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
        flags = ", ".join(action.option_strings)
        name = f"{flags}{value}" if flags else action.dest.upper()
        rows.append(f"| `{name}` | {action.help} |")
    return "\n".join(rows)


if __name__ == "__main__":
    PAGE.write_text(build(), encoding="utf-8")
