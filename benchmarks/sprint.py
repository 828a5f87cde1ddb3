"""SPRINT against the exact path on the same SceneBench items with the same seeds: quality, steps, positions attended.

python benchmarks/sprint.py --out benchmarks/results/sprint_nano.json
python benchmarks/sprint.py --part answers --count 200 --keep-ratio 0.7 --threshold 0.93 --steps 16 --schedule even
python benchmarks/sprint.py --preset paper --pictures 742 --answers 1258 --state build/sprint   # 2,000 pairs, resumable
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from _ledger import Ledger, fingerprint
from _outcomes import Outcome, sample, summary, together
from _record import record, write
from llada_uni import LladaUni, Sprint
from llada_uni.pipeline.requests import answer_request, answer_room, image_request, question_ids
from llada_uni.pipeline.settings import AnswerSettings, ImageSettings, answer_settings, image_settings, output_grid
from llada_uni.pipeline.stations import draw, encode, prepare, returned
from llada_uni.scenes.bench import answer_passes, load_bench, picture_passes, select
from llada_uni.scenes.render import render
from llada_uni.scenes.verify import verify
from llada_uni.weights.catalog import SPRINT_PRESETS

PLAIN = {"sprint": None, "confidence_threshold": None, "steps_per_block": None}
UNSET = dict.fromkeys(("guidance_scale", "temperature", "num_steps", "decoder", "keep_ratio"))
ANSWER_TOKENS = 64
Known = dict[tuple[int, tuple[int, ...]], bool]
"""Verdicts by (seed, ids): a picture with the same codes and the same seed is the same picture, and is judged once."""
Part = Callable[[LladaUni, Sequence[Any], int, dict[str, Any], Known], list["Outcome"]]


def pictures(
    model: LladaUni, items: Sequence[Any], first_seed: int, given: dict[str, Any], known: Known
) -> list[Outcome]:
    """One picture per prompt, read by the verifier; one that is ``known`` is not drawn again."""
    networks, settings = model.networks, picture_settings(model, given)
    grid = output_grid(model.geometry, None, None)
    seeds = list(range(first_seed, first_seed + len(items)))
    requests = [image_request(networks, i.prompt, s, grid, settings) for i, s in zip(items, seeds, strict=True)]
    sampled = sample(model, requests)
    keys = [(seed, d.output_ids) for seed, d in zip(seeds, sampled.done, strict=True)]
    new = [row for row, key in enumerate(keys) if key not in known]
    began = time.process_time()
    if new:
        codes = torch.tensor([networks.vocab.to_codes(sampled.done[row].output_ids) for row in new])
        own = [seeds[row] for row in new]
        images = returned(draw(networks, codes, grid, own, settings, at_once=model.pictures_at_once))
        known |= {keys[row]: picture_passes(items[row], verify(p)) for row, p in zip(new, images, strict=True)}
    spent = (time.process_time() - began) / max(len(new), 1)
    return sampled.outcomes([known[key] for key in keys], [spent if row in new else None for row in range(len(items))])


def picture_settings(model: LladaUni, given: dict[str, Any]) -> ImageSettings:
    """Settings of the checkpoint's usual size."""
    size = model.geometry.output_px(output_grid(model.geometry, None, None))
    return image_settings(model.networks.package.presets, size, UNSET | given)


def text_settings(model: LladaUni, given: dict[str, Any]) -> AnswerSettings:
    """Settings of greedy answers."""
    greedy = {"temperature": 0.0, "max_new_tokens": ANSWER_TOKENS}
    return answer_settings(model.networks.package.presets, UNSET | given | greedy)


