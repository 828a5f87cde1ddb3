"""What a model name means."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from llada_uni.config import to_mapping
from llada_uni.errors import CheckpointError, ConfigError, LladaUniError, OfflineError, ResourceError
from llada_uni.grid import Geometry, TokenGrid
from llada_uni.weights import catalog
from llada_uni.weights.catalog import PackageConfig, Presets, load_package_config, resolve


def test_local_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve("org/name") == Path("org/name")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/org") == tmp_path / "org"


def test_nano_is_the_packaged_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog.resources, "files", lambda _: tmp_path)
    with pytest.raises(CheckpointError, match=r"this installation has no 'nano' weights"):
        resolve("nano")
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "config.json").write_text("{}")
    assert resolve("nano") == tmp_path / "nano"
    with pytest.raises(ConfigError, match=r"only for a model on the hub"):
        resolve("nano", revision="main")


@pytest.mark.parametrize("name", ["nanoo", "", "LLaDA2.0-Uni", "a b/c"])
def test_unknown_names_say_what_there_is(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"available: nano, inclusionAI/LLaDA2.0-Uni"):
        resolve(name)


@pytest.mark.parametrize("name", ["./absent", "/absent/dir", "~/absent", "a/b/c", Path("org/name")])
def test_missing_directories(name: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no directory"):
        resolve(name)


def test_files_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"is a file; expected the directory"):
        resolve(tmp_path / "model.safetensors")


def test_hub_names_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(name: str, **options: object) -> str:
        calls.append((name, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("inclusionAI/LLaDA2.0-Uni", revision="abc") == tmp_path
    patterns = ["*.json", "*.safetensors", "*.pt"]
    assert calls == [("inclusionAI/LLaDA2.0-Uni", {"revision": "abc", "allow_patterns": patterns})]


def test_offline_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OfflineError, match=r"cannot be reached; .* or use --model nano") as caught:
        resolve("inclusionAI/LLaDA2.0-Uni")
    assert "\n" not in str(caught.value)


def hub_error(kind: str) -> Exception:
    cls = getattr(hub_errors, kind)
    return cls.__new__(cls) if issubclass(cls, OSError) else cls("bad")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (hub_error("GatedRepoError"), CheckpointError, "gated"),
        (hub_error("RepositoryNotFoundError"), CheckpointError, "no model 'a/b' on the hub"),
        (hub_error("RevisionNotFoundError"), CheckpointError, "no revision 'r'"),
        (hub_error("HFValidationError"), CheckpointError, "not a model name"),
        (hub_error("LocalEntryNotFoundError"), OfflineError, "cannot be reached"),
        (hub_error("HfHubHTTPError"), OfflineError, "cannot download"),
        (hub_error("XetDownloadError"), OfflineError, "cannot download"),
        (ConnectionResetError("gone"), OfflineError, "cannot be reached"),
        (RuntimeError("transport"), OfflineError, "RuntimeError: transport"),
        (OSError(errno.ENOSPC, "No space left on device"), ResourceError, "No space left"),
    ],
)
def test_hub_failures(error: Exception, kind: type[LladaUniError], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(kind, match=words):
        resolve("a/b", revision="r")


def test_released_constants_apply_without_a_file(tmp_path: Path) -> None:
    package = load_package_config(tmp_path)
    assert package == PackageConfig()
    assert package.geometry(patch_size=16, vae_factor=8, dit_patch=2) == Geometry()
    presets = package.presets
    assert (presets.decoder, presets.steps_per_block, presets.guidance_scale) == ("normal", 16, 4.0)
    assert (presets.num_steps, presets.turbo_steps, presets.block_length) == (49, 8, 32)


def test_the_package_file(tmp_path: Path) -> None:
    package = PackageConfig(trained_grids=((8, 8), (8, 12)), presets=Presets(decoder="turbo"), world_version="v1")
    path = tmp_path / "llada_uni.json"
    path.write_text(json.dumps(to_mapping(package)))
    assert load_package_config(tmp_path) == package
    geometry = package.geometry(patch_size=8, vae_factor=4, dit_patch=2)
    assert geometry.trained_grids == (TokenGrid(8, 8), TokenGrid(8, 12))
    path.write_text(json.dumps({"presets": {"decoder": "fast"}}))
    with pytest.raises(ConfigError, match=r"presets: decoder: expected one of 'normal', 'turbo', got 'fast'"):
        load_package_config(tmp_path)
    path.write_text(json.dumps({"trained_gridz": []}))
    with pytest.raises(ConfigError, match=r"did you mean 'trained_grids'"):
        load_package_config(tmp_path)
