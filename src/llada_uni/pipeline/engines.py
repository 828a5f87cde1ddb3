"""Which driver writes the ids: the usual one, or the one that keeps a whole block on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from llada_uni.backbone.denoiser import CachedDenoiser
from llada_uni.backbone.slots import SlotBackbone
from llada_uni.errors import ConfigError
from llada_uni.protocols import Event, Request
from llada_uni.sampling.block_sampler import Granularity, generate
from llada_uni.sampling.captured import CapturedSampler, unsupported

if TYPE_CHECKING:
    from llada_uni.backbone.model import Backbone
    from llada_uni.pipeline.memory import Keeping
    from llada_uni.pipeline.networks import Networks

__all__ = ["EngineName", "Engines", "check_engine", "check_weights_stay", "written"]

EngineName = Literal["usual", "captured"]
"""usual: every step is planned and read on the host. captured: one read per block, CUDA graphs on CUDA."""


def check_engine(name: str | None) -> EngineName:
    """The engine called ``name``; None is the usual one.

    Raises:
        ConfigError: there is no such engine.
    """
    found = next((known for known in get_args(EngineName) if known == (name or "usual")), None)
    if found is None:
        raise ConfigError(f"engine: expected one of {', '.join(get_args(EngineName))}, got {name!r}")
    return found


def check_weights_stay(keeping: Keeping, *, budget: bool, gpu: bool, quantised: bool) -> None:
    """Steps of the captured engine hold the places of weights and read nothing back: may networks be kept like this?

    Args:
        keeping: how networks are kept.
        budget: whether a memory plan decides about that.
        gpu: whether steps are recorded.
        quantised: whether experts stay integers or float8.

    Raises:
        ConfigError: they may not.
    """
    if budget or keeping.staged or keeping.offload_experts is not None:
        raise ConfigError("the captured engine keeps weights where they are; leave memory and offload out")
    if gpu and quantised:
        raise ConfigError("the captured engine records no products with quantised experts on a GPU; use engine usual")


class Engines:
    """The samplers of one checkpoint that are not at work; each keeps its slots and recordings for the next call."""

    def __init__(self) -> None:
        self._idle: list[tuple[tuple[object, ...], CapturedSampler]] = []

    def run(self, backbone: Backbone, requests: Sequence[Request]) -> Iterator[Event]:
        """The events of a sampler that nobody else uses meanwhile."""
        made_for = _identity(backbone)
        while self._idle:
            of, sampler = self._idle.pop()
            if of == made_for:
                break
        else:
            sampler = CapturedSampler(SlotBackbone(backbone))
        try:
            yield from sampler.generate(requests)
        finally:
            self._idle.append((made_for, sampler))


def written(networks: Networks, requests: Sequence[Request], granularity: Granularity) -> Iterator[Event]:
    """The events of the block sampler, by the networks' engine; the usual one does what another cannot.

    Every engine writes the same ids, up to rounding.
    """
    if networks.engine == "usual" or unsupported(requests, granularity) is not None:
        return generate(requests, CachedDenoiser(networks.backbone), granularity=granularity)
    return networks.engines.run(networks.backbone, requests)


def _identity(backbone: Backbone) -> tuple[object, ...]:
    """Changes when weights move, whose addresses recordings hold, or when the head changes."""
    weights = backbone.lm_head.weight, backbone.model.word_embeddings.weight
    places = tuple((w.device, w.dtype, w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights)
    return (id(backbone), *places)
