"""load -> save -> load is the identity in every layout a checkpoint can have."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import (
    LOADERS,
    WEIGHT_FILES,
    assert_same,
    change,
    golden_weights,
    released_vae,
    states,
    write_released,
)
from safetensors.torch import load_file

from golden_fixtures import load_case
from llada_uni.backbone.model import Backbone
from llada_uni.grid import TokenGrid
from llada_uni.testing.checkpoint import tiny_components, write_tiny_checkpoint
from llada_uni.testing.tiny import tiny_backbone, tiny_backbone_config
from llada_uni.weights import load, save
from llada_uni.weights.keys import stored_backbone
from llada_uni.weights.save import Components, save_checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


def reload(root: Path, target: Path, **options: Any) -> Path:
    """Load every component of ``root`` and save them to ``target``."""
    modules = {name: loader(root) for name, loader in LOADERS.items()}
    parts = Components(
        **modules,
        preprocessor=load.load_preprocessor(root),
        text_tokenizer=load.load_text_tokenizer(root),
        package=load.load_package_config(root),
    )
    return save_checkpoint(target, parts, **{"dtype": None, **options})


@pytest.mark.parametrize("layout", ["separate", "merged"])
@pytest.mark.parametrize("shard_bytes", [2**30, 6000])
def test_whole_directories(tiny: Path, tmp_path: Path, layout: str, shard_bytes: int) -> None:
    again = reload(tiny, tmp_path / "a", expert_layout=layout, max_shard_bytes=shard_bytes)
    first, second = states(tiny), states(again)
    for name in LOADERS:
        assert_same(first[name], second[name])
    sharded = (again / "model.safetensors.index.json").is_file()
    assert sharded == (shard_bytes == 6000)
    if sharded:
        assert len(list(again.glob("model-*.safetensors"))) > 1
        assert not (again / "model.safetensors").exists()
    keys = {key for path in again.glob("*.safetensors") for key in load_file(path)}
    assert ("model.layers.1.mlp.experts.0.up_proj.weight" in keys) == (layout == "separate")
    load.check_checkpoint(again)
    for name in ("llada_uni.json", "tokenizer.json", "config.json", "decoder/config.json", "vae/config.json"):
        assert (again / name).read_bytes() == (tiny / name).read_bytes(), name


def test_saved_and_loaded_modules_are_the_modules(tiny: Path) -> None:
    parts = tiny_components()
    for name, state in states(tiny).items():
        module = getattr(parts, name)
        assert_same(module.state_dict(), state)
        assert all(not p.requires_grad for p in LOADERS[name](tiny).parameters())
        assert not LOADERS[name](tiny).training
    assert load.load_backbone(tiny).config == parts.backbone.config  # type: ignore[union-attr]
    assert load.load_decoder_config(tiny) == parts.decoder.config  # type: ignore[union-attr]
    assert load.load_preprocessor(tiny) == parts.preprocessor
    assert load.load_package_config(tiny) == parts.package


def test_old_file_names(tiny: Path, tmp_path: Path) -> None:
    old = shutil.copytree(tiny, tmp_path / "old")
    (old / "image_tokenizer/model.safetensors").rename(old / "image_tokenizer/image_tokenizer.safetensors")
    for folder in ("decoder", "decoder-turbo"):
        (old / folder / "model.safetensors").rename(old / folder / "decoder_model.safetensors")
    embedder = load_file(old / "image_tokenizer/sigvq_embedding.safetensors")
    (old / "image_tokenizer/sigvq_embedding.safetensors").unlink()
    torch.save(embedder, old / "image_tokenizer/sigvq_embedding.pt")
    first, second = states(tiny), states(old)
    for name in LOADERS:
        assert_same(first[name], second[name])
    load.check_checkpoint(old)
    save.save_semantic_embedder(old, load.load_semantic_embedder(old), dtype=None)
    assert not (old / "image_tokenizer/sigvq_embedding.pt").exists()
    assert_same(first["semantic_embedder"], states(old)["semantic_embedder"])


@pytest.mark.parametrize("layout", ["separate-fp8", "merged-fp8"])
def test_float8_experts(tiny: Path, tmp_path: Path, layout: str) -> None:
    original = load.load_backbone(tiny)
    save.save_checkpoint(tmp_path / "a", Components(backbone=original), base=tiny, dtype=None, expert_layout=layout)
    quantised = load.load_backbone(tmp_path / "a")
    for key, value in original.state_dict().items():
        found = quantised.state_dict()[key]
        if ".experts." in key:
            assert not torch.equal(found, value)
            torch.testing.assert_close(found, value, rtol=0.07, atol=0.002 * float(value.abs().max()))
        else:
            assert torch.equal(found, value)
    save_checkpoint(
        tmp_path / "b", Components(backbone=quantised), base=tmp_path / "a", dtype=None, expert_layout=layout
    )
    assert_same(quantised.state_dict(), load.load_backbone(tmp_path / "b").state_dict())
    stored = {k: v for p in (tmp_path / "b").glob("*.safetensors") for k, v in load_file(p).items()}
    kinds = {v.dtype for k, v in stored.items() if ".experts." in k and "scale" not in k}
    assert kinds == {torch.float8_e4m3fn}
    assert json.loads((tmp_path / "b/config.json").read_text()).get("use_fp8_experts")


def test_the_released_layout_of_keys_and_files(tmp_path: Path) -> None:
    root = write_released(tmp_path)
    backbone = load.load_backbone(root)
    official = golden_weights("backbone_a")
    assert dict(stored_backbone(backbone.state_dict())).keys() == official.keys()
    for key, tensor in stored_backbone(backbone.state_dict()):
        assert torch.equal(tensor, official[key]), key
    for name, expected in (
        ("image_tokenizer", golden_weights("vision_a")),
        ("semantic_embedder", golden_weights("sigvq_a")),
        ("decoder", golden_weights("dit_a")),
        ("decoder_turbo", golden_weights("dit_a")),
        ("vae", released_vae()),
    ):
        state = LOADERS[name](root).state_dict()
        assert state.keys() == expected.keys(), name
        assert all(torch.equal(state[key], expected[key]) for key in state), name
    assert load.load_package_config(root).trained_grids is None


def test_logits_of_a_released_directory(tmp_path: Path) -> None:
    backbone = load.load_backbone(write_released(tmp_path), experts="loop")
    tensors, meta = load_case("backbone_a")
    ids = tensors["in.full.input_ids"]
    logits = backbone(ids, torch.arange(ids.shape[1]).expand_as(ids))
    torch.testing.assert_close(logits, tensors["out.full.logits"], **meta["tolerance"])


def test_what_a_foreign_decoder_says_follows_the_tensors(tmp_path: Path) -> None:
    config = load.load_decoder_config(write_released(tmp_path))
    assert config.cap_feat_dim == 24
    assert config.axes_lens == (32768, 1024, 1024)


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."])
def test_prefixes_of_wrappers(tiny: Path, tmp_path: Path, prefix: str) -> None:
    root = shutil.copytree(tiny, tmp_path / "a")

    def wrap(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            head = "model.lm_head." if prefix.startswith("model") else "language_model.lm_head."
            new = (
                head + key.removeprefix("lm_head.")
                if key.startswith("lm_head.")
                else prefix + key.removeprefix("model.")
            )
            tensors[new] = tensors.pop(key)

    change(root / "model.safetensors", wrap)
    assert_same(load.load_backbone(tiny).state_dict(), load.load_backbone(root).state_dict())


def test_unprefixed_keys(tiny: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny, tmp_path / "a")
    for name in ("backbone", "image_tokenizer"):
        change(
            root / WEIGHT_FILES[name],
            lambda tensors: [tensors.update({key.removeprefix("model."): tensors.pop(key)}) for key in list(tensors)],
        )
        assert_same(LOADERS[name](tiny).state_dict(), LOADERS[name](root).state_dict())


def test_stored_and_computing_dtypes(tiny: Path, tmp_path: Path) -> None:
    root = reload(tiny, tmp_path / "half", dtype=torch.bfloat16)
    for name, file in WEIGHT_FILES.items():
        stored = load_file(root / file)
        exact = {key for key, value in stored.items() if value.dtype != torch.bfloat16}
        assert exact == {key for key in stored if key.endswith("expert_bias")}
        for dtype in (None, torch.bfloat16, "float64"):
            state = LOADERS[name](root, dtype=dtype).state_dict()
            wanted = {None: torch.float32, "float64": torch.float64}.get(dtype, dtype)
            for key, value in state.items():
                assert value.dtype == (torch.float32 if key.endswith("expert_bias") else wanted)
                if key in stored:
                    assert torch.equal(value.double(), stored[key].double())
    bias = load.load_backbone(root, dtype="bfloat16").routers()[0].expert_bias
    assert torch.equal(bias, load.load_backbone(tiny).routers()[0].expert_bias)


def test_loaded_tensors_do_not_live_in_the_file(tiny: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny, tmp_path / "a")
    module = load.load_vae(root)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    path = root / WEIGHT_FILES["vae"]
    path.write_bytes(b"\0" * path.stat().st_size)
    assert_same(before, module.state_dict())


def test_tied_embeddings(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny_backbone_config(), tie_word_embeddings=True)
    model = Backbone(config)
    model.reset_parameters(torch.Generator().manual_seed(0))
    save.save_backbone(tmp_path, model, dtype=None)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = load.load_backbone(tmp_path)
    assert loaded.lm_head.weight is loaded.model.word_embeddings.weight
    assert_same(model.state_dict(), loaded.state_dict())


def test_a_router_without_bias(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny_backbone_config(), moe_router_enable_expert_bias=False)
    model = Backbone(config)
    model.reset_parameters(torch.Generator().manual_seed(0))
    save.save_backbone(tmp_path, model, dtype=None)
    loaded = load.load_backbone(tmp_path)
    assert torch.equal(loaded.routers()[0].expert_bias, torch.zeros(config.num_experts))


def test_a_smaller_save_over_a_larger_one_leaves_no_old_file(tmp_path: Path) -> None:
    model = tiny_backbone()
    save.save_backbone(tmp_path, model, dtype=None, max_shard_bytes=2000)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    save.save_backbone(tmp_path, model, dtype=None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert_same(model.state_dict(), load.load_backbone(tmp_path).state_dict())


def test_shards_respect_their_limit(tmp_path: Path) -> None:
    save.save_backbone(tmp_path, tiny_backbone(), max_shard_bytes=3000)
    sizes = [sum(t.numel() * t.itemsize for t in load_file(p).values()) for p in tmp_path.glob("*.safetensors")]
    assert len(sizes) > 2
    assert max(sizes) <= 3000
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(sizes)


def test_vocabulary_and_sizes(tiny: Path) -> None:
    vocab = load.load_vocab(tiny)
    assert vocab.num_codes == 24
    assert vocab.image_offset == load.load_text_tokenizer(tiny).num_ids
    geometry = load.load_geometry(tiny)
    assert (geometry.patch_size, geometry.vae_factor, geometry.dit_patch) == (4, 2, 2)
    assert geometry.grid_from_output_px(32, 48) == TokenGrid(4, 6)
