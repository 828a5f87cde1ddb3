"""A dozen drawn pictures with captions, as people keep them."""

from __future__ import annotations

import random
from pathlib import Path

from llada_uni.scenes import canonical_caption, render, sample_scene


def draw_folder(folder: Path, count: int = 12, seed: int = 7) -> dict[str, str]:
    """Writes ``NN.png`` and ``NN.txt``; returns caption by name."""
    source = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    captions = {}
    for number in range(count):
        graph = sample_scene(source, grid_h=8, grid_w=8)
        name, words = f"{number:02d}", canonical_caption(graph)
        render(graph).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(words + "\n")
        captions[name] = words
    return captions
