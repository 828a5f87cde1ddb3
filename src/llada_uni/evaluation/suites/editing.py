"""Editing, composing and interleaving suites: ImgEdit, GEdit, MICo-Bench, InterGen."""

from __future__ import annotations

import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

from llada_uni.errors import ConfigError
from llada_uni.evaluation.items import BadItem, Item, JudgeError, Judges, Output, Suite, Verdict
from llada_uni.evaluation.suites.files import Entry, each, first_of, picture_files, read_entries, text_of
from llada_uni.evaluation.suites.perform import edit, tell_story

__all__ = ["EDITING_SUITES"]

_MICO = {
    "mico_bench_object_centric": "Object",
    "mico_bench_human_centric": "Person",
    "mico_bench_hoi": "HOI",
    "mico_bench_dere": "De&Re",
}
_OURS = "the question to the judge is worded by us and the judge is yours: not comparable with the published score"


# --- ImgEdit -----------------------------------------------------------------------------------------------------


def _load_imgedit(path: Path | None) -> list[Item | BadItem]:
    """A folder with ``basic_edit.json``, ``prompts.json`` (the judge's questions) and the pictures in ``images/``."""
    folder = _folder(path, "basic_edit.json")
    entries = _json(folder / "basic_edit.json")
    questions = _json(folder / "prompts.json") if (folder / "prompts.json").is_file() else {}
    root = folder / "images" if (folder / "images").is_dir() else folder

    def make(entry: Entry, _: int) -> Item:
        kind, words = text_of(entry["edit_type"]), text_of(entry["prompt"])
        asked = questions.get(kind, "")
        if questions and not asked:
            raise ValueError(f"prompts.json has no question for {kind!r}")
        return Item(
            id=entry["key"], prompt=words, parts=(kind,), images=picture_files(entry["id"], root),
            reference={"question": asked.replace("<edit_prompt>", words)},
        )  # fmt: skip

    listed: list[Entry | str] = [
        {**entry, "key": key} if isinstance(entry, dict) else f"{key} is not an object"
        for key, entry in entries.items()
    ]
    return _keyed(each(listed, make), list(entries))


def _judge_imgedit(item: Item, output: Output, out: Path, judges: Judges) -> Verdict:
    """The mean of the marks in the reply, one a line as ``name: N`` (source, then result, are shown)."""
    assert judges.viewer is not None
    if not item.reference["question"]:
        raise JudgeError("the data folder has no prompts.json with the judge's questions")
    source = item.images[0]
    assert isinstance(source, Path)
    reply = judges.viewer.ask([source, out / output.pictures[0]], item.reference["question"])
    marks = [int(found) for found in re.findall(r"^[^:\n]*: (\d+)\s*$", reply, re.MULTILINE)]
    if not marks or not all(0 <= mark <= 5 for mark in marks):
        raise JudgeError("expected lines with marks up to 5 in the reply", reply=reply)
    score = sum(marks) / len(marks)
    return Verdict(score=score, parts=(score,), details={"reply": reply, "marks": marks})


# --- GEdit -------------------------------------------------------------------------------------------------------


def _load_gedit(path: Path | None, *, language: str) -> list[Item | BadItem]:
    """JSON lines exported from the data set, with the pictures as files beside them."""
    if path is None or not path.is_file():
        raise ConfigError(f"--data: expected a .jsonl file, got {str(path)!r}")

    def make(entry: Entry, _: int) -> Item:
        kind, key = text_of(entry["task_type"]), text_of(entry["key"])
        return Item(
            id=f"{kind}/{language}/{key}", prompt=text_of(entry["instruction"]), parts=("SC", "PQ", "O"),
            images=picture_files(first_of(entry, ("input_image_raw", "input_image")), path.parent),
            reference={"task_type": kind},
        )  # fmt: skip

    entries = read_entries(path)
    wanted = [e for e in entries if isinstance(e, str) or e.get("instruction_language", language) == language]
    return each(wanted, make)


def _judge_gedit(item: Item, output: Output, out: Path, judges: Judges) -> Verdict:
    """SC and PQ are the lower of two marks from 0 to 10 each; O = sqrt(SC · PQ) of the item."""
    assert judges.viewer is not None
    source = item.images[0]
    assert isinstance(source, Path)
    result = out / output.pictures[0]
    replies = [
        judges.viewer.ask(
            [source, result],
            f"The second picture was made from the first by this instruction: {item.prompt}\nGive two marks from 0 to "
            "10: how well the instruction was followed, and how well everything else was kept. End with [a, b].",
        ),
        judges.viewer.ask(
            [result],
            "Give this picture two marks from 0 to 10: how natural it looks, and how free of artefacts it is. End with "
            "[a, b].",
        ),
    ]
    semantic, quality = (min(_pair(reply)) for reply in replies)
    overall = math.sqrt(semantic * quality)
    return Verdict(score=overall, parts=(semantic, quality, overall), details={"replies": replies})


def _pair(reply: str) -> tuple[float, float]:
    found = re.findall(r"\[\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*\]", reply)
    if not found or max(float(mark) for mark in found[-1]) > 10:
        raise JudgeError("expected [a, b] with marks from 0 to 10 in the reply", reply=reply)
    return float(found[-1][0]), float(found[-1][1])


