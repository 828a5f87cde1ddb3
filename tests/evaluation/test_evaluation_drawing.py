"""Generation suites: GenEval's decision by hand, loaders, layouts, judges and what they do with bad replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from llada_uni.errors import ConfigError
from llada_uni.evaluation.geneval import decide, kept_objects, relations
from llada_uni.evaluation.items import BadItem, DetectedObject, JudgeError, Judges
from llada_uni.evaluation.judges import DetectionFile, open_detector
from llada_uni.evaluation.run import RunSettings, run_suite
from llada_uni.evaluation.suites import SUITES


def box(
    left: float, top: float, right: float, bottom: float, confidence: float = 0.95, color: str | None = None
) -> Any:
    return DetectedObject(box=(left, top, right, bottom), confidence=confidence, color=color)


class Painter:
    """Grey pictures; keeps what it was asked."""

    name = "painter"

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.sources: list[Any] = []

    def generate_image(self, prompts: Sequence[str], *, seed: Sequence[int], **_: Any) -> list[Any]:
        self.prompts += prompts
        return [SimpleNamespace(image=Image.new("RGB", (8, 8), (s % 256, 0, 0))) for s in seed]

    def edit_image(self, image: Any, instruction: str, **_: Any) -> Any:
        self.prompts.append(instruction)
        self.sources.append(image)
        return SimpleNamespace(image=Image.new("RGB", (8, 8)))

    def generate_interleaved(self, prompt: str, **_: Any) -> Any:
        return SimpleNamespace(segments=("Once", SimpleNamespace(image=Image.new("RGB", (8, 8))), "end"))


class Says:
    """A viewer with fixed replies, by a word of the question."""

    def __init__(self, replies: dict[str, str] | str) -> None:
        self.replies, self.asked = replies, []

    def ask(self, pictures: Sequence[Path], question: str) -> str:
        assert all(picture.is_file() for picture in pictures)
        self.asked.append((len(pictures), question))
        if isinstance(self.replies, str):
            return self.replies
        return next(reply for word, reply in self.replies.items() if word in question)


def run(name: str, data: Path, out: Path, **judges: Any) -> dict[str, Any]:
    return run_suite(SUITES[name], data, out, model=Painter(), judges=Judges(**judges), settings=RunSettings())  # type: ignore[arg-type]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# --- GenEval ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        # centres 50 apart, sizes 10 + 10: 50 - 2 = 48 of 50 in one direction
        ((0, 0, 10, 10), (50, 0, 60, 10), {"left of"}),
        ((50, 0, 60, 10), (0, 0, 10, 10), {"right of"}),
        ((0, 0, 10, 10), (0, 50, 10, 60), {"above"}),
        ((0, 50, 10, 60), (0, 0, 10, 10), {"below"}),
        ((0, 0, 10, 10), (50, 50, 60, 60), {"left of", "above"}),  # 48 / 70.7 = 0.68 in both
        ((0, 0, 10, 10), (0, 0, 10, 10), set()),
        ((0, 0, 10, 10), (2, 0, 12, 10), set()),  # offset 2 is eaten by the margin 0.1 * 20
        ((0, 0, 10, 10), (3, 0, 13, 10), set()),  # 1 / 3 is below one half
        ((0, 0, 10, 10), (5, 0, 15, 10), {"left of"}),  # 3 / 5 is above it
    ],
)
def test_relations(one: Any, other: Any, expected: set[str]) -> None:
    assert relations(box(*one), box(*other)) == expected


def test_kept_objects() -> None:
    found = {"dog": [box(0, 0, 1, 1, 0.3), box(0, 0, 1, 1, 0.5), box(0, 0, 1, 1, 0.95)], "cat": [box(0, 0, 1, 1, 0.1)]}
    assert [o.confidence for o in kept_objects(found, "colors")["dog"]] == [0.95, 0.5]
    assert kept_objects(found, "counting") == {"dog": [found["dog"][2]]}
    assert len(kept_objects({"dog": [box(0, 0, 1, 1, 0.8)] * 20}, "position")["dog"]) == 16


TWO = {"include": [{"class": "dog", "count": 2}], "exclude": [{"class": "dog", "count": 3}]}
DOG, CAT = box(0, 0, 10, 10, 0.9, "red"), box(50, 0, 60, 10, 0.9, "blue")


@pytest.mark.parametrize(
    ("objects", "metadata", "right"),
    [
        ({"dog": [DOG]}, {"include": [{"class": "dog", "count": 1}]}, True),
        ({}, {"include": [{"class": "dog", "count": 1}]}, False),
        ({"dog": [DOG, CAT]}, TWO, True),
        ({"dog": [DOG] * 3}, TWO, False),
        ({"dog": [DOG]}, {"include": [{"class": "dog", "count": 1, "color": "red"}]}, True),
        ({"dog": [DOG]}, {"include": [{"class": "dog", "count": 1, "color": "blue"}]}, False),
        # only the most confident ones, as many as asked for, are looked at
        ({"dog": [DOG, CAT]}, {"include": [{"class": "dog", "count": 1, "color": "blue"}]}, False),
        (
            {"dog": [DOG], "cat": [CAT]},
            {"include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}]},
            True,
        ),
        (
            {"dog": [DOG], "cat": [CAT]},
            {"include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["above", 0]}]},
            False,
        ),
        (
            {"dog": [DOG]},
            {"include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}]},
            False,
        ),
    ],
)  # fmt: skip
def test_decisions(objects: Any, metadata: Any, right: bool) -> None:
    decision, reasons = decide(objects, metadata)
    assert decision is right
    assert bool(reasons) is not right


def test_a_missing_colour_is_the_detectors_fault() -> None:
    with pytest.raises(JudgeError, match="gave no colour"):
        decide({"dog": [box(0, 0, 1, 1)]}, {"include": [{"class": "dog", "count": 1, "color": "red"}]})


GENEVAL = [
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"},
    {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a photo of a red dog"},
    {"tag": "colors", "include": [{"class": "dog"}], "prompt": "a photo of a red dog"},
]


def test_geneval(tmp_path: Path) -> None:
    data = write(tmp_path / "m.jsonl", "".join(json.dumps(one) + "\n" for one in GENEVAL))
    lines = []
    for item in range(2):
        for sample in range(4):
            objects = {"dog": [{"box": [0, 0, 9, 9], "confidence": 0.9, "color": "red"}]} if sample < 3 else {}
            lines.append({"picture": f"pictures/{item:05}/samples/{sample:05}.png", "objects": objects})
    detections = write(tmp_path / "d.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    report = run("geneval", data, tmp_path / "out", detector=open_detector(str(detections)))
    categories = report["score"]["categories"]
    assert categories["single_object"]["value"] == 0.75
    assert categories["colors"]["value"] == 3 / 8  # four zeros of the entry that cannot be read
    assert report["score"]["overall"]["value"] == pytest.approx((0.75 + 0.375) / 2)
    assert report["score_of_judged"]["overall"]["value"] == 0.75
    assert report["published"]["overall"] == 0.89
    folder = tmp_path / "out" / "pictures" / "00001"
    assert json.loads((folder / "metadata.jsonl").read_text()) == GENEVAL[1]
    assert sorted(p.name for p in (folder / "samples").iterdir()) == [f"{n:05}.png" for n in range(4)]


def test_detectors_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        open_detector(str(tmp_path / "none.jsonl"))
    with pytest.raises(ConfigError, match=r"expected FILE\.jsonl or"):
        open_detector("no_such_module:make")
    with pytest.raises(ConfigError, match="has no method detect"):
        open_detector("builtins:dict")
    with pytest.raises(ConfigError, match="line 1"):
        DetectionFile(write(tmp_path / "d.jsonl", '{"picture": 3}\n'))
    with pytest.raises(JudgeError, match="no detections"):
        DetectionFile(write(tmp_path / "e.jsonl", "")).detect(Path("a.png"))


# --- suites with a viewing model -------------------------------------------------------------------------------------


@pytest.fixture
def dpg(tmp_path: Path) -> Path:
    head = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple"
    head += ",question_natural_language\n"
    rows = [
        'a,t,k,1,0,entity,whole,entity - whole (dog),Is there a dog?',
        'a,t,k,2,1,attribute,color,"attribute - color (dog, red)",Is the dog red?',
        'b,t,k,x,0,entity,whole,entity - whole (cat),Is there a cat?',
        'c,t,k,1,0,entity,whole,entity - whole (cat),Is there a cat?',
    ]  # fmt: skip
    write(tmp_path / "dpg" / "dpg_bench.csv", head + "\n".join(rows) + "\n")
    write(tmp_path / "dpg" / "prompts" / "a.txt", "a red dog\n")
    write(tmp_path / "dpg" / "prompts" / "b.txt", "a cat\n")
    return tmp_path / "dpg"


def test_dpg(dpg: Path, tmp_path: Path) -> None:
    viewer = Says({"Is there a dog": "No.", "Is the dog red": "Yes."})
    report = run("dpg", dpg, tmp_path / "out", viewer=viewer)
    assert report["items"] == {"total": 3, "bad_data": 2, "ok": 1}
    assert report["score_of_judged"]["overall"]["value"] == 0  # the red of a dog that is not there does not count
    assert report["score_of_judged"]["categories"]["attribute"]["value"] == 1
    assert [p["error"][:24] for p in report["problems"]] == ["a question cannot be rea", "no prompt prompts/c.txt"]
    assert Image.open(tmp_path / "out/pictures/sheets/a.png").size == (16, 16)
    assert len(viewer.asked) == 8


def test_dpg_with_a_reply_that_is_neither(dpg: Path, tmp_path: Path) -> None:
    report = run("dpg", dpg, tmp_path / "out", viewer=Says("hard to tell"))
    assert report["items"]["judge_failed"] == 1
    assert report["problems"][0]["reply"] == "hard to tell"


def test_unigenbench(tmp_path: Path) -> None:
    points = {"Testpoints": ["Style", "Attribute - Color"], "Testpoint Description": ["ink", "red"]}
    text = "index,prompt_en,sub_dims_en\n"
    text += '3,"a red, inky dog","' + json.dumps(points).replace('"', '""') + '"\n'
    data = write(tmp_path / "u.csv", text + '4,p,"{}"\n')
    report = run("unigenbench", data, tmp_path / "out", viewer=Says("It is [1] red.\n[1, 0]"))
    assert report["items"] == {"total": 2, "bad_data": 1, "ok": 1}
    judged = report["score_of_judged"]
    assert judged["categories"]["Style"]["value"] == 1
    assert judged["categories"]["Attribute"]["value"] == 0
    # 8 scores of the one item, 1 entry that no category can be told of: 0.5 * 8/9
    assert report["score"]["overall"]["value"] == pytest.approx(0.5 * 8 / 9)
    assert sorted(p.name for p in (tmp_path / "out/pictures").iterdir()) == [f"3_{n}.png" for n in range(4)]
    bad = run("unigenbench", data, tmp_path / "bad", viewer=Says("[1, 0, 1]"))
    assert bad["items"]["judge_failed"] == 1


def test_wise(tmp_path: Path) -> None:
    entry = {"prompt_id": 7, "Prompt": "a fruit", "Explanation": "an apple", "Subcategory": "Food"}
    data = write(tmp_path / "w.json", json.dumps([entry, {"prompt_id": 8}]))
    report = run("wise", data, tmp_path / "out", viewer=Says("Consistency: 2\n**Realism**: 1\nAesthetic: 0"))
    assert report["score_of_judged"]["overall"]["value"] == pytest.approx((0.7 * 2 + 0.2) / 2)
    assert report["score"]["overall"]["value"] == pytest.approx(0.4)
    assert (tmp_path / "out/pictures/7.png").is_file()
    assert run("wise", data, tmp_path / "b", viewer=Says("Consistency: 2"))["items"]["judge_failed"] == 1


def test_oneig(tmp_path: Path) -> None:
    data = write(tmp_path / "o.csv", "category,id,prompt_en\nPortrait,000,a man\nOther,001,x\n")
    report = run("oneig", data, tmp_path / "out")
    assert report["score"] is None
    assert report["items"] == {"total": 2, "bad_data": 1, "unjudged": 1}
    with Image.open(tmp_path / "out/pictures/images/human/llada-uni/000.webp") as sheet:
        assert sheet.size == (16, 16)


# --- words in pictures -----------------------------------------------------------------------------------------------


def test_cvtg(tmp_path: Path) -> None:
    one = {"index": 0, "prompt": "a dog's sign says 'Big Sale' and a cup says \"Tea\""}
    for kind in ("CVTG", "CVTG-Style"):
        for area in (2, 3, 4, 5):
            if (kind, area) != ("CVTG-Style", 5):
                write(tmp_path / "data" / kind / f"{area}.json", json.dumps({"data_list": [one]}))
    reader = SimpleNamespace(read=lambda picture: ["BIG sale"])
    report = run("cvtg2k", tmp_path / "data", tmp_path / "out", reader=reader)
    assert report["items"] == {"total": 8, "bad_data": 1, "ok": 7}
    assert report["score_of_judged"]["overall"]["value"] == pytest.approx(2 / 3)
    # "big sale" against "big sale tea": 4 of 12
    assert report["extras"]["NED"]["value"] == pytest.approx(8 / 12)
    assert report["score_of_judged"]["categories"]["2 regions"]["scores"] == 6
    assert (tmp_path / "out/pictures/CVTG-Style/4/0.png").is_file()
    assert "| NED |" in (tmp_path / "out/report.md").read_text()


# --- editing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[str], str]:
    def make(name: str) -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        return name

    return make


def test_imgedit(tmp_path: Path, picture: Callable[[str], str]) -> None:
    picture("i/animal/1.jpg")
    edits = {
        "12": {"id": "animal/1.jpg", "prompt": "make it red", "edit_type": "alter"},
        "13": {"id": "animal/2.jpg", "prompt": "make it red", "edit_type": "alter"},
    }
    write(tmp_path / "i/basic_edit.json", json.dumps(edits))
    write(tmp_path / "i/prompts.json", json.dumps({"alter": "Judge: <edit_prompt>"}))
    viewer = Says("Brief reasoning: fine\nPrompt Compliance: 5\nSeamlessness: 4\nDetail: 3")
    report = run("imgedit", tmp_path / "i", tmp_path / "out", viewer=viewer)
    assert viewer.asked == [(2, "Judge: make it red")]
    assert report["score_of_judged"]["overall"]["value"] == 4
    assert report["problems"] == [{"id": "13", "status": "bad_data", "error": "no picture 'animal/2.jpg'"}]
    assert run("imgedit", tmp_path / "i", tmp_path / "b", viewer=Says("no"))["items"]["judge_failed"] == 1
    (tmp_path / "i/prompts.json").unlink()
    assert run("imgedit", tmp_path / "i", tmp_path / "c", viewer=viewer)["items"]["judge_failed"] == 1


def test_gedit(tmp_path: Path, picture: Callable[[str], str]) -> None:
    entry = {"key": "k", "task_type": "color", "instruction": "red", "instruction_language": "en"}
    entry["input_image"] = picture("a.png")
    data = write(tmp_path / "g.jsonl", json.dumps(entry) + "\n" + json.dumps({**entry, "instruction_language": "cn"}))
    viewer = Says({"second picture": "[9, 4]", "natural": "[9, 10]"})
    report = run("gedit_en", data, tmp_path / "out", viewer=viewer)
    assert report["items"] == {"total": 1, "ok": 1}
    values = {name: one["value"] for name, one in report["score"]["categories"].items()}
    assert values == {"SC": 4, "PQ": 9, "O": 6}
    assert report["score"]["overall"]["value"] == 6
    assert (tmp_path / "out/pictures/llada-uni/fullset/color/en/k.png").is_file()
    assert run("gedit_en", data, tmp_path / "b", viewer=Says("[11, 3]"))["items"]["judge_failed"] == 1


def test_mico(tmp_path: Path, picture: Callable[[str], str]) -> None:
    names = [picture("mico_bench_hoi/0/0.png"), picture("mico_bench_hoi/0/1.png")]
    write(tmp_path / "mico_bench_hoi.jsonl", json.dumps({"idx": 0, "input": names, "prompt": "together"}))
    report = run("mico", tmp_path, tmp_path / "out")
    assert report["items"] == {"total": 4, "bad_data": 3, "unjudged": 1}
    assert (tmp_path / "out/pictures/results/llada-uni/mico_bench_hoi/0.png").is_file()


def test_intergen(tmp_path: Path) -> None:
    data = write(tmp_path / "i.jsonl", json.dumps({"id": "s1", "prompt": "a story", "category": "story"}))
    report = run("intergen", data, tmp_path / "out")
    assert report["format"] == "format unverified"
    record = json.loads((tmp_path / "out/outputs/0-of-1.jsonl").read_text())
    assert record["text"] == "Once\n[picture 0]\nend"
    assert record["pictures"] == ["pictures/s1/00.png"]


def test_ids_cannot_leave_the_directory(tmp_path: Path) -> None:
    data = write(tmp_path / "i.jsonl", json.dumps({"id": "../../s1", "prompt": "a story", "category": "story"}))
    (entry,) = SUITES["intergen"].load(data)
    assert not isinstance(entry, BadItem)
    assert run("intergen", data, tmp_path / "out")["items"] == {"total": 1, "bad_data": 1}


@pytest.mark.parametrize("name", [n for n, s in SUITES.items() if s.data_help])
def test_data_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--data"):
        run(name, tmp_path / "missing", tmp_path / "out")
    with pytest.raises(ConfigError, match="--data"):
        SUITES[name].load(None)
