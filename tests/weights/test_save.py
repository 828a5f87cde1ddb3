"""A checkpoint is written completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_files import LOADERS, assert_same, states

from full_disk import full_disk
from llada_uni.errors import CheckpointError, ResourceError
from llada_uni.testing.checkpoint import tiny_components, write_tiny_checkpoint
from llada_uni.testing.tiny import tiny_backbone
from llada_uni.weights import files, load, save
from llada_uni.weights.save import Components, save_checkpoint


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


PARTS = tiny_components()
SAVERS: dict[str, Callable[[Path], object]] = {
    "backbone": lambda root: save.save_backbone(root, PARTS.backbone),
    "image_tokenizer": lambda root: save.save_image_tokenizer(root, PARTS.image_tokenizer, PARTS.preprocessor),
    "semantic_embedder": lambda root: save.save_semantic_embedder(root, PARTS.semantic_embedder),
    "decoder": lambda root: save.save_decoder(root, PARTS.decoder),
    "vae": lambda root: save.save_vae(root, PARTS.vae),
    "text_tokenizer": lambda root: save.save_text_tokenizer(root, PARTS.text_tokenizer),
    "checkpoint": lambda root: save_checkpoint(root, PARTS),
}


@pytest.mark.parametrize("name", SAVERS)
def test_a_full_disk_leaves_everything_as_it_was(name: str, tmp_path: Path) -> None:
    root = write_tiny_checkpoint(tmp_path / "checkpoint", seed=1)
    before = contents(tmp_path)
    with full_disk(1500), pytest.raises(ResourceError, match=r"cannot write .*; nothing was changed"):
        SAVERS[name](root)
    assert contents(tmp_path) == before
    load.check_checkpoint(root)


@pytest.mark.parametrize("name", SAVERS)
def test_a_full_disk_leaves_no_half_written_file(name: str, tmp_path: Path) -> None:
    with full_disk(1500), pytest.raises(ResourceError):
        SAVERS[name](tmp_path / "new")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_failures_of_the_last_moment(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tiny_checkpoint(tmp_path / "checkpoint")
    before = contents(tmp_path)

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(ResourceError, match=r"No space left on device; nothing was changed"):
        save.save_backbone(root, tiny_backbone(seed=5))
    monkeypatch.undo()
    assert contents(tmp_path) == before


def test_an_interrupt_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tiny_checkpoint(tmp_path / "checkpoint")
    before = contents(tmp_path)

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    for write in (lambda: save.save_vae(root, PARTS.vae), lambda: save_checkpoint(root, PARTS)):
        with pytest.raises(KeyboardInterrupt):
            write()
        assert contents(tmp_path) == before


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match=r"cannot write"):
        save.save_vae(tmp_path / "file", PARTS.vae)
    with pytest.raises(ResourceError, match=r"cannot write"):
        save_checkpoint(tmp_path / "file" / "checkpoint", PARTS)


def test_the_old_checkpoint_returns_when_the_move_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tiny_checkpoint(tmp_path / "checkpoint")
    before = contents(tmp_path)
    original = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp") and self.is_dir():
            raise OSError(5, "Input/output error")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ResourceError):
        save_checkpoint(root, PARTS)
    monkeypatch.undo()
    assert contents(tmp_path) == before


def test_only_checkpoints_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    with pytest.raises(CheckpointError, match=r"is not a checkpoint; choose another directory"):
        save_checkpoint(tmp_path / "photos", PARTS)
    with pytest.raises(CheckpointError, match=r"is a file"):
        save_checkpoint(tmp_path / "photos" / "a.jpg", PARTS)
    with pytest.raises(CheckpointError, match=r"no directory .* to take the other components from"):
        save_checkpoint(tmp_path / "new", PARTS, base=tmp_path / "absent")
    assert contents(tmp_path) == {"photos/a.jpg": b"x"}


def test_components_left_out_come_from_the_base(tmp_path: Path) -> None:
    root = write_tiny_checkpoint(tmp_path / "checkpoint")
    before = states(root)
    other = tiny_backbone(seed=9, vocab=load.load_vocab(root))
    save_checkpoint(root, Components(backbone=other), base=root, dtype=None)
    after = states(root)
    assert_same(after["backbone"], other.state_dict())
    for name in LOADERS.keys() - {"backbone"}:
        assert_same(before[name], after[name])
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_saving_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    root = save_checkpoint(".", PARTS)
    assert root == tmp_path / "here"
    assert os.listdir(tmp_path) == ["here"]
    load.check_checkpoint(root)


def test_write_files_is_all_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "gone").write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ResourceError):
        files.write_files(tmp_path, {"a": files.text_writer("new"), "b": fail}, obsolete=[tmp_path / "gone"])
    assert contents(tmp_path) == {"a": b"old", "gone": b"old"}
    files.write_files(tmp_path, {"a": files.text_writer("né")}, obsolete=[tmp_path / "gone"])
    assert contents(tmp_path) == {"a": "né".encode()}
