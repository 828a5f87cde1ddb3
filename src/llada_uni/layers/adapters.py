"""Low-rank changes of frozen weights: LoRA and DoRA for linear layers and for stacks of experts.

An adapter lives outside the network it changes: a hook adds its part to the output of a layer, so that the network
keeps its modules, its parameter names and its state dictionary. Sources: LoRA (arXiv 2106.09685); DoRA (arXiv
2402.09353), whose norm is a constant in the gradient, as its section 4.3 proposes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llada_uni.errors import ConfigError
from llada_uni.layers.moe import Experts, grouped_linear
from llada_uni.layers.quantized import Bits, FrozenLinear, Quantized
from llada_uni.layers.served import Served

__all__ = ["Adapter", "AdapterConfig", "Adapters", "adaptable", "quantize_network"]

_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
_READ_BY_WEIGHT = ("lm_head",)  # not called as a layer, so that a hook would never run


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What is adapted and how.

    ``targets`` are patterns (``*``, ``?``, ``[...]``) of weight names such as ``*.attention.dense.weight``; the default
    takes attention, dense feed-forwards and shared experts. ``*.experts.*`` takes routed experts, each with a low-rank
    change of its own. The change is ``alpha / rank * up @ down``; ``dora`` also learns the length of every row.
    ``dropout`` acts on the input of the change. ``base_dtype``: how the frozen weights are kept while training; "same"
    is the format of the run, "int8" and "int4" are for everything that could be adapted (``layers.quantized``).

    Raises:
        ConfigError: a rank below 1, a dropout outside [0, 1), an alpha that is not positive, or no target.
    """

    kind: Literal["lora", "dora"] = "lora"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("*attention.*", "*feed_forward.*", "*mlp.*_proj.weight")
    base_dtype: Literal["same", "bfloat16", "int8", "int4"] = "same"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"adapter.rank must be at least 1, got {self.rank}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"adapter.dropout must be in [0, 1), got {self.dropout}")
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise ConfigError(f"adapter.alpha must be a positive number, got {self.alpha}")
        if not self.targets:
            raise ConfigError("adapter.targets is empty; name weights such as '*attention.*'")

    @property
    def scale(self) -> float:
        """Factor of the low-rank product."""
        return self.alpha / self.rank


