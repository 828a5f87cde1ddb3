"""The class-conditional decoder: its classes say everything a picture shows, and it trains like the decoder stage."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_stages import DECODER, OBJECTIVES, tiny_config

from llada_uni.decoder.classes import ClassEmbedder, ClassEmbedderConfig
from llada_uni.errors import ConfigError
from llada_uni.scenes import SceneGraph, SceneObject, render
from llada_uni.scenes.classes import CLASS_NAMES, CLASS_SIZES, class_map
from llada_uni.training.costs import Shapes, meta_model
from llada_uni.training.objective import Draw, Resources
from llada_uni.training.objectives.class_decoder import FOLDER, ClassDecoderObjectiveConfig
from llada_uni.training.run import RunOptions, run_recipe
from llada_uni.weights.load import load_class_embedder, load_decoder

EMBEDDER = ClassEmbedderConfig(sizes=CLASS_SIZES, width=8)


def config(**changes: Any) -> ClassDecoderObjectiveConfig:
    values: dict = {
        "decoder": DECODER, "embedder": EMBEDDER, "data": OBJECTIVES["decoder"].data, "eval_pictures": 2,
        "eval_steps": 2,
    }  # fmt: skip
    return ClassDecoderObjectiveConfig(**(values | changes))


def test_classes_of_a_scene() -> None:
    cat = SceneObject(kind="cat", colour="red", size="large", row=2, column=1)
    sign = SceneObject(kind="sign", colour=None, size="small", row=6, column=4, word="OPEN")
    found = class_map(SceneGraph(objects=(cat, sign), background="sky", style="outline"))
    assert found.shape == (8, 8, len(CLASS_NAMES))
    assert all((found[..., i] < size).all() for i, size in enumerate(CLASS_SIZES))
    assert found[0, 0].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    assert found[3, 1].tolist() == [7, 1, 2, 0, 2, 1, 1, 1]
    assert found[6, 7].tolist() == [21, 0, 1, 10, 1, 4, 1, 1]
    assert int((found[..., 0] > 0).sum()) == 9 + 8


def test_cells_of_equal_classes_look_equal(tiny_resources: Resources) -> None:
    """Except on backgrounds, which are drawn over the whole picture: classes leave nothing of an object open."""
    scenes = [s for s in OBJECTIVES["decoder"].data.pool.scenes(0) if s.background == "white"]
    scenes += [dataclasses.replace(scene, background="white") for scene in OBJECTIVES["decoder"].data.pool.scenes(1)]
    seen: dict[bytes, bytes] = {}
    for scene in scenes:
        picture, classes = np.asarray(render(scene)), class_map(scene)
        for row, column in np.argwhere(classes[..., 0] > 0):
            cell = picture[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].tobytes()
            assert seen.setdefault(classes[row, column].tobytes(), cell) == cell
    assert len(seen) > 20


def test_embedder_is_a_sum_of_its_classes() -> None:
    embedder = ClassEmbedder(ClassEmbedderConfig(sizes=(3, 2), width=8))
    classes = torch.tensor([[[[2, 1], [0, 0]]]])
    features = embedder(classes)
    assert features.shape == (1, 8, 8)
    assert torch.equal(features[0, 0], features[0, 1])
    assert torch.equal(features[0, :4], features[0, 4:]), "2 x 2 copies"
    table = embedder.embedding.weight
    wanted = embedder.outer(torch.nn.functional.silu(embedder.inner(table[2] + table[3 + 1])))
    torch.testing.assert_close(features[0, 0], wanted)
    for sizes, width in (((), 8), ((0, 2), 8), ((2,), 0)):
        with pytest.raises(ConfigError, match="classes"):
            ClassEmbedderConfig(sizes=sizes, width=width)


def test_its_windows_are_those_of_the_decoder_stage(tiny_resources: Resources) -> None:
    plain, mine = OBJECTIVES["decoder"].build(tiny_resources, 0), config().build(tiny_resources, 0)
    for progress in (0.1, 0.95):
        draw = Draw(seed=1, step=2, size=6, progress=progress)
        a, b = plain.batch(draw), mine.batch(draw)
        assert torch.equal(a["latents"], b["latents"])
        assert torch.equal(a["origin"], b["origin"])
        assert b["codes"].shape == (*a["codes"].shape, len(CLASS_NAMES))
        loss, _ = mine.loss(b, torch.Generator().manual_seed(0))
        assert torch.isfinite(loss)


def test_it_trains_and_is_exported(tiny_resources: Resources, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(tiny_resources.out, out)
    job = tiny_config("decoder", name="tiny-class-decoder", objective=config())
    (told,) = run_recipe(job, RunOptions(out=out, cache=tmp_path / "cache"))
    assert told["step"] == 6
    assert 0 <= told["verified"] <= 1
    objective = job.objective.build(Resources(out=out, cache=tmp_path / "cache"), 0)
    assert objective.samples(0, 2).shape == (2, 2, 128, 128, 3)
    embedder, decoder = load_class_embedder(out / FOLDER), load_decoder(out / FOLDER)
    assert embedder.config == EMBEDDER
    assert dataclasses.replace(decoder.config, axes_lens=DECODER.axes_lens) == DECODER
    built = meta_model(job, Shapes())
    assert [p.shape for p in built.parameters()] == [p.shape for p in objective.model.parameters()]


def test_what_has_no_classes_is_refused() -> None:
    data = dataclasses.replace(OBJECTIVES["decoder"].data, pictures="cache:own")
    with pytest.raises(ConfigError, match="scenes alone"):
        config(data=data)
    with pytest.raises(ConfigError, match="those of scenes"):
        config(embedder=ClassEmbedderConfig(sizes=(3,), width=8))
