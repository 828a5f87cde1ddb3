"""SPRINT through the public doors: names, objects, ratios, mixed requests, mistakes."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llada_uni import LladaUni, Sprint
from llada_uni.errors import ConfigError
from llada_uni.grid import TokenGrid
from llada_uni.pipeline.requests import answer_request, image_request, question_ids
from llada_uni.pipeline.results import EncodedImage
from llada_uni.pipeline.settings import answer_settings, image_settings, resolve_sprint
from llada_uni.pipeline.stations import returned, write
from llada_uni.protocols import Guidance
from llada_uni.testing.checkpoint import write_tiny_checkpoint
from llada_uni.weights.catalog import SPRINT_PRESETS, sprint_preset

NOTHING = dict.fromkeys(
    ("steps_per_block", "guidance_scale", "confidence_threshold", "temperature", "num_steps", "decoder")
)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> LladaUni:
    path: Path = write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")
    return LladaUni.from_pretrained(path, device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))


def test_off_by_default_and_the_same_picture_with_ratio_one(exact: LladaUni) -> None:
    plain = exact.generate_image("three stars", seed=2, width=48, height=32)
    assert plain.settings["sprint"] is None
    for options in ({"keep_ratio": 1.0}, {"sprint": Sprint(keep_ratio=1.0)}, {"sprint": Sprint(), "keep_ratio": 1}):
        whole = exact.generate_image("three stars", seed=2, width=48, height=32, **options)
        assert whole.codes == plain.codes
        assert whole.usage == plain.usage
        assert whole.settings["sprint"]["keep_ratio"] == 1


def test_a_preset_changes_what_it_says_and_arguments_win(exact: LladaUni, photo: Image.Image) -> None:
    settings = exact.generate_image("a", seed=1, sprint="readme").settings
    assert settings["sprint"] == asdict(SPRINT_PRESETS["readme"]["picture"].sprint)
    assert (settings["steps_per_block"], settings["confidence_threshold"]) == (8, 0.95)
    settings = exact.generate_image("a", seed=1, sprint="readme", steps_per_block=3, keep_ratio=0.3).settings
    assert settings["steps_per_block"] == 3
    assert (settings["sprint"]["keep_ratio"], settings["sprint"]["text_keep_ratio"]) == (0.3, None)
    answer = exact.understand_image(photo, "how many?", seed=1, sprint="readme", max_new_tokens=3)
    assert answer.settings["sprint"] == asdict(SPRINT_PRESETS["readme"]["text"].sprint)
    assert answer.settings["confidence_threshold"] == 0.93
    answer = exact.understand_image(photo, "how many?", seed=1, sprint="readme", confidence_threshold=0.5)
    assert answer.settings["confidence_threshold"] == 0.5


@pytest.mark.parametrize("name", sorted(SPRINT_PRESETS))
def test_every_preset_runs_for_pictures_and_answers(exact: LladaUni, photo: Image.Image, name: str) -> None:
    results = exact.generate_image(["a", "two red apples left of a house"], seed=4, sprint=name, temperature=1.0)
    for result in results:
        assert len(result.codes) == 16
        again = exact.generate_image(result.prompt, seed=result.seed, sprint=name, temperature=1.0)
        assert again.codes == result.codes, "alone = in a batch"
    assert exact.understand_image([photo, photo], ["how many?", "a?"], seed=1, sprint=name, max_new_tokens=6)


def test_preset_values_are_those_of_their_sources() -> None:
    paper = sprint_preset("paper", "picture")
    assert (paper.sprint.image_ratio, paper.sprint.text_ratio, paper.sprint.warmup_steps) == (0.8, 1.0, 1)
    readme = sprint_preset("readme", "text")
    assert not readme.sprint.thins
    assert readme.confidence_threshold == 0.93
    released = sprint_preset("released", "picture").sprint
    assert (released.keep_ratio, released.warmup_steps, released.alpha, released.variant) == (0.7, 2, 0.5, "released")


def test_one_batch_of_exact_thinned_and_edited_rows(exact: LladaUni) -> None:
    """Rows of different tasks, guidance and rules in one call are what they are alone."""
    networks, presets = exact.networks, exact.networks.package.presets
    grid, special = TokenGrid(4, 6), networks.vocab.special
    plain = image_settings(presets, (32, 48), NOTHING)
    thinned = image_settings(presets, (32, 48), NOTHING | {"keep_ratio": 0.4})
    first = image_request(networks, "two red apples left of a house", 1, grid, plain)
    second = replace(first, sampling=thinned.sampling())
    edited = replace(
        second,
        prompts=(*second.prompts, (*second.prompts[0][:20], special.soi, *second.prompts[0][20:])),
        guidance=Guidance(kind="editing", text=3.0, image=1.5),
    )
    source = EncodedImage(codes=tuple(range(24)), grid=grid, model="x")
    rules = answer_settings(presets, NOTHING | {"max_new_tokens": 12, "temperature": 0.0, "sprint": "paper"})
    answer = answer_request(networks, question_ids(networks, "how many?", [source]), 3, rules)
    requests = [first, second, edited, answer]
    together = [done.output_ids for done in returned(write(networks, requests, "block"))]
    alone = [returned(write(networks, [request], "block"))[0].output_ids for request in requests]
    assert together == alone
    assert len(set(together)) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sprint": "fast"}, "sprint: expected one of paper, readme, released or a Sprint, got 'fast'"),
        ({"sprint": 0.5}, "sprint: expected the name of a preset or a Sprint, got float"),
        ({"sprint": {"keep_ratio": 0.5}}, "got dict"),
        ({"keep_ratio": 0}, "keep_ratio: expected a number above 0 to 1, got 0"),
        ({"keep_ratio": 1.5}, "keep_ratio: expected a number above 0 to 1, got 1.5"),
        ({"keep_ratio": "half"}, "keep_ratio: expected a number"),
        ({"sprint": "paper", "keep_ratio": -1}, "keep_ratio: expected"),
    ],
)
def test_wrong_values_fail_before_anything_is_computed(
    exact: LladaUni, photo: Image.Image, options: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        exact.stream_image("a", **options)
    with pytest.raises(ConfigError, match=message):
        exact.stream_answer(photo, "what?", **options)


def test_nothing_asked_for_is_nothing_done() -> None:
    assert resolve_sprint(None, None, "picture") is None
