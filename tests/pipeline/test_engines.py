"""Another engine behind the same calls: the same pictures and answers, and what is left to the usual one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from llada_uni.errors import ConfigError
from llada_uni.pipeline import LladaUni
from llada_uni.pipeline.engines import check_weights_stay
from llada_uni.pipeline.memory import Keeping
from llada_uni.pipeline.settings import ImageOptions
from llada_uni.protocols import StepDone
from llada_uni.sampling.captured import CapturedSampler
from llada_uni.testing.checkpoint import tiny_components, write_tiny_checkpoint
from llada_uni.testing.tiny import tiny_backbone
from llada_uni.weights.save import save_checkpoint

PROMPTS = ["a", "two red apples left of a house and three blue boats", "three stars"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def models(checkpoint: Path) -> tuple[LladaUni, LladaUni]:
    opened = [
        LladaUni.from_pretrained(checkpoint, device="cpu", dtype="float64", engine=name) for name in (None, "captured")
    ]
    return opened[0], opened[1]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests every run of the captured driver had."""
    found: list[int] = []
    generate = CapturedSampler.generate

    def watched(self, requests):
        found.append(len(requests))
        return generate(self, requests)

    monkeypatch.setattr(CapturedSampler, "generate", watched)
    return found


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> tuple[LladaUni, LladaUni]:
    """Pictures begin at multiples of 8, texts go from left to right, pictures have a threshold of their own."""
    parts = tiny_components(1)
    assert parts.package is not None and parts.text_tokenizer is not None  # noqa: PT018
    vocab = parts.text_tokenizer.vocab(text_vocab_size=parts.text_tokenizer.num_ids, num_codes=24)
    presets = replace(parts.package.presets, text_order="sequential", image_threshold=0.3, confidence_threshold=0.9)
    changed = replace(
        parts,
        backbone=tiny_backbone(1, vocab=vocab, picture_alignment=8),
        package=replace(parts.package, presets=presets),
    )
    where = save_checkpoint(tmp_path_factory.mktemp("aligned") / "model", changed, dtype=None)
    opened = [
        LladaUni.from_pretrained(where, device="cpu", dtype="float64", engine=name) for name in (None, "captured")
    ]
    return opened[0], opened[1]


def test_texts_from_left_to_right_and_aligned_pictures(aligned: tuple[LladaUni, LladaUni], runs: list[int]) -> None:
    photo = Image.effect_noise((50, 70), 80).convert("RGB")
    assert aligned[1].networks.backbone.config.picture_alignment == 8
    made = [model.generate_image(PROMPTS, seed=3, thinking=True, thinking_tokens=20) for model in aligned]
    assert [one.codes for one in made[0]] == [one.codes for one in made[1]]
    assert [one.thinking for one in made[0]] == [one.thinking for one in made[1]]
    edited = [m.edit_image([photo, photo], "a red one", seed=1, guidance_image=1.2).codes for m in aligned]
    assert edited[0] == edited[1]
    told = [m.understand_image([photo, photo], ["what?", "how many?"], seed=1, max_new_tokens=40) for m in aligned]
    assert [one.text for one in told[0]] == [one.text for one in told[1]]
    assert runs == [3, 3, 1, 2]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guidance_scale": 1.0},
        {"temperature": 0.8, "guidance_scale": 3.0},
        {"thinking": True, "thinking_tokens": 20},
    ],
    ids=str,
)
def test_pictures_are_the_same(models: tuple[LladaUni, LladaUni], options: ImageOptions, runs: list[int]) -> None:
    usual, captured = (model.generate_image(PROMPTS, seed=3, **options) for model in models)
    assert runs[0] == 3
    for one, other in zip(usual, captured, strict=True):
        assert one.codes == other.codes
        assert one.usage == other.usage
        assert one.image.tobytes() == other.image.tobytes()


def test_edits_and_answers_are_the_same(models: tuple[LladaUni, LladaUni], runs: list[int]) -> None:
    photo = Image.effect_noise((50, 70), 80).convert("RGB")
    edited = [m.edit_image(photo, "a red one", seed=1, guidance_text=3.0, guidance_image=1.2).codes for m in models]
    told = [m.understand_image([photo, photo], ["what?", "how many?"], seed=1, max_new_tokens=40) for m in models]
    assert edited[0] == edited[1]
    assert [one.text for one in told[0]] == [one.text for one in told[1]]
    assert runs == [1, 2]


def test_steps_and_sprint_are_left_to_the_usual_engine(models: tuple[LladaUni, LladaUni], runs: list[int]) -> None:
    _, captured = models
    events = list(captured.stream_image("a", seed=1))
    assert any(isinstance(event, StepDone) for event in events)
    thin = [model.generate_image("a", seed=1, keep_ratio=0.5).codes for model in models]
    assert thin[0] == thin[1]
    assert runs == []


def test_two_streams_at_once_do_not_disturb_each_other(models: tuple[LladaUni, LladaUni]) -> None:
    usual, captured = models
    expected = [result.codes for result in usual.generate_image(PROMPTS[:2], seed=[5, 6])]
    streams = [captured.stream_image(p, seed=s, granularity="block") for p, s in zip(PROMPTS, (5, 6), strict=False)]
    last: list[object] = [None, None]
    while any(stream is not None for stream in streams):
        for number, stream in enumerate(streams):
            event = None if stream is None else next(stream, None)
            if event is None:
                streams[number] = None  # type: ignore[call-overload]
            else:
                last[number] = event
    assert [event.result.codes for event in last] == expected  # type: ignore[attr-defined]


def test_weights_that_move_are_seen(checkpoint: Path) -> None:
    model = LladaUni.from_pretrained(checkpoint, device="cpu", engine="captured")
    model.generate_image("a", seed=1)
    model.networks.backbone.to(torch.float64)
    exact = LladaUni.from_pretrained(checkpoint, device="cpu")
    exact.networks.backbone.to(torch.float64)
    assert model.generate_image("a", seed=1).codes == exact.generate_image("a", seed=1).codes


def test_an_unknown_engine_is_one_line(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="engine: expected one of usual, captured, got 'fast'"):
        LladaUni.from_pretrained(checkpoint, engine="fast")


@pytest.mark.parametrize("options", [{"memory": "64GB"}, {"offload": "disk"}], ids=str)
def test_weights_that_come_and_go_are_refused(checkpoint: Path, options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="keeps weights where they are; leave memory and offload out"):
        LladaUni.from_pretrained(checkpoint, device="cpu", engine="captured", **options)  # type: ignore[arg-type]


def test_quantised_experts_are_not_recorded() -> None:
    check_weights_stay(Keeping(), budget=False, gpu=False, quantised=True)
    with pytest.raises(ConfigError, match="quantised experts on a GPU; use engine usual"):
        check_weights_stay(Keeping(), budget=False, gpu=True, quantised=True)


def test_quantised_experts_on_a_cpu(checkpoint: Path, runs: list[int]) -> None:
    models = [LladaUni.from_pretrained(checkpoint, device="cpu", quantize="int8", engine=e) for e in (None, "captured")]
    one, other = (model.generate_image("a", seed=1).codes for model in models)
    assert one == other
    assert runs == [1]
