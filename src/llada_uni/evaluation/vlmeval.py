"""LLaDA2.0-Uni as a model of VLMEvalKit.

    python -m llada_uni.evaluation.vlmeval VLMEvalKit/run.py --data MMStar --model llada_uni

The kit has no entry points: :func:`register` adds the model to its table ``supported_VLM``, and this module, run as a
script, does so before it runs the kit's own ``run.py``. Written against the kit's ``vlmeval/vlm/base.py``.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llada_uni.errors import ConfigError, LladaUniError, ResourceError
from llada_uni.evaluation.kits import ask, open_for_kit

__all__ = ["MODEL_NAME", "main", "model_class", "register"]

MODEL_NAME = "llada_uni"


def model_class() -> type:
    """The class that the kit opens: ``generate(message, dataset)`` to words.

    Raises:
        ResourceError: the kit is not installed.
    """
    base: Any = _kit("vlmeval.vlm.base").BaseModel

    class LladaUniVLM(base):
        """``model_path`` is what ``--model`` takes elsewhere; the rest are sampling options."""

        INTERLEAVE = True  # every picture is seen, before the words

        def __init__(
            self,
            model_path: str = "nano",
            device: str | None = None,
            dtype: str | None = None,
            max_new_tokens: int | None = None,
            seed: int = 0,
            sprint: str | None = None,
            model: Any = None,
        ) -> None:
            self.model = model or open_for_kit(model_path, device=device, dtype=dtype)
            self.options = {"seed": seed, "max_new_tokens": max_new_tokens, "sprint": sprint}

        def generate_inner(self, message: Sequence[dict[str, str]], dataset: str | None = None) -> str:
            """The answer to a message: a list of ``{"type": "image"|"text", "value": path or words}``."""
            pictures = [part["value"] for part in message if part["type"] == "image"]
            words = "\n".join(part["value"] for part in message if part["type"] == "text")
            return ask(self.model, pictures, words, **self.options)

    return LladaUniVLM


def register(name: str = MODEL_NAME, **arguments: Any) -> None:
    """Add the model to the kit's table as ``name``; ``arguments`` are those of the class.

    Raises:
        ResourceError: the kit is not installed. ConfigError: the name is taken by another model.
    """
    table = _kit("vlmeval.config").supported_VLM
    if name in table and getattr(table[name], "keywords", {}).get("model_path") is None:
        raise ConfigError(f"VLMEvalKit already has a model called {name!r}; choose another name")
    table[name] = partial(model_class(), **{"model_path": "nano", **arguments})


def main(arguments: Sequence[str]) -> int:
    """Register the model, then run the kit's script with the other arguments; ``--model-path DIR`` may come first."""
    rest = list(arguments)
    given: dict[str, Any] = {}
    if rest[:1] == ["--model-path"] and len(rest) > 1:
        given["model_path"], rest = rest[1], rest[2:]
    if not rest or not Path(rest[0]).is_file():
        raise ConfigError("expected: python -m llada_uni.evaluation.vlmeval [--model-path DIR] VLMEvalKit/run.py …")
    sys.path.insert(0, str(Path(rest[0]).resolve().parent))
    register(**given)
    sys.argv = rest
    runpy.run_path(rest[0], run_name="__main__")
    return 0


def _kit(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ResourceError(
            f"{name} cannot be imported ({error}); install VLMEvalKit by its own instructions, in an environment of "
            "its own"
        ) from error


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LladaUniError as problem:
        sys.stderr.write(f"error: {problem}\n")
        sys.exit(2)
