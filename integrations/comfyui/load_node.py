"""The node that opens a checkpoint, and the one model that is kept in memory."""

from __future__ import annotations

import hashlib
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import inputs

if TYPE_CHECKING:
    from llada_uni import LladaUni

FOLDER = "llada_uni"
"""Below ComfyUI's ``models``: directories in it are found by their names."""

_lock = threading.Lock()
_kept: tuple[tuple[str, ...], LladaUni] | None = None


class LladaUniLoadModel:
    """A checkpoint ready for use; its networks are read when a node first needs them."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Opens a LLaDA2.0-Uni checkpoint. The last one opened stays in memory."
    RETURN_TYPES = (inputs.MODEL,)
    RETURN_NAMES = ("model",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = 'nano (inside the package), a name below models/llada_uni, a directory, or "organisation/name"'
        return {
            "required": {
                "model": ("STRING", {"default": "nano", "tooltip": tooltip}),
                "device": inputs.choice(("auto", "cpu", "cuda"), "auto is the device that ComfyUI uses."),
                "dtype": inputs.choice(
                    ("auto", "float32", "bfloat16", "float16"), "auto is float32 on the CPU and bfloat16 elsewhere."
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, model: str, device: str, dtype: str) -> str:
        """Another value whenever files of a local checkpoint change, so that it is opened again."""
        return _fingerprint(_located(model))

    def load(self, model: str, device: str, dtype: str) -> tuple[LladaUni]:
        """Open the checkpoint, or take the one that is open."""
        return (opened(model, device, dtype),)


def opened(name: str, device: str, dtype: str) -> LladaUni:
    """The model in memory if it is this one, unchanged; else another takes its place."""
    global _kept
    _require_package()
    from llada_uni import LladaUni

    place = _comfy_device() if device == "auto" else device
    located = _located(name)
    key = (located, place, dtype, _fingerprint(located))
    with _lock:
        if _kept is None or _kept[0] != key:
            _kept = None
            model = LladaUni.from_pretrained(located, device=place, dtype=None if dtype == "auto" else dtype)
            _kept = (key, model)
        return _kept[1]


def _located(name: str | None) -> str:
    """``name``, or the directory of that name below ComfyUI's ``models/llada_uni``."""
    text = (name or "").strip()
    paths = sys.modules.get("folder_paths")
    if text and paths is not None:
        directory = Path(paths.models_dir) / FOLDER / text
        if directory.is_dir():
            return str(directory)
    return text


def _fingerprint(name: str) -> str:
    """Names, sizes and times of the files of a local checkpoint; nothing for one inside the package or on the hub."""
    directory = Path(name).expanduser()
    if not name or name == "nano" or not directory.is_dir():
        return ""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    facts = [(str(path.relative_to(directory)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _comfy_device() -> str:
    management = sys.modules.get("comfy.model_management")
    return "auto" if management is None else str(management.get_torch_device())


def _require_package() -> None:
    try:
        import llada_uni  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "llada_uni":
            raise
        raise RuntimeError(
            "the package llada-uni is not installed in the Python that runs ComfyUI; "
            "install it there with: python -m pip install PATH_OF_THE_LLADA_UNI_REPOSITORY"
        ) from error
