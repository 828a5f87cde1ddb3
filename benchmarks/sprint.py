"""SPRINT against the exact path on the same SceneBench items with the same seeds: quality, steps, positions attended.

python benchmarks/sprint.py --out benchmarks/results/sprint_nano.json
python benchmarks/sprint.py --part answers --count 200 --keep-ratio 0.7 --threshold 0.93 --steps 16 --schedule even
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _record import paired_difference, record, write
from llada_uni import LladaUni, Sprint
from llada_uni.backbone.denoiser import CachedDenoiser
from llada_uni.pipeline.requests import answer_request, answer_room, image_request, question_ids
from llada_uni.pipeline.settings import answer_settings, image_settings, output_grid
from llada_uni.pipeline.stations import draw, encode, prepare, returned
from llada_uni.protocols import BranchKey, Finished, Prefix, Request, StepBatch
from llada_uni.sampling.block_sampler import generate
from llada_uni.scenes.bench import CategoryScore, answer_passes, load_bench, picture_passes, select
from llada_uni.scenes.render import render
from llada_uni.scenes.verify import verify

UNSET = dict.fromkeys(("guidance_scale", "temperature", "num_steps", "decoder", "keep_ratio"))
ANSWER_TOKENS = 64
Part = Callable[[LladaUni, Sequence[Any], int, dict[str, Any]], list["Outcome"]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One item: the ids written, whether they are right, steps, backbone calls and positions its steps attended."""

    ids: tuple[int, ...]
    right: bool
    steps: int
    calls: int
    attended: int


class Counting:
    """A denoiser that counts, row by row, the positions its steps attend to: prefix as thinned, and the open block."""

    def __init__(self, denoiser: CachedDenoiser) -> None:
        self._denoiser = denoiser
        self._kept: dict[BranchKey, int] = {}
        self.attended: Counter[int] = Counter()

    def step(self, batch: StepBatch) -> Tensor:
        for b in batch.branches:
            if b.pending_ids.numel():
                self._kept.pop(b.key, None)
            self.attended[b.key.row] += self._kept.get(b.key, b.start) + b.pending_ids.numel() + b.active_ids.numel()
        return self._denoiser.step(batch)

    def prune(self, key: BranchKey, keep: Tensor) -> None:
        self._kept[key] = int(keep.shape[-1])
        self._denoiser.prune(key, keep)

    def prefill(self, prefixes: Sequence[Prefix]) -> int:
        return self._denoiser.prefill(prefixes)

    def commit(self, batch: StepBatch) -> int:
        return self._denoiser.commit(batch)

    def release(self, keys: Sequence[BranchKey]) -> None:
        self._denoiser.release(keys)

    def key_norms(self, key: BranchKey) -> Tensor:
        return self._denoiser.key_norms(key)

    def confidence(self, key: BranchKey) -> Tensor:
        return self._denoiser.confidence(key)

    def is_image(self, key: BranchKey) -> Tensor:
        return self._denoiser.is_image(key)


def sample(model: LladaUni, requests: Sequence[Request]) -> tuple[list[Finished], Counter[int]]:
    """What every request finished with, and the positions each attended."""
    denoiser, done = Counting(CachedDenoiser(model.networks.backbone)), dict[int, Finished]()
    for event in generate(requests, denoiser, granularity="block"):
        if isinstance(event, Finished):
            done[event.row] = event
    return [done[row] for row in range(len(requests))], denoiser.attended


def outcomes(done: Sequence[Finished], attended: Counter[int], right: Sequence[bool]) -> list[Outcome]:
    """Both halves of every item together."""
    return [
        Outcome(ids=d.output_ids, right=r, steps=d.usage.num_steps, calls=d.usage.num_calls, attended=attended[row])
        for row, (d, r) in enumerate(zip(done, right, strict=True))
    ]


def pictures(model: LladaUni, items: Sequence[Any], first_seed: int, given: dict[str, Any]) -> list[Outcome]:
    """One picture per prompt, read by the verifier."""
    networks = model.networks
    grid = output_grid(model.geometry, None, None)
    settings = image_settings(networks.package.presets, model.geometry.output_px(grid), UNSET | given)
    seeds = list(range(first_seed, first_seed + len(items)))
    requests = [image_request(networks, i.prompt, s, grid, settings) for i, s in zip(items, seeds, strict=True)]
    done, attended = sample(model, requests)
    codes = torch.tensor([networks.vocab.to_codes(d.output_ids) for d in done])
    images = returned(draw(networks, codes, grid, seeds, settings, at_once=model.pictures_at_once))
    return outcomes(done, attended, [picture_passes(i, verify(p)) for i, p in zip(items, images, strict=True)])


def answers(model: LladaUni, items: Sequence[Any], first_seed: int, given: dict[str, Any]) -> list[Outcome]:
    """One greedy answer per question about a rendered scene."""
    networks = model.networks
    greedy = {"temperature": 0.0, "max_new_tokens": ANSWER_TOKENS}
    settings = answer_settings(networks.package.presets, UNSET | given | greedy)
    sized = [picture for (picture,) in prepare(networks, [[render(item.graph)] for item in items])]
    prompts = [
        question_ids(networks, i.question.text, [e]) for i, e in zip(items, encode(networks, sized), strict=True)
    ]
    requests = [
        answer_request(networks, prompt, first_seed + n, answer_room(networks, len(prompt), settings, ANSWER_TOKENS))
        for n, prompt in enumerate(prompts)
    ]
    done, attended = sample(model, requests)
    texts = [networks.tokenizer.decode(d.output_ids).strip() for d in done]
    return outcomes(done, attended, [answer_passes(i, text) for i, text in zip(items, texts, strict=True)])


