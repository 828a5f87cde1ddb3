"""Importers: every kind of source gives the same records; what is wrong is reported, never fatal, never silent."""

from __future__ import annotations

import base64
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llada_uni.data.drafts import Draft, conversation, find_in
from llada_uni.data.filters import PAPER_CLIPS, PAPER_PICTURES, ClipFilter, PictureFilter, Score, load_score
from llada_uni.data.import_files import SourceOptions
from llada_uni.data.importing import ImportRules, import_records, open_source
from llada_uni.data.records import Record, Skipped, read_records
from llada_uni.errors import ConfigError
from own_data import draw_folder


def brought_in(
    source: Path | str, out: Path, rules: ImportRules | None = None, kind: Any = "auto", **options: Any
) -> tuple[list[Record], dict[str, str]]:
    result = import_records(open_source(str(source), kind, SourceOptions(**options)), out, rules)
    records = list(read_records(result.records_file))
    lines = [json.loads(one) for one in result.skipped_file.read_text().splitlines()]
    assert (len(records), len(lines)) == (result.records, result.skipped)
    return records, {one["id"]: one["reason"] for one in lines}


def png(seed: int = 0, size: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


# --- folders ------------------------------------------------------------------------------------------------------


def test_a_folder_of_captioned_pictures(tmp_path: Path) -> None:
    captions = draw_folder(tmp_path / "pictures", 3)
    records, skipped = brought_in(tmp_path / "pictures", tmp_path / "out")
    assert not skipped
    assert {one.id: one.segments[0].text for one in records} == captions
    asked, drawn = records[0].segments
    assert (records[0].task, asked.role, drawn.role, drawn.supervised) == ("t2i", "user", "assistant", True)
    assert (tmp_path / "out" / str(drawn.image)).resolve() == (tmp_path / "pictures" / "00.png").resolve()


def test_a_caption_can_be_drawn_and_told(tmp_path: Path) -> None:
    captions = draw_folder(tmp_path / "pictures", 2)
    records, _ = brought_in(tmp_path / "pictures", tmp_path / "out", tasks=("t2i", "cap"), question="what is it?")
    assert [one.id for one in records] == ["00:t2i", "00:cap", "01:t2i", "01:cap"]
    assert [part.text for part in records[1].segments] == [None, "what is it?", captions["00"]]


def test_captions_in_a_table_and_names_that_meet(tmp_path: Path) -> None:
    inside = tmp_path / "a"
    inside.mkdir()
    for name in ("x.png", "x.webp"):
        Image.open(io.BytesIO(png())).save(inside / name)
    rows = [{"file_name": "x.png", "text": "one"}, {"file_name": "x.webp", "caption": "two"},
            {"file_name": "gone.png", "text": "three"}, {"text": "four"}]  # fmt: skip
    (inside / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    records, skipped = brought_in(tmp_path, tmp_path / "out")
    assert {one.id: one.segments[0].text for one in records} == {"a/x.png": "one", "a/x.webp": "two"}
    assert skipped == {
        "metadata.jsonl:3": "no picture 'gone.png'",
        "metadata.jsonl:4": "expected an object with file_name",
        "metadata.jsonl:5": "not valid JSON (JSONDecodeError)",
    }


def test_what_is_wrong_in_a_folder_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    draw_folder(folder, 2)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "broken.txt").write_text("a broken file")
    (folder / "cut.png").write_bytes(png(size=64)[:3000])
    (folder / "cut.txt").write_text("a file that breaks off")
    (folder / "silent.png").write_bytes(png())
    (folder / "blank.png").write_bytes(png())
    (folder / "blank.txt").write_text(" \n")
    (folder / "bytes.png").write_bytes(png())
    (folder / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "large.png").write_bytes(png(size=150))
    (folder / "large.txt").write_text("a picture of 22,500 pixels")
    records, skipped = brought_in(folder, tmp_path / "out", ImportRules(max_pixels=140 * 140))
    assert [one.id for one in records] == ["00", "01"]
    assert "not a picture" in skipped["broken"]
    assert "cannot be decoded" in skipped["cut"]
    assert "no caption; expected silent.txt" in skipped["silent.png"]
    assert "the caption is empty" in skipped["blank.png"]
    assert "not UTF-8" in skipped["bytes.png"]
    assert "at most 19,600" in skipped["large"]
    assert len(skipped) == 6


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png())
    with pytest.raises(ConfigError, match=r"no sample was left of 1 .*skipped.jsonl.*a.png: no caption"):
        brought_in(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["skipped.jsonl"]


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [("none", "auto", "no file or folder 'none'"), ("f.jsonl", "folder", "is a file; expected a folder"),
     (".", "tar", "holds no file that ends with .tar")],
)  # fmt: skip
def test_a_wrong_source_is_one_clear_error(
    source: str, kind: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=message):
        brought_in(source, tmp_path / "out", kind=kind)