# --- MICo-Bench --------------------------------------------------------------------------------------------------


def _load_mico(path: Path | None) -> list[Item | BadItem]:
    """The folder MICo-Bench with its four JSON-lines files and the pictures beside them."""
    folder = _folder(path, "mico_bench_hoi.jsonl")
    items: list[Item | BadItem] = []
    for task, part in _MICO.items():
        if not (folder / f"{task}.jsonl").is_file():
            items.append(BadItem(id=task, reason=f"no file {task}.jsonl", parts=(part,)))
            continue
        made = each(read_entries(folder / f"{task}.jsonl"), partial(_mico_item, folder=folder, task=task))
        items += [
            BadItem(id=f"{task}/{e.id}", reason=e.reason, parts=(part,)) if isinstance(e, BadItem) else e for e in made
        ]
    return items


def _mico_item(entry: Entry, _: int, *, folder: Path, task: str) -> Item:
    name, prompt = first_of(entry, ("idx", "ed_idx")), text_of(first_of(entry, ("refined_prompt", "prompt")))
    images = picture_files(entry["input"], folder)
    return Item(id=f"{task}/{name}", prompt=prompt, parts=(_MICO[task],), images=images)


# --- InterGen ----------------------------------------------------------------------------------------------------


def _load_intergen(path: Path | None) -> list[Item | BadItem]:
    if path is None or not path.is_file():
        raise ConfigError(f"--data: expected a .jsonl file with id, prompt and category, got {str(path)!r}")

    def make(entry: Entry, index: int) -> Item:
        name = str(entry.get("id", index))
        return Item(id=name, prompt=text_of(entry["prompt"]), parts=(text_of(entry["category"]),))

    return each(read_entries(path), make)


# --- shared ------------------------------------------------------------------------------------------------------


def _folder(path: Path | None, inside: str) -> Path:
    if path is None or not (path / inside).exists():
        raise ConfigError(f"--data: expected a folder with {inside} inside, got {str(path)!r}")
    return path


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected one object")
    return value


def _keyed(entries: list[Item | BadItem], keys: list[str]) -> list[Item | BadItem]:
    """Bad items get the keys that they have in the file."""
    return [
        BadItem(id=key, reason=e.reason) if isinstance(e, BadItem) else e for e, key in zip(entries, keys, strict=True)
    ]


_GEDIT: dict[str, Any] = {
    "data_help": "a .jsonl file exported from stepfun-ai/GEdit-Bench (key, task_type, instruction, "
    "instruction_language, input_image: a file beside it)",
    "perform": edit, "judge": _judge_gedit, "judge_kind": "viewer", "perfect": 10.0, "caution": _OURS,
    "picture_name": lambda item, index: f"llada-uni/fullset/{item.id}.png",
    "official": "the GEdit-Bench scorer of stepfun-ai/Step1X-Edit on pictures/llada-uni",
    "format_note": "layout and fields as read in stepfun-ai/Step1X-Edit (GEdit-Bench/generate_image_example.py); the "
    "scorer's own files: format unverified",
}  # fmt: skip
EDITING_SUITES = (
    Suite(
        name="imgedit", title="ImgEdit-Bench, basic",
        data_help="a folder with basic_edit.json, prompts.json and the pictures (beside them or in images/)",
        load=_load_imgedit, perform=edit, judge=_judge_imgedit, judge_kind="viewer", perfect=5.0,
        overall="categories",
        picture_name=lambda item, index: f"{item.id}.png",
        official="basic_bench.py --result_img_folder pictures --edit_json basic_edit.json --prompts_json prompts.json",
        format_note="as read in PKU-YuanGroup/ImgEdit (Benchmark/Basic: basic_bench.py, step1, step2, basic_edit.json)",
        caution="the judge's questions are those of your prompts.json; the official judge is GPT-4o",
    ),
    Suite(name="gedit_en", title="GEdit-Bench, English", load=partial(_load_gedit, language="en"), **_GEDIT),
    Suite(name="gedit_cn", title="GEdit-Bench, Chinese", load=partial(_load_gedit, language="cn"), **_GEDIT),
    Suite(
        name="mico", title="MICo-Bench", data_help="the folder MICo-Bench (four .jsonl files and their pictures)",
        load=_load_mico, perform=edit, judge_kind="official",
        picture_name=lambda item, index: f"results/llada-uni/{item.id}.png",
        official="compute_weights.py and eval_score.py --model_name llada-uni --results_dir pictures/results",
        format_note="as read in A113N-W3I/MICo-150K (MICo-Bench/README.md, eval_score.py)",
    ),
    Suite(
        name="intergen", title="InterGen", data_help="a .jsonl file with id, prompt and category (our own form)",
        load=_load_intergen, perform=tell_story, judge_kind="official", perfect=10.0,
        picture_name=lambda item, index: f"{item.id}/{index:02}.png",
        official="the paper's, with Gemini and Qwen3-VL as judges; no public file was found",
        format_note="format unverified",
    ),
)  # fmt: skip
