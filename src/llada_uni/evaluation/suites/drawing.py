"""Text-to-image suites: GenEval, DPG-Bench, OneIG, UniGenBench, CVTG-2K, WISE.

Data files and picture layouts are those of the official repositories, as far as their files could be read; each suite
says in ``format_note`` which ones were. Questions to a viewing model are worded by us.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llada_uni.errors import ConfigError
from llada_uni.evaluation.geneval import decide, kept_objects
from llada_uni.evaluation.items import Answer, BadItem, Item, JudgeError, Judges, Output, Suite, SuiteModel, Verdict
from llada_uni.evaluation.scorers import word_scores, yes_no
from llada_uni.evaluation.suites.files import Entry, each, first_of, read_entries, text_of
from llada_uni.evaluation.suites.perform import draw, grid_of

__all__ = ["DRAWING_SUITES"]

_OURS = "the question to the judge is worded by us and the judge is yours: not comparable with the published score"


# --- GenEval -----------------------------------------------------------------------------------------------------


def _load_geneval(path: Path | None) -> list[Item | BadItem]:
    def make(entry: Entry, index: int) -> Item:
        for clause in (*entry.get("include", []), *entry.get("exclude", [])):
            if not isinstance(clause["class"], str) or not isinstance(clause["count"], int):
                raise ValueError(f"expected a clause with class and count, got {clause}")
        tag = text_of(entry["tag"])
        return Item(
            id=f"{index:05}", prompt=text_of(entry["prompt"]), parts=(tag,) * 4, reference=dict(entry), samples=4
        )

    return each(read_entries(_file(path)), make, part="tag", copies=4)


def _judge_geneval(item: Item, output: Output, out: Path, judges: Judges) -> Verdict:
    assert judges.detector is not None
    right, reasons = [], []
    for name in output.pictures:
        objects = kept_objects(judges.detector.detect(out / name), item.reference["tag"])
        holds, why = decide(objects, item.reference)
        right.append(float(holds))
        reasons.append(why)
    return Verdict(score=_mean(right), parts=tuple(right), details={"reasons": reasons})


# --- DPG-Bench ---------------------------------------------------------------------------------------------------


def _load_dpg(path: Path | None) -> list[Item | BadItem]:
    """A folder with ``dpg_bench.csv`` and ``prompts/ID.txt``."""
    folder = _folder(path, "dpg_bench.csv")
    rows: dict[str, list[dict[str, str]]] = {}
    for row in read_entries(folder / "dpg_bench.csv"):
        if isinstance(row, dict) and row.get("item_id") not in (None, "item_id"):
            rows.setdefault(row["item_id"], []).append(row)
    items: list[Item | BadItem] = []
    for name, group in rows.items():
        questions, reason = _dpg_questions(group)
        words = folder / "prompts" / f"{name}.txt"
        if reason or not words.is_file():
            items.append(BadItem(id=name, reason=reason or f"no prompt prompts/{name}.txt"))
            continue
        parts = tuple(question["category"] for question in questions)
        prompt = words.read_text(encoding="utf-8").strip()
        items.append(Item(id=name, prompt=prompt, parts=parts, reference={"questions": questions}, samples=4))
    return items


def _dpg_questions(rows: list[dict[str, str]]) -> tuple[list[dict[str, Any]], str]:
    questions = []
    try:
        for row in rows:
            parents = [int(number) for number in row["dependency"].split(",")]
            category = row["tuple"].split("(")[0].split("-")[0].strip()
            questions.append({
                "number": int(row["proposition_id"]), "parents": [p for p in parents if p != 0], "category": category,
                "question": text_of(row["question_natural_language"]),
            })  # fmt: skip
    except (KeyError, ValueError, AttributeError) as error:
        return [], f"a question cannot be read: {error}"
    return questions, ""


def _judge_dpg(item: Item, output: Output, out: Path, judges: Judges) -> Verdict:
    """A question counts when it is answered yes and so are its parents; categories take the plain answers."""
    assert judges.viewer is not None
    questions, scores, replies = item.reference["questions"], [], []
    answers = {question["number"]: [] for question in questions}
    for name in output.pictures[1:]:  # the first is the sheet
        found = {}
        for question in questions:
            reply = judges.viewer.ask([out / name], f"{question['question']} Answer yes or no.")
            replies.append(reply)
            found[question["number"]] = float(_sure(yes_no(reply), reply) == "yes")
            answers[question["number"]].append(found[question["number"]])
        held = [found[q["number"]] * all(found.get(p, 1.0) for p in q["parents"]) for q in questions]
        scores.append(_mean(held))
    plain = tuple(_mean(answers[question["number"]]) for question in questions)
    return Verdict(score=_mean(scores), parts=plain, details={"per_picture": scores, "replies": replies})


def _sheet(model: SuiteModel, item: Item, seeds: Sequence[int], options: dict[str, Any]) -> Answer:
    _, images = draw(model, item, seeds, options)
    return None, [grid_of(images), *images]


# --- OneIG -------------------------------------------------------------------------------------------------------

_ONEIG = {
    "Anime_Stylization": "anime", "Portrait": "human", "General_Object": "object", "Text_Rendering": "text",
    "Knowledge_Reasoning": "reasoning", "Multilingualism": "multilingualism",
}  # fmt: skip


def _load_oneig(path: Path | None) -> list[Item | BadItem]:
    def make(entry: Entry, _: int) -> Item:
        folder, name = _ONEIG[entry["category"]], text_of(entry["id"])
        prompt = text_of(first_of(entry, ("prompt_en", "prompt_cn", "prompt")))
        return Item(id=f"{folder}/{name}", prompt=prompt, parts=(folder,), samples=4)

    return each(read_entries(_file(path)), make)


def _oneig_name(item: Item, index: int) -> str:
    folder, name = item.id.split("/")
    return f"images/{folder}/llada-uni/{name}.webp" if index == 0 else f"single/{folder}/{name}_{index - 1}.png"


# --- UniGenBench -------------------------------------------------------------------------------------------------


def _load_unigen(path: Path | None) -> list[Item | BadItem]:
    def make(entry: Entry, _: int) -> Item:
        points = json.loads(first_of(entry, ("sub_dims_en", "sub_dims_zh", "sub_dims")))
        names, wanted = points["Testpoints"], points["Testpoint Description"]
        if not names or len(names) != len(wanted):
            raise ValueError(f"{len(names)} test points with {len(wanted)} descriptions")
        parts = tuple(name.split("-", 1)[0].strip() for name in names) * 4
        prompt = text_of(first_of(entry, ("prompt_en", "prompt_zh", "prompt")))
        return Item(
            id=str(int(entry["index"])), prompt=prompt, parts=parts, reference={"points": names, "wanted": wanted},
            samples=4,
        )  # fmt: skip

    return each(read_entries(_file(path)), make)


def _judge_unigen(item: Item, output: Output, out: Path, judges: Judges) -> Verdict:
    assert judges.viewer is not None
    points, wanted = item.reference["points"], item.reference["wanted"]
    listed = "\n".join(f"{n}. {p}: {w}" for n, (p, w) in enumerate(zip(points, wanted, strict=True), 1))
    question = (
        f"A picture was made for this prompt: {item.prompt}\nCheck it point by point, by what can be seen only:\n"
        f"{listed}\nEnd with one line of the form [1, 0, …]: one number for each of the {len(points)} points in order, "
        "1 where the picture fulfils it and 0 where it does not."
    )
    scores: list[float] = []
    replies = []
    for name in output.pictures:
        reply = judges.viewer.ask([out / name], question)
        replies.append(reply)
        scores += _bits(reply, len(points))
    return Verdict(score=_mean(scores), parts=tuple(scores), details={"replies": replies})


def _bits(reply: str, count: int) -> list[float]:
    for found in reversed(re.findall(r"\[[01,\s]*\]", reply)):
        bits = ast.literal_eval(found)
        if len(bits) == count:
            return [float(bit) for bit in bits]
    raise JudgeError(f"expected a list of {count} zeros and ones in the reply", reply=reply)


# --- CVTG-2K -----------------------------------------------------------------------------------------------------


def _load_cvtg(path: Path | None) -> list[Item | BadItem]:
    """A folder with ``CVTG/2.json`` … ``5.json`` and ``CVTG-Style/`` alike; what is missing is a bad item."""
    folder = _folder(path, "CVTG")
    items: list[Item | BadItem] = []
    for kind in ("CVTG", "CVTG-Style"):
        for area in (2, 3, 4, 5):
            file = folder / kind / f"{area}.json"
            if file.is_file():
                items += _renamed(each(read_entries(file, key="data_list"), _cvtg_item(kind, area)), f"{kind}/{area}")
            else:
                items.append(BadItem(id=f"{kind}/{area}", reason=f"no file {kind}/{area}.json"))
    return items


def _cvtg_item(kind: str, area: int) -> Any:
    def make(entry: Entry, _: int) -> Item:
        prompt = text_of(entry["prompt"])
        words = [word for text in _quoted(prompt) for word in text.split()]
        if not words:
            raise ValueError(f"no words in quotation marks in {prompt!r}")
        parts = (f"{area} regions",) * len(words)
        return Item(id=f"{kind}/{area}/{entry['index']}", prompt=prompt, parts=parts, reference={"words": words})

    return make


def _renamed(entries: list[Item | BadItem], prefix: str) -> list[Item | BadItem]:
    return [BadItem(id=f"{prefix}/{e.id}", reason=e.reason) if isinstance(e, BadItem) else e for e in entries]


def _quoted(prompt: str) -> list[str]:
    """What stands in quotation marks; an apostrophe inside a word is none."""
    plain = prompt.replace("‘", "'").replace("’", "'").replace("“", '"').replace("”", '"')
    return [a or b for a, b in re.findall(r"""(?<!\w)'([^']+(?:'\w[^']*)*)'(?!\w)|"([^"]+)\"""", plain)]


