"""Extraction: right ids, everything accounted for, and nothing lost or doubled through kills."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llada_uni import LladaUni
from llada_uni.data import preextract, token_shards
from llada_uni.data.drafts import Draft, Turn
from llada_uni.data.extractor import ExtractOptions
from llada_uni.data.importing import import_records
from llada_uni.data.preextract import ExtractResult, checkpoint_mark, extract_tokens
from llada_uni.data.token_loader import TokenData
from llada_uni.data.token_shards import Shard, read_manifest, shard_name
from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.testing.checkpoint import write_tiny_checkpoint

COUNT, SIZE = 22, 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of noise in several shapes, asked for and asked about; one disappears after the import."""
    folder = tmp_path_factory.mktemp("records")
    drafts = []
    for number in range(COUNT):
        rng = np.random.default_rng(number)
        height, width = ((20, 20), (20, 33), (41, 25))[number % 3]
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        if number % 2:
            turns = (Turn(role="user", parts=("a star",)), Turn(role="assistant", parts=(path,)))
        else:
            turns = (Turn(role="user", parts=(path, "what?")), Turn(role="assistant", parts=(f"number {number}",)))
        drafts.append(Draft(id=f"s{number}", task="t2i" if number % 2 else "vqa", turns=turns))
    import_records(iter(drafts), folder)
    (folder / "5.png").unlink()
    Image.new("RGB", (8, 8)).save(folder / "8.png")
    return folder


def run(records: Path, checkpoint: Path, out: Path, **options: Any) -> ExtractResult:
    return extract_tokens(records, checkpoint, out, ExtractOptions(**{"shard_size": SIZE, "batch_size": 3} | options))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(folder: Path) -> list[str]:
    return [facts["id"] for facts in TokenData(folder, verify=True).facts()]


