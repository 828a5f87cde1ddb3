"""Seams: how well new cells agree with the cells before and after them, with and without the source as a reference.

A rectangle of held-out scenes is masked and predicted again from the scene's caption. The reference shows the scene
with the rectangle replaced by bare background, so that it holds no answer. A cell is right when its code is the true
one, or when what its code usually means (kind and colour, or background) is what the true cell shows. Cells are counted
on the side of the region where they touch kept cells: *before* (above or left) and *after* (right or below) in the
order in which the model writes.

python benchmarks/seams.py --count 300 --out benchmarks/results/seams.json
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from _record import record, write

_GRID = (8, 8)
_SIDES = ("before", "after", "all")
_MEASURES = ("code", "meaning")
_BATCH = 16
_MEANING_SCENES = 400


@dataclass(frozen=True, kw_only=True)
class Case:
    """A scene with its caption, the region (top, left, height, width), and true and blanked codes."""

    caption: str
    region: tuple[int, int, int, int]
    meaning: tuple[Any, ...]
    codes: tuple[int, ...]
    blanked: tuple[int, ...]

    @property
    def positions(self) -> list[int]:
        """Raster numbers of the region's cells."""
        top, left, height, width = self.region
        return [row * _GRID[1] + col for row in range(top, top + height) for col in range(left, left + width)]


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="nano", help="nano, a hub id or a directory")
    options.add_argument("--count", type=int, default=300, help="number of scenes")
    options.add_argument(
        "--meaning-scenes", type=int, default=_MEANING_SCENES, help="scenes that teach what codes mean"
    )
    options.add_argument("--block-lengths", type=int, nargs="+", default=[32, 64])
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="auto")
    options.add_argument("--out", type=Path, help="result file")
    return options


def cell_meanings(graph: Any) -> tuple[Any, ...]:
    """What every cell shows, raster order: (kind, colour or word) of an object or the background."""
    shown: list[Any] = [graph.background] * (graph.grid_h * graph.grid_w)
    for item in graph.objects:
        height, width = item.cells
        for row in range(item.row, item.row + height):
            for column in range(item.column, item.column + width):
                shown[row * graph.grid_w + column] = (item.kind, item.colour or item.word)
    return tuple(shown)


def encoded(model: Any, graphs: list[Any]) -> list[tuple[int, ...]]:
    """Codes of rendered scenes."""
    from llada_uni.scenes import render

    found = []
    for begin in range(0, len(graphs), _BATCH):
        found += model.encode_image([render(graph) for graph in graphs[begin : begin + _BATCH]])
    return [picture.codes for picture in found]


def dictionary(model: Any, count: int, seed: int) -> dict[int, Any]:
    """What each code means most often, from ``count`` training scenes; codes never seen mean nothing."""
    from llada_uni.scenes import sample_scene

    rng = random.Random(f"seams/meaning/{seed}")
    graphs = [sample_scene(rng) for _ in range(count)]
    tally: dict[int, Counter[Any]] = defaultdict(Counter)
    for graph, codes in zip(graphs, encoded(model, graphs), strict=True):
        for code, meaning in zip(codes, cell_meanings(graph), strict=True):
            tally[code][meaning] += 1
    return {code: counts.most_common(1)[0][0] for code, counts in tally.items()}


def cases(model: Any, count: int, seed: int) -> list[Case]:
    """Held-out scenes, each with a rectangle of 2 to 4 cells a side that cuts an object and leaves rows on both sides.

    Case i depends on the seed and i alone.
    """
    from llada_uni.scenes import canonical_caption, sample_scene

    graphs = [sample_scene(random.Random(f"seams/{seed}/{index}"), held_out=True) for index in range(count)]
    regions = [_region(random.Random(f"seams/region/{seed}/{index}"), graph) for index, graph in enumerate(graphs)]
    true = encoded(model, graphs)
    bare = encoded(model, [replace(graph, objects=()) for graph in graphs])
    made = []
    for graph, region, codes, empty in zip(graphs, regions, true, bare, strict=True):
        case = Case(
            caption=canonical_caption(graph), region=region, meaning=cell_meanings(graph), codes=codes, blanked=codes
        )
        inside = set(case.positions)
        made.append(replace(case, blanked=tuple(empty[p] if p in inside else code for p, code in enumerate(codes))))
    return made