def _judge_cvtg(item: Item, output: Output, out: Path, judges: Judges) -> Verdict:
    assert judges.reader is not None
    lines = judges.reader.read(out / output.pictures[0])
    hits, similarity = word_scores(lines, item.reference["words"])
    return Verdict(score=_mean(hits), parts=tuple(hits), details={"read": lines, "NED": similarity})


# --- WISE --------------------------------------------------------------------------------------------------------

_WISE = ("Consistency", "Realism", "Aesthetic")


def _load_wise(path: Path | None) -> list[Item | BadItem]:
    """One of the official JSON files, or a folder with several of them."""
    if path is not None and path.is_dir():
        files = [name for name in sorted(path.glob("*.json")) if "rewrite" not in name.name]
        return [entry for file in files for entry in _renamed(_load_wise(file), file.stem)]

    def make(entry: Entry, _: int) -> Item:
        return Item(
            id=str(int(entry["prompt_id"])), prompt=text_of(entry["Prompt"]),
            parts=(text_of(first_of(entry, ("Category", "Subcategory"))),),
            reference={"explanation": text_of(entry["Explanation"])},
        )  # fmt: skip

    return each(read_entries(_file(path)), make)


def _judge_wise(item: Item, output: Output, out: Path, judges: Judges) -> Verdict:
    """WiScore = (0.7 consistency + 0.2 realism + 0.1 aesthetic quality) / 2, each from 0 to 2."""
    assert judges.viewer is not None
    reply = judges.viewer.ask(
        [out / output.pictures[0]],
        f"A picture was made for this prompt: {item.prompt}\nWhat it should show: {item.reference['explanation']}\n"
        "Judge strictly on three lines, each with a number from 0 (bad) to 2 (flawless), in this form:\n"
        "Consistency: N (does it show what it should)\nRealism: N (is it physically plausible)\n"
        "Aesthetic: N (is it well made)",
    )
    marks = []
    for name in _WISE:
        found = re.search(rf"{name}\D*?([012])\b", reply, re.IGNORECASE)
        if found is None:
            raise JudgeError(f"expected a line {name}: N with N from 0 to 2 in the reply", reply=reply)
        marks.append(float(found[1]))
    score = (0.7 * marks[0] + 0.2 * marks[1] + 0.1 * marks[2]) / 2
    return Verdict(score=score, parts=(score,), details={"reply": reply})


