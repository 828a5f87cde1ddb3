"""Faster evaluations of the same numbers: compiled layers, and whole evaluations captured as CUDA graphs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llada_uni.decoder.dit import Decoder, TokenBatch
from llada_uni.errors import ConfigError

__all__ = ["Capture", "DecoderGraphs", "capture_cuda", "compile_layers"]

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Runs a function of fixed tensors and returns what repeats it, and the tensor that the result then lies in."""

_KEPT_SHAPES = 4
_WARM_UP = 3


def compile_layers(decoder: Decoder) -> Decoder:
    """Have ``torch.compile`` translate the decoder's layers when they first run; returns ``decoder``.

    All layers of a kind share one translation. The first size is translated as it is, further sizes by themselves or
    in one translation for all, as ``torch.compile`` decides. Weights and their names stay as they are.
    """
    for block in (*decoder.context_refiner, *decoder.noise_refiner, *decoder.layers):
        block.compile()
    return decoder


@dataclass(frozen=True, kw_only=True)
class _Captured:
    """``run`` repeats the evaluation of what lies in the input tensors and leaves it in ``output``."""

    latents: Tensor
    time: Tensor
    context: TokenBatch
    run: Callable[[], None]
    output: Tensor


class DecoderGraphs:
    """Evaluations of one decoder, captured once per shape (size and batch), the last few shapes.

    One thread uses it. Pictures may take turns: every evaluation writes its inputs into the captured tensors, the
    condition only when it is not the one that lies there. An evaluation is captured again when a weight lies elsewhere.

    Args:
        capture: how evaluations are captured; :func:`capture_cuda` unless told otherwise.
    """

    def __init__(self, capture: Capture | None = None) -> None:
        self._capture = capture_cuda if capture is None else capture
        self._captured: OrderedDict[tuple[object, ...], _Captured] = OrderedDict()
        self._present: dict[tuple[object, ...], TokenBatch] = {}
        self._places: tuple[int, ...] = ()

    @property
    def num_captured(self) -> int:
        """Shapes at hand."""
        return len(self._captured)

    @torch.inference_mode()
    def __call__(self, decoder: Decoder, latents: Tensor, time: Tensor, context: TokenBatch) -> Tensor:
        """As ``decoder(latents, time, context)`` with a prepared condition."""
        key = (latents.shape, latents.dtype, latents.device, context.tokens.shape, context.tokens.dtype)
        if self._present.get(key) is not context:
            self._enter(key, decoder, latents, time, context)
        held = self._captured[key]
        self._captured.move_to_end(key)
        held.latents.copy_(latents)
        held.time.copy_(time)
        held.run()
        return held.output.clone()

    def _enter(
        self, key: tuple[object, ...], decoder: Decoder, latents: Tensor, time: Tensor, context: TokenBatch
    ) -> None:
        """Put the condition of another picture in place, capturing first where there is nothing yet."""
        places = tuple(one.data_ptr() for one in decoder.parameters())
        if places != self._places:
            self._captured.clear()
            self._present.clear()
            self._places = places
        if key not in self._captured:
            self._captured[key] = self._taken(decoder, latents, time, context)
        held = self._captured[key].context
        for kept, now in zip(_tensors(held), _tensors(context), strict=True):
            kept.copy_(now)
        self._present[key] = context
        while len(self._captured) > _KEPT_SHAPES:
            oldest, _ = self._captured.popitem(last=False)
            self._present.pop(oldest, None)

    def _taken(self, decoder: Decoder, latents: Tensor, time: Tensor, context: TokenBatch) -> _Captured:
        if context.rotation is None:
            raise ConfigError("expected a condition made by Decoder.prepare, got one without its rotation")
        state, moment = latents.clone(), time.clone()
        own = replace(
            context,
            tokens=context.tokens.clone(),
            rotation=(context.rotation[0].clone(), context.rotation[1].clone()),
        )
        run, output = self._capture(lambda: decoder(state, moment, own))
        return _Captured(latents=state, time=moment, context=own, run=run, output=output)


def capture_cuda(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Warm ``function`` up on a stream of its own, then record it as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function()
    return graph.replay, output


def _tensors(context: TokenBatch) -> tuple[Tensor, ...]:
    assert context.rotation is not None
    return (context.tokens, *context.rotation)
