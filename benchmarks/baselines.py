"""What a score on SceneBench means: baselines without a network, without diffusion, and without learned codes.

The part ``retrieval`` shows the nearest training scene and repeats the commonest answers. The part ``backbones``
trains recipes.nano:backbone and recipes.nano:autoregressive for the same steps on the same documents and scores both
with the tokenizers and the decoder of ``--model``. The part ``decoders`` trains recipes.nano:decoder and
recipes.nano:class_decoder for the same steps and scores pictures of scenes that satisfy the prompts: from their codes,
and from their true classes.

python benchmarks/baselines.py --model src/llada_uni/nano --cache build/baselines \\
    --out benchmarks/results/baselines.json

Every training keeps its state in a folder of ``--cache``: a run that was stopped goes on where it was when the command
is given again, and what is finished is not repeated. Parts of a result file that are not asked for stay in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _record import paired_difference, record, write
from ablations import finished, job_of

STEPS, DECODER_STEPS = 240, 720
ARMS = {
    "block diffusion": ("recipes.nano:backbone", "recipe"),
    "autoregressive": ("recipes.nano:autoregressive", "autoregressive"),
}
DECODERS = {
    "codes": ("recipes.nano:decoder", "decoder"),
    "classes": ("recipes.nano:class_decoder", "class-decoder"),
}
_AT_ONCE = 16
_STORED = "scenebench.json"


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", type=Path, required=True, help="directory with the tokenizers and the decoders")
    options.add_argument("--cache", type=Path, required=True, help="folder for codes and the state of every training")
    options.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    options.add_argument("--arms", nargs="+", default=[*ARMS, *DECODERS], choices=[*ARMS, *DECODERS])
    options.add_argument("--steps", type=int, default=STEPS, help=f"of both backbones ({STEPS})")
    options.add_argument("--decoder-steps", type=int, default=DECODER_STEPS, help=f"of both decoders ({DECODER_STEPS})")
    options.add_argument("--limit", type=int, help="that many prompts and that many questions; all when not given")
    options.add_argument("--scenes", type=int, default=49152, help="training scenes that retrieval searches (49152)")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--settings", action="append", default=[], metavar="NAME=VALUE", help="of generate_image")
    options.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change both backbones")
    options.add_argument("--set-decoder", action="append", default=[], metavar="a.b=c", help="change both decoders")
    options.add_argument("--out", type=Path, help="result file")
    return options


def items_of(options: argparse.Namespace) -> tuple[Any, Any]:
    """The prompts and questions that everything here is scored on."""
    from llada_uni.scenes.bench import load_bench, select

    bench = load_bench()
    return tuple(select(one, limit=options.limit, seed=options.seed) for one in (bench.generation, bench.understanding))


def bench_scores(model: Any, options: argparse.Namespace, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Both tasks of SceneBench, what became of every item ("1" = right), and the seconds they took."""
    from llada_uni.evaluation.scenebench import generation_outcomes, scores_as_dict, understanding_outcomes
    from llada_uni.scenes.bench import score
    from scenebench import tell

    prompts, questions = items_of(options)
    began = time.perf_counter()
    drawn = generation_outcomes(model, prompts, seed=options.seed, progress=tell, settings=settings)
    told = understanding_outcomes(model, questions, seed=options.seed, progress=tell)
    return {
        "generation": scores_as_dict(score(prompts, drawn)),
        "understanding": scores_as_dict(score(questions, told)),
        "outcomes": {"generation": _digits(drawn), "understanding": _digits(told)},
        "scoring_seconds": round(time.perf_counter() - began, 1),
    }


def _digits(outcomes: list[bool]) -> str:
    return "".join(str(int(one)) for one in outcomes)


