"""Weights that live elsewhere and visit the device while their module runs, read one module ahead.

Modules that run one after the other (the experts of the layers, the blocks of the decoder) take turns: while one
computes, a thread reads the weights of the next one. At most two of them are on the device at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from llada_uni.layers.served import Served

__all__ = ["Streamed", "Weights", "num_bytes_of", "set_weight"]

Weights = Mapping[str, Tensor | Served]
"""Dotted names below a module -> what stands there."""


class Streamed:
    """Gives ``modules`` their weights when they are called and takes them away afterwards.

    ``read(n)`` returns all weights of ``modules[n]`` on ``device``; it runs in a thread of its own. ``count_reads``,
    ``count_waits`` (reads that had not been begun in time) and ``peak_bytes`` say what happened. For inference only.
    """

    def __init__(
        self, modules: Sequence[nn.Module], read: Callable[[int], Weights], *, device: torch.device | str = "cpu"
    ) -> None:
        self.modules, self._read = list(modules), read
        self._cuda = torch.cuda.Stream(device) if torch.device(device).type == "cuda" else None
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="weights")
        self._coming: dict[int, Future[tuple[Weights, Any, int]]] = {}
        self._held: dict[int, int] = {}
        self._names: dict[int, list[str]] = {}
        self.count_reads = self.count_waits = self.peak_bytes = 0
        self._handles = [
            handle
            for number, module in enumerate(self.modules)
            for handle in (
                module.register_forward_pre_hook(self._before(number)),
                module.register_forward_hook(self._after(number), always_call=True),
            )
        ]

    def close(self) -> None:
        """No more reading; the modules stay without weights."""
        for handle in self._handles:
            handle.remove()
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._coming.clear()
        self._held.clear()

    def _before(self, number: int) -> Callable[..., None]:
        def enter(module: nn.Module, _: Any) -> None:
            weights = self._take(number)
            for name, weight in weights.items():
                set_weight(module, name, weight)
            self._names[number] = list(weights)
            self._ahead((number + 1) % len(self.modules), number)

        return enter

    def _after(self, number: int) -> Callable[..., None]:
        def leave(module: nn.Module, *_: Any) -> None:
            for name in self._names.pop(number, ()):
                set_weight(module, name, None)
            self._held.pop(number, None)

        return leave

    def _take(self, number: int) -> Weights:
        if number not in self._coming:
            self.count_waits += 1
            for other in list(self._coming):  # the modules were not called in their order: forget what was guessed
                self._coming.pop(other).result()
                self._held.pop(other, None)
            self._begin(number)
        weights, done, _ = self._coming.pop(number).result()
        if done is not None:
            here = torch.cuda.current_stream()
            here.wait_event(done)
            for tensor in _tensors(weights):
                tensor.record_stream(here)
        return weights

    def _ahead(self, number: int, current: int) -> None:
        if number != current and number not in self._coming:
            self._begin(number)

    def _begin(self, number: int) -> None:
        self._coming[number] = self._reader.submit(self._fetch, number)

    @torch.no_grad()
    def _fetch(self, number: int) -> tuple[Weights, Any, int]:
        self.count_reads += 1
        if self._cuda is None:
            weights, done = self._read(number), None
        else:
            with torch.cuda.stream(self._cuda):
                weights = self._read(number)
                done = self._cuda.record_event()
        size = sum(num_bytes_of(one) for one in weights.values())
        self._held[number] = size
        self.peak_bytes = max(self.peak_bytes, sum(list(self._held.values())))
        return weights, done, size


def set_weight(root: nn.Module, name: str, weight: Tensor | Served | None) -> None:
    """Put a weight where the dotted ``name`` says; None leaves a place without memory there."""
    path, _, attribute = name.rpartition(".")
    owner = root.get_submodule(path)
    if weight is None:
        if attribute in owner._parameters:
            old = owner.get_parameter(attribute)
            owner._parameters[attribute] = nn.Parameter(torch.empty_like(old, device="meta"), requires_grad=False)
        else:
            setattr(owner, attribute, None)
    elif isinstance(weight, Served):
        owner._parameters.pop(attribute, None)
        setattr(owner, attribute, weight)
    else:
        owner.__dict__.pop(attribute, None)
        owner._parameters[attribute] = nn.Parameter(weight, requires_grad=False)


def num_bytes_of(weight: Tensor | Served) -> int:
    """Memory of a weight."""
    return weight.num_bytes if isinstance(weight, Served) else weight.nbytes


def _tensors(weights: Weights) -> list[Tensor]:
    found: list[Tensor] = []
    for one in weights.values():
        found += [one.codes, one.scale] if isinstance(one, Served) else [one]
    return found
