"""The whole backbone on a CPU: peak memory of loading it with quantised experts, and tokens per second.

The weights are random and made one by one as the loader asks for them, in the released layout (bfloat16, experts one by
one), so that nothing of the checkpoint's size is ever written: what is measured is the loader and the engine. A few
random matrices stand for all of the same shape.

python benchmarks/big_on_cpu.py --size uni --out benchmarks/results/big_on_cpu.json
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _record import record, write
from llada_uni.backbone.config import BackboneConfig
from llada_uni.backbone.denoiser import CachedDenoiser
from llada_uni.backbone.model import Backbone
from llada_uni.protocols import Finished, IdSet, Request, Sampling
from llada_uni.sampling.block_sampler import generate
from llada_uni.testing.tiny import tiny_backbone_config
from llada_uni.weights.keys import stored_backbone
from llada_uni.weights.large import network_bytes
from llada_uni.weights.load import NoRandomNumbers, backbone_from_store
from llada_uni.weights.machine import process_memory
from llada_uni.weights.materialise import Target
from llada_uni.weights.store import StoredTensor, TensorStore

_POOL = 4  # random matrices of one shape


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", choices=("uni", "tiny"), default="uni", help="released shape, or one for rehearsal")
    options.add_argument("--layers", type=int, help="that many layers only")
    options.add_argument("--quantize", choices=("int4", "int8", "fp8", "none"), default="int4")
    options.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of everything else")
    options.add_argument("--prompt", type=int, default=64, help="ids before the blocks")
    options.add_argument("--steps", type=int, default=4, help="steps of a block of 32 ids")
    options.add_argument("--blocks", type=int, default=1)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--out", type=Path, help="result file")
    return options


def synthetic(config: BackboneConfig, seed: int = 0) -> TensorStore:
    """A store of random tensors with the released keys; only a small pool of matrices is kept."""
    generator, pool = torch.Generator().manual_seed(seed), dict[tuple[int, ...], list[Tensor]]()
    where, turn = Path("random"), {"next": 0}
    with torch.device("meta"), NoRandomNumbers():
        shapes = Backbone(config).state_dict()
    entries = {
        key: StoredTensor(path=where, key=key, shape=tuple(t.shape), dtype="F32" if "bias" in key else "BF16")
        for key, t in stored_backbone(shapes, "separate")
    }

    def random(shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, 0.02, generator=generator)

    def fetch(entry: StoredTensor) -> Tensor:
        if entry.dtype == "F32":
            return 0.02 * torch.randn(entry.shape, generator=generator)
        if len(entry.shape) == 1:
            return torch.ones(entry.shape, dtype=torch.bfloat16)
        if ".experts." not in entry.key:
            return random(entry.shape)
        kept = pool.setdefault(entry.shape, [])
        if len(kept) < _POOL:
            kept.append(random(entry.shape))
        turn["next"] += 1
        return kept[turn["next"] % len(kept)].roll(turn["next"], dims=0)

    return TensorStore(where=where, entries=entries, fetch=fetch)


def peak_memory() -> int:
    """Most bytes this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def load(config: BackboneConfig, options: argparse.Namespace) -> tuple[Backbone, dict[str, Any]]:
    """The backbone, and what loading it took."""
    began, before = time.perf_counter(), peak_memory()
    target = Target(
        dtype=getattr(torch, options.dtype),
        device=torch.device("cpu"),
        quantize=options.quantize,
    )
    model = backbone_from_store(config, synthetic(config), target)
    numbers = {
        "seconds": round(time.perf_counter() - began, 1),
        "weight_bytes": network_bytes(model),
        "peak_rss_bytes": peak_memory(),
        "rss_bytes": process_memory(),
        "rss_before_bytes": before,
    }
    return model, numbers


def run(model: Backbone, options: argparse.Namespace) -> dict[str, Any]:
    """Blocks of text, greedily, every block in exactly ``--steps`` steps (random weights are never sure)."""
    size = model.config.vocab_size
    ids = torch.randint(0, size // 2, (options.prompt,), generator=torch.Generator().manual_seed(1))
    length = 32
    request = Request(
        prompts=(tuple(ids.tolist()),),
        num_tokens=length * options.blocks,
        mask_id=size - 1,
        allowed=IdSet(start=0, stop=size - 1),
        sampling=Sampling(steps_per_block=options.steps, confidence_threshold=1.0),
    )
    began, done = time.perf_counter(), None
    for event in generate([request], CachedDenoiser(model)):
        if isinstance(event, Finished):
            done = event
    seconds = time.perf_counter() - began
    assert done is not None
    return {
        "prompt_tokens": options.prompt,
        "tokens": len(done.output_ids),
        "steps_per_block": options.steps,
        "backbone_calls": done.usage.num_calls,
        "seconds": round(seconds, 2),
        "seconds_per_call": round(seconds / done.usage.num_calls, 2),
        "tokens_per_s": round(len(done.output_ids) / seconds, 3),
        "peak_rss_bytes": peak_memory(),
    }


def main(arguments: list[str] | None = None) -> None:
    """Load, run, show and store."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    config = BackboneConfig() if options.size == "uni" else tiny_backbone_config()
    if options.layers is not None:
        from dataclasses import replace

        config = replace(config, num_hidden_layers=options.layers)
    model, loading = load(config, options)
    sys.stderr.write(f"loaded in {loading['seconds']} s, peak {loading['peak_rss_bytes'] / 1e9:.2f} GB\n")
    with torch.inference_mode():
        text = run(model, options)
    numbers = {
        "size": options.size,
        "layers": config.num_hidden_layers,
        "quantize": options.quantize,
        "dtype": options.dtype,
        "loading": loading,
        "text": text,
    }
    write(record(numbers, device="cpu", arguments=arguments), options.out)


if __name__ == "__main__":
    main()
