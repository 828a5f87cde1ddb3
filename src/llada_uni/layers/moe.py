"""Mixture of experts: the group-limited sigmoid router and the experts it chooses among.

The router decides in float32 (float64 for a float64 model) whatever the dtype of the model, and its selection bias
stays float32 through every ``.to(dtype)``, because rounding it flips near ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from llada_uni.layers.mlp import SwiGLU
from llada_uni.layers.precision import at_least_float32, matmul_dtype
from llada_uni.layers.quantized import Quantized, frozen_product
from llada_uni.layers.served import Served
from llada_uni.layers.side_by_side import Beside, Remembered, joinable

__all__ = [
    "ExpertBackend",
    "ExpertChange",
    "Experts",
    "MoE",
    "Router",
    "Routing",
    "apply_experts",
    "expert_counts",
    "grouped_linear",
    "route",
    "static_expert_backend",
]

ExpertBackend = Literal["grouped", "loop", "dense"]
"""Equal up to rounding. "grouped": one product per segment of sorted tokens. "loop": expert by expert, literally.
"dense": every expert on every token, more arithmetic, but shapes and memory that depend on no value."""
ExpertChange = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Inputs ``[M, in]`` of a projection in ``E`` segments, its outputs ``[M, out]`` and the segments' exclusive ends
``[E]`` -> other outputs; see ``layers.adapters``."""
_GROUPED_MM_DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # and rows of a multiple of 16 bytes


class Routing(NamedTuple):
    """What a router decided for ``N`` tokens.

    ``ids`` int64 ``[N, top_k]`` in descending order of the biased score, ``weights`` ``[N, top_k]`` normalised and
    scaled, ``logits`` ``[N, E]``; weights and logits in float32 (float64 for a float64 model).
    """

    ids: Tensor
    weights: Tensor
    logits: Tensor


def route(
    logits: Tensor, bias: Tensor, *, top_k: int, num_groups: int = 1, top_groups: int = 1, scale: float = 1.0
) -> Routing:
    """Choose ``top_k`` experts per token from router logits ``[N, E]`` and the selection bias ``[E]``.

    Experts form ``num_groups`` runs of ``E / num_groups``; only the ``top_groups`` groups with the largest sum of their
    two best biased scores take part. The bias decides who is selected; the weights are the *unbiased* sigmoid scores,
    divided by their sum when ``top_k > 1``, times ``scale``. Source: released modeling_llada2uni_moe.py.
    """
    scores = logits.sigmoid()
    biased = scores + bias.to(scores.dtype)
    if top_groups < num_groups:
        biased = _limit_to_groups(biased, num_groups, top_groups)
    ids = biased.topk(top_k, dim=-1).indices
    weights = scores.gather(-1, ids)
    if top_k > 1:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return Routing(ids, weights * scale, logits)


def _limit_to_groups(biased: Tensor, num_groups: int, top_groups: int) -> Tensor:
    grouped = biased.unflatten(-1, (num_groups, -1))
    group_scores = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1)
    best = group_scores.topk(top_groups, dim=-1).indices
    closed = torch.ones_like(group_scores, dtype=torch.bool).scatter(-1, best, False)
    return grouped.masked_fill(closed.unsqueeze(-1), -math.inf).flatten(-2)


def expert_counts(ids: Tensor, num_experts: int) -> Tensor:
    """How often each expert occurs in ``ids`` (any shape): int64 ``[num_experts]``."""
    counts = torch.zeros(num_experts, dtype=torch.int64, device=ids.device)
    flat = ids.flatten()
    return counts.scatter_add_(0, flat, torch.ones_like(flat))


