"""How exactly the picture reader works: right readings of degraded renders, false accepts of wrong pictures.

python benchmarks/verifier.py --count 1000 --seed 0 --out benchmarks/results/verifier.json
"""

from __future__ import annotations

import argparse
import io
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from _record import record, write
from llada_uni.errors import ConfigError
from llada_uni.scenes.graph import (
    BACKGROUNDS,
    CELL_PX,
    COLOURS,
    KINDS,
    SIGN_WORDS,
    STYLES,
    WORLD_VERSION,
    SceneGraph,
    SceneObject,
)
from llada_uni.scenes.palette import BODY_RGB, background_array
from llada_uni.scenes.pixels import gaussian
from llada_uni.scenes.render import render_array, validate
from llada_uni.scenes.templates import Label, paste_clipped, sprite_for
from llada_uni.scenes.verify import read

Pixels = NDArray[np.uint8]
Degradation = Callable[[Pixels, np.random.Generator], Pixels]
Spoiler = Callable[[SceneGraph, random.Random, np.random.Generator], "Pixels | None"]


# --- scenes ---------------------------------------------------------------------------------------------------


def random_scene(
    rng: random.Random, *, grid: tuple[int, int] | None = None, background: str | None = None
) -> SceneGraph:
    """A valid scene with 1 to 4 objects, uniform over kinds, colours, sizes, backgrounds and styles."""
    grid = grid or rng.choice([(8, 8), (8, 12), (12, 8)])
    scene = SceneGraph(
        background=background or rng.choice(BACKGROUNDS), style=rng.choice(STYLES), grid_h=grid[0], grid_w=grid[1]
    )
    wanted = rng.randint(1, 4)
    for _ in range(60):
        if len(scene.objects) == wanted:
            break
        scene = _with_another(scene, rng)
    return replace(scene, objects=tuple(sorted(scene.objects, key=lambda item: (item.row, item.column))))


def _with_another(scene: SceneGraph, rng: random.Random) -> SceneGraph:
    if rng.random() < 0.2:
        item = SceneObject(kind="sign", colour=None, size="small", word=rng.choice(SIGN_WORDS), row=0, column=0)
    else:
        size: Literal["small", "large"] = "small" if rng.random() < 0.5 else "large"
        item = SceneObject(kind=rng.choice(KINDS), colour=rng.choice(COLOURS), size=size, row=0, column=0)
    row = rng.randint(0, scene.grid_h - item.cells[0])
    column = rng.randint(0, scene.grid_w - item.cells[1])
    larger = replace(scene, objects=(*scene.objects, replace(item, row=row, column=column)))
    try:
        validate(larger)
    except ConfigError:
        return scene
    return larger


def _window(item: SceneObject) -> tuple[slice, slice]:
    height, width = item.cells
    top, left = item.row * CELL_PX, item.column * CELL_PX
    return slice(top, top + height * CELL_PX), slice(left, left + width * CELL_PX)


def _bytes(levels: Any) -> Pixels:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


# --- mild degradations: the reading must stay right -------------------------------------------------------------


def blur(sigma: float) -> Degradation:
    """Gaussian blur."""
    return lambda pixels, _: _bytes(gaussian(pixels.astype(np.float32), sigma))


def noise(sigma: float) -> Degradation:
    """Independent Gaussian noise."""
    return lambda pixels, generator: _bytes(pixels + generator.normal(0, sigma, pixels.shape))


def jpeg(quality: int) -> Degradation:
    """JPEG with subsampled colour."""

    def degrade(pixels: Pixels, _: np.random.Generator) -> Pixels:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer))

    return degrade


def colour_shift(reach: float) -> Degradation:
    """One constant per channel."""
    return lambda pixels, generator: _bytes(pixels + generator.uniform(-reach, reach, 3))


def contrast(factor: float) -> Degradation:
    """Contrast around middle grey."""
    return lambda pixels, _: _bytes((pixels - 128.0) * factor + 128.0)


def resample(factor: float) -> Degradation:
    """Shrunk and enlarged again."""

    def degrade(pixels: Pixels, _: np.random.Generator) -> Pixels:
        picture = Image.fromarray(pixels)
        small = (round(picture.width / factor), round(picture.height / factor))
        return np.asarray(
            picture.resize(small, Image.Resampling.BICUBIC).resize(picture.size, Image.Resampling.BICUBIC)
        )

    return degrade


