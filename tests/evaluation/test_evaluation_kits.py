"""Adapters to lmms-eval and VLMEvalKit, against stand-ins of the two kits' interfaces with stub data.

The stand-ins have the names, signatures and data forms that the adapters use; the kits themselves are not installed.
"""

from __future__ import annotations

import base64
import collections
import csv
import io
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from llada_uni.errors import ConfigError, ResourceError
from llada_uni.evaluation import lmms, vlmeval
from llada_uni.evaluation.kits import cut


class Model:
    """Says how many pictures it saw and what it was asked."""

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []

    def understand_image(self, images: list[Any], question: str, **options: Any) -> Any:
        self.options.append(options)
        return SimpleNamespace(text=f"{len(images)} pictures: {question}\n\nmore")

    def chat(self, messages: list[dict[str, str]], **options: Any) -> Any:
        return SimpleNamespace(text=f"words only: {messages[0]['content']}")


def module(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    made = ModuleType(name)
    vars(made).update(contents)
    monkeypatch.setitem(sys.modules, name, made)


# --- lmms-eval -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


class LmmsBase:
    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.task_dict: dict[str, Any] = {}
        self.cache_dict = collections.defaultdict(dict)


@pytest.fixture
def lmms_kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
        module(monkeypatch, name)
    module(monkeypatch, "lmms_eval.api.model", lmms=LmmsBase)
    module(monkeypatch, "lmms_eval.models.registry_v2", ModelManifest=ModelManifest)
    yield
    vars(lmms).pop("LladaUniLmms", None)


def request(context: str, doc_id: int, **arguments: Any) -> Any:
    return SimpleNamespace(args=(context, arguments, lambda doc: doc["pictures"], doc_id, "toy", "test"))


def test_lmms_eval_finds_the_class(lmms_kit: None) -> None:
    named = lmms.manifest()
    path, name = named.simple_class_path.rsplit(".", 1)
    found = getattr(sys.modules[path], name)
    assert named.model_id == "llada_uni"
    assert issubclass(found, LmmsBase)
    assert found.is_simple
    assert (found.__module__, found.__name__) == (path, name)
    assert getattr(sys.modules[path], name) is found
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lmms_eval.models"] == {"llada_uni": "llada_uni.evaluation.lmms:manifest"}


def test_lmms_eval_requests(lmms_kit: None) -> None:
    model = Model()
    made: Any = lmms.model_class()(model=model, seed="3", max_new_tokens="16")
    grey = Image.new("L", (4, 4))
    made.task_dict["toy"] = {"test": [{"pictures": [grey]}, {"pictures": [[grey, grey]]}, {"pictures": None}]}
    requests = [request("<image>\nwhat?", 0, until=["\n\n"], max_new_tokens=99), request("both?", 1), request("hi", 2)]
    assert made.generate_until(requests) == [
        "1 pictures: what?",
        "2 pictures: both?\n\nmore",
        "words only: hi",
    ]
    assert model.options[0] == {"seed": 3, "max_new_tokens": 16}


def test_lmms_eval_what_is_not_offered(lmms_kit: None) -> None:
    kind: Any = lmms.model_class()
    with pytest.raises(ConfigError, match="likelihood"):
        kind(model=Model()).loglikelihood([])
    with pytest.raises(ConfigError, match="several rounds"):
        kind(model=Model()).generate_until_multi_round([])
    with pytest.raises(ConfigError, match="unknown argument 'colour'"):
        kind(model=Model(), colour="red")
    with pytest.raises(ConfigError, match="batch_size: expected 1"):
        kind(model=Model(), batch_size="4")


@pytest.mark.parametrize(
    ("stops", "text"), [(None, "a\nb"), ("\n", "a"), (["b", "\n"], "a"), ([""], "a\nb"), (["x"], "a\nb")]
)
def test_stops(stops: Any, text: str) -> None:
    assert cut(" a\nb ", stops) == text


# --- VLMEvalKit ------------------------------------------------------------------------------------------------------


class BaseModel:
    """As ``vlmeval/vlm/base.py``: checks the message and hands it to ``generate_inner``."""

    INTERLEAVE = False
    allowed_types = ("text", "image")

    def generate(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        assert all(part["type"] in self.allowed_types for part in message)
        return self.generate_inner(message, dataset)  # type: ignore[attr-defined]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    models: dict[str, Any] = {}
    for name in ("vlmeval", "vlmeval.vlm"):
        module(monkeypatch, name)
    module(monkeypatch, "vlmeval.vlm.base", BaseModel=BaseModel)
    module(monkeypatch, "vlmeval.config", supported_VLM=models)
    return models


def test_vlmevalkit_on_a_stub_table(table: dict[str, Any], tmp_path: Path) -> None:
    """A table as the kit keeps them (index, image in base64, question, options, answer), asked as the kit does."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    rows = [
        {"index": 0, "image": base64.b64encode(buffer.getvalue()).decode(), "question": "which?", "A": "x", "B": "y"}
    ]
    with (tmp_path / "toy.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    vlmeval.register(model=Model(), max_new_tokens=8)
    made = table["llada_uni"]()
    with (tmp_path / "toy.tsv").open(newline="") as file:
        (line,) = csv.DictReader(file, delimiter="\t")
    (tmp_path / "0.png").write_bytes(base64.b64decode(line["image"]))
    words = f"Question: {line['question']}\nA. {line['A']}\nB. {line['B']}"
    message = [{"type": "image", "value": str(tmp_path / "0.png")}, {"type": "text", "value": words}]
    assert made.generate(message, dataset="toy").startswith("1 pictures: Question: which?")
    assert made.generate([message[0], *message]).startswith("2 pictures")
    assert made.generate([message[1]]).startswith("words only")
    assert made.INTERLEAVE


def test_vlmevalkit_names(table: dict[str, Any]) -> None:
    vlmeval.register()
    vlmeval.register(model_path="elsewhere")
    assert table["llada_uni"].keywords["model_path"] == "elsewhere"
    table["taken"] = object
    with pytest.raises(ConfigError, match="already has a model called 'taken'"):
        vlmeval.register("taken")


def test_vlmevalkit_script(table: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    script = tmp_path / "run.py"
    script.write_text("import sys, pathlib\npathlib.Path(sys.argv[2]).write_text(' '.join(sys.argv[1:2]))\n")
    assert vlmeval.main(["--model-path", "nano", str(script), "--data", str(tmp_path / "seen")]) == 0
    assert (tmp_path / "seen").read_text() == "--data"
    with pytest.raises(ConfigError, match="expected: python -m"):
        vlmeval.main([])


def test_a_kit_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    monkeypatch.setitem(sys.modules, "vlmeval", None)
    with pytest.raises(ResourceError, match="pip install lmms-eval"):
        lmms.manifest()
    with pytest.raises(ResourceError, match="install VLMEvalKit"):
        vlmeval.register()
    with pytest.raises(AttributeError):
        _ = lmms.nothing
