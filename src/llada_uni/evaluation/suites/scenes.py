"""SceneBench v1 as suites: always available, judged by the verifier without any learned part."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from llada_uni.evaluation.items import Answer, Item, JudgeError, Judges, Output, Suite, SuiteModel, Verdict
from llada_uni.evaluation.suites.perform import draw, reply_to
from llada_uni.scenes.bench import (
    GENERATION_CATEGORIES,
    SCORED_FAMILIES,
    GenerationItem,
    UnderstandingItem,
    answer_passes,
    load_bench,
    picture_passes,
)
from llada_uni.scenes.render import render
from llada_uni.scenes.verify import verify

__all__ = ["SCENE_SUITES"]


@cache
def _pictures() -> dict[str, GenerationItem]:
    return {item.id: item for item in load_bench().generation}


@cache
def _questions() -> dict[str, UnderstandingItem]:
    return {item.id: item for item in load_bench().understanding}


def _part(item: GenerationItem | UnderstandingItem) -> str:
    return f"{item.category}, held out" if item.held_out else item.category


def _load_pictures(_: Path | None) -> list[Any]:
    return [Item(id=item.id, prompt=item.prompt, parts=(_part(item),)) for item in _pictures().values()]


def _load_questions(_: Path | None) -> list[Any]:
    return [Item(id=item.id, prompt=item.question.text, parts=(_part(item),)) for item in _questions().values()]


def _answer(model: SuiteModel, item: Item, seeds: Any, options: dict[str, Any]) -> Answer:
    scene = render(_questions()[item.id].graph)
    return reply_to(model, scene, item.prompt, seeds[0], {"max_new_tokens": 64, **options}), []


def _judge_picture(item: Item, output: Output, out: Path, _: Judges) -> Verdict:
    try:
        with Image.open(out / output.pictures[0]) as image:
            graph = verify(image.convert("RGB"))
    except OSError as error:
        raise JudgeError(f"cannot read {output.pictures[0]}: {error}") from error
    return _binary(picture_passes(_pictures()[item.id], graph), read=graph is not None)


def _judge_answer(item: Item, output: Output, _: Path, __: Judges) -> Verdict:
    return _binary(answer_passes(_questions()[item.id], output.text or ""))


def _binary(right: bool, **details: Any) -> Verdict:
    return Verdict(score=float(right), parts=(float(right),), details=details)


_NOTE = "our own; frozen in the package"
SCENE_SUITES = (
    Suite(
        name="scenebench_generation",
        title="SceneBench v1, generation",
        data_help="",
        load=_load_pictures,
        perform=draw,
        judge=_judge_picture,
        overall="categories",
        counted=GENERATION_CATEGORIES,
        format_note=_NOTE,
    ),
    Suite(
        name="scenebench_understanding",
        title="SceneBench v1, understanding",
        data_help="",
        load=_load_questions,
        perform=_answer,
        judge=_judge_answer,
        overall="categories",
        counted=SCORED_FAMILIES,
        format_note=_NOTE,
    ),
)
