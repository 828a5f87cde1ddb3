"""Emoji of several styles become records of three tasks; concepts are kept out as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emoji_archives import LABELS, svg_stand_in, write_archives
from llada_uni.cli.main import run
from llada_uni.data.emoji import QUESTION, EmojiOptions, import_emoji, is_held_out_concept
from llada_uni.data.emoji_packages import EmojiPackages, fetch_packages
from llada_uni.data.records import Record, read_records
from llada_uni.errors import ConfigError, OfflineError

SHARE = 0.4


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "resvg_py", svg_stand_in())
    return write_archives(tmp_path / "packages")


def imported(packages: Path, out: Path, **changes: Any) -> tuple[list[Record], list[Record]]:
    import_emoji(packages, out, EmojiOptions(**{"held_out_share": SHARE, "side_px": 16, **changes}))
    train, held_out = (list(read_records(out / name / "records.jsonl")) for name in ("train", "held_out"))
    return train, held_out


def test_every_concept_gives_pictures_captions_and_edits(packages: Path, tmp_path: Path) -> None:
    both = [record for part in imported(packages, tmp_path / "out") for record in part]
    of = {name: [r for r in both if r.meta["concept"] == name] for name in LABELS}
    tasks = [record.task for record in of["rocket"]]
    assert (tasks.count("t2i"), tasks.count("cap"), tasks.count("edit")) == (7, 3, 6)
    asked = {r.segments[0].text for r in of["rocket"] if r.task == "t2i"}
    assert {"a 3D rocket emoji", "a flat rocket emoji", "a drawn rocket emoji", "a rocket emoji"} <= asked
    told = {r.segments[-1].text for r in of["rocket"] if r.task == "cap"}
    assert told == {"a 3D rocket emoji", "a flat rocket emoji", "a drawn rocket emoji"}
    assert all(r.segments[1].text == QUESTION for r in of["rocket"] if r.task == "cap")
    assert [r.task for r in of["sun"]].count("edit") == 2, "a style that is missing gives no edit"
    assert all(record.segments[-1].supervised for record in both)


def test_an_edit_leads_from_one_style_to_the_picture_of_another(packages: Path, tmp_path: Path) -> None:
    train, held_out = imported(packages, tmp_path / "out")
    both = train + held_out
    pictures = {(r.meta["concept"], r.meta["style"]): r.segments[1].sha256 for r in both if r.task == "t2i"}
    edits = [record for record in both if record.task == "edit"]
    words = {"3d": "make it a 3D emoji", "flat": "make it a flat emoji", "noto": "make it a drawn emoji"}
    assert edits
    for edit in edits:
        concept, before, asked, after = edit.meta["concept"], *edit.segments
        assert before.sha256 == pictures[concept, edit.meta["source"]]
        assert after.sha256 == pictures[concept, edit.meta["style"]]
        assert asked.text == words[edit.meta["style"]]


def test_concepts_are_kept_out_as_a_whole(packages: Path, tmp_path: Path) -> None:
    train, held_out = imported(packages, tmp_path / "out")
    concepts = [{record.meta["concept"] for record in part} for part in (train, held_out)]
    assert not concepts[0] & concepts[1]
    assert concepts[1] == {name for name in LABELS if is_held_out_concept(name, SHARE)}
    assert 0 < len(concepts[1]) < len(LABELS)
    digests = [{p.sha256 for r in part for p in r.segments if p.image} for part in (train, held_out)]
    assert not digests[0] & digests[1]


def test_pictures_stand_on_white_at_the_wanted_size(packages: Path, tmp_path: Path) -> None:
    train, held_out = imported(packages, tmp_path / "out", styles=("3d",), tasks=("t2i",))
    for name, part in (("train", train), ("held_out", held_out)):
        for record in part:
            pixels = np.asarray(Image.open(tmp_path / "out" / name / (record.segments[1].image or "")))
            assert pixels.shape == (16, 16, 3)
            assert (pixels[:, 12:] == 255).all()
            assert (pixels[:, :4] != 255).any()


def test_a_style_that_lacks_a_concept_is_told(packages: Path, tmp_path: Path) -> None:
    imported(packages, tmp_path / "out")
    lines = "".join((tmp_path / "out" / name / "skipped.jsonl").read_text() for name in ("train", "held_out"))
    assert [json.loads(line)["id"] for line in lines.splitlines()] == ["sun/flat"]


def test_groups_choose_concepts(packages: Path) -> None:
    found = EmojiPackages.open(packages, ("3d",), ("food",), 16)
    assert [concept.label for concept in found.concepts] == ["ice cream", "hot pepper"]


def test_variation_selectors_do_not_matter(packages: Path) -> None:
    found = EmojiPackages.open(packages, ("3d",), ("smileys",), 16)
    assert found.picture(found.concepts[0], "3d") is not None


def test_command_writes_both_parts(packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--packages", str(packages), "--style", "3d", "--task", "t2i", "--held-out-share", str(SHARE)]
    assert run(["data", "emoji", "--out", str(tmp_path / "out"), "--side", "16", "--json", *arguments]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["train"]["num_records"] + told["held_out"]["num_records"] == 3 * len(LABELS)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"groups": ("plants",)}, "groups: expected some of smileys"),
        ({"styles": ("oil",)}, "styles: expected some of 3d, flat, noto, got oil"),
        ({"styles": ()}, "got none"),
        ({"tasks": ("vqa",)}, "tasks: expected some of t2i, cap, edit, got vqa"),
        ({"held_out_share": 1.0}, "held_out_share"),
        ({"side_px": 0}, "side_px: expected at least 1, got 0"),
        ({"limit": 0}, "limit"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        EmojiOptions(**changes)


def test_missing_drawing_library_is_told_once(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ConfigError, match=r"pip install 'llada-uni\[emoji\]'"):
        EmojiPackages.open(packages, ("3d", "flat"))
    assert EmojiPackages.open(packages, ("3d",)).concepts


def test_missing_and_damaged_archives_are_told(packages: Path) -> None:
    (packages / "fluentui-emoji-1.3.0.tgz").write_bytes(b"no archive")
    with pytest.raises(ConfigError, match=r"fluentui-emoji-1\.3\.0\.tgz is damaged"):
        EmojiPackages.open(packages)
    (packages / "emojibase-data-17.0.0.tgz").unlink()
    with pytest.raises(ConfigError, match="lacks the package emojibase-data"):
        EmojiPackages.open(packages)


def test_a_drawing_that_cannot_be_rendered_is_skipped(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = EmojiPackages.open(packages, ("flat",), ("travel",), 16)
    monkeypatch.setattr(sys.modules["resvg_py"], "svg_to_bytes", lambda **_: (_ for _ in ()).throw(ValueError("bad")))
    with pytest.raises(ConfigError, match="cannot be rendered"):
        found.picture(found.concepts[0], "flat")


def test_only_missing_packages_are_fetched(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = packages / "iconify-json-noto-1.2.9.tgz", []
    content = path.read_bytes()
    path.unlink()

    def npm(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[2])
        path.write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", npm)
    assert len(fetch_packages(packages)) == 4
    assert asked == ["@iconify-json/noto@1.2.9"]


def test_no_npm_and_no_network_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("npm")

    monkeypatch.setattr(subprocess, "run", absent)
    with pytest.raises(ConfigError, match="npm is needed to fetch @lobehub/fluent-emoji-3d"):
        fetch_packages(tmp_path)
    failed = subprocess.CompletedProcess(["npm"], 1, "", "npm error code ENOTFOUND\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(OfflineError, match="ENOTFOUND"):
        fetch_packages(tmp_path)
