"""The record schema: strict reading, faithful writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llada_uni.data.records import Record, RecordSegment, dump_record, parse_record, read_records, write_records
from llada_uni.errors import ConfigError

QUESTION = {"role": "user", "kind": "text", "text": "a red star"}
PICTURE = {"role": "assistant", "kind": "image", "image": "a.png", "supervised": True}


def line(**changes: Any) -> str:
    return json.dumps({"id": "a", "task": "t2i", "segments": [QUESTION, PICTURE]} | changes)


def test_a_record_survives_writing_and_reading(tmp_path: Path) -> None:
    codes = RecordSegment(role="assistant", kind="image", ids=(3, 1, 2, 0, 65535, 7), h=2, w=3, supervised=True)
    asked = RecordSegment(role="user", kind="text", text="zwei rote Äpfel <|mask|>\n")
    records = [
        Record(id="1", task="t2i", segments=(asked, codes), weight=0.5, source="ours", meta={"duration": 12.5}),
        Record(id="2/ö", task="t2i", segments=(asked, codes), n_tokens=40, n_target=8),
    ]
    assert write_records(tmp_path / "r.jsonl", records) == 2
    assert list(read_records(tmp_path / "r.jsonl")) == records
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


@settings(max_examples=30)
@given(st.text(max_size=20), st.floats(0.001, 100), st.dictionaries(st.text(max_size=5), st.integers()))
def test_any_text_survives(text: str, weight: float, meta: dict[str, int]) -> None:
    parts = (RecordSegment(role="assistant", kind="text", text=text, supervised=True),)
    record = Record(id="x", task="text", segments=parts, weight=weight, meta=meta)
    written = dump_record(record)
    assert "\n" not in written
    assert parse_record(written, "here") == record


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "r:1: not valid JSON"),
        ("[1]", "r:1: expected a JSON object, got list"),
        (line(segmnets=[]), "unknown key 'segmnets'; did you mean 'segments'"),
        (line(segments=[{**QUESTION, "txet": "x"}, PICTURE]), "unknown key 'txet'; did you mean 'text'"),
        (line(task="t2j"), "task: expected one of 't2i'"),
        (line(id=7), "id: expected str, got 7"),
        (line(id=" "), "id: expected a name"),
        (line(weight=0), "weight: expected a positive number"),
        (line(weight="heavy"), "weight: expected float"),
        (line(segments=[QUESTION]), "at least one supervised segment"),
        (line(segments=[{**QUESTION, "supervised": True}]), "only what the assistant writes"),
        (line(segments=[{**QUESTION, "image": "a.png"}, PICTURE]), "kind 'text' has a text"),
        (line(segments=[QUESTION, {**PICTURE, "image": None}]), "kind 'image' has an image or ids"),
        (line(segments=[QUESTION, {**PICTURE, "ids": [1, 2], "h": 1, "w": 1}]), "2 ids needs h and w"),
        (line(segments=[QUESTION, {**PICTURE, "ids": [70000], "h": 1, "w": 1}]), "codebook indices"),
        (json.dumps({"id": "a"}), "missing task, segments"),
    ],
)
def test_a_wrong_line_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="r:1") as caught:
        parse_record(text, "r:1")
    assert message in str(caught.value)


def test_a_wrong_file_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(line() + "\n\n" + line(taks="t2i") + "\n")
    with pytest.raises(ConfigError, match=r"r.jsonl:3: unknown key 'taks'; did you mean 'task'"):
        list(read_records(tmp_path / "r.jsonl"))
    with pytest.raises(ConfigError, match="cannot read"):
        list(read_records(tmp_path / "none.jsonl"))
