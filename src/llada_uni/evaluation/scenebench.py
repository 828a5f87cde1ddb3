"""Runs SceneBench v1 on a model, with the ceilings beside the score.

A generated picture counts when the verifier reads it and the scene it reads satisfies the prompt; an answer counts
when it is exactly right. The ceilings say how much of a lower score is not the backbone's fault: the same prompts are
drawn as scenes and verified as renders, after a VAE round trip, and after decoding their true codes.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from llada_uni.errors import ConfigError
from llada_uni.pipeline import LladaUni
from llada_uni.pipeline.pixels import to_images
from llada_uni.scenes.bench import (
    GENERATION_CATEGORIES,
    SCORED_FAMILIES,
    UNDERSTANDING_CATEGORIES,
    CategoryScore,
    GenerationItem,
    Scores,
    UnderstandingItem,
    answer_passes,
    load_bench,
    picture_passes,
    score,
    select,
)
from llada_uni.scenes.graph import SceneGraph
from llada_uni.scenes.predicates import parse
from llada_uni.scenes.render import render
from llada_uni.scenes.sample import sample_matching
from llada_uni.scenes.verify import verify

__all__ = [
    "Answers",
    "Draws",
    "Progress",
    "ceilings",
    "decoded_from_true_codes",
    "generation_outcomes",
    "matching_scenes",
    "rated",
    "round_trip",
    "run_scenebench",
    "score_generation",
    "score_understanding",
    "scores_as_dict",
    "understanding_outcomes",
]

_BATCH = 16
_CEILING_ITEMS = 140


class Progress(Protocol):
    """Told after every batch: which part, items done, items in all, items right so far."""

    def __call__(self, part: str, done: int, total: int, correct: int) -> None: ...


class Draws(Protocol):
    """What makes pictures of prompts: ``LladaUni``, or a baseline; lists in, lists out."""

    def generate_image(self, prompt: Any, /, **options: Any) -> Any:
        """Prompts to results with ``.image``; ``seed`` is one per prompt."""
        ...


class Answers(Protocol):
    """What answers questions about pictures; lists in, lists out."""

    def understand_image(self, image: Any, question: Any, /, **options: Any) -> Any:
        """A picture for each question, to results with ``.text``."""
        ...


def run_scenebench(
    model: LladaUni,
    *,
    limit: int | None = None,
    seed: int = 0,
    categories: Sequence[str] | None = None,
    progress: Progress | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores of ``model`` on SceneBench v1 as one JSON-ready object.

    ``limit`` is the number of generation items and, separately, of understanding items (a balanced subset drawn with
    ``seed``); all by default. ``categories`` keeps only these. ``settings`` are passed on to ``generate_image``.

    Raises:
        ConfigError: an unknown category or a limit below 1.
    """
    bench = load_bench()
    wanted = _checked(categories)
    pictures = select([i for i in bench.generation if i.category in wanted], limit=limit, seed=seed)
    questions = select([i for i in bench.understanding if i.category in wanted], limit=limit, seed=seed)
    start = time.perf_counter()
    report: dict[str, Any] = {"bench": "scenebench-v1", "sha256": bench.sha256, "model": model.name, "seed": seed}
    if pictures:
        report["generation"] = scores_as_dict(
            score_generation(model, pictures, seed=seed, progress=progress, settings=settings)
        )
        report["ceilings"] = ceilings(model, select(pictures, limit=_CEILING_ITEMS, seed=seed), seed=seed)
    if questions:
        report["understanding"] = scores_as_dict(score_understanding(model, questions, seed=seed, progress=progress))
    report["seconds"] = round(time.perf_counter() - start, 1)
    return report


def score_generation(
    model: Draws,
    items: Sequence[GenerationItem],
    *,
    seed: int = 0,
    progress: Progress | None = None,
    settings: dict[str, Any] | None = None,
) -> Scores:
    """One picture per prompt, seeds ``seed``, ``seed + 1``, …; read by the verifier."""
    return score(items, generation_outcomes(model, items, seed=seed, progress=progress, settings=settings))


def generation_outcomes(
    model: Draws,
    items: Sequence[GenerationItem],
    *,
    seed: int = 0,
    progress: Progress | None = None,
    settings: dict[str, Any] | None = None,
) -> list[bool]:
    """Whether the picture of each prompt is right, as :func:`score_generation` counts it."""
    outcomes: list[bool] = []
    options: dict[str, Any] = {} if settings is None else settings
    for begin in range(0, len(items), _BATCH):
        part = items[begin : begin + _BATCH]
        seeds = [seed + begin + offset for offset in range(len(part))]
        results = model.generate_image([item.prompt for item in part], seed=seeds, **options)
        outcomes += [picture_passes(item, verify(r.image)) for item, r in zip(part, results, strict=True)]
        _tell(progress, "generation", outcomes, items)
    return outcomes


def score_understanding(
    model: Answers, items: Sequence[UnderstandingItem], *, seed: int = 0, progress: Progress | None = None
) -> Scores:
    """One greedy answer per question about a rendered scene."""
    return score(items, understanding_outcomes(model, items, seed=seed, progress=progress))


