"""What a backbone knows of masked cells: the kind of a single one, and that a wholly masked object is missing.

Scenes of training combinations with their captions. Per scene one object is chosen: first one of its cells is masked,
then all cells of its kind; everything else is visible. Read off are the probabilities of codes that show the right
kind, and of codes that show no object. What a code shows is counted over a pool of scenes.

python benchmarks/missing.py --model nano --cache build/state --out benchmarks/results/missing.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from _record import record, write

_SHARDS = 12


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", nargs="+", default=["nano"], help="nano or directories")
    options.add_argument("--cache", type=Path, required=True, help="folder for extracted codes")
    options.add_argument("--count", type=int, default=300, help="number of scenes")
    options.add_argument("--seed", type=int, default=3)
    options.add_argument("--out", type=Path, help="result file")
    return options


def objective_of(model: str, cache: Path) -> Any:
    """The backbone of a checkpoint with its pool and its writer of documents."""
    from dataclasses import replace

    from llada_uni.training.objective import Resources
    from llada_uni.training.run import resolve_recipe
    from llada_uni.weights.catalog import resolve

    config = resolve_recipe("recipes.nano:backbone").objective
    mix = replace(config.mix, unconditional_share=0.0)
    config = replace(config, mix=mix, pool=replace(config.pool, num_shards=_SHARDS), meaning_shards=0, warm="out")
    return config.build(Resources(out=resolve(model), cache=cache), seed=0)


def scores(objective: Any, count: int, seed: int) -> dict[str, float]:
    """Means over one object of every scene that has any."""
    from llada_uni.data.code_meanings import code_meanings
    from llada_uni.data.code_pool import encode_pictures
    from llada_uni.data.dense_labels import HEADS
    from llada_uni.data.scene_stream import draw_scenes, pictures, python_random
    from llada_uni.training.objective import Draw

    rng = Draw(seed=seed, step=1, size=count).numpy("evaluation")
    graphs = draw_scenes(rng, count, (8, 8), held_out=False)
    codes = encode_pictures(objective.tokenizer, pictures(graphs))
    shares = code_meanings(objective.pool, objective.writer.vocab.num_codes, _SHARDS)
    kinds = dict(zip(HEADS, shares.split(list(HEADS.values()), dim=1), strict=True))["kind"].argmax(1)
    source = python_random(rng)
    found: dict[str, list[float]] = {
        name: [] for name in ("one cell, right kind", "object, right kind", "object, none")
    }
    for graph, table in zip(graphs, codes, strict=True):
        if not graph.objects:
            continue
        document = objective.writer.picture(graph, table, source, whole=True)
        item = source.choice(graph.objects)
        alike = [one for one in graph.objects if (one.kind, one.word) == (item.kind, item.word)]
        cells = [row * graph.grid_w + column for one in alike for row, column in covered(one)]
        single = source.choice(cells)
        right = kinds == kinds[int(table.flat[single])]
        found["one cell, right kind"].append(float(chances(objective, document, [single])[:, right].sum(1).mean()))
        whole = chances(objective, document, cells)
        found["object, right kind"].append(float(whole[:, right].sum(1).mean()))
        found["object, none"].append(float(whole[:, kinds == 0].sum(1).mean()))
    return {name: round(sum(values) / len(values), 4) for name, values in found.items()}


def covered(item: Any) -> list[tuple[int, int]]:
    """Cells of an object, as (row, column)."""
    height, width = item.cells
    return [(item.row + i, item.column + j) for i in range(height) for j in range(width)]


@torch.no_grad()
def chances(objective: Any, document: Any, cells: list[int]) -> torch.Tensor:
    """Probabilities [N, K] of codes at N masked cells of the picture."""
    from llada_uni.data.block_rows import collate, lay_out
    from llada_uni.diffusion.masking import training_allowed
    from llada_uni.training.objectives.backbone import row_positions

    special, first = objective.writer.vocab.special, objective.writer.vocab.image_offset
    rows = collate([lay_out(document, special.eos)], 1, special.eos)
    begin = len(document.branches[0].prompt)
    masked = torch.isin(rows["position"], torch.tensor([begin + cell for cell in cells])) & rows["maskable"]
    allowed = training_allowed(rows["document"], rows["branch"], rows["block"], rows["stream"]).unsqueeze(1)
    ids = rows["ids"].masked_fill(masked, special.mask)
    model = objective.model.eval()
    positions = row_positions(model.config, {**rows, "noisy_ids": ids}, allowed.squeeze(1))
    logits = model(ids, positions, allowed, logit_mask=masked)
    return F.softmax(logits[:, first:], dim=-1)


def main(arguments: list[str] | None = None) -> None:
    """Score every model, show and store."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    numbers: dict[str, Any] = {}
    for model in options.model:
        numbers[Path(model).name] = scores(objective_of(model, options.cache), options.count, options.seed)
        sys.stderr.write(f"{Path(model).name}: {numbers[Path(model).name]}\n")
    write(record(numbers, arguments=arguments), options.out)


if __name__ == "__main__":
    main()
