"""Tokens per second of the backbone's training step, against a straightforward implementation in the same run.

Both sides train the same network on the same documents with the same masked tokens, and their losses are equal. The
straightforward side doubles every sample to [noisy | clean] under a dense mask, gives each sample a row padded to the
longest, asks every question with its own copy of the picture, and computes the logits of every position over the whole
vocabulary. It runs ``--rows`` rows at a time and adds up their gradients. Ours is what ``llada-uni train`` runs. Making
the batches is not timed; the sides take turns.

python benchmarks/training_throughput.py --model src/llada_uni/nano --out benchmarks/results/training_throughput.json

``--progress`` are points of the recipe's run, evenly spaced by default, so that their sum stands for the whole of it:
at first pictures are windows, until late a picture and its prompt are one block, at the end blocks follow one another.
Tokens are those of the prompts and targets of all samples, on both sides.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _record import record, write
from llada_uni.backbone.model import Backbone
from llada_uni.config import override
from llada_uni.data.block_rows import Branch, Document, lay_out, pack
from llada_uni.diffusion.balance import updated_bias
from llada_uni.diffusion.losses import mtrs_normaliser, mtrs_token_weights, token_cross_entropy
from llada_uni.diffusion.masking import block_diffusion_allowed
from llada_uni.training.objective import Draw, Resources
from llada_uni.training.objectives.backbone import BackboneObjective, BackboneObjectiveConfig
from llada_uni.training.optim import build_optimizer, clip_gradients, set_lr
from llada_uni.training.run import resolve_recipe

_POINTS = (0.1, 0.3, 0.5, 0.7, 0.9)
_TOLERANCE = 1e-3  # relative difference of the two losses in float32


@dataclass(frozen=True, kw_only=True)
class PlainRow:
    """One sample [L]: clean ids up to the end of its last block, which of them are masked, which only fill."""

    ids: Tensor
    masked: Tensor
    fill: Tensor
    block_length: int


def plain_rows(documents: Sequence[Document], batch: dict[str, Tensor], capacity: int, eos: int) -> list[PlainRow]:
    """A row for every sample of packed rows ``batch``, with the same masked tokens, in the order of their numbers."""
    if any(document.views != 1 for document in documents):
        sys.exit("error: the straightforward side knows one view; use objective.mix.complementary=false")
    lengths = [len(lay_out(document, eos)) for document in documents]
    order = [number for row in pack(lengths, capacity) for number in row]
    samples = [(branch, documents[number].block_length) for number in order for branch in documents[number].branches]
    return [
        _plain_row(branch, length, batch["position"][(batch["sample"] == number) & batch["masked"]], eos)
        for number, (branch, length) in enumerate(samples)
    ]


def _plain_row(branch: Branch, block_length: int, positions: Tensor, eos: int) -> PlainRow:
    words = [*branch.prompt, *branch.target]
    ids = torch.tensor(words + [eos] * (-len(words) % block_length))
    masked = torch.zeros(len(ids), dtype=torch.bool)
    masked[positions] = True
    return PlainRow(ids=ids, masked=masked, fill=torch.arange(len(ids)) >= len(words), block_length=block_length)


def plain_losses(model: Backbone, rows: Sequence[PlainRow], mask_id: int, eos: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of every masked token [N], its row's number, whether it fills: the plain way, [noisy | clean]."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.stack([_padded(row.ids, longest, eos) for row in rows])
    masked, fill = (torch.stack([_padded(getattr(row, n), longest, 0) for row in rows]) for n in ("masked", "fill"))
    real = torch.stack([torch.arange(longest) < len(row.ids) for row in rows])
    doubled = torch.cat((ids.masked_fill(masked, mask_id), ids), 1)
    positions = torch.arange(longest).repeat(2).expand(len(rows), -1)
    allowed = torch.stack([block_diffusion_allowed(longest, row.block_length) for row in rows]).unsqueeze(1)
    logits = model(doubled, positions, allowed, collect_load=torch.cat((real, real), 1))[:, :longest]
    losses = token_cross_entropy(logits, ids)
    return losses[masked], masked.nonzero()[:, 0], fill[masked]


def _padded(values: Tensor, length: int, value: int) -> Tensor:
    return torch.cat((values, values.new_full((length - len(values),), value)))


def plain_loss(
    model: Backbone, rows: Sequence[PlainRow], config: BackboneObjectiveConfig, ids: tuple[int, int], normaliser: float
) -> Tensor:
    """The part of the step's loss that ``rows`` contribute; ``ids`` are those of the mask and of the end of text."""
    losses, sample, fill = plain_losses(model, rows, *ids)
    weights = torch.where(fill, config.fill_weight, 1.0)
    if config.mtrs:
        weights = weights * mtrs_token_weights(sample, len(rows))
    return (losses * weights).sum() / normaliser


