"""Understanding suites from files: what is read, what is asked, what is right, what is bad data."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from llada_uni.errors import ConfigError
from llada_uni.evaluation.items import BadItem
from llada_uni.evaluation.names import SUITE_TITLES
from llada_uni.evaluation.run import RunSettings, run_suite
from llada_uni.evaluation.suites import SUITES


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    return tmp_path


def write(folder: Path, *entries: Any) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


class Speaker:
    """Gives the same reply to everything and keeps the questions."""

    name = "speaker"

    def __init__(self, reply: str) -> None:
        self.reply, self.asked = reply, []

    def understand_image(self, image: Any, question: str, **options: Any) -> Any:
        self.asked.append(question)
        return SimpleNamespace(text=self.reply)


def score(name: str, reply: str, path: Path, out: Path) -> dict[str, Any]:
    return run_suite(SUITES[name], path, out, model=Speaker(reply), settings=RunSettings())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "answer", "right", "wrong"),
    [
        ("chartqa", "100", "104", "106"),
        ("docvqa", ["kitten"], "kittens", "dog"),
        ("infovqa", ["kitten"], "kitten", "dog"),
        ("ocrbench", ["STOP"], "it says stop", "go"),
        ("countbench", 4, "four", "five"),
        ("mme_c", "Yes", "yes, it is", "no"),
        ("hallusionbench", 0, "No", "yes"),
        ("simplevqa", "Paris", "paris.", "it is Paris"),
    ],
)
def test_scores(data: Path, name: str, answer: Any, right: str, wrong: str) -> None:
    path = write(data, {"id": 1, "image": "a.png", "question": "what?", "answer": answer})
    assert score(name, right, path, data / "right")["score"]["overall"]["value"] > 0.8
    assert score(name, wrong, path, data / "wrong")["score"]["overall"]["value"] == 0


def test_choices(data: Path) -> None:
    path = write(
        data,
        {"index": 7, "image": "a.png", "question": "which?", "A": "cat", "B": "dog", "answer": "B", "category": "pets"},
        {"index": 8, "image": "a.png", "question": "which?", "options": ["cat", "dog"], "answer": "cat"},
    )
    model = Speaker("dog")
    report = run_suite(SUITES["mmstar"], path, data / "out", model=model, settings=RunSettings())  # type: ignore[arg-type]
    assert report["score"]["overall"]["value"] == 0.5
    assert report["score"]["categories"]["pets"]["value"] == 1
    assert model.asked[0] == "which?\nA. cat\nB. dog\nAnswer with the letter of the right option."


def test_a_table_with_pictures_inside(data: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    path = data / "bench.tsv"
    path.write_text(f"index\timage\tquestion\tA\tB\tanswer\n0\t{encoded}\twhich?\tcat\tdog\tB\n")
    assert score("mmstar", "B", path, data / "out")["score"]["overall"]["value"] == 1


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"image": "missing.png", "question": "q", "answer": "1"}, "no picture 'missing.png'"),
        ({"image": "../questions.jsonl", "question": "q", "answer": "1"}, "lies outside"),
        ({"image": "a.png", "answer": "1"}, "no field 'question or query'"),
        ({"image": "a.png", "question": " ", "answer": "1"}, "expected words"),
        ({"image": "a.png", "question": "q"}, "no field 'answers or answer or label'"),
        ({"image": "a.png", "question": "q", "answer": "many"}, "expected a whole number"),
        ({"image": 3, "question": "q", "answer": "1"}, "expected the name of a picture"),
        (["not", "an", "object"], "not an object"),
    ],
)
def test_bad_entries_are_items(data: Path, entry: Any, reason: str) -> None:
    path = write(data, entry, {"id": "good", "image": "a.png", "question": "q", "answer": 1})
    bad, good = SUITES["countbench"].load(path)
    assert isinstance(bad, BadItem)
    assert reason in bad.reason
    assert good.id == "good"


def test_answers_that_are_no_option(data: Path) -> None:
    path = write(
        data,
        {"image": "a.png", "question": "q", "options": ["x", "y"], "answer": "z"},
        {"image": "a.png", "question": "q", "answer": "A"},
    )
    first, second = SUITES["mmstar"].load(path)
    assert isinstance(first, BadItem)
    assert isinstance(second, BadItem)
    assert "is no option" in first.reason
    assert "at least two options" in second.reason


def test_more_options_than_letters_are_a_bad_item_that_stays_in_the_count(data: Path) -> None:
    many = [f"thing {number}" for number in range(27)]
    path = write(
        data,
        {"id": "many", "image": "a.png", "question": "q", "options": many, "answer": "A"},
        {"id": "most", "image": "a.png", "question": "q", "options": many[:26], "answer": "Z"},
    )
    bad, good = SUITES["mmstar"].load(path)
    assert isinstance(bad, BadItem)
    assert bad.reason == "expected at most 26 options, one per letter, got 27"
    assert good.reference["options"]["Z"] == "thing 25"
    report = run_suite(SUITES["mmstar"], path, data / "out", model=Speaker("Z"), settings=RunSettings())  # type: ignore[arg-type]
    assert report["score"]["overall"]["value"] == 0.5, "the bad item counts as wrong"
    assert report["score"]["overall"]["items"] == 2
    assert report["items"] == {"total": 2, "bad_data": 1, "ok": 1}


def test_options_in_fields_go_on_beyond_h(data: Path) -> None:
    ten = {letter: f"thing {letter}" for letter in "ABCDEFGHIJ"}
    path = write(
        data,
        {"image": "a.png", "question": "q", **ten, "answer": "J"},
        {"image": "a.png", "question": "q", "A": "x", "B": "y", "L": "level", "answer": "A"},
        {"image": "a.png", "question": "q", "options": json.dumps(["x"]), "answer": "A"},
    )
    whole, lone, one = SUITES["mmmu_pro"].load(path)
    assert whole.reference == {"answers": ["J"], "options": ten}
    assert whole.prompt.count("\n") == 11
    assert lone.reference["options"] == {"A": "x", "B": "y"}
    assert isinstance(one, BadItem)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got a directory"):
        SUITES["docvqa"].load(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        SUITES["docvqa"].load(tmp_path / "a.json")
    (tmp_path / "a.xml").write_text("")
    with pytest.raises(ConfigError, match=r"expected a \.json"):
        SUITES["docvqa"].load(tmp_path / "a.xml")
    (tmp_path / "b.json").write_text('{"data": 3}')
    with pytest.raises(ConfigError, match="expected a list"):
        SUITES["docvqa"].load(tmp_path / "b.json")


def test_the_command_line_knows_the_suites() -> None:
    assert set(SUITE_TITLES) == {name for name, suite in SUITES.items() if suite.data_help}
    assert all(SUITES[name].title == title for name, title in SUITE_TITLES.items())
