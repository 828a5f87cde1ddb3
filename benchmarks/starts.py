"""How much nano's backbone learns from its first samples, by what it starts from.

Every arm trains the same steps on the same windows (``data.windows``) with the same rate falling to a fiftieth; then
15 % of the tokens of other windows are masked, and for masked cells of objects the probability of the right kind and
colour is read off, and the nats of the right code.

python benchmarks/starts.py --model src/llada_uni/nano --cache build/state --out benchmarks/results/starts.json

``--model`` names a directory with the tokenizers; missing codes are extracted into ``--cache``.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from _record import record, write

_MASKED = 0.15
_EVAL_BATCHES = 3
_EVAL_DOCUMENTS = 96
_OLD = ("embedding_rms=0.02", "head_rms=0.02", "quiet_outputs=False")
_OLD_ROTARY = ("backbone.rope_theta=10000.0", "backbone.partial_rotary_factor=0.5")
_ARMS: dict[str, tuple[str, ...]] = {
    "recipe": (),
    "old start": _OLD,
    "old start, old positions": (*_OLD, *_OLD_ROTARY),
    "small tables": ("embedding_rms=0.02", "head_rms=0.02"),
    "small embedding": ("embedding_rms=0.02",),
    "small head": ("head_rms=0.02",),
    "loud outputs": ("quiet_outputs=False",),
}


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", type=Path, required=True, help="directory with the tokenizers")
    options.add_argument("--cache", type=Path, required=True, help="folder for extracted codes")
    options.add_argument("--steps", type=int, default=110)
    options.add_argument("--batch-size", type=int, default=48)
    options.add_argument("--shards", type=int, default=24, help="shards of the pool of codes")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--arms", nargs="+", default=list(_ARMS), choices=list(_ARMS))
    options.add_argument("--out", type=Path, help="result file")
    return options


def trained(arguments: argparse.Namespace, arm: str) -> Any:
    """The objective with its trained model."""
    from llada_uni.config import override
    from llada_uni.training.objective import Resources
    from llada_uni.training.run import resolve_recipe
    from llada_uni.training.train import train

    job: Any = replace(resolve_recipe("recipes.nano:backbone"), minutes=None, steps=arguments.steps)
    common = (
        f"batch_size={arguments.batch_size}",
        f"seed={arguments.seed}",
        f"objective.pool.num_shards={arguments.shards}",
        "objective.mix.image_share=1.0",
        "objective.mix.whole_until=1.0",
        "objective.mix.windows_until=1.0",
        "schedule.warmup_steps=20",
        "schedule.floor=0.02",
    )
    for setting in (*common, *(f"objective.{one}" for one in _ARMS[arm])):
        job = override(job, setting)
    objective = job.objective.build(Resources(out=arguments.model, cache=arguments.cache), arguments.seed)
    train(job, objective, arguments.cache / "starts", resume=False)
    return objective


def scores(objective: Any, seed: int) -> dict[str, float]:
    """Means over masked cells of objects."""
    from llada_uni.data.block_rows import collate, lay_out
    from llada_uni.data.code_meanings import code_meanings
    from llada_uni.data.dense_labels import HEADS
    from llada_uni.diffusion.masking import MaskRatioLaw, training_allowed
    from llada_uni.training.objective import Draw
    from llada_uni.training.objectives.backbone import noised

    config, writer, model = objective.config, objective.writer, objective.model.eval()
    first = writer.vocab.image_offset
    shares = code_meanings(objective.pool, writer.vocab.num_codes, config.pool.num_shards)
    columns = dict(zip(HEADS, shares.split(list(HEADS.values()), dim=1), strict=True))
    meaning = {name: columns[name].argmax(1) for name in ("kind", "colour")}
    law = MaskRatioLaw(low=_MASKED, high=_MASKED, full_share=0.0)
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    for index in range(_EVAL_BATCHES):
        draw = Draw(seed=seed + 9, step=index, size=_EVAL_DOCUMENTS)
        documents = writer.documents(draw.numpy("documents"), objective.pool, draw.size, progress=0.0)
        eos, mask = writer.vocab.special.eos, writer.vocab.special.mask
        rows = collate([lay_out(document, eos) for document in documents], config.capacity, eos)
        batch = noised(rows, law, law, mask, draw.torch("masks"))
        allowed = training_allowed(batch["document"], batch["branch"], batch["block"], batch["stream"]).unsqueeze(1)
        masked = batch["masked"]
        with torch.no_grad():
            logits = model(batch["noisy_ids"], batch["position"], allowed, logit_mask=masked)
        codes = batch["ids"][masked] - first
        chances = F.softmax(logits[codes >= 0][:, first:], dim=-1)
        codes = codes[codes >= 0]
        objects = meaning["kind"][codes] > 0
        found["nats"].append(-chances.gather(1, codes[:, None])[objects, 0].clamp_min(1e-9).log())
        for name, values in meaning.items():
            found[name].append((chances * (values[None] == values[codes][:, None])).sum(1)[objects])
    return {name: round(float(torch.cat(parts).mean()), 4) for name, parts in found.items()}


def main(arguments: list[str] | None = None) -> None:
    """Run every arm, show and store."""
    options = parser().parse_args(arguments)
    numbers: dict[str, Any] = {}
    for arm in options.arms:
        numbers[arm] = scores(trained(options, arm), options.seed)
        sys.stderr.write(f"{arm}: {numbers[arm]}\n")
    write(record(numbers, arguments=arguments), options.out)


if __name__ == "__main__":
    main()
