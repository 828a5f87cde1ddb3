"""The networks of one checkpoint, each loaded when a task first needs it and then kept, or kept as a plan says."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch

from llada_uni.backbone.layout import lay_out
from llada_uni.backbone.model import Backbone
from llada_uni.decoder.graphs import compile_layers
from llada_uni.errors import ConfigError, ResourceError
from llada_uni.pipeline.engines import EngineName, Engines, check_weights_stay
from llada_uni.pipeline.memory import STAGES, Keeping, MemoryPlan
from llada_uni.pipeline.pixels import PixelOptions
from llada_uni.pipeline.velocity import SharedWork
from llada_uni.weights import load
from llada_uni.weights.adapters import apply_adapter, open_adapter
from llada_uni.weights.catalog import PackageConfig, load_package_config
from llada_uni.weights.large import is_dense, network_bytes, streams_of
from llada_uni.weights.parts import check_checkpoint, load_decoder_config
from llada_uni.weights.sizes import stored_kind

if TYPE_CHECKING:
    from llada_uni.decoder.dit import Decoder
    from llada_uni.decoder.semantic import SemanticEmbedder
    from llada_uni.decoder.vae import VAE
    from llada_uni.grid import Geometry
    from llada_uni.image_tokenizer.config import PreprocessorConfig
    from llada_uni.image_tokenizer.model import ImageTokenizer
    from llada_uni.vocab import TextTokenizer, Vocab

__all__ = ["Networks"]

N = TypeVar("N", bound=torch.nn.Module)
_VARIANTS = {"decoder": "normal", "decoder-turbo": "turbo"}
_DECODERS = {"normal": "decoder", "turbo": "decoder_turbo"}


class Networks:
    """Configurations at once, networks on first use: asking about a picture never loads the pixel decoder.

    ``name`` is what the checkpoint was opened as and is reported with results. ``load_s`` is the time spent loading so
    far, in seconds. ``adapters`` are directories of adapters, which are merged into a network when it is loaded.
    ``pixels``: how pictures are drawn; ``engine``: what writes the ids.
    ``keeping`` says in which form networks are kept; with a ``plan`` no more of them is in memory than it allows:
    ``held_bytes()`` now, ``peak_bytes`` at most so far. A network that makes way for another stays the same object
    without weights and gets them back when it is asked for here.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str,
        device: torch.device,
        dtype: torch.dtype,
        adapters: Sequence[Path] = (),
        pixels: PixelOptions | None = None,
        keeping: Keeping | None = None,
        plan: MemoryPlan | None = None,
        engine: EngineName = "usual",
    ) -> None:
        check_checkpoint(directory)
        self.pixels = pixels or PixelOptions()
        self.pixels.check_device(device)
        if plan is not None and (self.pixels.compile_decoder or self.pixels.graph_decoder):
            raise ConfigError("a compiled or captured decoder keeps its weights where they are; leave memory out")
        self.directory, self.name, self.device, self.dtype = directory, name, device, dtype
        self.package: PackageConfig = load_package_config(directory)
        self.geometry: Geometry = load.load_geometry(directory)
        self.tokenizer: TextTokenizer = load.load_text_tokenizer(directory)
        self.vocab: Vocab = load.load_vocab(directory, self.tokenizer)
        self.max_positions: int = load.load_backbone_config(directory).max_position_embeddings
        self.preprocessor: PreprocessorConfig = load.load_preprocessor(directory)
        self.load_s, self.peak_bytes = 0.0, 0
        self.plan = plan
        self.keeping = plan.keeping if plan is not None else keeping or Keeping()
        self.engine: EngineName = engine
        self.engines = Engines()
        self._check_engine()
        self._networks: dict[str, torch.nn.Module] = {}
        self._asleep: set[str] = set()
        self._shared: WeakKeyDictionary[Decoder, SharedWork] = WeakKeyDictionary()
        self._adapters: dict[str, list[Path]] = {}
        for path in adapters:
            self._adapters.setdefault(open_adapter(path).component, []).append(path)
        self._check_adapters()

    @property
    def backbone(self) -> Backbone:
        return cast("Backbone", self._network("backbone", load.load_backbone))

    @property
    def image_tokenizer(self) -> ImageTokenizer:
        return cast("ImageTokenizer", self._network("image_tokenizer", load.load_image_tokenizer))

    @property
    def semantic_embedder(self) -> SemanticEmbedder:
        return cast("SemanticEmbedder", self._network("semantic_embedder", load.load_semantic_embedder))

    @property
    def vae(self) -> VAE:
        return cast("VAE", self._network("vae", load.load_vae))

    def require_decoder(self, variant: str) -> None:
        """Find out before any work whether the checkpoint has this decoder.

        Raises:
            CheckpointError: it has not; the message names what it has.
        """
        load_decoder_config(self.directory, variant)  # type: ignore[arg-type]

    def decoder(self, variant: str) -> Decoder:
        """The ``"normal"`` or the ``"turbo"`` decoder."""

        def read(directory: Path, **where: Any) -> Decoder:
            decoder = load.load_decoder(directory, variant, **where)  # type: ignore[arg-type]
            return compile_layers(decoder) if self.pixels.compile_decoder else decoder

        return cast("Decoder", self._network(_DECODERS.get(variant, variant), read))

    def shared_work(self, decoder: Decoder) -> SharedWork:
        """What the pictures that ``decoder`` draws have in common; it lives as long as the decoder."""
        if decoder not in self._shared:
            self._shared[decoder] = SharedWork(graph=self.pixels.graph_decoder)
        return self._shared[decoder]

    def modules(self) -> dict[str, Any]:
        """The networks in memory under their names in ``weights.save.Components``, those that are as stored alone."""
        here = {name: module for name, module in self._networks.items() if name not in self._asleep}
        return {name: module for name, module in here.items() if is_dense(module)}

    def load_adapted(self) -> None:
        """Load every network that an adapter changes, so that what is saved holds the change."""
        for component in self._adapters:
            _ = self.backbone if component == "backbone" else self.decoder(_VARIANTS[component])

    def held_bytes(self) -> int:
        """Bytes of all networks on the device now."""
        streams = [streams_of(module) for module in self._networks.values()]
        visiting = sum(one.peak_bytes for one in streams if one is not None)
        return visiting + sum(network_bytes(module) for module in self._networks.values())

    def _network(self, name: str, read: Callable[..., N]) -> N:
        """The network ``name``, loaded by ``read`` if it is not here."""
        if name not in self._networks or name in self._asleep:
            self._make_way(name)
            fresh = self._timed(name, read)
            if name in self._asleep:  # whoever holds the old object holds the network again
                self._networks[name].__dict__ = fresh.__dict__
                self._asleep.discard(name)
            else:
                self._networks[name] = fresh
            self._count()
        return cast(N, self._networks[name])

    def _make_way(self, name: str) -> None:
        """Take the weights of networks away that may not be in memory together with ``name``."""
        rivals: set[str] = set()
        if self.keeping.staged:
            rivals |= {other for other in STAGES if STAGES[other] != STAGES[name]}
        if self.plan is not None and name in _DECODERS.values() and len(_planned(self.plan)) == 1:
            rivals |= set(_DECODERS.values()) - {name}
        for other in rivals & self._networks.keys() - self._asleep:
            _empty(self._networks[other])
            self._asleep.add(other)
        if rivals:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _count(self) -> None:
        held = self.held_bytes()
        self.peak_bytes = max(self.peak_bytes, held)
        if self.plan is not None and held > self.plan.budget - self.plan.process:
            raise ResourceError(f"the networks take {held} bytes, more than the plan of {self.plan.budget} allows")

    def _check_engine(self) -> None:
        if self.engine == "usual":
            return
        experts = self.keeping.experts or stored_kind(self.directory)
        check_weights_stay(
            self.keeping,
            budget=self.plan is not None,
            gpu=self.device.type == "cuda",
            quantised=experts in ("int8", "int4") or self.keeping.experts == "fp8",
        )

    def _check_adapters(self) -> None:
        names = {"backbone": "backbone", "decoder": "decoder", "decoder-turbo": "decoder_turbo"}
        for component in self._adapters:
            if any(value not in (None, "none") for value in self.keeping.of(names[component]).values()):
                raise ConfigError(
                    f"an adapter cannot be merged into a quantised or offloaded {component}; "
                    "merge it into a checkpoint first: llada-uni adapters merge"
                )

    def _timed(self, name: str, read: Callable[..., N]) -> N:
        began = time.perf_counter()
        where = {"device": self.device, "dtype": self.dtype} | self.keeping.of(name)
        if self.plan is not None and self.keeping.of(name):
            where["mapped"] = False  # pages of a mapped file would count as memory
        component = name.replace("_turbo", "-turbo")
        try:
            network = read(self.directory, **where)
            for path in self._adapters.get(component, ()):
                apply_adapter(network, path).merge(keep=False)
            return lay_out(network) if isinstance(network, Backbone) else network
        finally:
            self.load_s += time.perf_counter() - began


def _planned(plan: MemoryPlan) -> set[str]:
    return set(_DECODERS.values()) & plan.networks.keys()


def _empty(module: torch.nn.Module) -> None:
    """Take every weight away."""
    streamed = streams_of(module)
    if streamed is not None:
        streamed.close()
    for kept in (module._modules, module._parameters, module._buffers):
        kept.clear()
    module.__dict__.pop("_streamed", None)
