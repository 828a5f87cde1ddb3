"""Understanding suites with native scorers, from a file of questions and a folder of pictures."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from llada_uni.errors import ConfigError
from llada_uni.evaluation import scorers
from llada_uni.evaluation.items import BadItem, Item, Judges, Output, Suite, Verdict
from llada_uni.evaluation.names import SUITE_TITLES
from llada_uni.evaluation.suites.files import Entry, each, first_of, picture_files, read_entries, text_of
from llada_uni.evaluation.suites.perform import answer

__all__ = ["UNDERSTANDING_SUITES"]

_ID = ("id", "index", "questionId", "question_id")
_PICTURE = ("images", "image", "image_path", "imgname")
_QUESTION = ("question", "query")
_ANSWER = ("answers", "answer", "label")
_PART = ("category", "type", "question_type")
_WANTS = {
    "choice": "Answer with the letter of the right option.",
    "yes_no": "Answer yes or no.",
    "count": "Answer with one number.",
    "short": "Answer with a word or a short phrase.",
}
_LETTERS = string.ascii_uppercase
_DATA = (
    "a .jsonl, .json or .tsv file of questions (id, image or images, question, answer or answers, options or A to Z, "
    "category); pictures are files beside it, in a folder images/, or base64"
)


def _load(path: Path | None, *, kind: str) -> list[Item | BadItem]:
    if path is None or path.is_dir():
        raise ConfigError(f"--data: expected {_DATA}; got {'nothing' if path is None else 'a directory'}")
    root = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    return each(read_entries(path), partial(_item, root=root, kind=kind))


def _item(entry: Entry, index: int, *, root: Path, kind: str) -> Item:
    options = _options(entry)
    question = text_of(first_of(entry, _QUESTION)).replace("<image>", "").strip()
    if kind == "choice":
        _check_options(entry, options)
        question += "\n" + "\n".join(f"{letter}. {option}" for letter, option in options.items())
    return Item(
        id=str(next((entry[name] for name in _ID if entry.get(name) not in (None, "")), index)),
        prompt=f"{question}\n{_WANTS[kind if kind in _WANTS else 'short']}",
        parts=(str(next((entry[name] for name in _PART if entry.get(name)), "all")),),
        images=picture_files(first_of(entry, _PICTURE), root),
        reference={"answers": _answers(entry, kind, options), "options": options},
    )


def _options(entry: Entry) -> dict[str, str]:
    given = _listed(entry)
    if given is not None:
        return dict(zip(_LETTERS, (str(one) for one in given), strict=False))
    present = [letter for letter in _LETTERS if entry.get(letter) not in (None, "")]
    further = takewhile(lambda pair: pair[0] == pair[1], zip(_LETTERS, present, strict=False))
    whole = {letter for letter, _ in further} | set("ABCDEFGH")  # a lone field beyond H is something else
    return {letter: str(entry[letter]) for letter in present if letter in whole}


def _listed(entry: Entry) -> list[Any] | None:
    """The field ``options`` as a list, None where options are fields of their own."""
    given = entry.get("options")
    if isinstance(given, str) and given.startswith("["):
        given = json.loads(given)
    return given if isinstance(given, list) else None


def _check_options(entry: Entry, options: dict[str, str]) -> None:
    """Options that cannot all be named by a letter make a bad item: none is left out."""
    count = len(_listed(entry) or options)
    if count < 2:
        raise ValueError("expected at least two options")
    if count > len(_LETTERS):
        raise ValueError(f"expected at most {len(_LETTERS)} options, one per letter, got {count}")


def _answers(entry: Entry, kind: str, options: dict[str, str]) -> list[str]:
    given = first_of(entry, _ANSWER)
    if isinstance(given, str) and given.startswith("["):
        given = json.loads(given)
    answers = [str(one) for one in (given if isinstance(given, list) else [given])]
    if kind == "choice" and answers[0] not in options:
        letters = [letter for letter, option in options.items() if option == answers[0]]
        if len(letters) != 1:
            raise ValueError(f"the answer {answers[0]!r} is no option")
        return letters
    if kind == "yes_no":
        answers = [{"1": "yes", "0": "no"}.get(one, one.lower()) for one in answers]
        if answers[0] not in ("yes", "no"):
            raise ValueError(f"expected the answer yes or no, got {answers[0]!r}")
    if kind == "count" and not answers[0].isdigit():
        raise ValueError(f"expected a whole number as the answer, got {answers[0]!r}")
    return answers


def _judge(
    item: Item, output: Output, _: Path, __: Judges, *, score: Callable[[str, dict[str, Any]], float]
) -> Verdict:
    value = score(output.text or "", item.reference)
    return Verdict(score=value, parts=(value,))


def _relaxed(reply: str, reference: dict[str, Any]) -> float:
    return max(scorers.relaxed_accuracy(reply, one) for one in reference["answers"])


def _anls(reply: str, reference: dict[str, Any]) -> float:
    return scorers.anls(reply, reference["answers"])


def _contains(reply: str, reference: dict[str, Any]) -> float:
    return scorers.ocrbench(reply, reference["answers"])


def _choice(reply: str, reference: dict[str, Any]) -> float:
    return float(scorers.multiple_choice(reply, reference["options"]) == reference["answers"][0])


def _yes_no(reply: str, reference: dict[str, Any]) -> float:
    return float(scorers.yes_no(reply) == reference["answers"][0])


def _count(reply: str, reference: dict[str, Any]) -> float:
    return float(scorers.exact_count(reply) == int(reference["answers"][0]))


def _exact(reply: str, reference: dict[str, Any]) -> float:
    return scorers.exact_match(reply, reference["answers"])


_SCORES = {
    "choice": _choice, "yes_no": _yes_no, "count": _count, "short": _exact, "relaxed": _relaxed, "anls": _anls,
    "contains": _contains,
}  # fmt: skip
_LOWER = "exact match of short answers: a lower bound of the official score, which a language model judges"
_TABLE: tuple[tuple[str, str, str], ...] = (
    ("chartqa", "relaxed", ""),
    ("docvqa", "anls", ""),
    ("infovqa", "anls", ""),
    ("ocrbench", "contains", "every item is scored by the case-free rule, formulas too"),
    ("countbench", "count", ""),
    ("mmstar", "choice", ""),
    ("mmbench_en", "choice", "every row by itself, without the circular rule"),
    ("mmbench_cn", "choice", "every row by itself, without the circular rule"),
    ("realworldqa", "choice", ""),
    ("ai2d", "choice", ""),
    ("vstar", "choice", ""),
    ("mmmu", "choice", "multiple-choice questions only"),
    ("mmmu_pro", "choice", ""),
    ("vl_rewardbench", "choice", "both answers are given as options A and B"),
    ("mme_c", "yes_no", ""),
    ("hallusionbench", "yes_no", "accuracy by question"),
    ("simplevqa", "short", _LOWER),
    ("charxiv_dq", "short", _LOWER),
    ("mathvista", "short", _LOWER),
    ("mathvision", "short", _LOWER),
    ("wemath", "choice", "accuracy by question"),
)
UNDERSTANDING_SUITES = tuple(
    Suite(
        name=name,
        title=SUITE_TITLES[name],
        data_help=_DATA,
        load=partial(_load, kind=kind),
        perform=answer,
        judge=partial(_judge, score=_SCORES[kind]),
        format_note="our own question file; field names of common releases are understood (format unverified)",
        caution=f"{caution}; the paper's question wording is not known"
        if caution
        else "the paper's question wording is not known",
    )
    for name, kind, caution in _TABLE
)
