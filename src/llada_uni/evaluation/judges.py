"""Judges: a vision model behind an OpenAI-compatible endpoint, our own model, detections, and an OCR engine.

A judge that fails raises JudgeError; the run keeps the reply and reports the item.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from llada_uni.errors import ConfigError, LladaUniError, ResourceError
from llada_uni.evaluation.items import DetectedObject, Detector, JudgeError, SuiteModel

__all__ = ["DetectionFile", "EndpointViewer", "ModelViewer", "OcrReader", "open_detector"]

_KEY = "LLADA_UNI_JUDGE_KEY"
_MIME = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


class EndpointViewer:
    """A vision model behind ``POST {base_url}/chat/completions``, asked at temperature 0.

    The key is read from the variable ``LLADA_UNI_JUDGE_KEY``; without it no authorisation is sent.

    Raises:
        ConfigError: ``base_url`` is not an http or https address.
    """

    def __init__(self, base_url: str, model: str, *, timeout_s: float = 120.0, retries: int = 2) -> None:
        if urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).netloc:
            raise ConfigError(f"--judge-url: expected an address such as http://localhost:8000/v1, got {base_url!r}")
        self._url, self._model = base_url.rstrip("/") + "/chat/completions", model
        self._timeout_s, self._retries = timeout_s, retries

    def ask(self, pictures: Sequence[Path], question: str) -> str:
        """The reply to ``question`` about ``pictures``, asked again after a timeout or a server error."""
        for attempt in range(self._retries + 1):
            try:
                return self._once(pictures, question)
            except JudgeError as error:
                if attempt == self._retries or not (error.timed_out or error.reply == "server"):
                    raise
        raise AssertionError("unreachable")

    def _once(self, pictures: Sequence[Path], question: str) -> str:
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": _data_uri(p)}} for p in pictures]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
        body = json.dumps({"model": self._model, "messages": messages, "temperature": 0}).encode()
        headers = {"Content-Type": "application/json"}
        if os.environ.get(_KEY):
            headers["Authorization"] = f"Bearer {os.environ[_KEY]}"
        request = urllib.request.Request(self._url, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                raw = response.read().decode("utf-8", errors="replace")
        except urllib.error.HTTPError as error:
            reply = "server" if error.code >= 500 else ""
            raise JudgeError(f"the judge answered with status {error.code}", reply=reply) from error
        except TimeoutError as error:
            raise JudgeError(f"no reply from the judge within {self._timeout_s} s", timed_out=True) from error
        except (urllib.error.URLError, OSError) as error:
            slow = isinstance(getattr(error, "reason", None), TimeoutError)
            raise JudgeError(f"the judge cannot be reached: {error}", timed_out=slow) from error
        return _content(raw)


class ModelViewer:
    """Our own model as the judge. Its scores are its own opinion: useful for trends, not for comparisons."""

    def __init__(self, model: SuiteModel, *, max_new_tokens: int = 512) -> None:
        self._model, self._max_new_tokens = model, max_new_tokens

    def ask(self, pictures: Sequence[Path], question: str) -> str:
        """The greedy answer to ``question`` about ``pictures``."""
        try:
            images = [str(picture) for picture in pictures]
            return self._model.understand_image(images, question, seed=0, max_new_tokens=self._max_new_tokens).text
        except LladaUniError as error:
            raise JudgeError(f"the judging model failed: {error}") from error


class DetectionFile:
    """Detections made beforehand: JSON lines of ``{"picture": "pictures/…", "objects": {class: [object, …]}}``.

    An object is ``{"box": [left, top, right, bottom], "confidence": 0.9, "color": "red"}``; ``color`` may be left out.
    ``picture`` is the path below the output directory, as the records of the run have it.

    Raises:
        ConfigError: a line is not of that form.
    """

    def __init__(self, path: Path) -> None:
        self._found: dict[str, dict[str, list[DetectedObject]]] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                record = json.loads(line)
                objects = {name: [_detected(one) for one in found] for name, found in record["objects"].items()}
                self._found[str(record["picture"])] = objects
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ConfigError(
                    f"{path} line {number}: expected an object with picture and objects, such as "
                    f'{{"picture": "pictures/00000/samples/00000.png", "objects": {{}}}} ({error!r})'
                ) from error

    def detect(self, picture: Path) -> dict[str, list[DetectedObject]]:
        """The objects of ``picture``."""
        steps = picture.parts
        for start in range(len(steps)):
            objects = self._found.get("/".join(steps[start:]))
            if objects is not None:
                return objects
        raise JudgeError(f"the file has no detections for {picture.as_posix()[-60:]}")


class OcrReader:
    """Reads text with RapidOCR (PyPI ``rapidocr``, which carries its weights).

    Raises:
        ResourceError: the package is not installed.
    """

    def __init__(self) -> None:
        try:
            module = importlib.import_module("rapidocr")
        except ImportError as error:
            raise ResourceError("reading text in pictures needs rapidocr: pip install rapidocr onnxruntime") from error
        self._engine: Any = module.RapidOCR()

    def read(self, picture: Path) -> list[str]:
        """The lines of text, in the engine's order."""
        try:
            with Image.open(picture) as image:
                image.load()
            found = self._engine(str(picture))
        except (OSError, ValueError, RuntimeError) as error:
            raise JudgeError(f"{picture.name} cannot be read: {error}") from error
        return list(found.txts or ())


def open_detector(name: str) -> Detector:
    """A detections file (``*.jsonl``), or ``package.module:function`` whose result has a ``detect`` method.

    Raises:
        ConfigError: neither.
    """
    if Path(name).suffix == ".jsonl":
        if not Path(name).is_file():
            raise ConfigError(f"--detector: no file {name!r}")
        return DetectionFile(Path(name))
    module, _, function = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"--detector: expected FILE.jsonl or package.module:function, got {name!r} ({error})"
        ) from error
    if not callable(getattr(made, "detect", None)):
        raise ConfigError(f"--detector: what {name!r} returns has no method detect(picture)")
    return made


def _detected(one: dict[str, Any]) -> DetectedObject:
    left, top, right, bottom = (float(value) for value in one["box"])
    color = one.get("color")
    return DetectedObject(box=(left, top, right, bottom), confidence=float(one["confidence"]), color=color)


def _data_uri(path: Path) -> str:
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise JudgeError(f"cannot read {path}: {error.strerror}") from error
    return f"data:{_MIME.get(path.suffix.lower(), 'image/png')};base64,{data}"


def _content(raw: str) -> str:
    try:
        content = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise JudgeError("the judge's reply is not a chat completion", reply=raw[:500]) from error
    if not isinstance(content, str):
        raise JudgeError("the judge's reply holds no text", reply=raw[:500])
    return content