def plain_normaliser(rows: Sequence[PlainRow], config: BackboneObjectiveConfig) -> float:
    """What :meth:`BackboneObjective.weight` gives for the same samples."""
    counts = torch.stack([row.masked.sum() for row in rows])
    return float(mtrs_normaliser(counts)) if config.mtrs else float(counts.sum())


class PlainSide:
    """The straightforward step: gradients of ``per_call`` rows at a time, then the same updates."""

    def __init__(self, objective: BackboneObjective, rows: Sequence[PlainRow], per_call: int) -> None:
        self.model = copy.deepcopy(objective.model)
        self._config, self._rows, self._per_call = objective.config, rows, per_call
        self._ids = (objective.writer.vocab.special.mask, objective.writer.vocab.special.eos)
        self._loads: list[Tensor] = []

    def backward(self) -> float:
        """Fills the gradients; returns the loss."""
        self._loads, total = [], 0.0
        normaliser = plain_normaliser(self._rows, self._config)
        for part in _parts(self._rows, self._per_call):
            loss = plain_loss(self.model, part, self._config, self._ids, normaliser)
            loss.backward()
            self._loads.append(self.model.router_loads())
            total += float(loss.detach())
        return total

    def after_step(self) -> None:
        """Balances the routers."""
        loads = torch.stack(self._loads).sum(0)
        for router, counts in zip(self.model.routers(), loads, strict=True):
            router.expert_bias.copy_(updated_bias(router.expert_bias, counts, self._config.balance_rate))

    @property
    def computed(self) -> int:
        """Positions that the network works on."""
        parts = _parts(self._rows, self._per_call)
        return sum(2 * len(part) * max(len(row.ids) for row in part) for part in parts)


