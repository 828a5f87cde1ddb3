"""Loading with quantised and offloaded experts, and checkpoints that store them so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llada_uni.decoder.dit import Decoder
from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.layers.moe import Experts
from llada_uni.layers.served import KINDS, Kind, Served
from llada_uni.testing.checkpoint import write_tiny_checkpoint
from llada_uni.weights.convert import convert_checkpoint
from llada_uni.weights.large import is_dense, network_bytes, streams_of
from llada_uni.weights.load import load_backbone, load_decoder
from llada_uni.weights.plain import unmapped
from llada_uni.weights.save import save_backbone
from llada_uni.weights.store import open_folder

FORMS = ("none", *KINDS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("quantised") / "model")


@pytest.fixture(scope="module")
def converted(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("converted")
    return {form: convert_checkpoint(root, made / form, quantize=form, max_shard_bytes=200_000) for form in FORMS}


def logits(model: torch.nn.Module) -> Tensor:
    ids = torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        return model(ids, torch.arange(9).expand(2, 9))


def velocity(decoder: Decoder) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn((1, 4, 8, 8), generator=generator)
    features = torch.randn((1, 16, 16), generator=generator)
    with torch.inference_mode():
        return decoder(latents, torch.tensor([0.3]), features)


def everything(folder: Path) -> dict[str, Tensor]:
    return {key: tensor for path in folder.glob("*.safetensors") for key, tensor in load_file(path).items()}


def served(model: torch.nn.Module) -> list[Served]:
    stacks = [part for part in model.modules() if isinstance(part, Experts)]
    return [getattr(one, name) for one in stacks for name in ("gate_proj", "up_proj", "down_proj")]


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_while_loading_it_computes_as_the_quantised_dense_model(root: Path, kind: Kind) -> None:
    small, dense = load_backbone(root, quantize=kind, dtype="float64"), load_backbone(root, dtype="float64")
    for stack in [part for part in dense.modules() if isinstance(part, Experts)]:
        for parameter in stack.parameters():
            parameter.data = Served.of(parameter, kind).to(torch.float64)
    torch.testing.assert_close(logits(small), logits(dense), rtol=1e-9, atol=1e-9)
    assert all(one.kind == kind for one in served(small))
    assert network_bytes(small) < network_bytes(dense)
    assert not is_dense(small)
    assert is_dense(dense)


@pytest.mark.parametrize("layout", ["separate", "merged", "separate-fp8", "merged-fp8"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_stored_layout_can_be_quantised(root: Path, tmp_path: Path, layout: str, kind: Kind) -> None:
    dense = load_backbone(root)
    save_backbone(tmp_path, dense, dtype=None, expert_layout=layout)  # type: ignore[arg-type]
    plain = load_backbone(tmp_path)
    found = load_backbone(tmp_path, quantize=kind)
    for one, stack in zip(served(found), served(plain), strict=True):
        wanted = Served.of(stack, kind, packed=one.packed)  # type: ignore[arg-type]
        torch.testing.assert_close(one.to(torch.float32), wanted.to(torch.float32), rtol=1e-6, atol=1e-7)


def test_nothing_asked_for_means_nothing_changes(root: Path) -> None:
    assert torch.equal(logits(load_backbone(root)), logits(load_backbone(root, quantize="none")))


@pytest.mark.parametrize("form", FORMS)
def test_a_converted_checkpoint_loads_as_it_was_written(root: Path, converted: dict[str, Path], form: str) -> None:
    stored, wanted = converted[form], load_backbone(root, quantize=form)  # type: ignore[arg-type]
    found = load_backbone(stored, quantize="fp8" if form == "fp8" else None)
    assert torch.equal(logits(found), logits(wanted))
    for name in ("tokenizer.json", "llada_uni.json", "vae/config.json", "decoder/model.safetensors"):
        assert (stored / name).read_bytes() == (root / name).read_bytes()
    if form in ("int8", "int4"):
        dense, kept = (load_backbone(stored, quantize=one, dtype="float64") for one in ("none", None))
        torch.testing.assert_close(logits(dense), logits(kept), rtol=1e-9, atol=1e-9)
        assert len(list(stored.glob("*.safetensors"))) > 0


def test_our_float8_is_the_released_layout(root: Path, converted: dict[str, Path]) -> None:
    tensors = everything(converted["fp8"])
    key = "model.layers.1.mlp.experts.0.gate_proj.weight"
    assert tensors[key].dtype == torch.float8_e4m3fn
    assert tensors[f"{key}_scale_inv"].dtype == torch.float32
    assert json.loads((converted["fp8"] / "config.json").read_text())["use_fp8_experts"] is True
    back = load_backbone(converted["fp8"])
    assert is_dense(back)
    torch.testing.assert_close(logits(back), logits(load_backbone(root, quantize="fp8")), rtol=1e-4, atol=1e-4)


def test_shards_and_index_name_every_tensor(root: Path, tmp_path: Path) -> None:
    made = convert_checkpoint(root, tmp_path / "many", quantize="int4", max_shard_bytes=20_000)
    index = json.loads((made / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert torch.equal(logits(load_backbone(made)), logits(load_backbone(root, quantize="int4")))


@pytest.mark.parametrize("form", ["none", "int8", "int4"])
def test_experts_from_the_disk_visit_in_turns(converted: dict[str, Path], form: str) -> None:
    resident = load_backbone(converted[form], quantize="none" if form == "none" else None)
    visiting = load_backbone(converted[form], offload="disk")
    streamed = streams_of(visiting)
    assert streamed is not None
    for _ in range(3):
        torch.testing.assert_close(logits(visiting), logits(resident), rtol=2e-2 if form != "none" else 0, atol=1e-2)
    assert network_bytes(visiting) < network_bytes(resident)
    assert streamed.count_waits <= 1 + (len(streamed.modules) == 1) * 3
    streamed.close()


def test_a_decoder_from_the_disk_and_a_quantised_one(root: Path) -> None:
    plain = load_decoder(root)
    for parameter in plain.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    wanted = velocity(load_decoder(root))
    visiting = load_decoder(root, offload="disk")
    streamed = streams_of(visiting)
    assert streamed is not None
    for _ in range(2):
        assert torch.equal(velocity(visiting), wanted)
    assert streamed.count_reads >= 2 * len(streamed.modules)
    assert network_bytes(visiting) + streamed.peak_bytes < network_bytes(load_decoder(root))
    streamed.close()
    small = load_decoder(root, quantize="int8")
    assert network_bytes(small) < network_bytes(plain)
    torch.testing.assert_close(velocity(small), wanted, rtol=0.1, atol=0.05)


def test_plain_reads_are_the_mapped_ones(root: Path) -> None:
    mapped = open_folder(root)
    plain = unmapped(mapped)
    for key in mapped.entries:
        assert torch.equal(plain.read(key), mapped.read(key))
        if mapped.entries[key].shape:
            assert torch.equal(plain.read_row(key, 1), mapped.read_row(key, 1))


def test_bad_input_is_one_clear_line(root: Path, converted: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quantize: expected none, int8, int4, fp8, got 'int3'"):
        load_backbone(root, quantize="int3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="on a CPU use 'disk'"):
        load_backbone(root, offload="cpu")
    with pytest.raises(ConfigError, match="llada-uni convert first"):
        load_backbone(root, quantize="int4", offload="disk")
    with pytest.raises(ConfigError, match="holds int4 already"):
        convert_checkpoint(converted["int4"], tmp_path / "x", quantize="int8")
    with pytest.raises(ConfigError, match="the checkpoint itself"):
        convert_checkpoint(root, root, quantize="int8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        convert_checkpoint(root, tmp_path / "mine", quantize="int8")


@pytest.mark.parametrize(("ending", "message"), [("_steps", "missing"), ("", "missing")])
def test_a_damaged_integer_checkpoint_names_what_is_wrong(
    converted: dict[str, Path], tmp_path: Path, ending: str, message: str
) -> None:
    key = f"model.layers.1.mlp.experts.up_proj{ending}"
    tensors = {name: tensor for name, tensor in everything(converted["int4"]).items() if name != key}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((converted["int4"] / "config.json").read_text())
    with pytest.raises(CheckpointError, match=message):
        load_backbone(tmp_path)


def test_numbers_that_are_not_finite_are_found_expert_by_expert(root: Path, tmp_path: Path) -> None:
    model = load_backbone(root)
    model.model.layers[1].mlp.experts.up_proj[2, 0, 0] = float("nan")  # type: ignore[index, union-attr]
    save_backbone(tmp_path, model, dtype=None)
    with pytest.raises(CheckpointError, match="not finite"):
        load_backbone(tmp_path, quantize="int4")