class Adapter(nn.Module):
    """The change of one weight ``[out, in]``, or of each of a stack ``[E, out, in]``.

    ``down [..., rank, in]`` starts random, ``up [..., out, rank]`` at zero, so that a fresh adapter changes nothing.
    ``magnitude [..., out]`` (DoRA) starts as the length of the weight's rows. Inputs and outputs keep their dtype.
    """

    def __init__(self, owner: nn.Module, attribute: str, config: AdapterConfig) -> None:
        super().__init__()
        self._owner = (owner, attribute)  # a tuple, so that the frozen layer does not become a part of the adapter
        weight = self.weight
        self.scale, self.dropout = config.scale, config.dropout
        *stack, rows, columns = weight.shape
        kind = torch.promote_types(weight.dtype, torch.float32)
        made: dict[str, Any] = {"dtype": kind, "device": weight.device}
        self.down = nn.Parameter(torch.empty(*stack, config.rank, columns, **made))
        self.up = nn.Parameter(torch.zeros(*stack, rows, config.rank, **made))
        self.magnitude = nn.Parameter(torch.empty(*stack, rows, **made)) if config.kind == "dora" else None

    @property
    def weight(self) -> Tensor | Quantized:
        """The frozen weight."""
        owner, attribute = self._owner
        return getattr(owner, attribute)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Uniform ``down`` of variance 1 / (3 in), zero ``up``, magnitudes of the weight; ``generator`` on the CPU."""
        bound = 1 / math.sqrt(self.down.shape[-1])
        drawn = torch.rand(self.down.shape, generator=generator, dtype=torch.float32)
        self.down.copy_((2 * drawn - 1) * bound)
        self.up.zero_()
        if self.magnitude is not None:
            self.magnitude.copy_(self.row_lengths())

    @torch.no_grad()
    def row_lengths(self) -> Tensor:
        """Length of the rows of ``weight + scale * up @ down``, ``[..., out]``, without forming the sum."""
        weight = self.weight.to(self.up.dtype)
        up, down = self.up * self.scale, self.down
        across = (up * (weight @ down.mT)).sum(-1)
        own = (up @ (down @ down.mT) * up).sum(-1)
        return (weight.square().sum(-1) + 2 * across + own).clamp_min(1e-30).sqrt()

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The changed weight in the dtype of the adapter (at least float32), ``[..., out, in]``."""
        total = self.weight.to(self.up.dtype) + self.scale * (self.up @ self.down)
        return total if self.magnitude is None else total * (self.magnitude / self.row_lengths()).unsqueeze(-1)

    def on_linear(self, x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
        """Outputs ``[..., out]`` of the adapted layer from its inputs ``[..., in]`` and its own outputs."""
        change = self._change(x, y, F.linear)
        if self.magnitude is None:
            return y + change
        ratio = (self.magnitude / self.row_lengths()).to(y.dtype)
        plain = y if bias is None else y - bias.to(y.dtype)
        return y + (ratio - 1) * plain + ratio * change

    def on_experts(self, x: Tensor, y: Tensor, ends: Tensor) -> Tensor:
        """The same for rows of experts in consecutive segments, see ``ExpertChange``."""
        change = self._change(x, y, lambda rows, weight: grouped_linear(rows, weight, ends))
        if self.magnitude is None:
            return y + change
        expert = torch.searchsorted(ends, torch.arange(len(x), device=x.device, dtype=ends.dtype), right=True)
        ratio = (self.magnitude / self.row_lengths()).to(y.dtype)[expert]
        return y + (ratio - 1) * y + ratio * change

    def _change(self, x: Tensor, y: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        x = F.dropout(x.to(y.dtype), self.dropout, self.training)
        return product(product(x, self.down.to(y.dtype)), self.up.to(y.dtype)) * self.scale


class Adapters(nn.Module):
    """The adapters of a network, under the names of the weights they change; freezes the network.

    The constructor attaches them. ``merge`` writes the changed weights into the network and keeps a copy of the
    original ones, which ``unmerge`` puts back bit for bit.

    Raises:
        ConfigError: a target matches nothing, or a weight that cannot be adapted.
    """

    def __init__(self, network: nn.Module, config: AdapterConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self._adapters: tuple[tuple[str, Adapter], ...] = ()
        self._handles: list[Callable[[], Any]] = []
        self._originals: dict[str, Tensor] | None = None
        network.requires_grad_(False)
        known = adaptable(network)
        for name in _chosen(known, config.targets):
            adapter = Adapter(*known[name], config)
            _place(self, name, adapter)
            self._adapters = (*self._adapters, (name, adapter))
        if generator is not None:
            self.reset_parameters(generator)
        self.attach()

    def __iter__(self) -> Any:
        """Pairs of weight name and adapter, in the network's order."""
        return iter(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Makes every adapter fresh."""
        for _, adapter in self._adapters:
            adapter.reset_parameters(generator)

    def attach(self) -> None:
        """Hooks the adapters in (again)."""
        assert not self._handles, "already attached"
        self._handles = [_hooked(adapter) for _, adapter in self._adapters]

    def detach(self) -> None:
        """Takes the hooks out: the network computes what it did before."""
        for remove in self._handles:
            remove()
        self._handles = []

    @torch.no_grad()
    def merge(self, *, keep: bool = True) -> None:
        """Writes the changes into the network, rounded once to its dtype, and takes the hooks out.

        With ``keep`` the original weights are copied first (as many bytes as the adapted weights have).

        Raises:
            ConfigError: the network is quantised.
        """
        assert self._originals is None, "already merged"
        assert self._handles, "detached"
        weights = {name: adapter.weight for name, adapter in self._adapters}
        if any(isinstance(weight, Quantized | Served) for weight in weights.values()):
            raise ConfigError("cannot merge into quantised weights; merge into the original checkpoint instead")
        self._originals = {name: weight.clone() for name, weight in weights.items()} if keep else None  # type: ignore[union-attr]
        self.detach()
        for name, adapter in self._adapters:
            weights[name].copy_(adapter.merged())  # type: ignore[union-attr]

    @torch.no_grad()
    def unmerge(self) -> None:
        """Puts the kept original weights back, bit for bit, and hooks the adapters in.

        Raises:
            ConfigError: nothing was kept.
        """
        if self._originals is None:
            raise ConfigError("cannot unmerge: the original weights were not kept; merge with keep=True")
        for name, adapter in self._adapters:
            adapter.weight.copy_(self._originals[name])  # type: ignore[union-attr]
        self._originals = None
        self.attach()


def adaptable(network: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Name of every weight that can be adapted -> the layer that holds it and the attribute there."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for name, module in network.named_modules():
        if isinstance(module, Experts):
            found |= {f"{name}.{part}": (module, part) for part in _PROJECTIONS}
        elif isinstance(module, nn.Linear | FrozenLinear) and name not in _READ_BY_WEIGHT:
            found[f"{name}.weight"] = (module, "weight")
    return found


@torch.no_grad()
def quantize_network(network: nn.Module, bits: Bits) -> None:
    """Replaces every weight that can be adapted by its quantised form; embeddings, head, router and norms stay.

    The network can be used and adapted afterwards, but neither trained, saved nor moved to another device.
    """
    for name, (owner, attribute) in adaptable(network).items():
        if isinstance(owner, Experts):
            weight = Quantized(getattr(owner, attribute), bits)
            delattr(owner, attribute)
            setattr(owner, attribute, weight)
        elif isinstance(owner, nn.Linear):
            parent, _, own = name.removesuffix(".weight").rpartition(".")
            setattr(network.get_submodule(parent), own, FrozenLinear(owner, bits))


def _chosen(known: Mapping[str, Any], targets: Iterable[str]) -> list[str]:
    """Names that match a target, in the order of ``known``.

    A default target may have nothing to match in some network; all of them together must match something, and so must
    every target that is given beyond the defaults.
    """
    targets = tuple(targets)
    matched = {target: [name for name in known if fnmatchcase(name, target)] for target in targets}
    lost = [target for target, names in matched.items() if not names and target not in AdapterConfig.targets]
    if lost or not any(matched.values()):
        some = ", ".join(list(known)[:4]) or "none"
        raise ConfigError(
            f"adapter.targets: {(lost or targets)[0]!r} matches no weight that can be adapted ({some}, ...)"
        )
    return [name for name in known if any(name in names for names in matched.values())]


def _hooked(adapter: Adapter) -> Callable[[], Any]:
    """Hook an adapter in; returns what takes it out."""
    owner, attribute = adapter._owner
    if isinstance(owner, Experts):
        assert attribute not in owner.changes, f"{attribute} has an adapter already"
        changes = owner.changes
        changes[attribute] = adapter.on_experts
        return lambda: changes.pop(attribute)
    bias: Tensor | None = owner.bias  # type: ignore[assignment]

    def hook(_: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> Tensor:
        return adapter.on_linear(given[0], y, bias)

    return owner.register_forward_hook(hook).remove


def _place(root: nn.Module, name: str, adapter: Adapter) -> None:
    """Register an adapter so that its parameters are called ``<name>.down`` and so on."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    root.add_module(last, adapter)