class Router(nn.Module):
    """Linear gate with a selection bias: hidden states ``[N, width]`` to a ``Routing``."""

    expert_bias: Tensor

    def __init__(
        self,
        width: int,
        num_experts: int,
        *,
        top_k: int,
        num_groups: int = 1,
        top_groups: int = 1,
        scale: float = 1.0,
        biased: bool = True,
    ) -> None:
        super().__init__()
        self.top_k, self.num_groups, self.top_groups, self.scale = top_k, num_groups, top_groups, scale
        self.weight = nn.Parameter(torch.empty(num_experts, width))
        self.register_buffer("expert_bias", torch.zeros(num_experts, dtype=torch.float32), persistent=biased)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        before = self.expert_bias
        super()._apply(fn, recurse)
        after = self.expert_bias
        if after.dtype != torch.float32:
            source = after if before.is_meta else before
            self.expert_bias = source.to(device=after.device, dtype=torch.float32)
        return self

    def forward(self, x: Tensor) -> Routing:
        if x.device.type != "meta" and not torch.is_autocast_enabled(x.device.type):
            return self._routed(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._routed(x)

    def _routed(self, x: Tensor) -> Routing:
        wide = at_least_float32(x)
        return route(
            F.linear(wide, self.weight.to(wide.dtype)),
            self.expert_bias,
            top_k=self.top_k,
            num_groups=self.num_groups,
            top_groups=self.top_groups,
            scale=self.scale,
        )


class Experts(nn.Module):
    """``E`` SwiGLU experts, weights stacked: ``gate_proj`` and ``up_proj`` ``[E, I, H]``, ``down_proj`` ``[E, H, I]``.

    ``forward(x [N, H], routing)`` returns the weighted sum of the chosen experts' outputs ``[N, H]``; no token is ever
    dropped. Products with the router weights and their sum are float32 or wider, as in the released model. ``changes``
    may hold a function per projection that changes its outputs.
    """

    def __init__(self, width: int, hidden_width: int, num_experts: int, *, backend: ExpertBackend = "grouped") -> None:
        super().__init__()
        self.backend: ExpertBackend = backend
        self.gate_proj = nn.Parameter(torch.empty(num_experts, hidden_width, width))
        self.up_proj = nn.Parameter(torch.empty(num_experts, hidden_width, width))
        self.down_proj = nn.Parameter(torch.empty(num_experts, width, hidden_width))
        self.changes: dict[str, ExpertChange] = {}

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        weights = (self.gate_proj, self.up_proj, self.down_proj)
        return apply_experts(x, routing, *weights, backend=self.backend, changes=self.changes)


class MoE(nn.Module):
    """Routed experts plus an optional always-on shared expert: ``[..., H] -> [..., H]``."""

    def __init__(self, router: Router, experts: Experts, shared_experts: SwiGLU | None) -> None:
        super().__init__()
        self.gate = router
        self.experts = experts
        self.shared_experts = shared_experts
        self._beside = Remembered()

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        flat = x.reshape(-1, x.shape[-1])
        routing = self.gate(flat)
        flat = flat.to(matmul_dtype(flat))
        laid = self.laid(flat)
        if laid is not None:
            y = laid.routed(flat, routing.ids, routing.weights)
            return (y if self.shared_experts is None else y.add_(laid.last.gated(flat))).view(x.shape), routing
        y = self.experts(flat, routing)
        if self.shared_experts is not None:
            y = y + self.shared_experts(flat)
        return y.view(x.shape), routing

    def laid(self, x: Tensor) -> Beside | None:
        """Routed experts and the shared one as one memory where they are so and products with ``x`` may use that."""
        experts, shared = self.experts, self.shared_experts
        if not joinable(x) or type(experts) is not Experts or experts.backend != "grouped":
            return None
        weights = (experts.gate_proj, experts.up_proj, experts.down_proj)
        if (
            experts.changes
            or _hooked(experts)
            or any(type(w) is not nn.Parameter or w.dtype != x.dtype for w in weights)
        ):
            return None
        also = shared.weights() if shared is not None and not _hooked(shared) else None
        return None if shared is not None and also is None else self._beside(weights, also)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def apply_experts(
    x: Tensor,
    routing: Routing,
    gate: Tensor | Quantized | Served,
    up: Tensor | Quantized | Served,
    down: Tensor | Quantized | Served,
    *,
    backend: ExpertBackend = "grouped",
    changes: Mapping[str, ExpertChange] | None = None,
) -> Tensor:
    """What :class:`Experts` computes, from its three weights; quantised ones stay so on the grouped path."""
    dtype, grouped = matmul_dtype(x), backend == "grouped"
    weights: tuple[Any, ...] = (gate, up, down)
    gate, up, down = (w if grouped and isinstance(w, Quantized | Served) else w.to(dtype) for w in weights)
    compute: Any = {"grouped": _grouped, "dense": _dense, "loop": _looped}[backend]
    return compute(x.to(dtype), routing, gate, up, down, changes or {}).to(dtype)


def _looped(
    x: Tensor, routing: Routing, gate: Tensor, up: Tensor, down: Tensor, changes: Mapping[str, ExpertChange]
) -> Tensor:
    """Reference: one expert after the other over the tokens that chose it."""
    out = torch.zeros_like(x, dtype=routing.weights.dtype)
    for expert in range(gate.shape[0]):
        token, slot = (routing.ids == expert).nonzero(as_tuple=True)
        chosen = x[token]
        ends = (torch.arange(gate.shape[0], device=x.device) >= expert).to(torch.int32) * len(chosen)
        gated = _changed(changes.get("gate_proj"), chosen, F.linear(chosen, gate[expert]), ends)
        hidden = F.silu(gated) * _changed(changes.get("up_proj"), chosen, F.linear(chosen, up[expert]), ends)
        y = _changed(changes.get("down_proj"), hidden, F.linear(hidden, down[expert]), ends)
        out = out.index_add(0, token, y.to(out.dtype) * routing.weights[token, slot].unsqueeze(-1))
    return out


def _grouped(
    x: Tensor,
    routing: Routing,
    gate: Tensor | Quantized | Served,
    up: Tensor | Quantized | Served,
    down: Tensor | Quantized | Served,
    changes: Mapping[str, ExpertChange],
) -> Tensor:
    """Fast path: sort the token copies by expert, three grouped products, and sum the copies back."""
    chosen = routing.ids.flatten()
    order = chosen.argsort(stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
    ends = expert_counts(chosen, gate.shape[0]).cumsum(0).to(torch.int32)
    rows: Tensor = _Dispatch.apply(x, order, rank, routing.ids.shape[-1])
    gated = _changed(changes.get("gate_proj"), rows, grouped_linear(rows, gate, ends), ends)
    hidden = F.silu(gated) * _changed(changes.get("up_proj"), rows, grouped_linear(rows, up, ends), ends)
    y = _changed(changes.get("down_proj"), hidden, grouped_linear(hidden, down, ends), ends)
    return _Combine.apply(y, routing.weights, order, rank)


def _dense(
    x: Tensor, routing: Routing, gate: Tensor, up: Tensor, down: Tensor, changes: Mapping[str, ExpertChange]
) -> Tensor:
    """All experts on all tokens, weighted by a table [N, E] that is 0 where an expert was not chosen."""
    num_experts = gate.shape[0]
    ends = torch.arange(1, num_experts + 1, dtype=torch.int32, device=x.device) * x.shape[0]
    rows = x.expand(num_experts, *x.shape)

    def product(name: str, rows: Tensor, weight: Tensor) -> Tensor:
        y, change = rows @ weight.mT, changes.get(name)
        return y if change is None else change(rows.flatten(0, 1), y.flatten(0, 1), ends).view(y.shape)

    hidden = F.silu(product("gate_proj", rows, gate)) * product("up_proj", rows, up)
    y = product("down_proj", hidden, down).to(routing.weights.dtype)
    table = y.new_zeros(x.shape[0], num_experts).scatter(1, routing.ids, routing.weights)
    return torch.einsum("eni,ne->ni", y, table)


def static_expert_backend(weight: Tensor) -> ExpertBackend:
    """The backend for steps that a CUDA graph records, where nothing may be read back to the host.

    PyTorch's grouped product keeps the segments' ends on the device for bfloat16 on compute capability 9.0 and above,
    with rows of a multiple of 16 bytes; otherwise it reads them, and the answer is "dense". Off CUDA nothing is
    recorded, so it is "grouped".
    """
    if weight.device.type != "cuda":
        return "grouped"
    aligned = all(n * weight.element_size() % 16 == 0 for n in weight.shape[1:])
    modern = torch.cuda.get_device_capability(weight.device) >= (9, 0)
    return "grouped" if modern and aligned and weight.dtype == torch.bfloat16 else "dense"


def _changed(change: ExpertChange | None, x: Tensor, y: Tensor, ends: Tensor) -> Tensor:
    return y if change is None else change(x, y, ends)


def grouped_linear(x: Tensor, weight: Tensor | Quantized | Served, ends: Tensor) -> Tensor:
    """``x [M, in]`` in ``E`` consecutive segments (exclusive ``ends``), segment ``e`` times ``weight[e] [out, in]``."""
    if isinstance(weight, Quantized):
        return frozen_product(x, weight, ends)
    if isinstance(weight, Served):
        return weight.product(x, ends)
    aligned = all(n * x.element_size() % 16 == 0 for n in weight.shape[1:])
    if aligned and x.dtype in _GROUPED_MM_DTYPES:
        return F.grouped_mm(x, weight.transpose(1, 2), offs=ends)
    sizes = torch.diff(ends, prepend=ends.new_zeros(1)).tolist()
    return torch.cat([F.linear(part, w) for part, w in zip(x.split(sizes), weight.unbind(), strict=True)])


class _Dispatch(torch.autograd.Function):
    """Copy each of ``N`` rows to its ``top_k`` places in expert order; gathers both ways, never scatters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, rank: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(rank)
        ctx.top_k = top_k
        return x.index_select(0, order // top_k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rank,) = ctx.saved_tensors
        return grad.index_select(0, rank).view(-1, ctx.top_k, grad.shape[-1]).sum(1), None, None, None


class _Combine(torch.autograd.Function):
    """Weighted sum of the ``top_k`` expert outputs of each token, in the dtype of the router weights."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, order: Tensor, rank: Tensor) -> Tensor:
        ctx.save_for_backward(y, weights, order, rank)
        places = rank.view(weights.shape)
        out = y.index_select(0, places[:, 0]).to(weights.dtype) * weights[:, :1]
        for k in range(1, weights.shape[1]):
            out.addcmul_(y.index_select(0, places[:, k]).to(weights.dtype), weights[:, k : k + 1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, weights, order, rank = ctx.saved_tensors
        rows = grad.index_select(0, order // weights.shape[1])
        grad_weights = torch.linalg.vecdot(rows, y.to(rows.dtype)).index_select(0, rank).view(weights.shape)
        scale = weights.flatten().index_select(0, order).unsqueeze(-1)
        return (rows * scale).to(y.dtype), grad_weights, None, None
