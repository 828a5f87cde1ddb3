"""Draws the pictures of the guides with nano into docs/assets: ``python docs/make_pictures.py``.

Nothing is chosen: prompts are written here or are the first ones of SceneBench, seeds are 0, 1, ..., and what goes
wrong stays in. ``--only NAME`` draws some of them, ``--model DIR`` with another model, ``--out DIR`` elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))

from sheets import Cell, joined, picture_cell, save, sheet, text_cell

from llada_uni import LladaUni
from llada_uni.scenes.bench import load_bench, select
from llada_uni.scenes.bench_tasks import EditItem, StoryItem, load_task_bench
from llada_uni.scenes.render import render

__all__ = ["PANELS", "main"]

ASSETS = Path(__file__).parent / "assets"
FILM, FILM_LARGEST = "film.webp", 150_000
PROMPTS = (
    "a red apple",
    "a blue fish",
    "a yellow star",
    "a green tree on grass",
    "two red apples",
    "three blue stars",
    "a cat and a house",
    "a pink balloon at night",
)
RIDDLES = (
    "the animal that says meow",
    "the thing with four wheels",
    "the shape on a valentine card",
    "the thing that bees visit",
)
STORY_KINDS = ("motion", "growing", "counting")
SIDE_PX = 128
FRAMES = 4


def main(arguments: list[str] | None = None) -> None:
    """Draw all panels, or the named ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="nano or a directory in its layout")
    parser.add_argument("--only", nargs="+", choices=[*PANELS, "film"], metavar="NAME", help=", ".join(PANELS))
    parser.add_argument("--out", type=Path, default=ASSETS, help="directory of the pictures")
    options = parser.parse_args(arguments)
    model = LladaUni.from_pretrained(options.model)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only or (*PANELS, "film"):
        size = film(model, options.out / FILM) if name == "film" else _panel(model, name, options.out)
        print(f"{name}: {size / 1000:.0f} kB", file=sys.stderr)


def _panel(model: LladaUni, name: str, directory: Path) -> int:
    return save(sheet(PANELS[name](model)), directory / f"{name}.png")


# --- one panel each -----------------------------------------------------------------------------------------------


def generated(model: LladaUni) -> list[list[Cell]]:
    """Eight prompts with seeds 0 to 7."""
    results = model.generate_image(list(PROMPTS), seed=list(range(len(PROMPTS))))
    return _rows([picture_cell(r.image, p) for r, p in zip(results, PROMPTS, strict=True)], 4)


def thought(model: LladaUni) -> list[list[Cell]]:
    """Riddles, the plans written for them, and the pictures."""
    results = model.generate_image(list(RIDDLES), thinking=True, seed=list(range(len(RIDDLES))))
    cells = [
        cell
        for riddle, result in zip(RIDDLES, results, strict=True)
        for cell in (
            text_cell(riddle, "riddle"),
            text_cell(result.thinking or "(nothing)", "plan"),
            picture_cell(result.image, "picture"),
        )
    ]
    return _rows(cells, 6)


def understood(model: LladaUni) -> list[list[Cell]]:
    """Questions about one scene, then about two."""
    asked = select(load_bench().understanding, limit=64, seed=0)[::16]
    compared = [item for item in load_task_bench().comparisons if len(item.graphs) == 2 and not item.held_out][::40][:2]
    scenes = [[render(item.graph)] for item in asked] + [[render(graph) for graph in item.graphs] for item in compared]
    items = [*asked, *compared]
    answers = model.understand_image(scenes, [item.question.text for item in items], seed=0)
    cells = [
        joined(pictures, _asked(item.question.text, answer.text, item.question.answer))
        for pictures, item, answer in zip(scenes, items, answers, strict=True)
    ]
    return [cells[: len(asked)], cells[len(asked) :]]


def edited(model: LladaUni) -> list[list[Cell]]:
    """The first edit of every kind that has one source: before and after."""
    items = {item.category: item for item in reversed(load_task_bench().edits) if len(item.graphs) == 1}
    return _rows(_edits(model, list(items.values())[::-1]), 3)


def composed(model: LladaUni) -> list[list[Cell]]:
    """The first edits with two references, and their result."""
    items = [item for item in load_task_bench().edits if len(item.graphs) == 2]
    return [[cell] for cell in _edits(model, items[:2])]


def told(model: LladaUni) -> list[list[Cell]]:
    """The first story of some kinds: the prompt, every picture with its caption, and the words at the end."""
    stories = load_task_bench().stories
    items: list[StoryItem] = [next(one for one in stories if one.category == kind) for kind in STORY_KINDS]
    prompts, seeds = [item.prompt for item in items], list(range(len(items)))
    results = model.generate_interleaved(prompts, seed=seeds, max_frames=FRAMES, height=SIDE_PX, width=SIDE_PX)
    return [_story(item.prompt, result.segments) for item, result in zip(items, results, strict=True)]