def _parts(rows: Sequence[PlainRow], size: int) -> Iterator[Sequence[PlainRow]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


class OurSide:
    """The step of ``training.train`` on packed rows."""

    def __init__(self, objective: BackboneObjective, batch: dict[str, Tensor]) -> None:
        self._objective, self._batch = objective, batch
        self.model = objective.model

    def backward(self) -> float:
        """Fills the gradients; returns the loss."""
        loss, _ = self._objective.loss(self._batch, torch.Generator())
        loss.backward()
        return float(loss.detach())

    def after_step(self) -> None:
        """Balances the routers."""
        self._objective.after_step(1, 2)

    @property
    def computed(self) -> int:
        """Positions that the network works on."""
        real = (self._batch["document"] >= 0).sum(1)
        groups = real.sort().values.tensor_split(self._objective.config.num_buckets)
        return sum(int(group.max()) * len(group) for group in groups if len(group))


def stepper(side: OurSide | PlainSide, optim: Any) -> Callable[[], tuple[float, float, float]]:
    """A function that takes one training step and returns wall seconds, processor seconds and the loss."""
    optimizer = build_optimizer(side.model, optim)
    set_lr(optimizer, optim.lr * 0.01)

    def step() -> tuple[float, float, float]:
        wall, processor = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss = side.backward()
        clip_gradients(side.model.parameters(), optim.clip_norm)
        optimizer.step()
        side.after_step()
        return time.perf_counter() - wall, time.process_time() - processor, loss

    return step


def compared(objective: BackboneObjective, optim: Any, progress: float, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides on one batch of documents: a step to warm up, then ``--repeats`` steps in turns."""
    draw = Draw(seed=options.seed, step=0, size=options.batch_size, progress=progress)
    documents = objective.writer.documents(draw.numpy("documents"), objective.pool, draw.size, progress=progress)
    batch = objective.rows(documents, draw.torch("masks"))
    rows = plain_rows(documents, batch, objective.config.capacity, objective.writer.vocab.special.eos)
    plain = PlainSide(objective, rows, options.rows)
    sides = {"ours": OurSide(objective, batch), "plain": plain}
    steps = {name: stepper(side, optim) for name, side in sides.items()}
    losses = {name: step()[2] for name, step in steps.items()}
    if abs(losses["ours"] - losses["plain"]) > _TOLERANCE * abs(losses["plain"]):
        sys.exit(f"error: the losses differ, so the sides do not do the same work: {losses}")
    taken = [{name: step() for name, step in steps.items()} for _ in range(options.repeats)]
    branches = [branch for document in documents for branch in document.branches]
    tokens = sum(len(branch.prompt) + len(branch.target) for branch in branches)
    return {
        "progress": progress,
        "documents": len(documents),
        "samples": len(branches),
        "tokens": tokens,
        "masked_tokens": int(batch["masked"].sum()),
        "computed_positions": {name: side.computed for name, side in sides.items()},
        "loss": losses,
        "tokens_per_s": {name: tokens / statistics.median(one[name][0] for one in taken) for name in sides},
        "seconds": {name: [round(one[name][0], 3) for one in taken] for name in sides},
        "processor_seconds": {name: [round(one[name][1], 3) for one in taken] for name in sides},
        "times_faster": spread([one["plain"][0] / one["ours"][0] for one in taken]),
        "times_faster_by_processor_time": spread([one["plain"][1] / one["ours"][1] for one in taken]),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest value."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every point of the run that was asked for."""
    job: Any = replace(resolve_recipe("recipes.nano:backbone"), minutes=None, steps=1, threads=options.threads)
    pool = ("objective.pool.num_shards=1", f"objective.pool.shard_size={options.pictures}")
    for setting in (*pool, "objective.meaning_shards=0", f"seed={options.seed}", *options.set):
        job = override(job, setting)
    torch.set_num_threads(options.threads)
    points = []
    with tempfile.TemporaryDirectory() as cache:
        for progress in options.progress:
            objective = job.objective.build(Resources(out=options.model, cache=Path(cache)), job.seed)
            points.append(compared(objective, job.optim, progress, options))
            sys.stderr.write(f"progress {progress}: {points[-1]['times_faster']}\n")
    parameters = sum(parameter.numel() for parameter in objective.model.parameters())
    told = {"recipe": job.name, "parameters": parameters, "rows_per_call": options.rows}
    return {**told, "all_points": together(points), "points": points}


def together(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Times faster over all points, repeat by repeat, and tokens per second of each side from its medians."""
    told: dict[str, Any] = {}
    for name, clock in (("times_faster", "seconds"), ("times_faster_by_processor_time", "processor_seconds")):
        sums = {s: [sum(one) for one in zip(*(p[clock][s] for p in points), strict=True)] for s in ("plain", "ours")}
        told[name] = spread([a / b for a, b in zip(sums["plain"], sums["ours"], strict=True)])
    tokens = sum(point["tokens"] for point in points)
    sides = {s: sum(statistics.median(point["seconds"][s]) for point in points) for s in ("ours", "plain")}
    return {"tokens_per_s": {side: tokens / seconds for side, seconds in sides.items()}, **told}


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", type=Path, required=True, help="directory with the tokenizers")
    options.add_argument("--progress", type=float, nargs="+", default=list(_POINTS), help="points of the run, 0 to 1")
    options.add_argument("--batch-size", type=int, default=48, help="documents of a step")
    options.add_argument("--rows", type=int, default=8, help="rows that the straightforward side runs at a time")
    options.add_argument("--pictures", type=int, default=256, help="pictures that the documents are about")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change a field of the recipe")
    options.add_argument("--out", type=Path, help="result file")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = parser().parse_args(arguments)
    write(record(measure(options), device="cpu", arguments=arguments), options.out)


if __name__ == "__main__":
    main()
