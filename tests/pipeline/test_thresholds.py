"""Pictures may have a confidence threshold of their own in a checkpoint's presets; what the caller gives wins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llada_uni.pipeline.settings import AnswerOptions, ImageOptions, answer_settings, image_settings
from llada_uni.weights.catalog import Presets


def given(options: type, **values: Any) -> dict[str, Any]:
    return dict.fromkeys(options.__annotations__) | values


@pytest.mark.parametrize(
    ("preset", "asked", "expected"), [(None, None, 0.95), (1.0, None, 1.0), (1.0, 0.5, 0.5), (None, 0.5, 0.5)]
)
def test_threshold_of_pictures(preset: float | None, asked: float | None, expected: float) -> None:
    presets = replace(Presets(), image_threshold=preset)
    settings = image_settings(presets, (128, 128), given(ImageOptions, confidence_threshold=asked))
    assert settings.confidence_threshold == settings.sampling().confidence_threshold == expected


def test_answers_keep_the_threshold_of_text() -> None:
    presets = replace(Presets(), image_threshold=1.0)
    settings = answer_settings(presets, given(AnswerOptions, temperature=0.0))
    assert settings.confidence_threshold == 0.95
