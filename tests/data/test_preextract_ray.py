"""Extraction by Ray workers: the same files as without, and errors that say what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llada_uni.cli.main import run
from llada_uni.data.extractor import ExtractOptions
from llada_uni.data.import_files import SourceOptions
from llada_uni.data.importing import import_records, open_source
from llada_uni.data.preextract import extract_tokens
from llada_uni.data.preextract_ray import extract_with_ray
from llada_uni.data.token_loader import TokenData
from llada_uni.errors import ConfigError
from llada_uni.testing.checkpoint import write_tiny_checkpoint
from own_data import draw_folder

OPTIONS = ExtractOptions(shard_size=3, batch_size=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny``: a checkpoint; ``records``: eight records."""
    root = tmp_path_factory.mktemp("ray")
    write_tiny_checkpoint(root / "tiny")
    draw_folder(root / "pictures", 8)
    import_records(open_source(str(root / "pictures"), "folder", SourceOptions()), root / "records")
    return root


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_without_ray_the_extra_is_named(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'llada-uni\[ray\]'"):
        extract_with_ray(place / "records", place / "tiny", tmp_path)


def test_wrong_values_are_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="workers: expected at least 1, got 0"):
        extract_with_ray(place / "records", place / "tiny", tmp_path, workers=0)
    with pytest.raises(ConfigError, match="part: Ray shares the shards out itself"):
        extract_with_ray(place / "records", place / "tiny", tmp_path, ExtractOptions(part=(0, 2)))
    arguments = ["data", "extract", str(place / "records"), "--out", str(tmp_path), "--ray-address", "auto"]
    assert run(arguments) == 2
    assert "--ray-address needs --ray N" in capsys.readouterr().err


@pytest.mark.slow
def test_files_equal_those_made_without_ray(cluster: Any, place: Path, tmp_path: Path) -> None:
    plain, shared = tmp_path / "plain", tmp_path / "shared"
    extract_tokens(place / "records", place / "tiny", plain, OPTIONS)
    heard: list[tuple[int, int]] = []
    result = extract_with_ray(
        place / "records", place / "tiny", shared, OPTIONS, workers=2, report=lambda *told: heard.append(told)
    )
    assert (result.written, result.kept) == (3, 0)
    assert sorted(heard) == [(0, 3), (1, 3), (2, 2)]
    names = sorted(path.name for path in plain.iterdir())
    assert names == sorted(path.name for path in shared.iterdir())
    assert all((plain / name).read_bytes() == (shared / name).read_bytes() for name in names)


@pytest.mark.slow
def test_only_missing_shards_are_made(cluster: Any, place: Path, tmp_path: Path) -> None:
    extract_tokens(place / "records", place / "tiny", tmp_path, OPTIONS)
    (tmp_path / "tokens-000001.safetensors").unlink()
    (tmp_path / "manifest.json").unlink()
    result = extract_with_ray(place / "records", place / "tiny", tmp_path, OPTIONS, workers=2)
    assert (result.written, result.kept) == (1, 2)
    assert len(TokenData(tmp_path, verify=True)) == 8
    assert extract_with_ray(place / "records", place / "tiny", tmp_path, OPTIONS).written == 0


@pytest.mark.slow
def test_an_error_in_a_worker_arrives_as_it_is(cluster: Any, place: Path, tmp_path: Path) -> None:
    from llada_uni.errors import ResourceError

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tokens-000000.safetensors").mkdir()
    with pytest.raises(ResourceError, match="cannot write"):
        extract_with_ray(place / "records", place / "tiny", tmp_path / "out", OPTIONS, workers=2)