def answers(
    model: LladaUni, items: Sequence[Any], first_seed: int, given: dict[str, Any], known: Known
) -> list[Outcome]:
    """One greedy answer per question about a rendered scene."""
    networks, settings = model.networks, text_settings(model, given)
    sized = [picture for (picture,) in prepare(networks, [[render(item.graph)] for item in items])]
    prompts = [
        question_ids(networks, i.question.text, [e]) for i, e in zip(items, encode(networks, sized), strict=True)
    ]
    requests = [
        answer_request(networks, prompt, first_seed + n, answer_room(networks, len(prompt), settings, ANSWER_TOKENS))
        for n, prompt in enumerate(prompts)
    ]
    sampled = sample(model, requests)
    texts = [networks.tokenizer.decode(d.output_ids).strip() for d in sampled.done]
    right = [answer_passes(i, text) for i, text in zip(items, texts, strict=True)]
    return sampled.outcomes(right, [0.0] * len(items))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One part of the comparison: its items, how they are run, what is known of its pictures and what drawing cost."""

    name: str
    part: Part
    model: LladaUni
    items: Sequence[Any]
    options: argparse.Namespace
    known: Known = field(default_factory=dict[tuple[int, tuple[int, ...]], bool])
    drawn: list[float] = field(default_factory=list[float])

    def run(self, given: dict[str, Any], name: str) -> list[Outcome]:
        """Outcomes of all items under these settings; those in the state folder are not repeated."""
        first_seed, ledger = self.options.seed, Ledger(self.options.state, f"{self.name}-{name}", self._header(given))
        for seed, line in enumerate(ledger.lines, first_seed):
            self.known[seed, tuple(line["ids"])] = line["right"]
        for first in range(len(ledger.lines), len(self.items), self.options.batch):
            items = self.items[first : first + self.options.batch]
            ledger.add([asdict(one) for one in self.part(self.model, items, first_seed + first, given, self.known)])
            sys.stderr.write(f"{self.name}, {name}: {len(ledger.lines)} of {len(self.items)}\n")
        self.drawn.extend(line["pixel_s"] for line in ledger.lines if line["pixel_s"] is not None)
        return [self._outcome(line) for line in ledger.lines]

    def _outcome(self, line: dict[str, Any]) -> Outcome:
        """A line of the ledger; a picture that was not drawn would have cost what others did."""
        spent = sum(self.drawn) / max(len(self.drawn), 1) if line["pixel_s"] is None else line["pixel_s"]
        return Outcome(**line | {"ids": tuple(line["ids"]), "pixel_s": spent})

    def resolved(self, given: dict[str, Any]) -> dict[str, Any]:
        """The rules, threshold and steps that these settings come to."""
        settings = (picture_settings if self.part is pictures else text_settings)(self.model, given)
        found = {name: getattr(settings, name) for name in ("sprint", "confidence_threshold", "steps_per_block")}
        return found | {"sprint": None if settings.sprint is None else asdict(settings.sprint)}

    def _header(self, given: dict[str, Any]) -> dict[str, Any]:
        return {
            "weights": fingerprint(self.model.networks.backbone.lm_head.weight),
            "items": [item.id for item in self.items],
            "seed": self.options.seed,
            "settings": self.resolved(given),
        }


def grid(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and settings to compare: the presets, or else schedule x keep ratio x threshold x steps."""
    for preset in options.preset or ():
        yield preset, PLAIN | {"sprint": preset}
    if options.preset:
        return
    axes = (options.schedule, options.keep_ratio, options.threshold, options.steps)
    for schedule, ratio, threshold, steps in itertools.product(*axes):
        rules = Sprint(
            keep_ratio=ratio,
            text_keep_ratio=None if options.thin_text else 1.0,
            warmup_steps=options.warmup_steps,
            schedule=schedule,
            ranking=options.ranking,
        )
        name = f"{schedule}-{ratio:g}-{threshold:g}-{steps}"
        yield name, {"sprint": rules, "confidence_threshold": threshold, "steps_per_block": steps}


def tell(name: str, line: dict[str, Any]) -> None:
    """One line of progress on standard error."""
    rules, steps = line["sprint"], line["steps_per_item"]
    sys.stderr.write(
        f"{name}: {rules['schedule']} keep {rules['keep_ratio']} threshold {line['confidence_threshold']} "
        f"steps {line['steps_per_block']}: {line['rate']:.1%} right, {steps:.1f} steps\n"
    )


def compare(bench: Bench) -> tuple[dict[str, Any], dict[str, list[Outcome]]]:
    """The exact path with the checkpoint's presets, then every setting on the same items: report and outcomes."""
    exact = bench.run(PLAIN, "exact")
    outcomes = {"exact": exact}
    report = {"items": len(bench.items), "exact": summary(exact, exact), "settings": list[Any]()}
    for name, given in grid(bench.options):
        outcomes[name] = bench.run(given, name)
        line = {"name": name} | bench.resolved(given) | summary(outcomes[name], exact)
        report["settings"].append(line)
        tell(bench.name, line)
    return report, outcomes


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="nano", help="nano, a hub id or a directory")
    options.add_argument("--part", choices=("pictures", "answers", "both"), default="both")
    options.add_argument("--count", type=int, help="that many prompts and that many questions; all when not given")
    options.add_argument("--pictures", type=int, metavar="N", help="that many prompts, instead of --count")
    options.add_argument("--answers", type=int, metavar="N", help="that many questions, instead of --count")
    options.add_argument("--preset", choices=tuple(SPRINT_PRESETS), nargs="+", help="compare these, not a grid")
    options.add_argument("--keep-ratio", type=float, nargs="+", default=[1.0, 0.7, 0.5, 0.3])
    options.add_argument("--threshold", type=float, nargs="+", default=[0.95, 0.9])
    options.add_argument("--steps", type=int, nargs="+", default=[32, 16, 8], help="steps per block")
    options.add_argument("--thin-text", action="store_true", help="the ratio holds for words too; else they are kept")
    options.add_argument("--warmup-steps", type=int, default=1)
    options.add_argument("--schedule", choices=("even", "adaptive"), nargs="+", default=["adaptive"])
    options.add_argument("--ranking", choices=("low_confidence", "top_k_margin", "neg_entropy"))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--state", type=Path, help="folder of outcomes: a run that was stopped goes on")
    options.add_argument("--device", default="auto")
    options.add_argument("--out", type=Path, help="result file")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = parser().parse_args(arguments)
    model, bench = LladaUni.from_pretrained(options.model, device=options.device), load_bench()
    parts: dict[str, tuple[Part, Sequence[Any], int | None]] = {
        "pictures": (pictures, bench.generation, options.pictures),
        "answers": (answers, bench.understanding, options.answers),
    }
    wanted = list(parts) if options.part == "both" else [options.part]
    numbers: dict[str, Any] = {"model": model.name, "bench_sha256": bench.sha256, "seed": options.seed}
    outcomes = list[dict[str, list[Outcome]]]()
    for name in wanted:
        part, items, count = parts[name]
        chosen = select(items, limit=options.count if count is None else count, seed=options.seed)
        numbers[name], found = compare(Bench(name=name, part=part, model=model, items=chosen, options=options))
        outcomes.append(found)
    if len(outcomes) > 1:
        numbers["together"] = together(outcomes)
    write(record(numbers, device=str(model.networks.device), arguments=arguments), options.out)


if __name__ == "__main__":
    main()
