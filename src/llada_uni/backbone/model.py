"""The mixture-of-experts transformer that maps unified ids to logits at the same positions.

Source: released modeling_llada2uni_moe.py; the module tree carries the released parameter names, with the experts of a
layer stacked into one tensor each.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llada_uni.backbone.cache import KeyValue, KeyValueCache, LayerCache, Past
from llada_uni.backbone.config import BackboneConfig
from llada_uni.layers.attention import AttentionBackend, attend, mask_of_layers
from llada_uni.layers.mlp import SwiGLU
from llada_uni.layers.moe import ExpertBackend, Experts, MoE, Router, expert_counts
from llada_uni.layers.norm import RMSNorm
from llada_uni.layers.precision import at_least_float32
from llada_uni.layers.rope import angles, split_tables, turned

__all__ = ["Attention", "Backbone", "Layer"]

Rotation = tuple[Tensor, Tensor, int]
"""Tables [B, S, 1, D] and the number of pairs, see ``layers.rope.turned``."""


class Attention(nn.Module):
    """Self-attention with fused projections, per-head q/k normalisation, partial rotation and grouped heads."""

    def __init__(self, config: BackboneConfig, *, backend: AttentionBackend = "auto") -> None:
        super().__init__()
        self.backend: AttentionBackend = backend
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        rows = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.query_key_value = nn.Linear(config.hidden_size, rows, bias=config.use_qkv_bias)
        self.dense = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=config.use_bias)
        if config.use_qk_norm:
            self.query_layernorm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)
            self.key_layernorm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.use_qk_norm = config.use_qk_norm

    def forward(
        self, x: Tensor, rotation: Rotation, allowed: Tensor | None, past: Past | None, keep: Tensor | None = None
    ) -> tuple[Tensor, KeyValue]:
        """Output ``[B, S, width]``, or ``[num_kept, width]`` at the positions ``keep``; and the new keys and values."""
        q, k, v = self._project(x, rotation)
        keys, values = _with_past(past, k, v)
        y = attend(q, keys, values, allowed, backend=self.backend).transpose(1, 2).flatten(2)
        return self.dense(y if keep is None else y[keep]), (k, v)

    def _project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[B, H, S, D]``, keys and values ``[B, Hkv, S, D]``, normalised and rotated."""
        qkv = self.query_key_value(x).unflatten(-1, (-1, self.head_dim))
        qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        if self.use_qk_norm:
            qk = self._normalised(qk)
        q, k = turned(qk, *rotation).to(v.dtype).split((self.heads, self.kv_heads), dim=2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _normalised(self, qk: Tensor) -> Tensor:
        """Queries and keys ``[B, S, H + Hkv, D]``, each normalised by its own norm; together where that is the same."""
        query, key = self.query_layernorm, self.key_layernorm
        if torch.is_grad_enabled() or qk.dtype not in (torch.float32, torch.float64) or query.weight.dtype != qk.dtype:
            q, k = qk.split((self.heads, self.kv_heads), dim=2)
            return torch.cat((query(q), key(k)), dim=2)
        weight = torch.cat((query.weight.expand(self.heads, -1), key.weight.expand(self.kv_heads, -1)))
        return F.rms_norm(qk, (self.head_dim,), None, query.eps).mul_(weight)


class Layer(nn.Module):
    """Pre-norm transformer layer; the feed-forward is dense in the first layers and a mixture of experts after."""

    def __init__(
        self, config: BackboneConfig, index: int, *, attention: AttentionBackend, experts: ExpertBackend
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attention = Attention(config, backend=attention)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = _feed_forward(config, index, experts)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        allowed: Tensor | None = None,
        past: Past | None = None,
        *,
        keep: Tensor | None = None,
        count: Tensor | None = None,
    ) -> tuple[Tensor, KeyValue, Tensor | None]:
        """Output ``[B, S, width]``, this layer's new keys and values, and expert counts over the positions ``count``.

        With ``keep`` (bool ``[B, S]``) only those positions go on after attention: the output is ``[num_kept, width]``
        and the counts cover positions marked in both masks.
        """
        attended, new = self.attention(self.input_layernorm(x), rotation, allowed, past, keep)
        x = (x if keep is None else x[keep]) + attended
        normed = self.post_attention_layernorm(x)
        if isinstance(self.mlp, SwiGLU):
            return x + self.mlp(normed), new, None
        y, routing = self.mlp(normed)
        if count is None:
            return x + y, new, None
        counted = count.flatten() if keep is None else count[keep]
        return x + y, new, expert_counts(routing.ids[counted], routing.logits.shape[-1])


class _Transformer(nn.Module):
    """Embedding, layers and final norm: the part the released names put under ``model.``"""

    def __init__(self, config: BackboneConfig, *, attention: AttentionBackend, experts: ExpertBackend) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Layer(config, i, attention=attention, experts=experts) for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class Backbone(nn.Module):
    """The language model. Ids, positions and an attention mask go in; float32 logits come out.

    ``attention`` and ``experts`` pick the implementation once: the defaults are the fast ones, ``"reference"`` and
    ``"loop"`` the literal ones they are tested against. Construction works under ``torch.device("meta")`` and leaves
    weights at PyTorch's defaults; ``reset_parameters`` prepares training from scratch.
    """

    def __init__(
        self, config: BackboneConfig, *, attention: AttentionBackend = "auto", experts: ExpertBackend = "grouped"
    ) -> None:
        super().__init__()
        self.config = config
        self.model = _Transformer(config, attention=attention, experts=experts)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.word_embeddings.weight
        self._attention: AttentionBackend = attention
        self._router_loads: Tensor | None = None

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialise for training from scratch: matrices normal(0, initializer_range), norms 1, biases 0."""
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            if name.endswith(("bias", "expert_bias")):
                tensor.zero_()
            elif tensor.ndim == 1:
                tensor.fill_(1.0)
            else:
                tensor.normal_(0.0, self.config.initializer_range, generator=generator)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        allowed: Tensor | None = None,
        cache: LayerCache | None = None,
        *,
        logit_mask: Tensor | None = None,
        collect_load: Tensor | None = None,
    ) -> Tensor:
        """Logits ``[B, S, V]`` in float32 (float64 for a float64 model).

        With ``logit_mask`` (bool ``[B, S]``) only the logits of the marked positions are computed, and only what they
        need of the last layer: ``[num_marked, V]``, row-major. The other arguments are those of ``hidden``.
        """
        return self.logits(self.hidden(ids, positions, allowed, cache, keep=logit_mask, collect_load=collect_load))

    @overload
    def hidden(
        self,
        ids: Tensor,
        positions: Tensor,
        allowed: Tensor | None = None,
        cache: LayerCache | None = None,
        *,
        keep: Tensor | None = None,
        return_kv: Literal[False] = False,
        collect_load: Tensor | None = None,
    ) -> Tensor: ...

    @overload
    def hidden(
        self,
        ids: Tensor,
        positions: Tensor,
        allowed: Tensor | None = None,
        cache: LayerCache | None = None,
        *,
        keep: Tensor | None = None,
        return_kv: Literal[True],
        collect_load: Tensor | None = None,
    ) -> tuple[Tensor, KeyValueCache]: ...

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor,
        allowed: Tensor | None = None,
        cache: LayerCache | None = None,
        *,
        keep: Tensor | None = None,
        return_kv: bool = False,
        collect_load: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, KeyValueCache]:
        """Hidden states after the final norm, ``[B, S, hidden_size]``.

        ``ids`` and ``positions`` are int64 ``[B, S]``. ``allowed`` is boolean ``[B or 1, 1, S, T]``, True = query may
        attend to key; None = every query sees every key. With a cache of length C the keys are the cached ones
        followed by the S new ones, T = C + S; a ``KeyValueCache`` is only read, another cache takes the new ones in
        and says what there is to see. ``keep`` (bool ``[B, S]``) asks for some
        positions only, ``[num_kept, hidden_size]`` in row-major order. ``return_kv`` also returns the keys and values
        of the S new positions, ready for ``cache.append``. ``collect_load`` (bool ``[B, S]``) counts the routed
        experts of the marked positions, see ``router_loads``.
        """
        x = self.model.word_embeddings(ids)
        rotation = self._rotation(positions, x.dtype)
        allowed = mask_of_layers(allowed, x) if self._attention == "auto" else allowed
        new: list[KeyValue] = []
        loads: list[Tensor] = []
        last = len(self.model.layers) - 1
        for i, layer in enumerate(self.model.layers):
            past = None if cache is None else cache.layer(i)
            kept = keep if i == last else None
            x, key_value, load = layer(x, rotation, allowed, past, keep=kept, count=collect_load)
            new.append(key_value)
            if load is not None:
                loads.append(load)
        if collect_load is not None:
            self._router_loads = torch.stack(loads)
        x = self.model.norm(x)
        return (x, KeyValueCache(*zip(*new, strict=True))) if return_kv else x

    def logits(self, hidden: Tensor, id_range: tuple[int, int] | None = None) -> Tensor:
        """Logits of ``hidden [..., hidden_size]``, optionally only of the ids ``start <= id < stop``."""
        weight = self.lm_head.weight if id_range is None else self.lm_head.weight[id_range[0] : id_range[1]]
        return at_least_float32(nn.functional.linear(hidden, weight))

    def router_loads(self) -> Tensor:
        """Counts of the latest forward with ``collect_load``: int64 ``[num_moe_layers, num_experts]``.

        Row sums are ``num_experts_per_tok`` times the number of marked positions; the last layer counts only those of
        them that ``logit_mask`` or ``keep`` left to it.
        """
        assert self._router_loads is not None, "no forward with collect_load has run yet"
        return self._router_loads

    def routers(self) -> list[Router]:
        """The routers in layer order (the rows of ``router_loads``)."""
        return [layer.mlp.gate for layer in self.model.layers if isinstance(layer.mlp, MoE)]

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        angle = angles(positions, self.config.rotary_dim, theta=self.config.rope_theta).unsqueeze(2)
        cos, sin = split_tables(angle, self.config.head_dim)
        return cos.to(dtype), sin.to(dtype), angle.shape[-1]


def _with_past(past: Past | None, keys: Tensor, values: Tensor) -> KeyValue:
    if past is None:
        return keys, values
    if isinstance(past, tuple):
        return torch.cat((past[0], keys), 2), torch.cat((past[1], values), 2)
    return past(keys, values)


def _feed_forward(config: BackboneConfig, index: int, backend: ExpertBackend) -> SwiGLU | MoE:
    width = config.hidden_size
    if index < config.first_k_dense_replace:
        return SwiGLU(width, config.intermediate_size)
    router = Router(
        width,
        config.num_experts,
        top_k=config.num_experts_per_tok,
        num_groups=config.n_group,
        top_groups=config.topk_group,
        scale=config.routed_scaling_factor,
        biased=config.moe_router_enable_expert_bias,
    )
    experts = Experts(width, config.moe_intermediate_size, config.num_experts, backend=backend)
    shared = config.num_shared_experts * config.moe_intermediate_size
    return MoE(router, experts, SwiGLU(width, shared) if shared else None)
