"""How many bytes the networks of a checkpoint take in each form, from configurations and headers alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from llada_uni.backbone.model import Backbone
from llada_uni.decoder.dit import Decoder
from llada_uni.decoder.semantic import SemanticEmbedder
from llada_uni.decoder.vae import VAE
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.layers.served import Kind, Served, can_pack
from llada_uni.weights import keys, parts
from llada_uni.weights.large import SERVED_LINEAR, Large, blocks_of_decoder, experts_of_backbone
from llada_uni.weights.load import NoRandomNumbers, weight_block
from llada_uni.weights.materialise import ALWAYS_FLOAT32
from llada_uni.weights.store import open_folder

__all__ = ["NetworkSize", "measure", "network_sizes", "stored_kind"]


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Shapes of one network: small weights together, large parts one by one.

    ``small``: numbers that are always there in the computing dtype, ``wide`` those in float32; ``parts``: for every
    part that may be offloaded its large matrices' shapes and the numbers beside them.
    """

    name: str
    small: int
    wide: int = 0
    parts: tuple[tuple[tuple[tuple[int, ...], ...], int], ...] = ()

    def bytes(
        self, dtype: torch.dtype, device: torch.device, kind: Kind | None = None, *, offloaded: bool = False
    ) -> int:
        """On the device: everything, or with ``offloaded`` the small weights and the two largest neighbours."""
        sizes = [self._part(part, dtype, device, kind, offloaded=offloaded) for part in self.parts]
        large = sum(sizes) if not offloaded else sum(sorted(sizes)[-2:])
        return self.small * dtype.itemsize + self.wide * 4 + large

    def waiting(self, dtype: torch.dtype, device: torch.device, kind: Kind | None = None) -> int:
        """Bytes of the large parts, wherever they wait."""
        return sum(self._part(part, dtype, device, kind, offloaded=True) for part in self.parts)

    @staticmethod
    def _part(
        part: tuple[tuple[tuple[int, ...], ...], int],
        dtype: torch.dtype,
        device: torch.device,
        kind: Kind | None,
        *,
        offloaded: bool,
    ) -> int:
        matrices, beside = part
        if kind is None:
            return (beside + sum(math.prod(shape) for shape in matrices)) * dtype.itemsize
        packed = [not offloaded and can_pack(shape, kind, device=device, dtype=dtype) for shape in matrices]
        served = [Served.count_bytes(shape, kind, packed=one) for shape, one in zip(matrices, packed, strict=True)]
        return beside * dtype.itemsize + sum(served)


def network_sizes(root: Path, variants: tuple[Literal["normal", "turbo"], ...]) -> dict[str, NetworkSize]:
    """The networks of a checkpoint under their names in ``weights.save.Components``, with these decoders."""
    found = {
        "backbone": measure("backbone", lambda: Backbone(parts.load_backbone_config(root)), experts_of_backbone),
        "image_tokenizer": measure("image_tokenizer", lambda: ImageTokenizer(parts.load_image_tokenizer_config(root))),
        "semantic_embedder": measure(
            "semantic_embedder", lambda: SemanticEmbedder(parts.load_semantic_embedder_config(root))
        ),
        "vae": measure("vae", lambda: VAE(parts.load_vae_config(root))),
    }
    for variant in variants:
        name = "decoder" if variant == "normal" else "decoder_turbo"
        config = parts.load_decoder_config(root, variant)
        found[name] = measure(name, lambda config=config: Decoder(config), blocks_of_decoder)
    return found


def stored_kind(root: Path) -> Kind | None:
    """In which form a checkpoint stores its experts; None = dense, or no experts."""
    with torch.device("meta"), NoRandomNumbers():
        model = Backbone(parts.load_backbone_config(root))
    stacks = {n: tuple(t.shape) for n, t in model.state_dict().items() if keys.is_stack(n)}
    if not stacks:
        return None
    store = open_folder(root)
    first = next(iter(stacks))
    layer = first.rpartition(".")[0]
    entries = {key: entry for key, entry in store.entries.items() if keys.backbone_key(key).startswith(f"{layer}.")}
    mine = {name: shape for name, shape in stacks.items() if name.startswith(f"{layer}.")}
    block = weight_block(parts.read_config(root / "config.json"))
    plans = keys.plan(mine, entries, where=store.where, rename=keys.backbone_key, block=block)
    return plans[0].parts[0].kind


def measure(name: str, build: Callable[[], nn.Module], large: Large | None = None) -> NetworkSize:
    """Sizes of the network that ``build`` makes, without memory; ``large`` names its large parts."""
    with torch.device("meta"), NoRandomNumbers():
        module = build()
    counted = {id(t): (key, tuple(t.shape)) for key, t in (*module.named_parameters(), *module.named_buffers())}
    weights = dict(counted.values())
    found = []
    for part in large(module) if large is not None else {}:
        inside = {key: weights.pop(key) for key in list(weights) if key.startswith(f"{part}.")}
        matrices = tuple(shape for key, shape in inside.items() if _is_large(key, shape))
        found.append((matrices, sum(map(math.prod, inside.values())) - sum(map(math.prod, matrices))))
    wide = sum(math.prod(shape) for key, shape in weights.items() if key.endswith(ALWAYS_FLOAT32))
    small = sum(map(math.prod, weights.values())) - wide
    return NetworkSize(name=name, small=small, wide=wide, parts=tuple(found))


def _is_large(key: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 or (len(shape) == 2 and any(piece in key for piece in SERVED_LINEAR))
