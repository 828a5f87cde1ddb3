"""Draws docs/assets/gallery.png: scenes of the world, what nano makes of their codes, and what it makes of words."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from PIL import Image

from llada_uni import LladaUni
from llada_uni.evaluation.scenebench import decoded_from_true_codes
from llada_uni.scenes import render, sample_scene
from llada_uni.scenes.bench import load_bench

__all__ = ["main"]

COLUMNS, SIDE_PX, GAP_PX = 8, 128, 4


def main(arguments: list[str] | None = None) -> None:
    """Write the picture: the first scenes of the seed and the first single-object prompts of SceneBench, not chosen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/assets/gallery.png"))
    parser.add_argument("--model", default="nano")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    source = random.Random(options.seed)
    scenes = [render(sample_scene(source)) for _ in range(COLUMNS)]
    model = LladaUni.from_pretrained(options.model)
    made = decoded_from_true_codes(model, scenes, seed=options.seed)
    prompts = [item.prompt for item in load_bench().generation if item.category == "single_object"][:COLUMNS]
    drawn = [result.image for result in model.generate_image(prompts, seed=options.seed)]
    step = SIDE_PX + GAP_PX
    rows = (scenes, made, drawn)
    sheet = Image.new("RGB", (COLUMNS * step - GAP_PX, len(rows) * step - GAP_PX), "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (column * step, row * step))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.out, optimize=True)
    print("\n".join(prompts))


if __name__ == "__main__":
    main()