def _region(rng: random.Random, graph: Any) -> tuple[int, int, int, int]:
    """A rectangle over the middle of one object, with at least one row above and one below it."""
    item = rng.choice(graph.objects)
    height, width = rng.randint(2, 4), rng.randint(2, 4)
    row, column = int(item.centre[0]), int(item.centre[1])
    top = min(max(row - rng.randint(0, height - 1), 1), _GRID[0] - 1 - height)
    left = min(max(column - rng.randint(0, width - 1), 0), _GRID[1] - width)
    return top, left, height, width


def sides(case: Case) -> dict[str, list[int]]:
    """Cells of the region that touch a kept cell before or after them, and all of them."""
    inside, (rows, columns) = set(case.positions), _GRID
    found: dict[str, list[int]] = {"before": [], "after": [], "all": case.positions}
    for position in case.positions:
        row, column = divmod(position, columns)
        near = {"before": [(row - 1, column), (row, column - 1)], "after": [(row + 1, column), (row, column + 1)]}
        for side, places in near.items():
            kept = [r * columns + c for r, c in places if 0 <= r < rows and 0 <= c < columns]
            if any(place not in inside for place in kept):
                found[side].append(position)
    return found


def predicted(model: Any, items: list[Case], seed: int, *, reference: bool, block_length: int) -> list[tuple[int, ...]]:
    """Codes of all cases with their regions predicted again; nothing is decoded to pixels."""
    from llada_uni import TokenGrid
    from llada_uni.pipeline.region_edit import region_request
    from llada_uni.pipeline.region_settings import region_settings
    from llada_uni.pipeline.stations import returned
    from llada_uni.pipeline.stations import write as write_ids
    from llada_uni.prompts import ImageBlock

    networks, grid = model.networks, TokenGrid(*_GRID)
    options = {"reference": reference, "blend": False, "block_length": block_length}
    settings = region_settings(networks.package.presets, networks.geometry.output_px(grid), options)
    found: list[tuple[int, ...]] = []
    for begin in range(0, len(items), _BATCH):
        requests = []
        for index, case in enumerate(items[begin : begin + _BATCH], begin):
            inside = set(case.positions)
            kept = {p: code for p, code in enumerate(case.codes) if p not in inside}
            block = ImageBlock(grid=grid, codes=case.blanked) if reference else None
            requests.append(region_request(networks, case.caption, seed + index, grid, kept, settings, block))
        finished = returned(write_ids(networks, requests, "block"))
        found += [tuple(networks.vocab.to_codes(row.output_ids)) for row in finished]
    return found


def agreement(items: list[Case], codes: list[tuple[int, ...]], meanings: dict[int, Any]) -> dict[str, Any]:
    """Rates with Wilson intervals, by side of the region and measure."""
    from llada_uni.scenes import wilson

    hits = {side: {measure: [0, 0] for measure in _MEASURES} for side in _SIDES}
    for case, found in zip(items, codes, strict=True):
        for side, positions in sides(case).items():
            for position in positions:
                right = {
                    "code": found[position] == case.codes[position],
                    "meaning": meanings.get(found[position]) == case.meaning[position],
                }
                for measure, value in right.items():
                    hits[side][measure][0] += value
                    hits[side][measure][1] += 1
    return {
        side: {
            measure: {
                "rate": correct / max(total, 1),
                "interval": list(wilson(correct, total)),
                "correct": correct,
                "total": total,
            }
            for measure, (correct, total) in measures.items()
        }
        for side, measures in hits.items()
    }


def measure(model: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Every combination of reference and block length, and the true codes themselves as the ceiling of the meaning."""
    meanings = dictionary(model, options.meaning_scenes, options.seed)
    items = cases(model, options.count, options.seed)
    variants = []
    for block_length in options.block_lengths:
        for reference in (False, True):
            codes = predicted(model, items, options.seed, reference=reference, block_length=block_length)
            found = agreement(items, codes, meanings)
            variants.append({"block_length": block_length, "reference": reference, "agreement": found})
            shown = ", ".join(f"{side} {found[side]['meaning']['rate']:.3f}" for side in _SIDES)
            sys.stderr.write(f"block length {block_length}, reference {reference}: meaning {shown}\n")
    return {
        "model": options.model,
        "seed": options.seed,
        "scenes": len(items),
        "meaning_scenes": options.meaning_scenes,
        "true_codes": agreement(items, [case.codes for case in items], meanings),
        "blanked": agreement(items, [case.blanked for case in items], meanings),
        "variants": variants,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = parser().parse_args(arguments)

    from llada_uni import LladaUni

    model = LladaUni.from_pretrained(options.model, device=options.device)
    numbers = measure(model, options)
    write(record(numbers, device=str(model.networks.device), arguments=arguments), options.out)


if __name__ == "__main__":
    main()
