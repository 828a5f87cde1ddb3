"""The baselines of SceneBench: what is nearest is nearest, questions are answered blindly, scorers accept them."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from llada_uni import LladaUni
from llada_uni.decoder.classes import ClassEmbedder, ClassEmbedderConfig
from llada_uni.errors import ConfigError
from llada_uni.evaluation.baselines import AutoregressiveModel, ClassPictures, Retrieval, WordIndex
from llada_uni.evaluation.scenebench import matching_scenes, rated, score_generation, score_understanding
from llada_uni.scenes import load_bench, render, sample_scene
from llada_uni.scenes.bench import select
from llada_uni.scenes.captions import caption
from llada_uni.scenes.classes import CLASS_SIZES
from llada_uni.testing.checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LladaUni:
    return LladaUni.from_pretrained(write_tiny_checkpoint(tmp_path_factory.mktemp("baselines") / "tiny"), device="cpu")


def test_scores_are_cosines_of_tf_idf() -> None:
    index = WordIndex(["red cat", "blue cat", "red"])
    weight = {word: math.log(4 / (1 + n)) + 1 for word, n in (("red", 2), ("cat", 2), ("red cat", 1), ("blue", 1))}
    query = [weight["red"], weight["cat"], weight["red cat"]]
    length = math.hypot(*query)
    second = math.hypot(weight["blue"], weight["cat"], weight["blue"])  # "blue cat" is as rare as "blue"
    wanted = [1.0, weight["cat"] ** 2 / length / second, weight["red"] / length]
    np.testing.assert_allclose(index.scores("RED, cat!"), wanted, rtol=1e-12)
    assert index.nearest("a red cat", 3) == [0, 2, 1]
    assert index.nearest("blue") == [1]
    assert index.nearest("nothing of this", 2) == [0, 1], "unknown words: the first"
    assert index.scores("nothing of this").tolist() == [0, 0, 0]
    with pytest.raises(ConfigError, match="at least one text"):
        WordIndex([])


def test_an_order_of_words_matters() -> None:
    index = WordIndex(["a red cat and a blue cup", "a blue cat and a red cup"])
    assert index.nearest("a photo of a blue cat") == [1]
    assert index.nearest("red cat") == [0]


def test_the_nearest_scene_is_shown_and_bench_scenes_are_not_searched() -> None:
    rng = random.Random(3)
    scenes = [sample_scene(rng) for _ in range(60)]
    bench = load_bench()
    model = Retrieval([*scenes, bench.understanding[0].graph, bench.understanding[7].graph], bench=bench)
    assert (model.size, model.left_out, model.num_questions) == (60, 2, 120)
    told = [caption(scene, random.Random(0), detail="full") for scene in scenes]
    found = [model.nearest_scene(text) for text in told]
    assert sum(a == b for a, b in zip(found, scenes, strict=True)) > 20
    (shown,) = model.generate_image([told[0]], seed=[1])
    assert shown.image.tobytes() == render(found[0]).tobytes()
    with pytest.raises(ConfigError, match="none outside the benchmark"):
        Retrieval([bench.understanding[0].graph], bench=bench)


def test_questions_are_answered_without_the_picture() -> None:
    rng = random.Random(4)
    model = Retrieval([sample_scene(rng) for _ in range(200)])
    asked = "which style is the picture in?"
    near = model.nearest_questions(asked, 5)
    assert {question.family for question in near} == {"style"}
    (answer,), (again,) = (model.understand_image([picture], [asked]) for picture in (None, render(sample_scene(rng))))
    assert answer.text == again.text == "flat", "the commonest style of training scenes"
    assert model.common_answer("style") == "flat"
    assert model.common_answer("existence") in ("yes", "no")
    assert model.common_answer("no such family") == ""
    items = select(load_bench().understanding, limit=18)
    scores = score_understanding(model, items)
    assert sum(one.total for one in (*scores.categories.values(), *scores.held_out.values())) == 18
    pictures = Retrieval([sample_scene(rng)], questions=0)
    with pytest.raises(ConfigError, match="no questions"):
        pictures.understand_image([None], [asked])


def test_a_causal_model_is_scored_like_any_other(tiny: LladaUni) -> None:
    model = AutoregressiveModel(tiny, tiny.networks.backbone)
    prompts = ["a red ball", "a cat and a blue cup"]
    first, second = model.generate_image(prompts, seed=[5, 6])
    (alone,) = model.generate_image(prompts[1:], seed=[6])
    assert first.image.size == second.image.size == tiny.generate_image("a", seed=0).image.size
    assert alone.image.tobytes() == second.image.tobytes() != first.image.tobytes()
    bench = load_bench()
    scores = score_generation(model, select(bench.generation, limit=2), settings={"guidance_scale": 1.0})
    assert sum(one.correct for one in scores.categories.values()) == 0
    picture = render(sample_scene(random.Random(0)))
    answers = model.understand_image([picture, picture], ["what is this?", "is there a cat?"], max_new_tokens=5)
    assert [one.text for one in answers] == [
        model.understand_image([picture], [text], max_new_tokens=5)[0].text
        for text in ("what is this?", "is there a cat?")
    ]


def test_pictures_from_classes(tiny: LladaUni) -> None:
    decoder = tiny.networks.decoder("normal")
    if decoder.config.condition_positions != "grid":
        pytest.skip("the tiny checkpoint's decoder has another layout")
    torch.manual_seed(0)
    embedder = ClassEmbedder(ClassEmbedderConfig(sizes=CLASS_SIZES, width=decoder.config.cap_feat_dim))
    model = ClassPictures(tiny, decoder, embedder)
    items = select(load_bench().generation, limit=3)
    scenes = matching_scenes(items, seed=1)
    assert scenes == matching_scenes(items, seed=1) != matching_scenes(items, seed=2)
    pictures = model.draw(scenes, [1, 2, 3], num_steps=2)
    assert pictures[1].size == (8 * scenes[1].grid_w, 8 * scenes[1].grid_h), "8 pixels a cell in this checkpoint"
    (again,) = model.draw(scenes[1:2], [2], num_steps=2)
    assert np.abs(np.asarray(again, dtype=int) - np.asarray(pictures[1], dtype=int)).max() <= 1
    assert rated(items, scenes, pictures)["total"] == 3
    assert rated(items, scenes, [render(scene) for scene in scenes])["exact"] == 1.0