def run(part: Part, model: LladaUni, items: Sequence[Any], given: dict[str, Any], batch: int, seed: int) -> Any:
    """Outcomes of all items under these settings, and the processor seconds they took."""
    began, found = time.process_time(), list[Outcome]()
    for first in range(0, len(items), batch):
        found += part(model, items[first : first + batch], seed + first, given)
    return found, time.process_time() - began


def agreement(first: Sequence[Outcome], second: Sequence[Outcome]) -> float:
    """Share of output positions at which both wrote the same id."""
    same = total = 0
    for a, b in zip(first, second, strict=True):
        same += sum(x == y for x, y in zip(a.ids, b.ids, strict=False))
        total += max(len(a.ids), len(b.ids))
    return same / max(total, 1)


def summary(found: Sequence[Outcome], seconds: float, exact: Sequence[Outcome]) -> dict[str, Any]:
    """One line of the table, compared with the exact path item by item."""
    count, rated = len(found), CategoryScore(correct=sum(o.right for o in found), total=len(found))
    attended, steps = sum(o.attended for o in found), sum(o.steps for o in found)
    return {
        "rate": rated.rate,
        "interval": list(rated.interval),
        "minus_exact": paired_difference([o.right for o in exact], [o.right for o in found]),
        "ids_agreement": agreement(exact, found),
        "identical_outputs": sum(a.ids == b.ids for a, b in zip(exact, found, strict=True)) / count,
        "steps_per_item": steps / count,
        "backbone_calls_per_item": sum(o.calls for o in found) / count,
        "positions_attended_per_item": attended / count,
        "times_fewer_steps": sum(o.steps for o in exact) / steps,
        "times_fewer_positions": sum(o.attended for o in exact) / attended,
        "cpu_s_per_item": seconds / count,
    }


def grid(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Settings to compare: schedule x keep ratio x threshold x steps."""
    axes = (options.schedule, options.keep_ratio, options.threshold, options.steps)
    for schedule, ratio, threshold, steps in itertools.product(*axes):
        rules = Sprint(
            keep_ratio=ratio,
            text_keep_ratio=None if options.thin_text else 1.0,
            warmup_steps=options.warmup_steps,
            schedule=schedule,
            ranking=options.ranking,
        )
        yield {"sprint": rules, "confidence_threshold": threshold, "steps_per_block": steps}


def tell(name: str, given: dict[str, Any], line: dict[str, Any]) -> None:
    """One line of progress on standard error."""
    rules, steps = given["sprint"], line["steps_per_item"]
    sys.stderr.write(
        f"{name}: {rules.schedule} keep {rules.keep_ratio} threshold {given['confidence_threshold']} "
        f"steps {given['steps_per_block']}: {line['rate']:.1%} right, {steps:.1f} steps\n"
    )


def compare(name: str, part: Part, model: LladaUni, items: Sequence[Any], options: argparse.Namespace) -> Any:
    """The exact path with the checkpoint's presets, then every setting of the grid on the same items."""
    plain = {"sprint": None, "confidence_threshold": None, "steps_per_block": None}
    exact, seconds = run(part, model, items, plain, options.batch, options.seed)
    report = {"items": len(items), "exact": summary(exact, seconds, exact), "settings": list[Any]()}
    for given in grid(options):
        found, seconds = run(part, model, items, given, options.batch, options.seed)
        line = given | {"sprint": asdict(given["sprint"])} | summary(found, seconds, exact)
        report["settings"].append(line)
        tell(name, given, line)
    return report


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="nano", help="nano, a hub id or a directory")
    options.add_argument("--part", choices=("pictures", "answers", "both"), default="both")
    options.add_argument("--count", type=int, help="that many prompts and that many questions; all when not given")
    options.add_argument("--keep-ratio", type=float, nargs="+", default=[1.0, 0.7, 0.5, 0.3])
    options.add_argument("--threshold", type=float, nargs="+", default=[0.95, 0.9])
    options.add_argument("--steps", type=int, nargs="+", default=[32, 16, 8], help="steps per block")
    options.add_argument("--thin-text", action="store_true", help="the ratio holds for words too; else they are kept")
    options.add_argument("--warmup-steps", type=int, default=1)
    options.add_argument("--schedule", choices=("even", "adaptive"), nargs="+", default=["adaptive"])
    options.add_argument("--ranking", choices=("low_confidence", "top_k_margin", "neg_entropy"))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--device", default="auto")
    options.add_argument("--out", type=Path, help="result file")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = parser().parse_args(arguments)
    model, bench = LladaUni.from_pretrained(options.model, device=options.device), load_bench()
    parts: dict[str, tuple[Part, Sequence[Any]]] = {
        "pictures": (pictures, bench.generation),
        "answers": (answers, bench.understanding),
    }
    wanted = list(parts) if options.part == "both" else [options.part]
    numbers: dict[str, Any] = {"model": model.name, "bench_sha256": bench.sha256, "seed": options.seed}
    for name in wanted:
        part, items = parts[name]
        numbers[name] = compare(name, part, model, select(items, limit=options.count, seed=options.seed), options)
    write(record(numbers, device=str(model.networks.device), arguments=arguments), options.out)


if __name__ == "__main__":
    main()
