"""LLaDA2.0-Uni as a model of lmms-eval, found by its entry point ``lmms_eval.models``.

    python -m lmms_eval --model llada_uni --model_args pretrained=nano --tasks mme --batch_size 1

Written against lmms-eval 0.7: a "simple" model, whose requests carry (context, generation arguments, a function from
a document to its pictures, document id, task, split). One process; questions are answered one after the other.
"""

from __future__ import annotations

from typing import Any

from llada_uni.errors import ConfigError, ResourceError
from llada_uni.evaluation.kits import ask, cut, open_for_kit

__all__ = ["MODEL_NAME", "manifest", "model_class"]

MODEL_NAME = "llada_uni"
_CLASS = "LladaUniLmms"


def manifest() -> Any:
    """What the entry point hands to lmms-eval: the model's name and where its class is."""
    registry = _lmms("lmms_eval.models.registry_v2")
    return registry.ModelManifest(model_id=MODEL_NAME, simple_class_path=f"{__name__}.{_CLASS}")


def model_class() -> type:
    """The class that lmms-eval opens; made when it is first asked for, because its base is the kit's.

    Raises:
        ResourceError: lmms-eval is not installed.
    """
    base: Any = _lmms("lmms_eval.api.model").lmms

    class LladaUniLmms(base):
        """Arguments: ``pretrained``, ``device``, ``dtype``, ``max_new_tokens``, ``seed`` and sampling options."""

        is_simple = True

        def __init__(
            self,
            pretrained: str = "nano",
            device: str | None = None,
            dtype: str | None = None,
            batch_size: int | str = 1,
            max_new_tokens: int | str | None = None,
            seed: int | str = 0,
            steps_per_block: int | str | None = None,
            sprint: str | None = None,
            model: Any = None,
            **unknown: Any,
        ) -> None:
            super().__init__()
            if unknown:
                raise ConfigError(f"--model_args: unknown argument {next(iter(unknown))!r}")
            if int(batch_size) != 1:
                raise ConfigError(f"--batch_size: expected 1, got {batch_size}")
            self.model = model or open_for_kit(pretrained, device=device, dtype=dtype)
            self.max_new_tokens = None if max_new_tokens is None else int(max_new_tokens)
            steps = None if steps_per_block is None else int(steps_per_block)
            self.options = {"seed": int(seed), "steps_per_block": steps, "sprint": sprint}

        def generate_until(self, requests: list[Any]) -> list[str]:
            """One answer a request, cut at the request's stop strings."""
            answers = []
            for request in requests:
                context, arguments, to_pictures, doc_id, task, split = request.args
                pictures = to_pictures(self.task_dict[task][split][doc_id]) or []
                length = self.max_new_tokens or arguments.get("max_new_tokens")
                question = context.replace("<image>", "").strip()
                reply = ask(self.model, _flat(pictures), question, max_new_tokens=length, **self.options)
                answers.append(cut(reply, arguments.get("until")))
            return answers

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            """Not offered: a masked-diffusion model has no exact likelihood of a continuation."""
            raise ConfigError("this task scores by likelihood, which the model does not have; choose a generating task")

        def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
            """Not offered."""
            raise ConfigError("tasks of several rounds are not offered through lmms-eval; choose another task")

    LladaUniLmms.__module__, LladaUniLmms.__qualname__ = __name__, _CLASS
    return LladaUniLmms


def __getattr__(name: str) -> Any:
    if name == _CLASS:
        made = globals()[_CLASS] = model_class()
        return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _flat(pictures: Any) -> list[Any]:
    """Pictures that may come in lists of lists, as one list in RGB."""
    if isinstance(pictures, (list, tuple)):
        return [one for group in pictures for one in _flat(group)]
    return [pictures.convert("RGB") if hasattr(pictures, "convert") else pictures]


def _lmms(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ResourceError(
            f"{name} cannot be imported ({error}); in an environment of its own: pip install lmms-eval"
        ) from error