# --- shared ------------------------------------------------------------------------------------------------------


def _file(path: Path | None) -> Path:
    if path is None or not path.is_file():
        raise ConfigError(f"--data: expected a file, got {str(path)!r}")
    return path


def _folder(path: Path | None, inside: str) -> Path:
    if path is None or not (path / inside).exists():
        raise ConfigError(f"--data: expected a folder with {inside} inside, got {str(path)!r}")
    return path


def _sure(answer: str | None, reply: str) -> str:
    if answer is None:
        raise JudgeError("expected yes or no in the reply", reply=reply)
    return answer


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


DRAWING_SUITES = (
    Suite(
        name="geneval", title="GenEval", data_help="evaluation_metadata.jsonl of djghosh13/geneval",
        load=_load_geneval, perform=draw, judge=_judge_geneval, judge_kind="detector", overall="categories",
        picture_name=lambda item, index: f"{item.id}/samples/{index:05}.png",
        extra_files=lambda item: {f"{item.id}/metadata.jsonl": json.dumps(item.reference).encode()},
        official="evaluation/evaluate_images.py on pictures/, then summary_scores.py",
        format_note="as read in djghosh13/geneval (generation/diffusers_generate.py, evaluation/evaluate_images.py)",
        caution="comparable when the detector is Mask2Former Swin-S and the colours are CLIP ViT-L/14's",
    ),
    Suite(
        name="dpg", title="DPG-Bench", data_help="the folder dpg_bench of ELLA (dpg_bench.csv, prompts/)",
        load=_load_dpg, perform=_sheet, judge=_judge_dpg, judge_kind="viewer",
        picture_name=lambda item, i: f"sheets/{item.id}.png" if i == 0 else f"single/{item.id}_{i - 1}.png",
        official="dpg_bench/compute_dpg_bench.py --image-root-path pictures/sheets --pic-num 4 --resolution WIDTH",
        format_note="as read in TencentQQGYLab/ELLA (dpg_bench/compute_dpg_bench.py); 2 x 2 sheets of square pictures. "
        "That file skips the first row of the table, we do not",
        caution="the official viewing model is mPLUG-large; another one gives another score",
    ),
    Suite(
        name="oneig", title="OneIG-Bench", data_help="OneIG-Bench.csv or OneIG-Bench-ZH.csv",
        load=_load_oneig, perform=_sheet, judge_kind="official", picture_name=_oneig_name,
        official="run_overall.sh with image_dir pictures/images, model_names llada-uni, image_grid 2",
        format_note="as read in OneIG-Bench/OneIG-Benchmark (README.md, scripts/alignment/alignment_score.py); "
        "the table's columns: from a copy of text2image.py of unknown origin",
    ),
    Suite(
        name="unigenbench", title="UniGenBench", data_help="test_prompts_en.csv (or another test_prompts file)",
        load=_load_unigen, perform=draw, judge=_judge_unigen, judge_kind="viewer", caution=_OURS,
        overall="categories", picture_name=lambda item, index: f"{item.id}_{index}.png",
        official="eval/qwenvl_72b_en_eval.py --data_path pictures --csv_file test_prompts_en.csv --api_url URL",
        format_note="as read in CodeGoat24/UniGenBench (eval/qwenvl_72b_en_eval.py, data/test_prompts_en_long.csv)",
    ),
    Suite(
        name="cvtg2k", title="CVTG-2K", data_help="the folder CVTG-2K (CVTG/2.json to 5.json, CVTG-Style/ alike)",
        load=_load_cvtg, perform=draw, judge=_judge_cvtg, judge_kind="reader", overall="parts",
        extras=("NED",),
        picture_name=lambda item, index: f"{item.id}.png",
        official="unified_metrics_eval.py --benchmark_dir CVTG-2K --result_dir pictures --output_file results.json",
        format_note="files and layout as read in NJU-PCALab/TextCrafter (TextCrafter_Flux/eval.py); "
        "which words are wanted and how they are compared: format unverified",
        caution="the official reader is PaddleOCR; words are those in quotation marks; no CLIP score",
    ),
    Suite(
        name="wise", title="WISE", data_help="a WISE data file (cultural_common_sense.json …) or a folder of them",
        load=_load_wise, perform=draw, judge=_judge_wise, judge_kind="viewer", caution=_OURS,
        picture_name=lambda item, index: f"{item.id}.png",
        official="gpt_eval.py --json_path FILE --image_dir pictures --output_dir results",
        format_note="as read in PKU-YuanGroup/WISE (gpt_eval.py); "
        "the field Category and the weights of WiScore (in other files): format unverified",
    ),
)  # fmt: skip
