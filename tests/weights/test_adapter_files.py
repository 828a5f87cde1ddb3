"""Adapters on disk: saved and read back, merged into checkpoints, applied by the pipeline, refused where unfit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llada_uni.backbone.layout import lay_out
from llada_uni.cli.main import run as command_line
from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.layers.adapters import AdapterConfig, Adapters
from llada_uni.pipeline import LladaUni
from llada_uni.testing.checkpoint import write_tiny_checkpoint
from llada_uni.weights.adapters import apply_adapter, merge_adapters, open_adapter, save_adapter
from llada_uni.weights.load import load_backbone, load_decoder

TARGETS = ("*attention.*", "*.experts.*")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


def make_adapter(root: Path, directory: Path, component: str = "backbone", seed: int = 0, kind: str = "dora") -> Path:
    network = load_backbone(root) if component == "backbone" else load_decoder(root, "turbo")
    targets = TARGETS if component == "backbone" else ("*feed_forward*",)
    source = torch.Generator().manual_seed(seed)
    adapters = Adapters(network, AdapterConfig(kind=kind, rank=4, targets=targets), generator=source)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=source)
    save_adapter(directory, adapters, component, base="tiny")
    return directory


def logits(model) -> torch.Tensor:
    ids = torch.arange(12).view(1, 12)
    return model(ids, ids)


def test_an_adapter_comes_back_as_it_was_saved(tiny: Path, tmp_path: Path) -> None:
    path = make_adapter(tiny, tmp_path / "a")
    told = open_adapter(path)
    assert (told.component, told.base, told.adapter.kind) == ("backbone", "tiny", "dora")
    one, two = load_backbone(tiny), load_backbone(tiny)
    plain = logits(one)
    state = apply_adapter(one, path).state_dict()
    again = apply_adapter(two, path).state_dict()
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert not torch.equal(logits(one), plain)
    assert torch.equal(logits(one), logits(two))
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_a_merged_checkpoint_is_the_applied_adapter_in_the_released_layout(tiny: Path, tmp_path: Path) -> None:
    paths = [make_adapter(tiny, tmp_path / "a"), make_adapter(tiny, tmp_path / "t", "decoder-turbo")]
    before = {path: path.read_bytes() for path in tiny.rglob("*") if path.is_file()}
    merged = merge_adapters(tiny, paths, tmp_path / "merged")
    assert {p.relative_to(merged) for p in merged.rglob("*")} == {p.relative_to(tiny) for p in tiny.rglob("*")}
    assert all(path.read_bytes() == content for path, content in before.items())
    applied = load_backbone(tiny)
    apply_adapter(applied, paths[0])
    torch.testing.assert_close(logits(load_backbone(merged)), logits(applied), rtol=1e-4, atol=1e-4)
    turbo = load_decoder(tiny, "turbo")
    apply_adapter(turbo, paths[1]).merge()
    changed = zip(turbo.parameters(), load_decoder(merged, "turbo").parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in changed)
    untouched = zip(load_decoder(tiny).parameters(), load_decoder(merged).parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in untouched)


def test_from_pretrained_takes_an_adapter_and_saves_with_it(tiny: Path, tmp_path: Path) -> None:
    path = make_adapter(tiny, tmp_path / "a")
    merged = load_backbone(merge_adapters(tiny, [path], tmp_path / "merged"))
    model = LladaUni.from_pretrained(tiny, adapter=path)
    laid_out = lay_out(load_backbone(tmp_path / "merged"))  # as every pipeline does; equal to ``merged`` up to rounding
    assert torch.equal(logits(model.networks.backbone), logits(laid_out))
    fresh = LladaUni.from_pretrained(tiny, adapter=[path])
    saved = fresh.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(load_backbone(saved)), logits(merged))
    with pytest.raises(CheckpointError, match="expected the directory of an adapter"):
        LladaUni.from_pretrained(tiny, adapter=tmp_path / "none")


def test_adapters_of_another_network_are_refused(tiny: Path, tmp_path: Path) -> None:
    path = make_adapter(tiny, tmp_path / "t", "decoder-turbo")
    with pytest.raises(CheckpointError, match="adapter of the decoder-turbo, not of a Backbone"):
        apply_adapter(load_backbone(tiny), path)
    path = make_adapter(tiny, tmp_path / "a")
    nano = load_backbone("nano")
    with pytest.raises(CheckpointError, match=r"missing|unexpected|trained on another model"):
        apply_adapter(nano, path)
    assert not nano.model.layers[1].mlp.experts.changes


def test_damaged_files_are_refused(tiny: Path, tmp_path: Path) -> None:
    path = make_adapter(tiny, tmp_path / "a")
    told = json.loads((path / "adapter.json").read_text())
    (path / "adapter.json").write_text(json.dumps(told | {"format": 9}))
    with pytest.raises(CheckpointError, match="format 9 is not known here"):
        open_adapter(path)
    (path / "adapter.json").write_text(json.dumps(told | {"adapter": told["adapter"] | {"rnk": 3}}))
    with pytest.raises(ConfigError, match="did you mean 'rank'"):
        open_adapter(path)
    (path / "adapter.json").write_text(json.dumps(told | {"adapter": told["adapter"] | {"rank": 5}}))
    with pytest.raises(CheckpointError, match="the network needs"):
        apply_adapter(load_backbone(tiny), path)
    (path / "adapter.json").write_text(json.dumps(told))
    (path / "adapter.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError):
        apply_adapter(load_backbone(tiny), path)


def test_merging_never_overwrites_its_source(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the checkpoint itself"):
        merge_adapters(tiny, [make_adapter(tiny, tmp_path / "a")], tiny)
    with pytest.raises(ConfigError, match="at least one"):
        merge_adapters(tiny, [], tmp_path / "x")


def test_the_command_line_shows_and_merges(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = make_adapter(tiny, tmp_path / "a", kind="lora")
    assert command_line(["adapters", "show", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["component"], told["kind"], told["rank"]) == ("backbone", "lora", 4)
    assert told["parameters"] > 0
    arguments = ["adapters", "merge", str(path), "--model", str(tiny), "--output", str(tmp_path / "m")]
    assert command_line(arguments) == 0
    assert (tmp_path / "m" / "config.json").is_file()
    assert command_line(["adapters", "show", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: missing")