@pytest.fixture(scope="module")
def whole(records: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extraction that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    result = run(records, checkpoint, out)
    assert (result.written, result.kept) == (6, 0)
    return out


def test_every_record_is_a_sample_or_told_of(whole: Path) -> None:
    told = [json.loads(line) for line in (whole / "skipped.jsonl").read_text().splitlines()]
    assert names(whole) == [f"s{number}" for number in range(COUNT) if number not in (5, 8)]
    assert [one["id"] for one in told] == ["s5", "s8"]
    assert "cannot read the picture" in told[0]["reason"]
    assert "has changed since it was imported" in told[1]["reason"]
    manifest = read_manifest(whole)
    assert (manifest.samples, manifest.tasks) == (20, {"t2i": 10, "vqa": 10})
    assert [shard.samples for shard in manifest.shards] == [4, 3, 3, 4, 4, 2]


def test_codes_are_those_of_the_pipeline(whole: Path, records: Path, checkpoint: Path) -> None:
    model = LladaUni.from_pretrained(checkpoint)
    data, vocab = TokenData(whole), model.networks.vocab
    for number, facts in enumerate(data.facts()):
        sample, picture = data[number], str(records / f"{facts['id'][1:]}.png")
        if sample.task == "vqa":
            encoded = model.encode_image(picture)
            block = vocab.block(encoded.grid, encoded.codes)
            prompt = tuple(sample.variants[0].branches[0].prompt)
            assert any(prompt[start : start + len(block)] == block for start in range(len(prompt)))
        else:
            target = sample.variants[0].branches[0].target
            grid = vocab.header_grid(sample.variants[0].branches[0].prompt)
            assert grid is not None
            assert len(target) == grid.num_tokens + 2
            assert (grid.grid_h, grid.grid_w) == ((4, 4), (4, 6), (6, 4))[int(facts["id"][1:]) % 3]


def test_a_second_run_does_nothing(whole: Path, records: Path, checkpoint: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole.glob("tokens-*")}
    result = run(records, checkpoint, whole)
    assert (result.written, result.kept) == (0, 6)
    assert {path.name: path.stat().st_mtime_ns for path in whole.glob("tokens-*")} == before
    assert names(whole)


def in_a_child(action: Callable[[], None], kill_after: float | None = None) -> int:
    """Runs ``action`` in a forked process, killed after some seconds; returns its exit status (negative: signal)."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("after", [False, True], ids=["before the move", "after the move"])
def test_killed_at_every_file_and_resumed(
    after: bool, whole: Path, records: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Child n dies at its file 1 + n % 3; shards, the report and the manifest get written in between."""
    deaths, places = 0, set[str]()

    def dying() -> None:
        moved, replace, last = [], os.replace, 1 + deaths % 3

        def replacing(source: Any, target: Any) -> None:
            moved.append(target)
            if len(moved) == last and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)
            if len(moved) == last and after:
                os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(token_shards.os, "replace", replacing)
        run(records, checkpoint, tmp_path)

    while in_a_child(dying) == -signal.SIGKILL:
        deaths += 1
        assert deaths < 20
        for path in tmp_path.glob("tokens-*"):
            Shard(path).verify()
        places |= set(contents(tmp_path))
    assert deaths >= 5
    assert "skipped.jsonl" in places
    run(records, checkpoint, tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_killed_at_random_moments_and_resumed(whole: Path, records: Path, checkpoint: Path, tmp_path: Path) -> None:
    source, deaths = random.Random(3), 0
    for _ in range(8):
        status = in_a_child(lambda: run(records, checkpoint, tmp_path) and None, kill_after=source.uniform(0.01, 0.15))
        deaths += status == -signal.SIGKILL
        for path in tmp_path.glob("tokens-*"):
            Shard(path).verify()
    assert deaths
    run(records, checkpoint, tmp_path)
    assert contents(tmp_path) == contents(whole)
    assert len(set(names(tmp_path))) == len(names(tmp_path)) == 20


def test_parts_make_the_same_files(whole: Path, records: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert run(records, checkpoint, tmp_path, part=(1, 2)).manifest is None
    with pytest.raises(CheckpointError, match="run llada-uni data extract"):
        TokenData(tmp_path)
    assert run(records, checkpoint, tmp_path, part=(0, 2)).manifest is not None
    assert contents(tmp_path) == contents(whole)


def test_only_what_changed_is_made_again(records: Path, checkpoint: Path, tmp_path: Path) -> None:
    lines = (records / "records.jsonl").read_text().splitlines(keepends=True)
    copy = records / "copy.jsonl"
    copy.write_text("".join(lines))
    run(copy, checkpoint, tmp_path)
    lines[9] = lines[9].replace("a star", "two stars")
    copy.write_text("".join(lines[:16]))
    result = run(copy, checkpoint, tmp_path)
    assert (result.written, result.kept) == (1, 3)
    assert sorted(path.name for path in tmp_path.glob("tokens-*")) == [shard_name(index) for index in range(4)]
    assert len(names(tmp_path)) == 14
    assert run(copy, checkpoint, tmp_path, restart=True).written == 4


def test_bad_lines_and_repeated_ids_are_told(records: Path, checkpoint: Path, tmp_path: Path) -> None:
    lines = (records / "records.jsonl").read_text().splitlines()[:3]
    surrogate = lines[1].replace('"s1"', '"s\\ud800"').replace("a star", "\\ud800")
    path = records / "bad.jsonl"
    path.write_text("\n".join([lines[0], "{", "", lines[1], lines[0], lines[2].replace("task", "tsak"), surrogate]))
    result = run(path, checkpoint, tmp_path)
    told = {one["id"]: one["reason"] for one in map(json.loads, (tmp_path / "skipped.jsonl").read_text().splitlines())}
    assert result.manifest is not None
    assert result.manifest.samples == 2
    assert "not valid JSON" in told["bad.jsonl:2"]
    assert told["s0"] == "line 5: another record has the same id"
    assert "did you mean 'task'" in told["s2"]
    assert "lone surrogate" in told["s\ud800"]


def test_a_damaged_shard_is_found_out(whole: Path, records: Path, checkpoint: Path, tmp_path: Path) -> None:
    run(records, checkpoint, tmp_path)
    path = tmp_path / shard_name(2)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="contents do not fit their checksum"):
        TokenData(tmp_path, verify=True)
    path.write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match="is damaged or no shard"):
        TokenData(tmp_path)
    assert run(records, checkpoint, tmp_path).written == 1
    path.unlink()
    with pytest.raises(CheckpointError, match=r"missing tokens-000002\.safetensors"):
        TokenData(tmp_path)
    run(records, checkpoint, tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_threads_change_nothing(whole: Path, records: Path, checkpoint: Path, tmp_path: Path) -> None:
    run(records, checkpoint, tmp_path, workers=3)
    assert contents(tmp_path) == contents(whole)


def test_the_mark_follows_the_tokenizers(checkpoint: Path, tmp_path: Path) -> None:
    assert checkpoint_mark(checkpoint) == checkpoint_mark(write_tiny_checkpoint(tmp_path / "same"))
    assert checkpoint_mark(checkpoint) != checkpoint_mark(write_tiny_checkpoint(tmp_path / "other", seed=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"shard_size": 0}, "shard_size: expected at least 1"), ({"part": (2, 2)}, "part: expected i/n"),
     ({"device": "tpu!"}, "device")],
)  # fmt: skip
def test_wrong_options_are_one_clear_error(
    options: Any, message: str, records: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(records, checkpoint, tmp_path, **options)


def test_nothing_to_extract_is_one_clear_error(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="import records first"):
        run(tmp_path / "none.jsonl", checkpoint, tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="holds no records"):
        run(tmp_path / "empty.jsonl", checkpoint, tmp_path)
    (tmp_path / "bad.jsonl").write_text("{\n")
    with pytest.raises(ConfigError, match=r"no record was left of 1 .*bad.jsonl:1"):
        run(tmp_path / "bad.jsonl", checkpoint, tmp_path / "out")
    assert preextract.MANIFEST_FILE not in contents(tmp_path / "out")
