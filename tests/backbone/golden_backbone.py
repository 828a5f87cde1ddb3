"""Builds the backbone of a golden case from its per-expert weights."""

from __future__ import annotations

import torch
from torch import Tensor

from golden_fixtures import load_case
from llada_uni.backbone import Backbone, BackboneConfig


def stack_experts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Released per-expert keys to the stacked ones."""
    merged, parts = {}, {}
    for key, tensor in tensors.items():
        head, found, tail = key.partition(".mlp.experts.")
        if not found:
            merged[key] = tensor
            continue
        expert, projection, _ = tail.split(".")
        parts.setdefault(f"{head}.mlp.experts.{projection}", {})[int(expert)] = tensor
    return merged | {k: torch.stack([v[e] for e in sorted(v)]) for k, v in parts.items()}


def golden_backbone(name: str, **kwargs) -> tuple[Backbone, dict[str, Tensor], dict]:
    """The model of one case, its ``in.`` and ``out.`` tensors, and its description."""
    tensors, meta = load_case(name)
    config = BackboneConfig.from_mapping(meta["config"].get("model", meta["config"]), foreign=True)
    model = Backbone(config, **kwargs)
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    model.load_state_dict(stack_experts(weights))
    return model.eval(), {k: v for k, v in tensors.items() if not k.startswith("weights.")}, meta


def tiny_config(**changes) -> BackboneConfig:
    """A small configuration with every feature on."""
    sizes = {
        "vocab_size": 40,
        "image_token_offset": 24,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 32,
        "moe_intermediate_size": 16,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 4,
        "topk_group": 2,
        "rope_theta": 10000.0,
        "pad_token_id": 0,
    }
    return BackboneConfig(**(sizes | changes))


def tiny_backbone(seed: int = 0, *, dtype: torch.dtype = torch.float32, **kwargs) -> Backbone:
    """A seeded tiny backbone whose router biases and norm weights are not neutral."""
    generator = torch.Generator().manual_seed(seed)
    model = Backbone(kwargs.pop("config", tiny_config()), **kwargs)
    model.reset_parameters(generator)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("expert_bias"):
                tensor.normal_(0, 0.3, generator=generator)
            elif tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.normal_(0, 0.25, generator=generator)
    return model.to(dtype).eval()


def block_causal(length: int, block_length: int) -> Tensor:
    """Boolean ``[1, 1, length, length]``: query may attend to key iff the key's block is not later."""
    block = torch.arange(length) // block_length
    return (block[:, None] >= block[None, :])[None, None]