def compared(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Rates of ``second`` minus those of ``first`` over the same items, task by task, with 95 % intervals."""
    found = {}
    for task, digits in first["outcomes"].items():
        pairs = [[digit == "1" for digit in one] for one in (digits, second["outcomes"][task])]
        found[task] = paired_difference(*pairs)
    return found


def step_cpu_seconds(objective: Any, job: Any) -> float:
    """Processor time of the forward and backward pass of a step, mean over evenly spaced points of the run."""
    from llada_uni.training.objective import Draw

    spent, points = 0.0, (0.1, 0.3, 0.5, 0.7, 0.9)
    objective.model.train()
    for place, progress in enumerate(points):
        draw = Draw(seed=job.seed, step=10**6 + place, size=job.batch_size, progress=progress)
        batch = objective.batch(draw)
        began = time.process_time()
        objective.loss(batch, draw.torch("loss"))[0].backward()
        spent += time.process_time() - began
        objective.model.zero_grad(set_to_none=True)
    objective.model.eval()
    return round(spent / len(points), 3)


def retrieval_part(options: argparse.Namespace) -> dict[str, Any]:
    """The nearest training scene and the answers to the nearest questions; the commonest answer of every family."""
    from llada_uni.evaluation.baselines import Retrieval
    from llada_uni.evaluation.scenebench import scores_as_dict
    from llada_uni.scenes.bench import answer_passes, score
    from llada_uni.training.run import resolve_recipe

    pool = resolve_recipe("recipes.nano:backbone").objective.pool
    scenes = [scene for shard in range(-(-options.scenes // pool.shard_size)) for scene in pool.scenes(shard)]
    model = Retrieval(scenes[: options.scenes], seed=options.seed)
    _, questions = items_of(options)
    usual = [answer_passes(item, model.common_answer(item.category)) for item in questions]
    return {
        "scenes": model.size,
        "bench_scenes_left_out": model.left_out,
        "questions": model.num_questions,
        "nearest": bench_scores(model, options),
        "common_answer_of_the_family": {"understanding": scores_as_dict(score(questions, usual))},
    }


def backbone_part(options: argparse.Namespace) -> dict[str, Any]:
    """Both backbones after the same steps on the same documents, each with its own way of sampling."""
    from scenebench import settings

    given, found = settings(options.settings, None), {}
    scorers: dict[str, Callable[[Any, Path], Any]] = {
        "block diffusion": lambda objective, folder: _with(options, folder, backbone=objective.model),
        "autoregressive": lambda objective, folder: _causal(options, objective.model),
    }
    for arm in [one for one in ARMS if one in options.arms]:
        recipe, name = ARMS[arm]
        inner = "objective.scenes." if arm == "autoregressive" else "objective."
        changes = [one.replace("objective.", inner, 1) if one.startswith("objective.") else one for one in options.set]
        job = _job(recipe, name, options, options.steps, changes)

        def scored(objective: Any, arm: str = arm, job: Any = job) -> dict[str, Any]:
            cost = step_cpu_seconds(objective, job)
            model = scorers[arm](objective, options.cache / job.name / "checkpoint")
            told = {"metrics": objective.evaluate(options.seed + 1), "step_cpu_seconds": cost}
            return {**told, **bench_scores(model, options, given)}

        found[arm] = finished(job, options, scored, stored_in=_file(options))
        sys.stderr.write(f"{arm}: {_short(found[arm])}\n")
    numbers = {"steps": options.steps, "settings": given, "arms": found}
    if len(found) == len(ARMS):
        numbers["autoregressive_minus_block_diffusion"] = compared(found["block diffusion"], found["autoregressive"])
    return numbers


def decoder_part(options: argparse.Namespace) -> dict[str, Any]:
    """Both decoders after the same steps: pictures of scenes that satisfy the prompts, read by the verifier."""
    found = {}
    scorers: dict[str, Callable[[Any, Path], Any]] = {
        "codes": lambda model, folder: _with(options, folder, decoder=model.decoder, semantic_embedder=model.embedder),
        "classes": lambda model, folder: _classes(options, model),
    }
    for arm in [one for one in DECODERS if one in options.arms]:
        recipe, name = DECODERS[arm]
        job = _job(recipe, name, options, options.decoder_steps, options.set_decoder)

        def scored(objective: Any, arm: str = arm, job: Any = job) -> dict[str, Any]:
            cost = step_cpu_seconds(objective, job)
            model = scorers[arm](objective.model, options.cache / job.name / "checkpoint")
            told = {"metrics": objective.evaluate(options.seed + 1), "step_cpu_seconds": cost}
            return {**told, "pictures": _pictures(model, options)}

        found[arm] = finished(job, options, scored, stored_in=_file(options))
        sys.stderr.write(f"{arm}: {found[arm]['pictures']}\n")
    return {"steps": options.decoder_steps, "arms": found}


def _pictures(model: Any, options: argparse.Namespace) -> dict[str, Any]:
    from llada_uni.evaluation.baselines import ClassPictures
    from llada_uni.evaluation.scenebench import decoded_from_true_codes, matching_scenes, rated
    from llada_uni.scenes.render import render

    prompts, _ = items_of(options)
    scenes, images = matching_scenes(prompts, seed=options.seed), []
    if not isinstance(model, ClassPictures):
        images = decoded_from_true_codes(model, [render(s) for s in scenes], seed=options.seed, decoder="normal")
        return rated(prompts, scenes, images)
    for begin in range(0, len(scenes), _AT_ONCE):
        part = scenes[begin : begin + _AT_ONCE]
        images += model.draw(part, [options.seed + begin + place for place in range(len(part))])
    return rated(prompts, scenes, images)


def _with(options: argparse.Namespace, folder: Path, **networks: Any) -> Any:
    """The model with some of its networks replaced, opened from the checkpoint ``folder``."""
    from llada_uni import LladaUni
    from llada_uni.weights.save import Components, save_checkpoint

    return LladaUni.from_pretrained(save_checkpoint(folder, Components(**networks), base=options.model, dtype=None),
                                    device="cpu")  # fmt: skip


def _causal(options: argparse.Namespace, backbone: Any) -> Any:
    from llada_uni import LladaUni
    from llada_uni.evaluation.baselines import AutoregressiveModel

    return AutoregressiveModel(LladaUni.from_pretrained(options.model, device="cpu"), backbone)


def _classes(options: argparse.Namespace, model: Any) -> Any:
    from llada_uni import LladaUni
    from llada_uni.evaluation.baselines import ClassPictures

    return ClassPictures(LladaUni.from_pretrained(options.model, device="cpu"), model.decoder, model.embedder)


def _job(recipe: str, name: str, options: argparse.Namespace, steps: int, changes: list[str]) -> Any:
    budget = argparse.Namespace(minutes=None, steps=steps)
    return job_of(recipe, f"{name}-{options.seed}", options.seed, budget, changes)


def _file(options: argparse.Namespace) -> str:
    """Scores are kept apart by what they were taken on."""
    words = [str(options.limit or "all"), str(options.seed), *options.settings]
    return _STORED.replace(".", "-" + "-".join(word.replace("=", "_").replace("/", "_") for word in words) + ".")


def _short(found: dict[str, Any]) -> str:
    return ", ".join(f"{part} {found[part]['overall']:.3f}" for part in ("generation", "understanding"))


def kept(out: Path | None) -> dict[str, Any]:
    """The numbers of a result file that is there already."""
    if out is None or not out.exists():
        return {}
    return json.loads(out.read_text(encoding="utf-8")).get("numbers", {})


PARTS = {"retrieval": retrieval_part, "backbones": backbone_part, "decoders": decoder_part}


def main(arguments: list[str] | None = None) -> None:
    """Run what is not finished, show and store."""
    options = parser().parse_args(arguments)
    numbers = kept(options.out) | {"model": str(options.model), "limit": options.limit, "seed": options.seed}
    for name in options.parts:
        numbers[name] = PARTS[name](options)
        write(record(numbers, device="cpu", arguments=arguments), options.out)


if __name__ == "__main__":
    main()
