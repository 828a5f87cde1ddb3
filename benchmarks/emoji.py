"""How well a checkpoint of ``recipes.emoji`` draws, restyles and names emoji: concepts it knows, and held-out ones.

A picture is compared with the pictures of many concepts in the style that was asked for; it counts when the nearest one
shows the right concept. Two distances: between 16 x 16 area means of the pixels, and between mean latents of the
checkpoint's own autoencoder. Where the right one stands among all is its rank (0 = nearest, 1 = farthest; chance 0.5).

python benchmarks/emoji.py --model build/emoji --records build/state/emoji --out benchmarks/results/emoji.json \\
    --sheet build/emoji.png
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from _record import record, write

_PARTS = ("train", "held_out")
_SIDE = 16


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", required=True, help="a directory")
    options.add_argument("--records", type=Path, required=True, help="folder with train/ and held_out/ records")
    options.add_argument("--count", type=int, default=48, help="concepts of each part, at most")
    options.add_argument("--batch", type=int, default=24, help="pictures drawn at once")
    options.add_argument("--decoder", help="normal or turbo; the checkpoint's preset if not given")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="auto")
    options.add_argument("--sheet", type=Path, help="PNG with what was drawn")
    options.add_argument("--out", type=Path, help="result file")
    return options


@dataclass(kw_only=True)
class Part:
    """The pictures of one part: [concept][style] -> path, and a fixed choice of concepts that have every style."""

    name: str
    pictures: dict[str, dict[str, Path]] = field(default_factory=dict)
    chosen: list[str] = field(default_factory=list)

    @property
    def styles(self) -> list[str]:
        """Styles in the order of the records."""
        return list(dict.fromkeys(style for found in self.pictures.values() for style in found))


def read_part(folder: Path, count: int, seed: int) -> Part:
    """The pictures that the text-to-image records of a folder name."""
    from llada_uni.data.records import RECORDS_FILE, read_records

    part = Part(name=folder.name)
    for one in read_records(folder / RECORDS_FILE):
        if one.task == "t2i":
            part.pictures.setdefault(one.meta["concept"], {})[one.meta["style"]] = folder / str(one.segments[-1].image)
    whole = sorted(name for name, found in part.pictures.items() if len(found) == len(part.styles))
    part.chosen = random.Random(seed).sample(whole, min(count, len(whole)))
    return part


@dataclass(kw_only=True)
class Judge:
    """Distances between pictures."""

    model: Any

    def features(self, images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        """``pixels`` and ``latents`` [N, D]."""
        import torch

        from llada_uni.data.scene_stream import to_unit

        size = images[0].size
        arrays = np.stack([np.asarray(image.convert("RGB").resize(size)) for image in images])
        vae = self.model.networks.vae
        with torch.inference_mode():
            batches = [to_unit(part) for part in np.array_split(arrays, max(len(arrays) // 16, 1))]
            latents = torch.cat([vae.encode(batch.to(next(vae.parameters())))[0].float().cpu() for batch in batches])
        means = [np.asarray(image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)) for image in images]
        return {
            "pixels": np.stack(means).reshape(len(images), -1).astype(np.float32) / 255,
            "latents": latents.flatten(1).numpy(),
        }


def retrieval(made: np.ndarray, references: np.ndarray, right: Sequence[int]) -> dict[str, float]:
    """Share of the rows of ``made`` [N, D] whose nearest reference [M, D] is the right one, and its mean rank."""
    distances = (made**2).sum(1)[:, None] - 2 * made.astype(np.float64) @ references.T + (references**2).sum(1)[None]
    own = distances[np.arange(len(made)), list(right)]
    rank = (distances < own[:, None]).sum(1) / max(len(references) - 1, 1)
    nearest = (distances.argmin(1) == np.array(right)).mean()
    five = (rank * max(len(references) - 1, 1) < 5).mean()
    return {"nearest": float(nearest), "among_five": float(five), "rank": float(rank.mean())}


def judged(judge: Judge, part: Part, style: str, made: Sequence[Image.Image]) -> dict[str, Any]:
    """Retrieval among all chosen concepts in ``style``, and among the styles of the right concept."""
    right = list(range(len(part.chosen)))
    pictures = judge.features(made)
    by_style = {one: judge.features([_opened(part, concept, one) for concept in part.chosen]) for one in part.styles}
    told: dict[str, Any] = {}
    for name, values in pictures.items():
        told[name] = retrieval(values, by_style[style][name], right)
        apart = np.stack([((values - by_style[one][name]) ** 2).sum(1) for one in part.styles])
        told[name]["style"] = float((apart.argmin(0) == part.styles.index(style)).mean())
    truth = [_opened(part, concept, style) for concept in part.chosen]
    told["psnr"] = float(np.mean([_psnr(a, b) for a, b in zip(made, truth, strict=True)]))
    return told


def _opened(part: Part, concept: str, style: str) -> Image.Image:
    return Image.open(part.pictures[concept][style]).convert("RGB")


def _psnr(one: Image.Image, other: Image.Image) -> float:
    a, b = (np.asarray(image.convert("RGB").resize(other.size), dtype=np.float64) for image in (one, other))
    return float(10 * np.log10(255**2 / max(((a - b) ** 2).mean(), 1e-6)))


def in_batches(items: Sequence[Any], size: int, make: Callable[[Sequence[Any], int], list[Any]]) -> list[Any]:
    """What ``make`` gives for all items, ``size`` at a time; it hears where the batch starts."""
    done: list[Any] = []
    for start in range(0, len(items), size):
        done += make(items[start : start + size], start)
        sys.stderr.write(f"{len(done)}/{len(items)} ")
    return done


def measure(model: Any, part: Part, options: argparse.Namespace) -> tuple[dict[str, Any], list[list[Image.Image]]]:
    """All numbers of one part, and rows of pictures for the sheet."""
    from llada_uni.data.emoji import QUESTION, describe, instruction

    judge, rows = Judge(model=model), list[list[Image.Image]]()
    more = {} if options.decoder is None else {"decoder": options.decoder}
    numbers: dict[str, Any] = {"concepts": len(part.chosen), "drawn": {}, "ceiling": {}, "edited": {}, "named": {}}
    for style in part.styles:
        sys.stderr.write(f"\n{part.name} {style}: ")
        truth = [_opened(part, concept, style) for concept in part.chosen]
        prompts = [describe(concept, style) for concept in part.chosen]
        drawn = in_batches(
            prompts,
            options.batch,
            lambda p, n: [r.image for r in model.generate_image(list(p), seed=options.seed + n, **more)],
        )
        decoded = in_batches(truth, options.batch, lambda t, n: _decoded(model, t, options.seed + n, options.decoder))
        before = part.styles[(part.styles.index(style) + 1) % len(part.styles)]
        sources = [_opened(part, concept, before) for concept in part.chosen]
        edited = in_batches(
            sources,
            options.batch,
            lambda s, n, style=style: [
                r.image for r in model.edit_image(list(s), [instruction(style)] * len(s), seed=options.seed + n, **more)
            ],
        )
        answers = in_batches(
            truth, options.batch, lambda t, _: [r.text for r in model.understand_image(list(t), [QUESTION] * len(t))]
        )
        numbers["drawn"][style] = judged(judge, part, style, drawn)
        numbers["ceiling"][style] = judged(judge, part, style, decoded)
        unchanged = float(np.mean([_psnr(a, b) for a, b in zip(sources, truth, strict=True)]))
        numbers["edited"][style] = {**judged(judge, part, style, edited), "from": before, "psnr_of_source": unchanged}
        numbers["named"][style] = named(answers, part.chosen, prompts, style)
        rows += [truth[:12], decoded[:12], drawn[:12], edited[:12]]
    return numbers, rows


def named(answers: Sequence[str], concepts: Sequence[str], wanted: Sequence[str], style: str) -> dict[str, float]:
    """Shares of answers that are right as a whole, name the concept, and name the style."""
    from llada_uni.data.emoji import describe

    word = describe("", style).split()[1]
    said = [answer.strip() for answer in answers]
    right = [one.split(maxsplit=2)[2:] == [f"{name} emoji"] for one, name in zip(said, concepts, strict=True)]
    return {
        "exact": float(np.mean([one == other for one, other in zip(said, wanted, strict=True)])),
        "concept": float(np.mean(right)),
        "style": float(np.mean([word in one.split() for one in said])),
    }


def _decoded(model: Any, pictures: Sequence[Image.Image], seed: int, decoder: str | None) -> list[Image.Image]:
    from llada_uni.evaluation.scenebench import decoded_from_true_codes

    return decoded_from_true_codes(model, list(pictures), seed=seed, decoder=decoder)


def sheet(rows: Sequence[Sequence[Image.Image]], path: Path) -> None:
    """Rows of four: the picture itself, decoded from its true codes, drawn from words, and restyled."""
    width, height = max(len(row) for row in rows) * 128, len(rows) * 128
    page = Image.new("RGB", (width, height), (255, 255, 255))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            page.paste(image.convert("RGB").resize((128, 128)), (128 * x, 128 * y))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)


def main(arguments: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = parser().parse_args(arguments)

    from llada_uni import LladaUni

    model = LladaUni.from_pretrained(options.model, device=options.device)
    numbers: dict[str, Any] = {"model": options.model, "seed": options.seed, "decoder": options.decoder or "preset"}
    rows: list[list[Image.Image]] = []
    for name in _PARTS:
        part = read_part(options.records / name, options.count, options.seed)
        numbers[name], found = measure(model, part, options)
        numbers[name]["chance"] = 1 / max(len(part.chosen), 1)
        rows += found
    if options.sheet is not None:
        sheet(rows, options.sheet)
    write(record(numbers, device=str(model.networks.device), arguments=arguments), options.out)


if __name__ == "__main__":
    main()
