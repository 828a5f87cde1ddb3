"""SceneBench on models whose score is known: a perfect one, wrong ones, an oracle and a parrot."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from llada_uni.errors import ConfigError
from llada_uni.evaluation.scenebench import (
    ceilings,
    decoded_from_true_codes,
    round_trip,
    run_scenebench,
    score_generation,
    score_understanding,
)
from llada_uni.scenes import SceneGraph, load_bench, parse, render, sample_matching
from llada_uni.scenes.bench import GENERATION_CATEGORIES, UNDERSTANDING_CATEGORIES, score, select
from llada_uni.scenes.questions import FAMILIES

LIMIT = 13  # one item of each category and held-out mark


class Mirror(nn.Module):
    """A VAE that loses ``loss`` grey levels; 0 is perfect."""

    config = SimpleNamespace(factor=1)

    def __init__(self, loss: float = 0.0) -> None:
        super().__init__()
        self.loss = nn.Parameter(torch.tensor(loss), requires_grad=False)

    def encode(self, images: Tensor) -> tuple[Tensor, None]:
        return images, None

    def to_model(self, latents: Tensor) -> Tensor:
        return latents

    from_model = to_model

    def decode(self, latents: Tensor) -> Tensor:
        return latents + 0.001 if float(self.loss) == 0 else torch.full_like(latents, float(self.loss))


class Painter:
    """Has the methods of ``LladaUni`` that SceneBench calls; ``draw`` makes a picture of a prompt."""

    name = "painter"

    def __init__(self, draw: Any = None, answer: Any = None, *, blind: bool = False) -> None:
        self._draw, self._answer, self._blind = draw or perfect, answer, blind
        self.networks = SimpleNamespace(vae=Mirror(0.3 if blind else 0.0))
        self.calls: list[dict[str, Any]] = []

    def generate_image(self, prompts: list[str], **options: Any) -> list[Any]:
        self.calls.append(options | {"count": len(prompts)})
        assert len(options["seed"]) == len(prompts)
        return [SimpleNamespace(image=self._draw(prompt)) for prompt in prompts]

    def understand_image(self, images: list[Image.Image], questions: list[str], **options: Any) -> list[Any]:
        self.calls.append(options | {"count": len(questions)})
        return [SimpleNamespace(text=self._answer(*pair)) for pair in zip(images, questions, strict=True)]

    def encode_image(self, images: list[Image.Image]) -> list[Image.Image]:
        return images

    def decode_image(self, encoded: list[Image.Image], *, seed: list[int], decoder: str | None) -> list[Any]:
        self.calls.append({"seed": seed, "decoder": decoder})
        empty = render(SceneGraph())
        return [SimpleNamespace(image=empty if self._blind else image) for image in encoded]


def perfect(prompt: str) -> Image.Image:
    return render(sample_matching(random.Random(prompt), parse(prompt)))


def a_red_ball(_: str) -> Image.Image:
    return perfect("a red ball")


@cache
def grey(_: str) -> Image.Image:
    return Image.new("RGB", (128, 128), (128, 128, 128))


def oracle(items: Sequence[Any]) -> Any:
    """Answers by looking the rendered scene and the question up."""
    known = {(render(item.graph).tobytes(), item.question.text): item.question.answer for item in items}
    return lambda image, question: known[image.tobytes(), question]


def questions(limit: int | None, seed: int = 0) -> tuple[Any, ...]:
    return select(load_bench().understanding, limit=limit, seed=seed)


def test_a_perfect_painter_scores_one() -> None:
    scores = score_generation(Painter(), select(load_bench().generation, limit=2 * LIMIT, seed=3))
    assert scores.overall == 1.0
    assert {found.total for found in scores.categories.values()} == {2}
    assert set(scores.categories) == set(GENERATION_CATEGORIES)
    assert all(found.rate == 1.0 for found in scores.held_out.values())


@pytest.mark.parametrize("draw", [a_red_ball, grey])
def test_a_wrong_painter_scores_nothing(draw: Any) -> None:
    items = [item for item in load_bench().generation if "red ball" not in item.prompt]
    chosen = [i for i in select(items, limit=5 * LIMIT, seed=1) if i.category not in ("single_object", "colours")]
    scores = score_generation(Painter(draw), chosen)
    assert scores.overall == 0.0
    assert scores.interval[0] == 0.0


def test_the_oracle_scores_one() -> None:
    items = questions(18)
    scores = score_understanding(Painter(answer=oracle(items)), items)
    assert scores.overall == 1.0
    assert set(scores.categories) == set(UNDERSTANDING_CATEGORIES)


def test_a_parrot_scores_by_chance() -> None:
    items = [item for item in load_bench().understanding if not item.held_out][::5]
    scores = score_understanding(Painter(answer=lambda *_: "yes"), items)
    rates = {name: found.rate for name, found in scores.categories.items()}
    assert 0.3 <= rates["existence"] <= 0.7
    assert 0.05 <= rates["relation"] <= 0.6
    assert {name for name, rate in rates.items() if rate} == {"existence", "relation"}
    assert scores.overall == pytest.approx((rates["existence"] + rates["relation"]) / 8)


def test_the_whole_report() -> None:
    told: list[tuple[str, int, int, int]] = []
    model = Painter(answer=oracle(questions(18)))
    report = run_scenebench(
        model, limit=18, progress=lambda *args: told.append(args), settings={"decoder": "normal", "num_steps": 4}
    )
    assert report["bench"] == "scenebench-v1"
    assert report["model"] == "painter"
    assert report["generation"]["overall"] == report["understanding"]["overall"] == 1.0
    assert set(report["generation"]["scored"]) == set(GENERATION_CATEGORIES)
    assert set(report["understanding"]["scored"]) == set(UNDERSTANDING_CATEGORIES) - {"background", "style"}
    assert report["ceilings"]["decoder"]["rate"] == 1.0
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert told == [
        ("generation", 16, 18, 16), ("generation", 18, 18, 18),
        ("understanding", 16, 18, 16), ("understanding", 18, 18, 18),
    ]  # fmt: skip
    assert model.calls[0] == {"seed": list(range(16)), "decoder": "normal", "num_steps": 4, "count": 16}
    assert model.calls[1]["seed"] == [16, 17]
    assert "decoder" not in model.calls[-1]


def test_limit_counts_prompts_and_questions_separately() -> None:
    report = run_scenebench(Painter(answer=lambda *_: "no"), limit=3, seed=5)
    for part in ("generation", "understanding"):
        groups = (*report[part]["categories"].values(), *report[part]["held_out"].values())
        assert sum(found["total"] for found in groups) == 3
    assert report["seed"] == 5


def test_categories_choose_the_part() -> None:
    report = run_scenebench(Painter(), limit=4, categories=["counting"])
    assert set(report["generation"]["categories"]) | set(report["generation"]["held_out"]) == {"counting"}
    assert "understanding" not in report
    report = run_scenebench(Painter(answer=lambda *_: "two"), limit=4, categories=["count"])
    assert set(report) & {"generation", "ceilings"} == set()
    assert set(report["understanding"]["categories"]) == {"count"}


@pytest.mark.parametrize("category", ["background", "style"])
def test_a_report_without_a_scored_category_is_valid_json(category: str) -> None:
    report = run_scenebench(Painter(answer=lambda *_: "night"), limit=4, categories=[category])
    assert report["understanding"]["scored"] == []
    assert report["understanding"]["overall"] is None
    json.dumps(report, allow_nan=False)


def test_wrong_arguments_are_one_line() -> None:
    with pytest.raises(ConfigError, match="unknown category 'colour_blindness'; expected some of single_object"):
        run_scenebench(Painter(), categories=["counting", "colour_blindness"])
    with pytest.raises(ConfigError, match="at least 1"):
        run_scenebench(Painter(), limit=0)


def test_ceilings_name_the_part_that_loses_the_scene() -> None:
    items = select(load_bench().generation, limit=6, seed=2)
    found = ceilings(Painter(), items)
    assert {name: (part["rate"], part["exact"], part["total"]) for name, part in found.items()} == {
        "verifier": (1.0, 1.0, 6), "vae": (1.0, 1.0, 6), "decoder": (1.0, 1.0, 6),
    }  # fmt: skip
    found = ceilings(Painter(blind=True), items)
    assert {name: (part["rate"], part["exact"]) for name, part in found.items()} == {
        "verifier": (1.0, 1.0), "vae": (0.0, 0.0), "decoder": (0.0, 0.0),
    }  # fmt: skip


def test_ceilings_of_a_whole_run_cover_every_category(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    module = "llada_uni.evaluation.scenebench"
    monkeypatch.setattr(f"{module}.ceilings", lambda _, items, **__: seen.extend(items))
    monkeypatch.setattr(f"{module}.score_generation", lambda _, items, **__: score(items, [True] * len(items)))
    run_scenebench(Painter(), categories=GENERATION_CATEGORIES)
    counts = Counter(item.category for item in seen)
    assert set(counts) == set(GENERATION_CATEGORIES)
    assert 100 <= len(seen) <= 200


def test_round_trip_is_exact_for_an_exact_vae() -> None:
    picture = perfect("a blue fish")
    assert round_trip(Painter(), picture).tobytes() == picture.tobytes()


def test_true_codes_are_decoded_in_batches_with_their_own_seeds() -> None:
    model = Painter()
    pictures = [grey("")] * 18
    assert decoded_from_true_codes(model, pictures, seed=5, decoder="turbo") == pictures
    assert model.calls == [
        {"seed": list(range(5, 21)), "decoder": "turbo"}, {"seed": [21, 22], "decoder": "turbo"},
    ]  # fmt: skip


def test_every_family_of_questions_has_a_category() -> None:
    assert set(UNDERSTANDING_CATEGORIES) <= set(FAMILIES)
