"""The map of rooms: a room imports only from rooms above it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
PACKAGE = SOURCE / "llada_uni"

ROW = {
    "errors": 0, "config": 0, "vocab": 0, "grid": 0, "diffusion": 0, "protocols": 0,
    "layers": 1,
    "image_tokenizer": 2, "backbone": 2, "decoder": 2,
    "sampling": 3, "prompts": 3, "weights": 3, "testing": 3,
    "pipeline": 4,
    "scenes": 5, "data": 5, "training": 5, "evaluation": 5, "serving": 5,
    "cli": 6, "ui": 6,
}  # fmt: skip
NETWORKS = {"image_tokenizer", "backbone", "decoder"}
FOUNDATION = {"errors", "config", "vocab", "grid", "diffusion", "protocols"}
TRAINABLE = FOUNDATION | NETWORKS | {"layers", "sampling", "prompts", "weights", "scenes"}
ONLY = {  # rooms with a rule of their own
    "errors": set(),
    "config": {"errors"},
    "grid": {"errors", "config"},
    "vocab": {"errors", "config", "grid"},
    "diffusion": {"errors"},
    "protocols": {"errors", "config", "vocab", "grid", "diffusion"},
    "sampling": FOUNDATION,
    "prompts": {"errors", "vocab", "grid"},
    "scenes": {"errors", "config"},
    "data": TRAINABLE,
    "training": TRAINABLE | {"data"},
    "evaluation": TRAINABLE | {"pipeline", "scenes"},
    "testing": TRAINABLE - {"scenes"},
    "cli": set(ROW),  # `llada-uni ui` starts the page
}  # fmt: skip


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {
                f"{node.module}.{alias.name}" if node.module == "llada_uni" else node.module for alias in node.names
            }
    return found


def top_level_imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def files() -> list[Path]:
    return sorted(
        p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name not in ("__init__.py", "__main__.py")
    )


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_above(path: Path) -> None:
    room = room_of(path)
    assert room in ROW, f"{room} is not on the map"
    for module in imported_modules(path):
        assert not module.startswith("llada_uni_recipes"), "recipes are imported by nothing"
        if not module.startswith("llada_uni."):
            continue
        other = module.split(".")[1]
        if other in (room, "__version__"):
            continue
        allowed = ONLY.get(room, {name for name, row in ROW.items() if row < ROW[room]})
        assert other in allowed, f"{path.name} ({room}, row {ROW[room]}) imports {module}"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_relative_imports_are_not_used(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path.name}:{node.lineno}"


def test_maths_needs_only_torch() -> None:
    for path in (PACKAGE / "diffusion").glob("*.py"):
        outside = {m.split(".")[0] for m in imported_modules(path)} - {"llada_uni"}
        assert outside <= {"torch", "math", "dataclasses", "collections", "typing", "__future__", "enum"}, path.name


def test_training_needs_no_extra_dependency() -> None:
    light = {"torch", "numpy", "safetensors", "tokenizers", "llada_uni", "PIL"}
    for room in ("training", "data", "backbone", "decoder", "image_tokenizer", "layers", "weights"):
        for path in (PACKAGE / room).rglob("*.py"):
            outside = {m.split(".")[0] for m in top_level_imports(path)} - set(sys.stdlib_module_names)
            assert outside <= light, f"{path.name} imports {outside - light} when it is loaded"


def test_every_module_declares_its_public_names() -> None:
    for path in files():
        if path.name == "__init__.py" and all(isinstance(n, ast.Expr) for n in ast.parse(path.read_text()).body):
            continue
        names = {t.id for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.Assign)
                 for t in n.targets if isinstance(t, ast.Name)}  # fmt: skip
        assert "__all__" in names, f"{path.relative_to(PACKAGE)} has no __all__"
