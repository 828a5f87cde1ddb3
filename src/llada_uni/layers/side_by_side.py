"""Weights that lie side by side in memory, so that several products are one.

For few tokens a product costs its call more than its arithmetic, and weights stored input by input are read faster than
as PyTorch stores them. So the projections of a gated feed-forward, or of all experts of a layer and the shared one, get
one memory: ``inputs`` [experts, width, 2, hidden], gate before up, and ``outputs`` [experts, hidden, width]. They stay
the parameters they were, with their names, shapes and values; whoever replaces one of them (another dtype or device, an
adapter, weights that visit) only takes it out of its place, and what was one product becomes several again. For
inference on a CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Beside",
    "Remembered",
    "experts_beside",
    "gated_beside",
    "input_major",
    "joinable",
    "lay_experts",
    "lay_gated",
]


class Beside(NamedTuple):
    """One memory for E experts: ``inputs`` [E, width, 2, hidden] and ``outputs`` [E, hidden, width], views both.

    The routed ones come first; a shared expert, chosen by every token, is the last.
    """

    inputs: Tensor
    outputs: Tensor

    def gated(self, x: Tensor) -> Tensor:
        """``x`` [..., width] through the only expert: [..., width]."""
        hidden = self.inputs.shape[3]
        both = x @ self.inputs[0].flatten(1)
        return F.silu(both[..., :hidden]).mul_(both[..., hidden:]) @ self.outputs[0]

    def routed(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """``x`` [N, width] through the experts ``ids`` [N, top_k], times ``weights``: [N, width].

        Tokens are sorted by expert; an expert that none has chosen costs nothing, nor is its memory read.
        """
        (num_tokens, top_k), hidden = ids.shape, self.inputs.shape[3]
        flat = ids.flatten()
        order = flat.argsort(stable=True)
        sizes: list[int] = flat.bincount(minlength=self.inputs.shape[0]).tolist()
        rows, both = x.index_select(0, order // top_k), x.new_empty(order.numel(), 2 * hidden)
        _products(rows, self.inputs.flatten(2).unbind(0), both, sizes)
        scale = weights.flatten().index_select(0, order).unsqueeze(-1)
        active = F.silu(both[:, :hidden]).mul_(both[:, hidden:]).mul_(scale)
        _products(active, self.outputs.unbind(0), rows, sizes)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(order.numel())
        places = rank.view(num_tokens, top_k).unbind(1)
        y = rows.index_select(0, places[0])
        for place in places[1:]:
            y.add_(rows.index_select(0, place))
        return y

    @property
    def last(self) -> Beside:
        """The last expert alone."""
        return Beside(self.inputs[-1:], self.outputs[-1:])


def _products(rows: Tensor, weights: tuple[Tensor, ...], out: Tensor, sizes: list[int]) -> None:
    """Consecutive runs of ``sizes`` rows, each times its own weight [in, out], into ``out``."""
    for size, part, weight, place in zip(sizes, rows.split(sizes), weights, out.split(sizes), strict=True):
        if size:
            torch.mm(part, weight, out=place)


def joinable(x: Tensor) -> bool:
    """Whether products of ``x`` may be joined: no gradient, a CPU, 32 or 64 bits."""
    return not torch.is_grad_enabled() and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


class Remembered:
    """The memory of a module's weights as long as they stay where they are; finding out costs several small calls."""

    def __init__(self) -> None:
        self._places: tuple[int, ...] = ()
        self._found: Beside | None = None

    def __reduce__(self) -> tuple[type[Remembered], tuple[()]]:
        """A copy of the module has other weights."""
        return Remembered, ()

    def __call__(self, experts: tuple[Tensor, ...], shared: tuple[Tensor, ...] | None = None) -> Beside | None:
        """:func:`experts_beside`, or :func:`gated_beside` of weights with two axes."""
        places = tuple(weight.data_ptr() for weight in (*experts, *(shared or ())))
        if places != self._places:
            self._found = gated_beside(*experts) if experts[0].ndim == 2 else experts_beside(experts, shared)
            self._places = places
        return self._found


def input_major(weight: Tensor) -> Tensor:
    """The same matrix [out, in] with all outputs of one input side by side in memory."""
    return weight.t().contiguous().t()


def lay_gated(gate: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weights [hidden, width] twice and [width, hidden] of a gated feed-forward, side by side."""
    inputs = torch.stack((gate.t(), up.t()), 1)
    return inputs[:, 0].t(), inputs[:, 1].t(), input_major(down)


def lay_experts(experts: tuple[Tensor, ...], shared: tuple[Tensor, ...] | None) -> list[Tensor]:
    """Gate, up and down of E routed experts, [E, hidden, width] twice and [E, width, hidden], side by side.

    A shared expert, given in the same way without the E, must have the same width; its weights follow in the result.
    """
    gate, up, down = experts
    if shared is not None:
        gate, up, down = (torch.cat((one, other[None])) for one, other in zip(experts, shared, strict=True))
    inputs = torch.stack((gate.mT, up.mT), 2)
    outputs = down.transpose(1, 2).contiguous()
    count = experts[0].shape[0]
    laid = [inputs[:count, :, 0].mT, inputs[:count, :, 1].mT, outputs[:count].mT]
    return laid if shared is None else [*laid, inputs[count, :, 0].t(), inputs[count, :, 1].t(), outputs[count].t()]


def gated_beside(gate: Tensor, up: Tensor, down: Tensor) -> Beside | None:
    """The memory of weights that :func:`lay_gated` has laid, None where they are not so (any more)."""
    hidden, width = gate.shape
    if gate.stride() != (1, 2 * hidden) or up.stride() != gate.stride() or down.stride() != (1, width):
        return None
    if not _follows(gate, up, hidden):
        return None
    inputs = gate.as_strided((1, width, 2, hidden), (2 * hidden * width, 2 * hidden, hidden, 1))
    return Beside(inputs, down.as_strided((1, hidden, width), (hidden * width, width, 1)))


def experts_beside(experts: tuple[Tensor, ...], shared: tuple[Tensor, ...] | None) -> Beside | None:
    """The same for :func:`lay_experts`."""
    gate, up, down = experts
    count, hidden, width = gate.shape
    step = 2 * hidden * width
    if gate.stride() != (step, 1, 2 * hidden) or up.stride() != gate.stride() or not _follows(gate, up, hidden):
        return None
    if down.stride() != (hidden * width, 1, width):
        return None
    if shared is not None:
        strides = [one.stride() for one in shared]
        behind = ((gate, count * step), (gate, count * step + hidden), (down, count * hidden * width))
        if strides != [(1, 2 * hidden), (1, 2 * hidden), (1, width)]:
            return None
        if not all(_follows(one, other, far) for (one, far), other in zip(behind, shared, strict=True)):
            return None
    total = count + (shared is not None)
    inputs = gate.as_strided((total, width, 2, hidden), (step, 2 * hidden, hidden, 1))
    return Beside(inputs, down.as_strided((total, hidden, width), (hidden * width, width, 1)))


def _follows(first: Tensor, second: Tensor, distance: int) -> bool:
    """Whether ``second`` begins ``distance`` numbers behind ``first`` in the same memory."""
    return (
        second.data_ptr() == first.data_ptr() + distance * first.element_size()
        and second.dtype == first.dtype
        and second.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
    )
