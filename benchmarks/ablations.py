"""What each rule of the training recipes is worth: arms that differ from the recipe in one rule, for the same budget.

The part ``backbone`` trains recipes.nano:backbone once per arm and seed, all for the same minutes or the same steps,
and scores held-out scenes with the averaged weights: nats per code of half and fully masked pictures and of hidden
rectangles in else visible ones, answers written in one step, and how unequal the experts' loads were (MaxVio, the last
quarter of the log). The part ``decoder`` distils the decoder of ``--model`` and compares eight of its steps with eight
and with twenty Euler steps of that decoder, on the same scenes and noise.

python benchmarks/ablations.py --model src/llada_uni/nano --cache build/ablations --minutes 10 --seeds 0 1 \\
    --out benchmarks/results/ablations.json

Every arm and seed keeps its state in a folder of ``--cache``: a run that was stopped goes on where it was when the
command is given again, and what is finished is not repeated. Missing codes are extracted there, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from _record import record, write
from training_curves import curve

_POINT_MASS_OFF = ("objective.image_law.full_share=0.0", "objective.text_law.full_share=0.0")
ARMS: dict[str, tuple[str, ...]] = {
    "recipe": (),
    "token mean": ("objective.mtrs=False",),
    "complementary": ("objective.mix.complementary=True",),
    "no balancing": ("objective.balance_rate=0.0",),
    "no point mass": _POINT_MASS_OFF,
    "no hidden regions": ("objective.mix.region_share=0.0",),
}
_VISIBLE = 1e-6  # mask ratio of what is not hidden when hidden regions are scored
_GROUP = 8  # pictures of a group: groups are what the spread of the decoder's differences is taken over
_FEW_STEPS, _MANY_STEPS = 8, 20
_PLAIN_SHIFT = 3.0


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", type=Path, required=True, help="directory with the tokenizers and the decoder")
    options.add_argument("--cache", type=Path, required=True, help="folder for codes and the state of every run")
    options.add_argument("--parts", nargs="+", default=["backbone", "decoder"], choices=["backbone", "decoder"])
    options.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    budget = options.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="of every run")
    budget.add_argument("--steps", type=int, help="of every run")
    options.add_argument("--pictures", type=int, default=96, help="scenes that decoders are compared on")
    options.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change every backbone run")
    options.add_argument("--set-decoder", action="append", default=[], metavar="a.b=c", help="change the distillation")
    options.add_argument("--out", type=Path, help="result file")
    return options


def job_of(recipe: str, name: str, seed: int, options: argparse.Namespace, changes: Sequence[str]) -> Any:
    """The recipe with the budget of this command and ``changes``."""
    from llada_uni.config import override
    from llada_uni.training.run import resolve_recipe

    job: Any = replace(resolve_recipe(recipe), name=name, minutes=options.minutes, steps=options.steps, seed=seed)
    for change in changes:
        job = override(job, change)
    return job


def finished(
    job: Any, options: argparse.Namespace, score: Any, *, stored_in: str = "evaluation.json"
) -> dict[str, Any]:
    """Trains ``job`` to its end, or takes over what an earlier command left; its curve and ``score(objective)``.

    ``score`` is asked with the averaged weights in place; what it says is kept in the file ``stored_in``.
    """
    from llada_uni.training.checkpoint import load_state
    from llada_uni.training.config import describe
    from llada_uni.training.export import write_json
    from llada_uni.training.metrics import METRICS_FILE
    from llada_uni.training.objective import Resources
    from llada_uni.training.train import Run, train

    directory = options.cache / job.name
    done, made_with = directory / stored_in, json.loads(json.dumps(describe(job)))
    if done.exists():
        stored = json.loads(done.read_text(encoding="utf-8"))
        if stored["made_with"] != made_with:
            sys.exit(f"error: {done} was made with other settings; give another --cache or remove {directory}")
    else:
        objective = job.objective.build(Resources(out=options.model, cache=options.cache), job.seed)
        result = train(job, objective, directory)
        run = Run.start(job, objective)
        state = load_state(directory)
        assert state is not None
        run.restore(state)
        with run.ema.applied(objective.model):
            numbers = score(objective)
        stored = {"steps": result.step, "seconds": round(state.seconds, 1), "made_with": made_with, **numbers}
        write_json(done, stored)
    lines = (directory / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    told = {name: value for name, value in stored.items() if name != "made_with"}
    return {**told, "curve": curve(lines)}


def backbone_score(objective: Any, seed: int) -> dict[str, Any]:
    """Held-out metrics of a backbone, by name."""
    return {"metrics": {**objective.evaluate(seed + 1), "nll_hidden_region": region_nats(objective, seed + 1)}}


@torch.no_grad()
def region_nats(objective: Any, seed: int) -> float:
    """Nats per code of random rectangles of held-out pictures, everything else of the picture and its words visible."""
    from llada_uni.data.block_rows import collate, lay_out
    from llada_uni.data.code_pool import encode_pictures
    from llada_uni.data.scene_stream import draw_scenes, pictures, python_random
    from llada_uni.diffusion.masking import MaskRatioLaw
    from llada_uni.training.objective import Draw
    from llada_uni.training.objectives.backbone import masked_losses, noised

    draw = Draw(seed=seed, step=0, size=objective.config.eval_documents)
    rng, mix = draw.numpy("regions"), replace(objective.writer.mix, region_share=1.0, unconditional_share=0.0)
    writer, special = replace(objective.writer, mix=replace(mix, complementary=False)), objective.writer.vocab.special
    graphs = draw_scenes(rng, draw.size, (8, 8), held_out=None)
    codes, source = encode_pictures(objective.tokenizer, pictures(graphs)), python_random(rng)
    documents = [writer.picture(graph, own, source, whole=True) for graph, own in zip(graphs, codes, strict=True)]
    rows = collate([lay_out(document, special.eos) for document in documents], objective.config.capacity, special.eos)
    law = MaskRatioLaw(low=_VISIBLE, high=_VISIBLE, full_share=0.0)
    batch = noised(rows, law, law, special.mask, draw.torch("masks"))
    device = next(objective.model.parameters()).device
    found = masked_losses(objective.model.eval(), {name: value.to(device) for name, value in batch.items()})
    return float(found.losses[found.image].mean())


def backbone_part(options: argparse.Namespace) -> dict[str, Any]:
    """Every arm and seed, and what the arms differ in."""
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for seed in options.seeds:
        for arm in options.arms:
            name = f"{arm.replace(' ', '-')}-{seed}"
            job = job_of("recipes.nano:backbone", name, seed, options, (*options.set, *ARMS[arm]))
            found = finished(job, options, lambda objective, seed=seed: backbone_score(objective, seed))
            violations = found["curve"].get("max_violation", [])
            if violations:
                found["metrics"]["max_violation"] = statistics.fmean(violations[-max(len(violations) // 4, 1) :])
            runs.setdefault(arm, {})[seed] = found
            sys.stderr.write(f"{arm}, seed {seed}: {found['metrics']}\n")
    return {
        "arms": {arm: {"changes": ARMS[arm], "seeds": {str(s): run for s, run in runs[arm].items()}} for arm in runs},
        "summary": summary({arm: {s: run["metrics"] for s, run in seeds.items()} for arm, seeds in runs.items()}),
    }


def summary(found: dict[str, dict[int, dict[str, float]]], base: str = "recipe") -> dict[str, Any]:
    """For every arm and metric the mean over seeds, and the differences from ``base`` seed by seed."""
    told: dict[str, Any] = {}
    for arm, seeds in found.items():
        told[arm] = {}
        for metric in next(iter(seeds.values())):
            entry: dict[str, Any] = {"mean": statistics.fmean(numbers[metric] for numbers in seeds.values())}
            if base in found and arm != base:
                entry["minus_recipe"] = [seeds[s][metric] - found[base][s][metric] for s in seeds]
            told[arm][metric] = entry
    return told


def decoder_part(options: argparse.Namespace) -> dict[str, Any]:
    """The distilled decoder of every seed and the plain one, with eight steps each, and the plain one with twenty."""
    from llada_uni.training.export import frozen
    from llada_uni.training.objectives.decoder import Conditioned, Judge, Sampler

    size = min(_GROUP, options.pictures)

    def groups(model: Any, num_steps: int, shift: float, renoise_ratio: float) -> dict[str, Any]:
        judge = Judge(tokenizer=frozen(options.model, "image_tokenizer"), vae=frozen(options.model, "vae"))
        sampler = Sampler(model=model.eval(), num_steps=num_steps, shift=shift, renoise_ratio=renoise_ratio)
        return {"groups": [judge.score(sampler, 1000 + g, size) for g in range(options.pictures // size)]}

    normal = Conditioned(frozen(options.model, "decoder"), frozen(options.model, "semantic_embedder"))
    found = {
        "plain, 8 steps": groups(normal, _FEW_STEPS, _PLAIN_SHIFT, 0.0)["groups"],
        "plain, 20 steps": groups(normal, _MANY_STEPS, _PLAIN_SHIFT, 0.0)["groups"],
    }
    runs = {}
    for seed in options.seeds:
        job = job_of("recipes.nano:turbo", f"distilled-{seed}", seed, options, options.set_decoder)
        run = finished(job, options, lambda objective: groups(objective.model, _FEW_STEPS, 1.0, 1.0))
        found[f"distilled, 8 steps, seed {seed}"] = run.pop("groups")
        runs[str(seed)] = run
        sys.stderr.write(f"distilled, seed {seed}\n")
    base = found["plain, 8 steps"]
    compared = {name: compared_groups(values, base) for name, values in found.items()}
    return {"pictures": size * len(base), "samplers": compared, "seeds": runs}


def compared_groups(values: Sequence[dict[str, float]], base: Sequence[dict[str, float]]) -> dict[str, Any]:
    """For every metric the mean over groups, and mean and standard error of the difference from ``base`` by group."""
    told: dict[str, Any] = {}
    for metric in values[0]:
        differences = [one[metric] - other[metric] for one, other in zip(values, base, strict=True)]
        error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
        told[metric] = {
            "mean": statistics.fmean(one[metric] for one in values),
            "minus_plain_8": {"mean": statistics.fmean(differences), "standard_error": error},
        }
    return told


def main(arguments: list[str] | None = None) -> None:
    """Run what is not finished, show and store."""
    options = parser().parse_args(arguments)
    parts = {"backbone": backbone_part, "decoder": decoder_part}
    write(
        record({name: parts[name](options) for name in options.parts}, device="cpu", arguments=arguments), options.out
    )


if __name__ == "__main__":
    main()