def understanding_outcomes(
    model: Answers, items: Sequence[UnderstandingItem], *, seed: int = 0, progress: Progress | None = None
) -> list[bool]:
    """Whether the answer to each question is right, as :func:`score_understanding` counts it."""
    outcomes: list[bool] = []
    for begin in range(0, len(items), _BATCH):
        part = items[begin : begin + _BATCH]
        answers = model.understand_image(
            [render(item.graph) for item in part], [item.question.text for item in part], seed=seed, max_new_tokens=64
        )
        outcomes += [answer_passes(item, a.text) for item, a in zip(part, answers, strict=True)]
        _tell(progress, "understanding", outcomes, items)
    return outcomes


def ceilings(model: LladaUni, items: Sequence[GenerationItem], *, seed: int = 0) -> dict[str, Any]:
    """Success rates of the same prompts when the right scene is drawn instead of imagined.

    ``verifier``: the render itself; ``vae``: its VAE round trip; ``decoder``: decoded from its true codes.
    """
    scenes = matching_scenes(items, seed=seed)
    renders = [render(scene) for scene in scenes]
    routes: dict[str, Callable[[Sequence[Image.Image]], list[Image.Image]]] = {
        "verifier": list,
        "vae": lambda images: [round_trip(model, image) for image in images],
        "decoder": lambda images: decoded_from_true_codes(model, images, seed=seed),
    }
    return {name: rated(items, scenes, route(renders)) for name, route in routes.items()}


def matching_scenes(items: Sequence[GenerationItem], *, seed: int = 0) -> list[SceneGraph]:
    """A scene that satisfies each prompt, drawn with ``seed`` and the item's id."""
    return [sample_matching(random.Random(f"{seed}/{item.id}"), parse(item.prompt)) for item in items]


def decoded_from_true_codes(
    model: LladaUni, images: Sequence[Image.Image], *, seed: int = 0, decoder: str | None = None
) -> list[Image.Image]:
    """Pictures encoded to codes and decoded again by ``decoder`` ("normal", "turbo" or the preset)."""
    pictures: list[Image.Image] = []
    for begin in range(0, len(images), _BATCH):
        encoded = model.encode_image(list(images[begin : begin + _BATCH]))
        seeds = [seed + begin + offset for offset in range(len(encoded))]
        pictures += [result.image for result in model.decode_image(encoded, seed=seeds, decoder=decoder)]
    return pictures


@torch.inference_mode()
def round_trip(model: LladaUni, image: Image.Image) -> Image.Image:
    """A picture through the VAE and back."""
    vae = model.networks.vae
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
    mean, _ = vae.encode(pixels.to(next(vae.parameters())) / 127.5 - 1)
    return to_images(vae, vae.to_model(mean))[0]


def rated(
    items: Sequence[GenerationItem], scenes: Sequence[SceneGraph], images: Sequence[Image.Image]
) -> dict[str, Any]:
    """Share of pictures that satisfy their prompts, with its interval, and share read exactly as ``scenes``."""
    read = [verify(image) for image in images]
    satisfied = sum(picture_passes(item, graph) for item, graph in zip(items, read, strict=True))
    exact = sum(_same(graph, scene) for graph, scene in zip(read, scenes, strict=True))
    rated = CategoryScore(correct=satisfied, total=len(items))
    return {
        "rate": rated.rate,
        "interval": list(rated.interval),
        "exact": exact / max(len(items), 1),
        "total": len(items),
    }


def _same(graph: SceneGraph | None, scene: SceneGraph) -> bool:
    if graph is None:
        return False
    return (graph.background, graph.style) == (scene.background, scene.style) and set(graph.objects) == set(
        scene.objects
    )


def _checked(categories: Sequence[str] | None) -> set[str]:
    known = (*GENERATION_CATEGORIES, *UNDERSTANDING_CATEGORIES)
    unknown = [name for name in categories or () if name not in known]
    if unknown:
        raise ConfigError(f"unknown category {unknown[0]!r}; expected some of {', '.join(known)}")
    return set(categories or known)


def _tell(progress: Progress | None, part: str, outcomes: Sequence[bool], items: Sequence[object]) -> None:
    if progress is not None:
        progress(part, len(outcomes), len(items), sum(outcomes))


def scores_as_dict(scores: Scores) -> dict[str, Any]:
    """Scores ready for JSON, as reports hold them."""
    return {
        "overall": None if math.isnan(scores.overall) else scores.overall,
        "interval": list(scores.interval),
        "categories": {name: _category(value) for name, value in sorted(scores.categories.items())},
        "held_out": {name: _category(value) for name, value in sorted(scores.held_out.items())},
        "scored": [n for n in (*GENERATION_CATEGORIES, *SCORED_FAMILIES) if n in scores.categories],
    }


def _category(value: CategoryScore) -> dict[str, Any]:
    return {"rate": value.rate, "interval": list(value.interval), "correct": value.correct, "total": value.total}
