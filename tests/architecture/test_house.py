"""The rules of the house that a machine can check: names, sizes, versions, recipes, no traces of a machine."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import llada_uni
import llada_uni_recipes

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
NANO = SOURCE / "llada_uni" / "nano"
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg"}
MIB = 2**20
MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 80
_HOMES = ("work", "tmp", "opt", "root", "home", "mnt", "Users")
MACHINE_PATH = re.compile(rf"(?<![\w.:/~}}\])$*-])/(?:{'|'.join(_HOMES)})/[\w.-]")


@cache
def repository() -> tuple[Path, ...]:
    """Files that git tracks or would add; without git all files but caches."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
        paths = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        hidden = {".git", ".venv", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis", "build", "dist"}
        paths = [path for path in ROOT.rglob("*") if not hidden & set(path.relative_to(ROOT).parts)]
    return tuple(path for path in paths if path.is_file())


@cache
def modules() -> tuple[str, ...]:
    """Dotted names of every module of both packages."""
    found = [llada_uni.__name__, llada_uni_recipes.__name__]
    for package in (llada_uni, llada_uni_recipes):
        found += [one.name for one in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return tuple(name for name in found if not name.endswith("__main__"))


def total_mib(paths: list[Path]) -> float:
    return sum(path.stat().st_size for path in paths) / MIB


# --- versions -----------------------------------------------------------------------------------------------------


def test_changelog_pyproject_and_package_name_one_version() -> None:
    newest = re.search(r"^## (\d+\.\d+\.\d+\S*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None, "CHANGELOG.md has no version heading such as '## 0.1.0 — 2026-01-31'"
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert newest[1] == declared == llada_uni.__version__, "install the package again after a change of version"
    cited = re.search(r"^version: *\"?([^\s\"]+)", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited is None or cited[1] == declared


# --- names and docstrings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", modules())
def test_public_names_exist_and_are_described(name: str) -> None:
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names), f"{name}.__all__ names something twice"
    missing = [item for item in names if not hasattr(module, item)]
    assert not missing, f"{name}.__all__ names what does not exist: {missing}"
    silent = [item for item in names if not described(getattr(module, item), item)]
    assert not silent, f"{name}: no docstring on {silent}"
    empty = not Path(str(module.__file__)).read_text(encoding="utf-8").strip()
    assert module.__doc__ or empty, f"{name} does not say what it is for"


def described(value: Any, name: str) -> bool:
    """Whether a function or class has a docstring of its own; constants and type aliases need none."""
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        return True
    text = (value.__doc__ or "").strip()
    generated = inspect.isclass(value) and text.startswith(f"{name}(")
    return bool(text) and not generated


# --- recipes ------------------------------------------------------------------------------------------------------


def recipes() -> list[tuple[str, str]]:
    names = [one.name for one in pkgutil.walk_packages(llada_uni_recipes.__path__, "llada_uni_recipes.")]
    return [(name, function) for name in names for function in importlib.import_module(name).__all__]


@pytest.mark.parametrize(("module", "function"), recipes(), ids=lambda item: item.removeprefix("llada_uni_recipes."))
def test_every_recipe_builds_a_frozen_configuration(module: str, function: str) -> None:
    from llada_uni.training.run import resolve_recipe

    recipe = resolve_recipe(f"{module.removeprefix('llada_uni_')}:{function}")
    jobs = recipe if isinstance(recipe, tuple) else (recipe,)
    assert len({job.name for job in jobs}) == len(jobs)
    for job in jobs:
        assert dataclasses.is_dataclass(job)
        assert type(job).__dataclass_params__.frozen
    assert recipe == getattr(importlib.import_module(module), function)(), "two calls differ"


# --- sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_fit_on_few_screens(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


def test_the_repository_stays_small() -> None:
    pictures = [path for path in repository() if path.suffix.lower() in PICTURES]
    assert total_mib(pictures) <= 5
    assert total_mib(list(repository())) <= 45


@pytest.mark.skipif(not NANO.is_dir(), reason="the embedded model is not built yet")
def test_nano_stays_small() -> None:
    files = [path for path in NANO.rglob("*") if path.is_file()]
    assert total_mib(files) <= 32
    assert all(path.stat().st_size < 16 * MIB for path in files)


# --- traces of a machine ------------------------------------------------------------------------------------------


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    found = []
    for path in repository():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in MACHINE_PATH.finditer(text)]
    assert not found, found[:10]


def test_the_pattern_of_machine_paths_works() -> None:
    for home in _HOMES:
        assert MACHINE_PATH.search(f"see /{home}/x/y")
        assert MACHINE_PATH.search(f'"/{home}/x"')
    for harmless in ("https://example.org/" + "home/x", "a/" + "work/b", "~/" + "tmp/x", "/" + "usr/bin"):
        assert not MACHINE_PATH.search(harmless)