# --- JSON lines -----------------------------------------------------------------------------------------------------


def test_conversations_in_their_common_forms(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    uri = "data:image/png;base64," + base64.b64encode(png(2)).decode()
    lines = [
        {"id": "llava", "image": "a.png", "conversations": [
            {"from": "human", "value": "<image>\nwhat is this?"}, {"from": "gpt", "value": "noise"},
            {"from": "human", "value": "sure?"}, {"from": "gpt", "value": "yes"}], "level": 3},
        {"id": "parts", "messages": [
            {"role": "system", "content": "be short"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}},
                                         {"type": "text", "text": "what is this?"}]},
            {"role": "assistant", "content": "noise"}]},
        {"id": "edit", "images": ["a.png", "a.png"], "messages": [
            {"role": "user", "content": "<image> make it the same"}, {"role": "assistant", "content": "<image>"}]},
        {"id": "words", "messages": [{"role": "user", "content": "3 + 4?"}, {"role": "assistant", "content": "7"}]},
        {"id": "ours", "task": "cap", "weight": 2, "segments": [
            {"role": "user", "kind": "image", "image": "a.png"},
            {"role": "assistant", "kind": "text", "text": "not learnt"},
            {"role": "assistant", "kind": "text", "text": "noise", "supervised": True}]},
        {"id": "llava", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]},
        {"id": "few", "images": ["a.png"], "messages": [{"role": "user", "content": "<image> <image>"}]},
        {"id": "web", "image": "https://example.org/a.png", "messages": [{"role": "user", "content": "x"}]},
        {"id": "odd", "messages": [{"role": "narrator", "content": "x"}]},
        {"id": "typo", "task": "t2i", "segmets": [], "segments": []},
        {"id": "deaf", "messages": [{"role": "user", "content": "hello?"}]},
        {"hello": 1},
    ]  # fmt: skip
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines) + "nonsense\n")
    records, skipped = brought_in(path, tmp_path / "out")
    by_id = {one.id: one for one in records}
    assert {name: one.task for name, one in by_id.items()} == {
        "llava": "vqa", "parts": "vqa", "edit": "edit", "words": "text", "ours": "cap",
    }  # fmt: skip
    assert [part.text for part in by_id["llava"].segments] == [None, "what is this?", "noise", "sure?", "yes"]
    assert by_id["llava"].meta == {"level": 3}
    assert [part.role for part in by_id["parts"].segments] == ["system", "user", "user", "assistant"]
    assert (tmp_path / "out" / str(by_id["parts"].segments[1].image)).read_bytes() == png(2)
    assert [part.supervised for part in by_id["ours"].segments] == [False, False, True]
    assert by_id["ours"].weight == 2
    expected = {
        "llava": "same id", "few": "2 times <image> for 1 pictures", "web": "download it first", "odd": "role among",
        "typo": "did you mean 'segments'", "deaf": "supervised", "talk.jsonl:12": "messages or conversations",
        "talk.jsonl:13": "not valid JSON",
    }  # fmt: skip
    assert set(skipped) == set(expected)
    for name, reason in expected.items():
        assert reason in skipped[name]


