"""A backbone laid out for inference on a CPU: the same weights under the same names, and the same numbers."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from llada_uni.backbone.layout import lay_out
from llada_uni.layers.moe import MoE
from llada_uni.pipeline import LladaUni
from llada_uni.testing.checkpoint import write_tiny_checkpoint
from llada_uni.testing.tiny import tiny_backbone


def moes(model: torch.nn.Module) -> list[MoE]:
    return [module for module in model.modules() if isinstance(module, MoE)]


def joined(model: torch.nn.Module, dtype: torch.dtype) -> bool:
    with torch.no_grad():
        return all(module.laid(torch.zeros(1, 16, dtype=dtype)) is not None for module in moes(model))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_the_same_weights_and_logits(dtype: torch.dtype, tolerance: float) -> None:
    plain = tiny_backbone(0, dtype=dtype)
    model = lay_out(copy.deepcopy(plain))
    assert joined(model, dtype)
    assert not joined(plain, dtype)
    for (name, one), (other, same) in zip(plain.state_dict().items(), model.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(one, same)
    ids = torch.randint(0, plain.config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(40).expand(2, -1)
    with torch.inference_mode():
        torch.testing.assert_close(model(ids, positions), plain(ids, positions), atol=tolerance, rtol=tolerance)


def test_what_trains_or_is_small_in_bits_stays() -> None:
    for model in (tiny_backbone(0).requires_grad_(True), tiny_backbone(0, dtype=torch.bfloat16)):
        places = [parameter.data_ptr() for parameter in model.parameters()]
        assert lay_out(model) is model
        assert [parameter.data_ptr() for parameter in model.parameters()] == places


def test_a_laid_out_network_is_saved_as_it_was_read(tmp_path: Path) -> None:
    first = write_tiny_checkpoint(tmp_path / "first")
    model = LladaUni.from_pretrained(first, device="cpu")
    assert joined(model.networks.backbone, torch.float32)
    second = LladaUni.from_pretrained(model.save_pretrained(tmp_path / "second"), device="cpu")
    before, after = (one.networks.backbone.state_dict() for one in (model, second))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_networks_that_wait_elsewhere_are_read_as_they_are(tmp_path: Path) -> None:
    where = write_tiny_checkpoint(tmp_path / "model")
    usual = LladaUni.from_pretrained(where, device="cpu").generate_image("a", seed=1)
    for options in ({"memory": "64GB"}, {"offload": "disk"}):
        model = LladaUni.from_pretrained(where, device="cpu", **options)
        assert model.generate_image("a", seed=1).codes == usual.codes
