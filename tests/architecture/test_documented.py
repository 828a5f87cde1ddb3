"""What the documentation shows exists: commands and options, Python names and arguments, links, recipes."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from documents import ROOT, Block, all_blocks, command_lines, documents, inline_flags, links
from llada_uni.cli.main import _with_default_command, build_command
from llada_uni.config import override
from llada_uni.pipeline import Conversation, EncodedImage, ImageResult, LladaUni, StoryResult, TextResult
from llada_uni.pipeline.region_settings import InpaintOptions, OutpaintOptions, VaryOptions
from llada_uni.pipeline.settings import AnswerOptions, ChatOptions, DecodeOptions, EditOptions, ImageOptions
from llada_uni.pipeline.story_settings import StoryOptions
from llada_uni.training.run import _parser, resolve_recipe

NANO = ROOT / "src" / "llada_uni" / "nano"
MADE_WITH_NANO = {"docs/nano.md", "docs/assets/gallery.png"}
# The documentation's names for what these classes' methods return.
VARIABLES = {
    "model": LladaUni, "result": ImageResult, "results": list, "answer": TextResult, "encoded": EncodedImage,
    "talk": Conversation, "story": StoryResult,
}  # fmt: skip
OPTIONS = {
    "generate_image": ImageOptions, "generate": ImageOptions, "decode_image": DecodeOptions,
    "understand_image": AnswerOptions, "ask": AnswerOptions, "edit_image": EditOptions, "stream_edit": EditOptions,
    "edit": EditOptions, "chat": ChatOptions, "stream_chat": ChatOptions, "say": ChatOptions,
    "inpaint_image": InpaintOptions, "stream_inpaint": InpaintOptions, "outpaint_image": OutpaintOptions,
    "vary_image": VaryOptions,
    "generate_interleaved": StoryOptions, "stream_interleaved": StoryOptions,
}  # fmt: skip

SHELL = [(block, line) for block in all_blocks("bash", "sh", "console") for line in command_lines(block)]
PYTHON = all_blocks("python", "py")


def shown(item: Any) -> str:
    return " ".join(item)[:60] if isinstance(item, list) else str(item)


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "line"), SHELL, ids=shown)
def test_documented_commands_parse(block: Block, line: list[str]) -> None:
    command = build_command()
    name, *rest = _with_default_command(line, list(command.commands))
    if name == "train":
        check_training(rest)
        return
    command = command.commands[name]
    while hasattr(command, "commands"):
        name, *rest = rest
        assert name in command.commands, f"{block}: no command {name!r}"
        command = command.commands[name]
    context = command.make_context(name, rest)
    check_size(context.params.get("size"))


def check_size(text: str | None) -> None:
    from llada_uni.grid import parse_size

    if text is not None:
        parse_size(text)


def check_training(arguments: list[str]) -> None:
    """The options exist, the recipe exists, and each ``--set`` fits it."""
    parsed = training_parser().parse_args(arguments)
    recipe = resolve_recipe(parsed.recipe)
    for assignment in parsed.set:
        recipe = override(recipe, assignment)


def training_parser() -> argparse.ArgumentParser:
    parser = _parser()

    def fail(message: str) -> None:
        raise AssertionError(message)

    parser.error = fail  # type: ignore[method-assign]
    return parser


@cache
def known_flags() -> frozenset[str]:
    def of(command: Any) -> set[str]:
        own = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        return own.union(*(of(inner) for inner in getattr(command, "commands", {}).values()))

    training = {flag for action in _parser()._actions for flag in action.option_strings}
    return frozenset(of(build_command()) | training)


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_options_named_in_the_text_exist(path: Path) -> None:
    assert inline_flags(path) <= known_flags()


def test_the_documentation_shows_every_command() -> None:
    commands = set(build_command().commands)
    used = {_with_default_command(line, list(commands))[0] for _, line in SHELL}
    assert commands <= used, f"not shown anywhere: {commands - used}"


# --- Python -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_documented_python_names_exist(block: Block) -> None:
    tree = ast.parse(block.code, filename=str(block))
    names: dict[str, Any] = dict(VARIABLES)
    for node in ast.walk(tree):
        names |= imported(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            owner = names[node.value.id]
            assert has(owner, node.attr), f"{block}: {node.value.id} has no {node.attr}"
        if isinstance(node, ast.Call):
            check_arguments(node, names, block)


def imported(node: ast.AST) -> dict[str, Any]:
    """Objects that an import of ours binds; fails when one does not exist."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llada_uni"):
        module = importlib.import_module(str(node.module))
        return {alias.asname or alias.name: member(module, alias.name) for alias in node.names}
    if isinstance(node, ast.Import):
        ours = [alias for alias in node.names if alias.name.startswith("llada_uni")]
        return {alias.asname or "llada_uni": importlib.import_module(alias.name) for alias in ours}
    return {}


def member(module: Any, name: str) -> Any:
    return getattr(module, name) if hasattr(module, name) else importlib.import_module(f"{module.__name__}.{name}")


def has(owner: Any, name: str) -> bool:
    fields = getattr(owner, "__annotations__", {}) if inspect.isclass(owner) else {}
    instance = {"name", "networks"} if owner is LladaUni else set()
    return hasattr(owner, name) or name in fields or name in instance


def check_arguments(node: ast.Call, names: dict[str, Any], block: Block) -> None:
    """Keyword arguments of ``owner.method(...)`` and ``function(...)`` are ones it has."""
    function = node.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id in names:
        target = getattr(names[function.value.id], function.attr, None)
        name = function.attr
    elif isinstance(function, ast.Name):
        target, name = names.get(function.id), function.id
    else:
        return
    if not callable(target):
        return
    known = set(inspect.signature(target).parameters) | set(getattr(OPTIONS.get(name), "__annotations__", ()))
    unknown = {keyword.arg for keyword in node.keywords if keyword.arg} - known
    assert not unknown, f"{block}: {name} has no argument {unknown}"


def test_the_checks_can_fail() -> None:
    bad = Block(ROOT / "README.md", 1, "python", "from llada_uni import LladaUni\nmodel.paint('x')\n")
    with pytest.raises(AssertionError, match="model has no paint"):
        test_documented_python_names_exist(bad)
    bad = Block(ROOT / "README.md", 1, "python", "model.generate_image('x', steps=3)\n")
    with pytest.raises(AssertionError, match="no argument"):
        test_documented_python_names_exist(bad)
    with pytest.raises(Exception, match="No such option"):
        test_documented_commands_parse(bad, ["a prompt", "--steps", "3"])
    with pytest.raises(AssertionError, match="unrecognized"):
        test_documented_commands_parse(bad, ["train", "recipes.nano:vae", "--epochs", "3"])


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    broken = []
    for target in links(path):
        if "://" in target or target.startswith(("#", "mailto:")):
            continue
        place = (path.parent / target.split("#")[0]).resolve()
        waiting = not NANO.is_dir() and str(place.relative_to(ROOT)) in MADE_WITH_NANO
        if not place.exists() and not waiting:
            broken.append(target)
    assert not broken, f"{path.relative_to(ROOT)}: {broken}"