def mixture(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """A little of everything at once."""
    for step in (blur(0.6), noise(3), colour_shift(6), jpeg(75)):
        pixels = step(pixels, generator)
    return pixels


DEGRADATIONS: dict[str, Degradation] = {
    "none": lambda pixels, _: pixels,
    "blur_0.8": blur(0.8),
    "noise_4": noise(4),
    "jpeg_60": jpeg(60),
    "colour_shift_8": colour_shift(8),
    "resample_1.3": resample(1.3),
    "mixture": mixture,
    "blur_1.2": blur(1.2),
    "resample_2": resample(2.0),
    "contrast_0.9": contrast(0.9),
}


def moved(scene: SceneGraph, generator: np.random.Generator) -> Pixels:
    """The scene with every object drawn up to two pixels off the lattice."""
    shape = scene.grid_h * CELL_PX, scene.grid_w * CELL_PX
    canvas = background_array(scene.background, *shape).astype(np.float32)
    for item in scene.objects:
        label = Label(item.kind, item.colour or "", item.word or "", scene.style)
        dy, dx = (int(v) for v in generator.integers(-2, 3, 2))
        sprite = sprite_for(label, item.cells, scene.background == "night")
        paste_clipped(canvas, sprite, item.row * CELL_PX + dy, item.column * CELL_PX + dx)
    return _bytes(canvas)


# --- wrong pictures: the reader must abstain --------------------------------------------------------------------


def heavy_blur(scene: SceneGraph, rng: random.Random, generator: np.random.Generator) -> Pixels:
    """Blur of 3 to 4.5 pixels."""
    return blur(rng.uniform(3, 4.5))(render_array(scene), generator)


def _half(item: SceneObject, rng: random.Random) -> NDArray[np.bool_]:
    height, width = item.cells[0] * CELL_PX, item.cells[1] * CELL_PX
    mask = np.zeros((height, width), dtype=bool)
    if rng.random() < 0.5:
        mask[:, : width // 2] = True
    else:
        mask[: height // 2] = True
    return mask if rng.random() < 0.5 else ~mask


def half_erased(scene: SceneGraph, rng: random.Random, _: np.random.Generator) -> Pixels:
    """One object with a half replaced by background."""
    pixels, item = render_array(scene), rng.choice(scene.objects)
    empty = background_array(scene.background, *pixels.shape[:2])
    mask = _half(item, rng)
    pixels[_window(item)][mask] = empty[_window(item)][mask]
    return pixels


def _replaced(scene: SceneGraph, item: SceneObject, other: SceneObject) -> Pixels:
    return render_array(replace(scene, objects=tuple(other if o is item else o for o in scene.objects)))


def _icon(scene: SceneGraph, rng: random.Random) -> SceneObject | None:
    icons = [item for item in scene.objects if item.kind != "sign"]
    return rng.choice(icons) if icons else None


def glued_kinds(scene: SceneGraph, rng: random.Random, _: np.random.Generator) -> Pixels | None:
    """Two halves of different objects of one colour."""
    item = _icon(scene, rng)
    if item is None:
        return None
    pixels = render_array(scene)
    other = _replaced(scene, item, replace(item, kind=rng.choice([k for k in KINDS if k != item.kind])))
    mask = _half(item, rng)
    pixels[_window(item)][mask] = other[_window(item)][mask]
    return pixels


def misspelt(scene: SceneGraph, rng: random.Random, _: np.random.Generator) -> Pixels | None:
    """A sign with one letter of another word, so that it says none of the words."""
    signs = [item for item in scene.objects if item.kind == "sign"]
    if not signs:
        return None
    item = rng.choice(signs)
    word = item.word or ""
    other = rng.choice([w for w in SIGN_WORDS if len(w) == len(word) and w != word])
    index = rng.choice([k for k in range(len(word)) if word[k] != other[k]])
    if word[:index] + other[index] + word[index + 1 :] in SIGN_WORDS:
        return None
    pixels, source = render_array(scene), _replaced(scene, item, replace(item, word=other))
    mask = np.zeros((2 * CELL_PX, len(word) * CELL_PX), dtype=bool)
    mask[:, index * CELL_PX : (index + 1) * CELL_PX] = True
    pixels[_window(item)][mask] = source[_window(item)][mask]
    return pixels


def two_colours(scene: SceneGraph, rng: random.Random, generator: np.random.Generator) -> Pixels | None:
    """A round patch of 25 to 75 % of an object's coloured pixels in another colour."""
    item = _icon(scene, rng)
    if item is None:
        return None
    pixels = render_array(scene)
    other = _replaced(scene, item, replace(item, colour=rng.choice([c for c in COLOURS if c != item.colour])))
    window = _window(item)
    coloured = np.abs(pixels[window].astype(int) - other[window]).max(axis=-1) > 20
    side = coloured.shape[0]
    while True:
        patch = _disc(coloured.shape, generator.uniform(0.2, 0.8, 2) * side, generator.uniform(0.25, 0.4) * side)
        if 0.25 <= (patch & coloured).sum() / coloured.sum() <= 0.75:
            pixels[window][patch] = other[window][patch]
            return pixels


def _disc(shape: tuple[int, ...], centre: NDArray[Any], radius: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


def blend(scene: SceneGraph, rng: random.Random, _: np.random.Generator) -> Pixels:
    """Two scenes at half strength, every second time with the same background."""
    background = scene.background if rng.random() < 0.5 else None
    other = random_scene(rng, grid=(scene.grid_h, scene.grid_w), background=background)
    return _bytes(0.5 * render_array(scene) + 0.5 * render_array(other))


def random_noise(scene: SceneGraph, rng: random.Random, generator: np.random.Generator) -> Pixels:
    """Pure noise, or a scene under strong noise."""
    pixels = render_array(scene)
    if rng.random() < 0.5:
        return _bytes(generator.uniform(0, 255, pixels.shape))
    return noise(rng.uniform(40, 90))(pixels, generator)


def shuffled_cells(scene: SceneGraph, rng: random.Random, generator: np.random.Generator) -> Pixels | None:
    """All cells shuffled, or two of them swapped; None when that hardly changes the picture."""
    pixels = render_array(scene)
    rows, columns = scene.grid_h, scene.grid_w
    cells = pixels.reshape(rows, CELL_PX, columns, CELL_PX, 3).swapaxes(1, 2).reshape(-1, CELL_PX, CELL_PX, 3)
    order = generator.permutation(len(cells))
    if rng.random() < 0.5:
        item = rng.choice(scene.objects)
        first = item.row * columns + item.column
        second = rng.choice([k for k in range(len(cells)) if k != first])
        order = np.arange(len(cells))
        order[[first, second]] = order[[second, first]]
    mixed = cells[order].reshape(rows, columns, CELL_PX, CELL_PX, 3).swapaxes(1, 2).reshape(pixels.shape)
    changed = (np.abs(mixed.astype(int) - pixels).max(axis=-1) > 30).sum()
    return mixed if changed >= 60 else None


def extra_blob(scene: SceneGraph, rng: random.Random, generator: np.random.Generator) -> Pixels:
    """A disc of 4 to 10 pixels radius in a palette colour that stands out where it lies."""
    pixels = render_array(scene)
    shape = np.array(pixels.shape[:2])
    while True:
        colour = np.array(BODY_RGB[rng.choice(COLOURS)])
        disc = _disc(pixels.shape, generator.uniform(0.05, 0.95, 2) * shape, generator.uniform(4, 10))
        if (np.abs(pixels[disc] - colour).max(axis=-1) > 60).mean() > 0.6:
            pixels[disc] = colour
            return pixels


SPOILERS: dict[str, Spoiler] = {
    "heavy_blur": heavy_blur,
    "half_erased": half_erased,
    "glued_kinds": glued_kinds,
    "misspelt": misspelt,
    "two_colours": two_colours,
    "blend": blend,
    "random_noise": random_noise,
    "shuffled_cells": shuffled_cells,
    "extra_blob": extra_blob,
}


# --- measurement ------------------------------------------------------------------------------------------------


def measure_degraded(name: str, count: int, seed: int) -> dict[str, Any]:
    """Shares of right, wrong and abstained readings of ``count`` scenes under one degradation."""
    rng, generator = random.Random(seed), np.random.default_rng(seed)
    outcome: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for _ in range(count):
        scene = random_scene(rng)
        if name == "moved_2px":
            pixels = moved(scene, generator)
        else:
            pixels = DEGRADATIONS[name](render_array(scene), generator)
        reading = read(pixels)
        outcome["right" if reading.graph == scene else "wrong" if reading.graph else "abstained"] += 1
        if reading.graph is None:
            reasons[reading.reason] += 1
    shares = {key: outcome[key] / count for key in ("right", "wrong", "abstained")}
    return {**shares, "count": count, "reasons": dict(reasons.most_common(3))}


def measure_spoiled(name: str, count: int, seed: int) -> dict[str, Any]:
    """Share of ``count`` wrong pictures of one sort that were read as any scene at all."""
    rng, generator = random.Random(seed), np.random.default_rng(seed)
    accepted = done = 0
    while done < count:
        pixels = SPOILERS[name](random_scene(rng), rng, generator)
        if pixels is None:
            continue
        done += 1
        accepted += read(pixels).graph is not None
    return {"false_accepts": accepted / count, "count": count}


def measure_speed(count: int, seed: int) -> dict[str, float]:
    """Milliseconds of processor time per drawn and per read picture, with warm caches."""
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    pictures = [render_array(scene) for scene in scenes]
    for picture in pictures[: count // 4]:
        read(picture)
    start = time.process_time()
    for scene in scenes:
        render_array(scene)
    middle = time.process_time()
    for picture in pictures:
        read(picture)
    end = time.process_time()
    return {"render_ms": 1000 * (middle - start) / count, "read_ms": 1000 * (end - middle) / count}


def main(arguments: list[str] | None = None) -> None:
    """Runs all measurements and writes one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="result file")
    parser.add_argument("--count", type=int, default=1000, help="pictures per measurement")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    degraded = {
        name: measure_degraded(name, options.count, options.seed + index)
        for index, name in enumerate([*DEGRADATIONS, "moved_2px"])
    }
    spoiled = {
        name: measure_spoiled(name, options.count, options.seed + 100 + index) for index, name in enumerate(SPOILERS)
    }
    numbers = {
        "world": WORLD_VERSION,
        "right_readings": degraded,
        "wrong_pictures": spoiled,
        "speed": measure_speed(min(options.count, 200), options.seed),
    }
    write(record(numbers, arguments=arguments), options.out)


if __name__ == "__main__":
    main()
