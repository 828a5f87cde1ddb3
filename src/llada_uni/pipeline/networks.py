"""The networks of one checkpoint, each loaded when a task first needs it and then kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from llada_uni.pipeline.engines import EngineName, Engines
from llada_uni.weights import load
from llada_uni.weights.adapters import apply_adapter, open_adapter
from llada_uni.weights.catalog import PackageConfig, load_package_config
from llada_uni.weights.parts import check_checkpoint, load_decoder_config

if TYPE_CHECKING:
    from llada_uni.backbone.model import Backbone
    from llada_uni.decoder.dit import Decoder
    from llada_uni.decoder.semantic import SemanticEmbedder
    from llada_uni.decoder.vae import VAE
    from llada_uni.grid import Geometry
    from llada_uni.image_tokenizer.config import PreprocessorConfig
    from llada_uni.image_tokenizer.model import ImageTokenizer
    from llada_uni.vocab import TextTokenizer, Vocab

__all__ = ["Networks"]

T = TypeVar("T")
N = TypeVar("N", bound=torch.nn.Module)
_VARIANTS = {"decoder": "normal", "decoder-turbo": "turbo"}


class Networks:
    """Configurations at once, networks on first use: asking about a picture never loads the pixel decoder.

    ``name`` is what the checkpoint was opened as and is reported with results. ``load_s`` is the time spent loading so
    far, in seconds. ``adapters`` are directories of adapters, which are merged into a network when it is loaded.
    ``engine`` writes the ids.
    """

    engine: EngineName = "usual"

    def __init__(
        self, directory: Path, *, name: str, device: torch.device, dtype: torch.dtype, adapters: Sequence[Path] = ()
    ) -> None:
        check_checkpoint(directory)
        self.directory, self.name, self.device, self.dtype = directory, name, device, dtype
        self.package: PackageConfig = load_package_config(directory)
        self.geometry: Geometry = load.load_geometry(directory)
        self.tokenizer: TextTokenizer = load.load_text_tokenizer(directory)
        self.vocab: Vocab = load.load_vocab(directory, self.tokenizer)
        self.max_positions: int = load.load_backbone_config(directory).max_position_embeddings
        self.preprocessor: PreprocessorConfig = load.load_preprocessor(directory)
        self.load_s = 0.0
        self.engines = Engines()
        self._decoders: dict[str, Decoder] = {}
        self._adapters: dict[str, list[Path]] = {}
        for path in adapters:
            self._adapters.setdefault(open_adapter(path).component, []).append(path)

    @cached_property
    def backbone(self) -> Backbone:
        return self._timed(lambda: self._adapted("backbone", load.load_backbone(self.directory, **self._where)))

    @cached_property
    def image_tokenizer(self) -> ImageTokenizer:
        return self._timed(lambda: load.load_image_tokenizer(self.directory, **self._where))

    @cached_property
    def semantic_embedder(self) -> SemanticEmbedder:
        return self._timed(lambda: load.load_semantic_embedder(self.directory, **self._where))

    @cached_property
    def vae(self) -> VAE:
        return self._timed(lambda: load.load_vae(self.directory, **self._where))

    def require_decoder(self, variant: str) -> None:
        """Find out before any work whether the checkpoint has this decoder.

        Raises:
            CheckpointError: it has not; the message names what it has.
        """
        load_decoder_config(self.directory, variant)  # type: ignore[arg-type]

    def decoder(self, variant: str) -> Decoder:
        """The ``"normal"`` or the ``"turbo"`` decoder."""
        if variant not in self._decoders:
            component = "decoder-turbo" if variant == "turbo" else "decoder"
            self._decoders[variant] = self._timed(
                lambda: self._adapted(component, load.load_decoder(self.directory, variant, **self._where))  # type: ignore[arg-type]
            )
        return self._decoders[variant]

    def modules(self) -> dict[str, Any]:
        """The networks in memory under their names in ``weights.save.Components``."""
        named = ("backbone", "image_tokenizer", "semantic_embedder", "vae")
        found = {name: self.__dict__[name] for name in named if name in self.__dict__}
        names = {"normal": "decoder", "turbo": "decoder_turbo"}
        return found | {names[variant]: decoder for variant, decoder in self._decoders.items()}

    def load_adapted(self) -> None:
        """Load every network that an adapter changes, so that what is saved holds the change."""
        for component in self._adapters:
            _ = self.backbone if component == "backbone" else self.decoder(_VARIANTS[component])

    def _adapted(self, component: str, network: N) -> N:
        for path in self._adapters.get(component, ()):
            apply_adapter(network, path).merge(keep=False)
        return network

    @property
    def _where(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": self.dtype}

    def _timed(self, load_part: Callable[[], T]) -> T:
        began = time.perf_counter()
        try:
            return load_part()
        finally:
            self.load_s += time.perf_counter() - began