def talked(model: LladaUni) -> list[list[Cell]]:
    """One conversation of pictures, questions and an edit; then questions without a picture."""
    talk = model.conversation(seed=0)
    first, change = "two red apples", "make the apples green"
    count, colour = "how many apples are there?", "what colour are the apples?"
    drawn = talk.generate(first)
    answer = talk.ask(count)
    new = talk.edit(change)
    last = talk.ask(colour)
    pictures = [
        picture_cell(drawn.image, f"generate: {first}"),
        picture_cell(new.image, f"edit: {change}"),
    ]
    words = [text_cell(f"{count}\nanswer: {answer.text}", "ask"), text_cell(f"{colour}\nanswer: {last.text}", "ask")]
    facts = [item.question.text for item in load_task_bench().facts if not item.held_out][::32][:4]
    plain = [
        text_cell(f"{fact}\nanswer: {model.chat([{'role': 'user', 'content': fact}], seed=0).text}") for fact in facts
    ]
    return [[pictures[0], words[0], pictures[1], words[1]], plain]


def regions(model: LladaUni) -> list[list[Cell]]:
    """A picture, a region of it predicted again, the picture enlarged, and half of its codes predicted again."""
    words = ("a blue fish", "a blue fish and a yellow star", "a blue fish and a red ball")
    source = model.generate_image(words[0], seed=0)
    star = model.inpaint_image(source, words[1], box=(0, 64, 64, 128), reference=False, seed=0)
    wide = model.outpaint_image(source, words[2], width=192, height=128, reference=False, seed=0)
    varied = model.vary_image(source, words[0], seed=0)
    captions = (
        f"generate: {words[0]}",
        f"inpaint the lower left quarter: {words[1]}",
        f"outpaint: {words[2]}",
        "vary: half of the codes anew",
    )
    pictures = (source, star, wide, varied)
    return [[picture_cell(p.image, c) for p, c in zip(pictures, captions, strict=True)]]


def fewer_steps(model: LladaUni) -> list[list[Cell]]:
    """The same prompts and seeds by the exact path and by the presets of SPRINT, with the steps they took."""
    rows = []
    for name in (None, "paper", "readme"):
        results = model.generate_image(list(PROMPTS[4:7]), seed=[0, 1, 2], sprint=name)
        steps = [f"{name or 'exact'}: {result.usage['num_steps']} steps" for result in results]
        rows.append([picture_cell(r.image, step) for r, step in zip(results, steps, strict=True)])
    return rows


def film(model: LladaUni, path: Path) -> int:
    """A picture while it is written, as ``--film`` keeps it; returns the size of the file.

    Raises:
        ValueError: it is too large for the documentation.
    """
    watched = model.film()
    for _ in watched.watch(model.stream_image(PROMPTS[0], seed=0)):
        pass
    watched.save(path)
    if path.stat().st_size > FILM_LARGEST:
        raise ValueError(f"{path.name}: {path.stat().st_size} bytes, at most {FILM_LARGEST}")
    return path.stat().st_size


PANELS: dict[str, Callable[[LladaUni], Sequence[Sequence[Cell]]]] = {
    "generate": generated,
    "think": thought,
    "understand": understood,
    "edit": edited,
    "edit_references": composed,
    "story": told,
    "chat": talked,
    "regions": regions,
    "sprint": fewer_steps,
}
"""What is drawn: NAME -> rows of ``docs/assets/NAME.png``; the film is ``docs/assets/film.webp``."""


# --- shared parts -------------------------------------------------------------------------------------------------


def _rows(cells: Sequence[Cell], count: int) -> list[list[Cell]]:
    return [list(cells[first : first + count]) for first in range(0, len(cells), count)]


def _asked(question: str, answer: str, right: str) -> str:
    wrong = "" if answer.strip() == right else f" (right: {right})"
    return f"{question}\nanswer: {answer.strip() or '(nothing)'}{wrong}"


def _edits(model: LladaUni, items: Sequence[EditItem]) -> list[Cell]:
    sources = [[render(graph) for graph in item.graphs] for item in items]
    words = [item.instruction for item in items]
    results = model.edit_image(sources, words, seed=list(range(len(items))))
    return [joined([*before, r.image], word) for before, r, word in zip(sources, results, words, strict=True)]


def _story(prompt: str, segments: Sequence[object]) -> list[Cell]:
    cells, words = [text_cell(prompt, "prompt")], ""
    for segment in segments:
        picture = getattr(segment, "image", None)
        if isinstance(picture, Image.Image):
            cells.append(picture_cell(picture, words))
            words = ""
        else:
            words = f"{words} {segment}".strip()
    return [*cells, text_cell(words)] if words else cells


if __name__ == "__main__":
    main()
