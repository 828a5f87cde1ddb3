"""Draws docs/assets/gallery.png: scenes of the world above, and below them what nano makes of their codes."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from PIL import Image

from llada_uni import LladaUni
from llada_uni.evaluation.scenebench import decoded_from_true_codes
from llada_uni.scenes import render, sample_scene

__all__ = ["main"]

COLUMNS, SIDE_PX, GAP_PX = 8, 128, 4


def main(arguments: list[str] | None = None) -> None:
    """Write the picture; the scenes are the first ones of the seed, not chosen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/assets/gallery.png"))
    parser.add_argument("--model", default="nano")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    source = random.Random(options.seed)
    scenes = [render(sample_scene(source)) for _ in range(COLUMNS)]
    made = decoded_from_true_codes(LladaUni.from_pretrained(options.model), scenes, seed=options.seed)
    step = SIDE_PX + GAP_PX
    sheet = Image.new("RGB", (COLUMNS * step - GAP_PX, 2 * step - GAP_PX), "white")
    for column, (above, below) in enumerate(zip(scenes, made, strict=True)):
        sheet.paste(above, (column * step, 0))
        sheet.paste(below, (column * step, step))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.out, optimize=True)


if __name__ == "__main__":
    main()
