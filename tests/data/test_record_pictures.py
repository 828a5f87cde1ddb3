"""Pictures of records for the stages that learn from pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llada_uni.data.record_pictures import load_pictures
from llada_uni.data.records import Record, RecordSegment, write_records
from llada_uni.errors import ConfigError


def write(folder: Path, shades: list[int]) -> Path:
    """One picture per shade, asked for and then described, so that each is named twice."""
    records = []
    for number, shade in enumerate(shades):
        Image.new("RGB", (40 + number, 20), (shade, 0, 0)).save(folder / f"{number}.png")
        words = RecordSegment(role="user", kind="text", text=f"shade {shade}")
        drawn = RecordSegment(role="assistant", kind="image", image=f"{number}.png", supervised=True)
        shown = RecordSegment(role="user", kind="image", image=f"{number}.png")
        asked = RecordSegment(role="user", kind="text", text="which?")
        answer = RecordSegment(role="assistant", kind="text", text=str(shade), supervised=True)
        records.append(Record(id=f"c{number}", task="cap", segments=(shown, asked, answer)))
        records.append(Record(id=f"d{number}", task="t2i", segments=(words, drawn)))
    write_records(folder / "records.jsonl", records)
    return folder


def test_each_picture_once_in_order_with_its_words(tmp_path: Path) -> None:
    found = load_pictures(write(tmp_path, [10, 200, 90]), (4, 8))
    assert found.images.shape == (3, 64, 128, 3)
    assert found.images[:, 0, 0, 0].tolist() == [10, 200, 90]
    assert found.words == ("shade 10", "shade 200", "shade 90")


def test_a_kept_copy_follows_the_records(tmp_path: Path) -> None:
    first = load_pictures(write(tmp_path, [10, 200]))
    (tmp_path / "0.png").unlink()
    assert np.array_equal(load_pictures(tmp_path).images, first.images), "the copy serves"
    assert load_pictures(write(tmp_path, [10, 200, 30])).images.shape[0] == 3
    assert load_pictures(tmp_path, (8, 12)).images.shape[2] == 192


def test_draws_follow_the_generator(tmp_path: Path) -> None:
    found = load_pictures(write(tmp_path, list(range(0, 200, 20))))
    one, same = (found.draw(np.random.default_rng(3), 6) for _ in range(2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, found.draw(np.random.default_rng(4), 6))


def test_records_without_pictures_are_refused(tmp_path: Path) -> None:
    words = RecordSegment(role="assistant", kind="text", text="hello", supervised=True)
    write_records(tmp_path / "records.jsonl", [Record(id="a", task="text", segments=(words,))])
    with pytest.raises(ConfigError, match="names no picture"):
        load_pictures(tmp_path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_pictures(tmp_path / "absent.jsonl")