def test_tasks_follow_the_turns() -> None:
    def task(*turns: tuple[str, Any]) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        return conversation("x", {"messages": messages}, find_in(Path())).task

    picture = {"type": "image", "image": "a.png"}
    assert task(("user", "draw"), ("assistant", [picture])) == "t2i"
    assert task(("user", [picture, picture, "mix"]), ("assistant", [picture])) == "multiref"
    assert task(("user", "tell"), ("assistant", ["first", picture, "then", picture])) == "interleave"


# --- tars -----------------------------------------------------------------------------------------------------------


def test_webdataset_tars(tmp_path: Path) -> None:
    talk = {"messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "noise"}]}
    write_tar(tmp_path / "s-0.tar", {
        "a/1.jpg": png(1), "a/1.txt": b"one", "a/2.txt": b"no picture", "a/3.png": png(3),
        "a/3.json": json.dumps({"caption": "three"}).encode(), "a/4.png": png(4), "a/4.json": json.dumps(talk).encode(),
        "a/5.png": b"broken", "a/5.txt": b"five",
    })  # fmt: skip
    write_tar(tmp_path / "s-1.tar", {"1.png": png(5, 64), "1.txt": b"cut"})
    whole = (tmp_path / "s-1.tar").read_bytes()
    (tmp_path / "s-1.tar").write_bytes(whole[:4000])
    records, skipped = brought_in(tmp_path, tmp_path / "out")
    assert {one.id: one.task for one in records} == {"s-0/a/1": "t2i", "s-0/a/3": "t2i", "s-0/a/4": "vqa"}
    assert (tmp_path / "out" / str(records[0].segments[1].image)).read_bytes() == png(1)
    assert str(records[0].segments[1].image).endswith(".png")  # what it is, not what it was called
    assert set(skipped) == {"s-0/a/2", "s-0/a/5", "s-1/1"}
    assert "no picture among txt" in skipped["s-0/a/2"]
    assert "breaks off here" in skipped["s-1/1"]


def test_too_large_a_member_is_not_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"1.png": png(1, 64), "1.txt": b"one", "2.png": png(2), "2.txt": b"two"})
    records, skipped = brought_in(tmp_path / "s.tar", tmp_path / "out", max_bytes=5000)
    assert [one.id for one in records] == ["s/2"]
    assert "too many" in skipped["s/1.png"]
    assert "no picture" in skipped["s/1"]


# --- tables ---------------------------------------------------------------------------------------------------------


