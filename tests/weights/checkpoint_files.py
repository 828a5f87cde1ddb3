"""Helpers for tests that take checkpoint directories apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from golden_fixtures import load_case
from llada_uni.decoder.config import VAEConfig
from llada_uni.decoder.vae import VAE
from llada_uni.weights import load

LOADERS: dict[str, Callable[..., nn.Module]] = {
    "backbone": load.load_backbone,
    "image_tokenizer": load.load_image_tokenizer,
    "semantic_embedder": load.load_semantic_embedder,
    "decoder": load.load_decoder,
    "decoder_turbo": lambda root, **kw: load.load_decoder(root, "turbo", **kw),
    "vae": load.load_vae,
}
WEIGHT_FILES = {
    "backbone": "model.safetensors",
    "image_tokenizer": "image_tokenizer/model.safetensors",
    "semantic_embedder": "image_tokenizer/sigvq_embedding.safetensors",
    "decoder": "decoder/model.safetensors",
    "decoder_turbo": "decoder-turbo/model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
}


def change(path: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Edit the tensors of a safetensors file in place."""
    tensors = load_file(path)
    edit(tensors)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def states(root: Path, **options: object) -> dict[str, dict[str, Tensor]]:
    """Parameters of every component."""
    return {name: dict(loader(root, **options).state_dict()) for name, loader in LOADERS.items()}


def assert_same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    assert list(left) == list(right)
    for key, value in left.items():
        assert value.dtype == right[key].dtype, key
        assert torch.equal(value, right[key]), key


def golden_weights(case: str, prefix: str = "") -> dict[str, Tensor]:
    """Weights of a fixture under their released names, float32."""
    start = f"weights.{prefix}"
    tensors, _ = load_case(case)
    return {k.removeprefix(start): v.float() for k, v in tensors.items() if k.startswith(start)}


def write_released(root: Path) -> Path:
    """A directory as the released one looks: fixture weights, foreign configurations, no file of ours."""
    backbone, vision, dit = (load_case(name)[1]["config"] for name in ("backbone_a", "vision_a", "dit_a"))
    write_json(root / "config.json", {**backbone, "transformers_version": "4.51.0", "image_token_offset": 64})
    save_file(golden_weights("backbone_a"), root / "model.safetensors")
    write_json(root / "image_tokenizer/config.json", vision["image_tokenizer_config"])
    write_json(root / "image_tokenizer/preprocessor_config.json", vision["preprocessor_config"])
    save_file(golden_weights("vision_a"), root / "image_tokenizer/image_tokenizer.safetensors")
    torch.save(golden_weights("sigvq_a"), root / "image_tokenizer/sigvq_embedding.pt")
    for folder in ("decoder", "decoder-turbo"):
        write_json(root / folder / "config.json", {**dit, "cap_feat_dim": 4096})
        save_file(golden_weights("dit_a"), root / folder / "decoder_model.safetensors")
    write_json(root / "vae/config.json", load_case("pipeline_a")[1]["config"]["vae_config"])
    save_file(released_vae(), root / "vae/diffusion_pytorch_model.safetensors")
    return root


def released_vae() -> dict[str, Tensor]:
    """The fixture's decoder half with an encoder of ones, which the fixture does not need."""
    config = VAEConfig.from_mapping(load_case("pipeline_a")[1]["config"]["vae_config"], source="fixture", foreign=True)
    encoder = {f"encoder.{k}": torch.ones_like(v) for k, v in VAE(config).encoder.state_dict().items()}
    return encoder | golden_weights("pipeline_a", "vae.")
