"""Every way a checkpoint can be wrong ends in one clear line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_files import LOADERS, WEIGHT_FILES, change, write_json, write_released

from llada_uni.errors import CheckpointError, ConfigError, ResourceError, SizeError
from llada_uni.testing.checkpoint import write_tiny_checkpoint
from llada_uni.testing.tiny import tiny_backbone
from llada_uni.weights import load, save

COMPONENTS = list(LOADERS)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "checkpoint")


def failure(call: Callable[[], object], kind: type[Exception] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def matrix(root: Path, component: str) -> tuple[str, list[int]]:
    """Name and shape of some matrix of a component."""
    state = LOADERS[component](root).state_dict()
    if component == "backbone":
        return "model.layers.1.mlp.experts.2.down_proj.weight", [16, 8]
    return next((k, list(v.shape)) for k, v in state.items() if v.ndim >= 2 and "embedding" not in k)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_missing_key_is_named_with_its_shape(root: Path, component: str) -> None:
    key, shape = matrix(root, component)
    change(root / WEIGHT_FILES[component], lambda tensors: tensors.pop(key))
    assert f"missing: {key} {shape}" in failure(lambda: LOADERS[component](root))


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_extra_key_is_named_with_its_shape(root: Path, component: str) -> None:
    change(root / WEIGHT_FILES[component], lambda tensors: tensors.update({"stray.weight": torch.ones(2, 3)}))
    assert "unexpected: stray.weight [2, 3]" in failure(lambda: LOADERS[component](root))


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_misshapen_key_is_named_with_both_shapes(root: Path, component: str) -> None:
    key, shape = matrix(root, component)
    change(root / WEIGHT_FILES[component], lambda tensors: tensors.update({key: torch.ones(7, 5)}))
    assert f"of another shape: {key} is [7, 5], expected {shape}" in failure(lambda: LOADERS[component](root))


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite(root: Path, component: str, number: float) -> None:
    key, _ = matrix(root, component)
    change(root / WEIGHT_FILES[component], lambda tensors: tensors[key].view(-1)[3:4].fill_(number))
    message = failure(lambda: LOADERS[component](root))
    assert "holds numbers that are not finite" in message
    assert key.replace(".2.down_proj.weight", ".down_proj") in message


@pytest.mark.parametrize("component", COMPONENTS)
def test_integers_are_no_weights(root: Path, component: str) -> None:
    key, _ = matrix(root, component)
    change(root / WEIGHT_FILES[component], lambda tensors: tensors.update({key: tensors[key].to(torch.int32)}))
    assert f"unusable: {key} has dtype I32" in failure(lambda: LOADERS[component](root))


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_truncated_files(root: Path, component: str, keep: int) -> None:
    path = root / WEIGHT_FILES[component]
    path.write_bytes(path.read_bytes()[:keep])
    message = failure(lambda: LOADERS[component](root))
    assert f"{path} is truncated or not a safetensors file" in message


@pytest.mark.parametrize("component", COMPONENTS)
def test_files_of_another_kind(root: Path, component: str) -> None:
    path = root / WEIGHT_FILES[component]
    path.write_text("<html>Sign in to continue to the model hub</html>")
    assert "not a safetensors file" in failure(lambda: LOADERS[component](root))
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "is a git-lfs pointer" in failure(lambda: LOADERS[component](root))


@pytest.mark.parametrize("component", COMPONENTS)
def test_missing_weights(root: Path, component: str) -> None:
    (root / WEIGHT_FILES[component]).unlink()
    message = failure(lambda: LOADERS[component](root))
    assert "no *.safetensors file" in message or "missing" in message


@pytest.mark.parametrize("component", ["backbone", "image_tokenizer", "decoder", "decoder_turbo", "vae"])
def test_configurations(root: Path, component: str) -> None:
    path = (root / WEIGHT_FILES[component]).with_name("config.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "surprise": 1}))
    assert "unknown key 'surprise'" in failure(lambda: LOADERS[component](root), ConfigError)
    path.write_text("{")
    assert "is not valid JSON" in failure(lambda: LOADERS[component](root), ConfigError)
    path.unlink()
    assert f"missing {path}" in failure(lambda: LOADERS[component](root))


@pytest.mark.parametrize("component", ["image_tokenizer", "decoder", "decoder_turbo", "vae"])
def test_missing_directories(root: Path, component: str) -> None:
    folder = (root / WEIGHT_FILES[component]).parent
    shutil.rmtree(folder)
    message = failure(lambda: LOADERS[component](root))
    assert folder.name in message or "decoder; it has: " in message


def test_a_configuration_that_does_not_fit_the_weights(root: Path) -> None:
    path = root / "config.json"
    write_json(path, {**json.loads(path.read_text()), "hidden_size": 32})
    message = failure(lambda: load.load_backbone(root))
    assert "model.word_embeddings.weight is [416, 16], expected [416, 32]" in message
    assert " and " in message  # the others are counted, not listed
    assert len(message) < 700


def test_too_few_and_too_many_experts(root: Path) -> None:
    path = root / "config.json"
    original = json.loads(path.read_text())
    write_json(path, {**original, "num_experts": 6})
    assert "missing: model.layers.1.mlp.experts.4." in failure(lambda: load.load_backbone(root))
    write_json(path, {**original, "num_experts": 2, "n_group": 1, "topk_group": 1})
    assert "unexpected: model.layers.1.mlp.experts.2." in failure(lambda: load.load_backbone(root))


def test_a_missing_decoder_says_which_there_are(root: Path) -> None:
    shutil.rmtree(root / "decoder")
    assert "has no normal decoder; it has: turbo" in failure(lambda: load.load_decoder(root))
    assert "expected one of normal, turbo" in failure(lambda: load.load_decoder(root, "fast"), ConfigError)  # type: ignore[arg-type]


def test_an_unfinished_set_of_shards(root: Path) -> None:
    save.save_backbone(root, tiny_backbone(), max_shard_bytes=3000)
    shards = sorted(root.glob("model-*.safetensors"))
    shards[1].unlink()
    assert f"missing {shards[1].name} (1 of {len(shards)} weight files)" in failure(lambda: load.load_backbone(root))
    (root / "model.safetensors.index.json").unlink()
    assert f"missing {shards[1].name}" in failure(lambda: load.load_backbone(root))


def test_an_index_that_lies(root: Path) -> None:
    save.save_backbone(root, tiny_backbone(), max_shard_bytes=3000)
    index = root / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.ghost"] = content["weight_map"]["lm_head.weight"]
    write_json(index, content)
    assert "the index puts model.ghost in model-" in failure(lambda: load.load_backbone(root))
    content["weight_map"] = {"lm_head.weight": "../../secret.safetensors"}
    write_json(index, content)
    assert "expected a weight_map" in failure(lambda: load.load_backbone(root))
    index.write_text('{"weight_map": {')
    assert "is truncated or not JSON" in failure(lambda: load.load_backbone(root))
    write_json(root / "other.safetensors.index.json", {})
    assert "expected one index" in failure(lambda: load.load_backbone(root))


def test_the_same_key_twice(root: Path) -> None:
    shutil.copy(root / "decoder/model.safetensors", root / "decoder/decoder_model.safetensors")
    message = failure(lambda: load.load_decoder(root))
    assert "is stored in decoder_model.safetensors and in model.safetensors" in message


def test_two_spellings_of_one_parameter(root: Path) -> None:
    change(
        root / "model.safetensors",
        lambda tensors: tensors.update({"model.language_model.norm.weight": tensors["model.norm.weight"].clone()}),
    )
    assert "are the same parameter model.norm.weight" in failure(lambda: load.load_backbone(root))


def test_float8_without_or_with_wrong_factors(root: Path) -> None:
    save.save_backbone(root, tiny_backbone(), expert_layout="separate-fp8")
    key = "model.layers.1.mlp.experts.0.up_proj.weight"
    change(root / "model.safetensors", lambda t: t.update({f"{key}_scale_inv": torch.ones(2, 2)}))
    assert f"{key}_scale_inv is [2, 2], expected [1, 1]" in failure(lambda: load.load_backbone(root))
    change(root / "model.safetensors", lambda t: t.pop(f"{key}_scale_inv"))
    assert f"missing: {key}_scale_inv [1, 1]" in failure(lambda: load.load_backbone(root))


def test_the_block_size_of_a_configuration_counts(root: Path) -> None:
    path = root / "config.json"
    save.save_backbone(root, tiny_backbone(), expert_layout="separate-fp8")
    shutil.move(root / "llada_uni.json", root / "kept")
    write_json(path, {**json.loads(path.read_text()), "quantization_config": {"weight_block_size": [4, 4]}})
    assert "expected [2, 4] for blocks of (4, 4)" in failure(lambda: load.load_backbone(root))


# --- the released pickle ---------------------------------------------------------------------------------------------


def test_a_pickle_may_hold_nothing_but_tensors(tmp_path: Path) -> None:
    path = write_released(tmp_path) / "image_tokenizer/sigvq_embedding.pt"
    torch.save({"prior_token_embedding.weight": torch.ones(2, 2), "note": "x"}, path)
    assert "expected named tensors" in failure(lambda: load.load_semantic_embedder(tmp_path))
    torch.save(Path("harmful"), path)
    assert "not a tensor file" in failure(lambda: load.load_semantic_embedder(tmp_path))
    torch.save({"other": torch.ones(2)}, path)
    assert "expected prior_token_embedding.weight" in failure(lambda: load.load_semantic_embedder(tmp_path))


@pytest.mark.parametrize("keep", [0, 10, 2000])
def test_a_truncated_pickle(tmp_path: Path, keep: int) -> None:
    path = write_released(tmp_path) / "image_tokenizer/sigvq_embedding.pt"
    path.write_bytes(path.read_bytes()[:keep])
    assert "is truncated or not a tensor file" in failure(lambda: load.load_semantic_embedder(tmp_path))


def test_pickles_run_no_code(tmp_path: Path) -> None:
    import pickle

    marker = tmp_path / "ran"

    class Harmful:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return Path.touch, (marker,)

    path = write_released(tmp_path) / "image_tokenizer/sigvq_embedding.pt"
    path.write_bytes(pickle.dumps(Harmful(), protocol=2))
    failure(lambda: load.load_semantic_embedder(tmp_path))
    assert not marker.exists()


def test_without_the_semantic_embedder(root: Path) -> None:
    (root / WEIGHT_FILES["semantic_embedder"]).unlink()
    message = failure(lambda: load.load_semantic_embedder(root))
    assert "sigvq_embedding.safetensors (or sigvq_embedding.pt)" in message


# --- components that do not fit together -----------------------------------------------------------------------------


def rewrite(path: Path, **changes: object) -> None:
    write_json(path, {**json.loads(path.read_text()), **changes})


def test_components_are_compared(root: Path) -> None:
    load.check_checkpoint(root)
    rewrite(root / "image_tokenizer/preprocessor_config.json", patch_size=8)
    assert "disagree about patch_size: image_tokenizer 4, preprocessor 8" in failure(
        lambda: load.check_checkpoint(root)
    )


def test_numbers_of_codes_are_compared(root: Path) -> None:
    rewrite(root / "config.json", vocab_size=420)
    assert "the number of codes: backbone 28, image_tokenizer 24, sigvq 24" in failure(
        lambda: load.check_checkpoint(root)
    )


def test_widths_of_decoders_are_compared(root: Path) -> None:
    rewrite(root / "decoder-turbo/config.json", cap_feat_dim=8)
    assert "condition width: sigvq 16, turbo_decoder 8" in failure(lambda: load.check_checkpoint(root))
    rewrite(root / "decoder-turbo/config.json", cap_feat_dim=16, in_channels=8)
    assert "latent channels: vae 4, turbo_decoder 8" in failure(lambda: load.check_checkpoint(root))


def test_the_tokenizer_must_agree_with_the_configuration(root: Path) -> None:
    rewrite(root / "config.json", pad_token_id=3)
    assert "but the configuration pads with 3" in failure(lambda: load.load_vocab(root))
    rewrite(root / "config.json", pad_token_id=320, picture_start_id=3)
    assert "but the configuration has picture_start_id 3" in failure(lambda: load.load_vocab(root))
    rewrite(root / "config.json", picture_start_id=None, image_token_offset=100)
    assert "the text vocabulary ends at 99" in failure(lambda: load.load_vocab(root))
    rewrite(root / "config.json", image_token_offset=None)
    assert "has no image codes" in failure(lambda: load.load_vocab(root))
    (root / "tokenizer.json").unlink()
    assert "missing" in failure(lambda: load.load_text_tokenizer(root))


def test_sizes_that_contradict_each_other(root: Path) -> None:
    rewrite(root / "llada_uni.json", trained_grids=[[4, 4], [4, 99]])
    assert "grid side of 99" in failure(lambda: load.check_checkpoint(root), SizeError)
    rewrite(root / "vae/config.json", block_out_channels=[8, 16, 16], down_block_types=[], up_block_types=[])
    assert "patch_size must equal dit_patch * vae_factor" in failure(lambda: load.load_geometry(root), ConfigError)


# --- where the weights go --------------------------------------------------------------------------------------------


def test_devices_and_dtypes_that_do_not_exist(root: Path) -> None:
    assert "expected cpu, cuda" in failure(lambda: load.load_vae(root, device="gpu"), ConfigError)
    assert "this machine has" in failure(lambda: load.load_vae(root, device="cuda:99"), ResourceError)
    assert "dtype: expected float32" in failure(lambda: load.load_vae(root, dtype="float8"), ConfigError)
    assert "dtype: expected float32" in failure(lambda: load.load_vae(root, dtype=torch.int8), ConfigError)
    assert load.resolve_dtype(None, "cuda") == torch.bfloat16


def test_running_out_of_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr("llada_uni.weights.materialise._dense", full)
    assert "not enough memory on cpu for " in failure(lambda: load.load_vae(root), ResourceError)