def test_parquet_files(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": png(1), "path": None}, {"bytes": b"x", "path": None}], "caption": ["one", "two"]}
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.to_parquet(tmp_path / "t.parquet")
    table.save_to_disk(tmp_path / "saved")
    for number, source in enumerate((tmp_path / "t.parquet", tmp_path / "saved")):
        records, skipped = brought_in(source, tmp_path / f"out-{number}")
        assert [(one.id, one.segments[0].text) for one in records] == [(f"{source.stem}/0", "one")]
        assert "not a picture" in skipped[f"{source.stem}/1"]
    with pytest.raises(ConfigError, match="no column for pictures or captions among image, caption; name them"):
        brought_in(tmp_path / "t.parquet", tmp_path / "no", text_column="words")


def test_conversations_in_tables(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    turns = [{"role": "user", "content": "<image> what?"}, {"role": "assistant", "content": "noise"}]
    table = datasets.Dataset.from_dict({"id": [7], "images": [[{"bytes": png(1), "path": None}]], "messages": [turns]})
    table.to_parquet(tmp_path / "t.parquet")
    records, skipped = brought_in(tmp_path / "t.parquet", tmp_path / "out")
    assert not skipped
    assert (records[0].id, records[0].task) == ("7", "vqa")
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot open"):
        brought_in(tmp_path / "bad.parquet", tmp_path / "no")


def test_tables_need_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "t.parquet").write_bytes(b"")
    for source in (tmp_path / "t.parquet", "somebody/pictures"):
        with pytest.raises(ConfigError, match=r"need the library datasets .*pip install 'llada-uni\[train\]'"):
            brought_in(source, tmp_path / "out")


# --- filters --------------------------------------------------------------------------------------------------------


def test_the_papers_rules_for_pictures() -> None:
    image = Image.new("RGB", (600, 500))
    assert PAPER_PICTURES.objection(image, 10**6, "") == "shorter side of 500 pixels, at least 512 are wanted"
    image = Image.new("RGB", (600, 512))
    least = round(0.15 * 600 * 512)
    assert PAPER_PICTURES.objection(image, least, "") is None
    assert "0.150 bytes per pixel" in str(PAPER_PICTURES.objection(image, least - 20, ""))


def test_the_papers_rules_for_clips() -> None:
    good = {"duration": 12, "motion": 4.5, "aesthetic": 5, "clarity": 0.8}
    assert PAPER_CLIPS.objection(good, 3) is None
    wrong = [
        ({"duration": 31}, 3),
        ({"motion": 4}, 3),
        ({"aesthetic": 4.0}, 3),
        ({"clarity": 0.7}, 3),
        ({}, 1),
        ({}, 7),
    ]
    for change, frames in wrong:
        assert PAPER_CLIPS.objection({**good, **change}, frames) is not None
    assert PAPER_CLIPS.objection({"duration": 12}, 3) == "motion of unknown value, more than 4 is wanted"
    assert ClipFilter().objection({}, 9) is None


def test_filters_and_scores_at_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_folder(tmp_path / "pictures", 3)
    (tmp_path / "pictures" / "small.png").write_bytes(png())
    (tmp_path / "pictures" / "small.txt").write_text("a small one")
    (tmp_path / "my_scores.py").write_text("def even(image, text):\n    return 1 - len(text) % 2\n")
    monkeypatch.chdir(tmp_path)
    rules = ImportRules(pictures=PictureFilter(min_side_px=64, scores=(load_score("my_scores:even >= 1"),)))
    records, skipped = brought_in(tmp_path / "pictures", tmp_path / "out", rules)
    assert skipped["small"] == "shorter side of 16 pixels, at least 64 are wanted"
    captions = {p.stem: p.read_text().strip() for p in (tmp_path / "pictures").glob("0*.txt")}
    assert {one.id for one in records} == {name for name, text in captions.items() if len(text) % 2 == 0}
    assert len(records) + len(skipped) == 4


def test_a_score_that_fails_is_a_reason() -> None:
    def fails(image: Image.Image, text: str) -> float:
        raise ValueError("too blue")

    score = Score(name="m:f", function=fails, least=1.0)
    assert PictureFilter(scores=(score,)).objection(Image.new("RGB", (4, 4)), 9, "") == (
        "m:f failed: ValueError: too blue"
    )
    nan = Score(name="m:f", function=lambda image, text: float("nan"), least=1.0)
    assert "m:f of nan" in str(nan.objection(Image.new("RGB", (4, 4)), ""))


@pytest.mark.parametrize("text", ["json:dumps", "json>=1", "json:dumps>=x", "nothing_here:f>=1", "json:nope>=1"])
def test_a_wrong_score_is_one_clear_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a score|cannot import|has no function"):
        load_score(text)


def test_clip_rules_apply_to_interleaved_samples_only(tmp_path: Path) -> None:
    def drafts() -> Any:
        for name, seconds in (("short", 3), ("long", 15)):
            turns = [{"role": "user", "content": "go on"}, {"role": "assistant", "content": ["now", "<image>"]}]
            values = {"messages": turns, "images": [png()], "duration": seconds}
            find: Any = lambda value: value  # noqa: E731
            yield conversation(name, values, find)
        yield Skipped(id="x", reason="y")

    assert isinstance(next(drafts()), Draft)
    result = import_records(drafts(), tmp_path, ImportRules(clips=ClipFilter(seconds=(10, 30))))
    assert (result.records, result.skipped) == (1, 2)
    assert "duration of 3" in result.skipped_file.read_text()


def test_a_limit_stops_early(tmp_path: Path) -> None:
    draw_folder(tmp_path / "pictures", 4)
    records, skipped = brought_in(tmp_path / "pictures", tmp_path / "out", ImportRules(limit=2))
    assert ([one.id for one in records], skipped) == (["00", "01"], {})
