"""Speed of cached against uncached block sampling on a backbone of nano's size with random weights.

python benchmarks/cached_sampling.py --out benchmarks/results/cached_sampling.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from _record import record, write
from llada_uni.backbone.config import BackboneConfig
from llada_uni.backbone.denoiser import CachedDenoiser, ReferenceDenoiser
from llada_uni.backbone.model import Backbone
from llada_uni.grid import TokenGrid
from llada_uni.protocols import Finished, Guidance, IdSet, Request, Sampling
from llada_uni.sampling.block_sampler import generate

TEXT, CODES, MASK = 1600, 2048, 1599


def nano_backbone() -> Backbone:
    """A backbone of nano's size with random weights."""
    config = BackboneConfig(
        vocab_size=TEXT + CODES,
        image_token_offset=TEXT,
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=640,
        num_experts=8,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        moe_intermediate_size=256,
        rope_theta=10000.0,
        pad_token_id=0,
    )
    model = Backbone(config)
    model.reset_parameters(torch.Generator().manual_seed(0))
    return model.eval().requires_grad_(False)


def picture(side: int, steps_per_block: int, *, rescale_over: str, prompt_length: int = 40) -> Request:
    """A guided picture request after a prompt of ``prompt_length`` ids."""
    prompt = tuple(range(prompt_length))
    return Request(
        prompts=(prompt, prompt[:-8]),
        num_tokens=side * side,
        mask_id=MASK,
        allowed=IdSet(start=TEXT, stop=TEXT + CODES),
        guidance=Guidance(kind="simple", scale=2.0, rescale_over=rescale_over),
        sampling=Sampling(steps_per_block=steps_per_block),
        grid=TokenGrid(side, side),
    )


def measure(request: Request, denoiser: CachedDenoiser | ReferenceDenoiser, repeats: int) -> tuple[float, Finished]:
    """Least CPU seconds of ``repeats`` runs, and the result: with one thread the wall clock of an idle machine."""
    best, done = float("inf"), None
    for _ in range(repeats):
        began = time.process_time()
        done = next(e for e in generate([request], denoiser) if isinstance(e, Finished))
        best = min(best, time.process_time() - began)
    assert done is not None
    return best, done


def compare(model: Backbone, side: int, steps_per_block: int, rescale_over: str, repeats: int) -> dict[str, object]:
    """One line of the table."""
    request = picture(side, steps_per_block, rescale_over=rescale_over)
    cached, result = measure(request, CachedDenoiser(model), repeats)
    uncached, reference = measure(request, ReferenceDenoiser(model), repeats)
    assert result.output_ids == reference.output_ids, "cached and uncached ids differ"
    return {
        "codes": f"{side}x{side}",
        "steps_per_block": steps_per_block,
        "rescale_over": rescale_over,
        "backbone_calls": result.usage.num_calls,
        "uncached_cpu_s": round(uncached, 4),
        "cached_cpu_s": round(cached, 4),
        "speedup": round(uncached / cached, 2),
        "cached_cpu_ms_per_call": round(1000 * cached / result.usage.num_calls, 2),
    }


def main() -> None:
    """Measure, show and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", "--output", type=Path, help="result file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = nano_backbone()
    rows = [
        compare(model, side, steps, over, options.repeats)
        for side in (8, 16)
        for steps, over in ((8, "vocabulary"), (8, "allowed"))
    ]
    write(record({"rows": rows}), options.out)


if __name__ == "__main__":
    main()
