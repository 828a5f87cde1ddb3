"""Where the weights of a backbone lie in memory: as inference on a CPU reads them fastest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llada_uni.backbone.model import Backbone, Layer
from llada_uni.layers.mlp import SwiGLU
from llada_uni.layers.moe import MoE
from llada_uni.layers.side_by_side import input_major, lay_experts, lay_gated

__all__ = ["lay_out"]

_LARGEST = 2**30


@torch.no_grad()
def lay_out(backbone: Backbone) -> Backbone:
    """Move the weights of ``backbone`` to places where several products are one; the same object, the same numbers.

    Only dense, frozen weights of 32 or 64 bits on a CPU move, a layer at a time, and only those of a network of at most
    1 GiB: a larger one may be mapped from its file. Results change by rounding.
    """
    parameters = list(backbone.parameters())
    plain = all(p.device.type == "cpu" and p.dtype in (torch.float32, torch.float64) for p in parameters)
    frozen = not any(p.requires_grad for p in parameters)
    if not plain or not frozen or sum(p.nbytes for p in parameters) > _LARGEST:
        return backbone
    for layer in backbone.model.layers:
        assert isinstance(layer, Layer)
        _lay(layer.attention.query_key_value)
        _lay(layer.attention.dense)
        _lay_feed_forward(layer.mlp)
    if not backbone.config.tie_word_embeddings:
        _lay(backbone.lm_head)
    return backbone


def _lay(linear: nn.Module) -> None:
    if type(linear) is nn.Linear:
        linear.weight.data = input_major(linear.weight.data)


def _lay_feed_forward(module: nn.Module) -> None:
    if isinstance(module, MoE):
        _lay_moe(module)
    elif isinstance(module, SwiGLU):
        weights = module.weights()
        if weights is not None:
            _replace(weights, lay_gated(*weights))


def _lay_moe(module: MoE) -> None:
    experts, shared = module.experts, module.shared_experts
    if not all(isinstance(w, nn.Parameter) for w in (experts.gate_proj, experts.up_proj, experts.down_proj)):
        return
    routed = (experts.gate_proj, experts.up_proj, experts.down_proj)
    also = shared.weights() if shared is not None else None
    if also is not None and also[0].shape[0] == routed[0].shape[1]:
        _replace((*routed, *also), lay_experts(routed, also))
    elif shared is None:
        _replace(routed, lay_experts(routed, None))
    else:
        _lay_feed_forward(shared)


def _replace(weights: Sequence[Tensor], laid: Sequence[Tensor]) -> None:
    for weight, moved in zip(weights, laid, strict=True):
        weight.data = moved
