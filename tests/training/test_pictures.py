"""Stages that learn pictures beside scenes: what was learnt of scenes stays, and runs stay exact."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_stages import AUTOENCODER, DECODER, FLOW, NUM_CODES, SQUARE, TOKENIZER, tiny_config

from llada_uni.data.picture_pool import PicturePool
from llada_uni.data.record_pictures import RecordPictures, load_pictures
from llada_uni.data.records import Record, RecordSegment, write_records
from llada_uni.decoder.config import SemanticEmbedderConfig
from llada_uni.decoder.vae import VAE
from llada_uni.errors import ConfigError
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.training.config import OptimConfig
from llada_uni.training.export import frozen
from llada_uni.training.objective import Draw, Resources
from llada_uni.training.objectives.codebook import renew_rows, unused_codes
from llada_uni.training.objectives.decoder import DecoderObjectiveConfig
from llada_uni.training.objectives.picture_tokenizer import PictureTokenizerObjective, PictureTokenizerObjectiveConfig
from llada_uni.training.objectives.vae import VaeObjectiveConfig
from llada_uni.training.train import train

FREE = 9


@pytest.fixture(scope="module")
def place(tiny_resources: Resources, tmp_path_factory: pytest.TempPathFactory) -> Resources:
    """Records of eight noisy pictures in the cache, a tokenizer with unused codes beside."""
    cache = tmp_path_factory.mktemp("pictures-cache")
    folder, rng, records = cache / "own", np.random.default_rng(0), []
    folder.mkdir()
    for number in range(8):
        pixels = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        words = RecordSegment(role="user", kind="text", text=f"picture {number}")
        drawn = RecordSegment(role="assistant", kind="image", image=f"{number}.png", supervised=True)
        records.append(Record(id=str(number), task="t2i", segments=(words, drawn)))
    write_records(folder / "records.jsonl", records)
    return Resources(out=tiny_resources.out, cache=cache)


def tokenizer_objective(place: Resources, **changes: Any) -> PictureTokenizerObjective:
    values: dict[str, Any] = {"pictures": "cache:own", "held_out": "cache:own", "warm": "out", "hidden": 16}
    values |= {"init_batches": 1, "eval_pictures": 4, "idle_limit": 1}
    config = PictureTokenizerObjectiveConfig(tokenizer=TOKENIZER, **(values | changes))
    return config.build(place, 0)


@pytest.fixture
def merged(place: Resources, tmp_path: Path) -> Resources:
    """The checkpoint with a tokenizer whose last codes were given up."""
    from llada_uni.image_tokenizer.config import PreprocessorConfig
    from llada_uni.weights.save import save_image_tokenizer

    tokenizer = frozen(place.out, "image_tokenizer")
    tokenizer.codebook[-FREE:] = tokenizer.codebook[-1].clone()
    save_image_tokenizer(tmp_path / "out", tokenizer, PreprocessorConfig(patch_size=8))
    return Resources(out=tmp_path / "out", cache=place.cache)


def test_codes_that_share_a_direction_are_unused() -> None:
    codebook = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    assert not unused_codes(codebook).any()
    codebook[[2, 5, 7]] = codebook[2].clone()
    assert unused_codes(codebook).nonzero().flatten().tolist() == [2, 5, 7]


def test_renewed_rows_follow_the_map_of_the_others() -> None:
    draw = torch.Generator().manual_seed(1)
    new = torch.nn.functional.normalize(torch.randn(40, 5, generator=draw, dtype=torch.float64), dim=-1)
    old = new.clone()
    old[30:] = old[30].clone()
    linear = torch.randn(6, 12, generator=draw, dtype=torch.float64)
    right = torch.cat([new, torch.ones(40, 1, dtype=torch.float64)], dim=1) @ linear
    table = right.clone()
    table[30:] = 7.0
    assert renew_rows(table, old, new) == 10
    assert torch.equal(table[:30], right[:30])
    cosine = torch.nn.functional.cosine_similarity(table[30:], right[30:])
    assert float(cosine.min()) > 0.999


def test_codes_of_scenes_are_not_moved(merged: Resources) -> None:
    objective = tokenizer_objective(merged)
    before = objective.model.tokenizer.codebook.clone()
    config = tiny_config("tokenizer", objective=objective.config, ema_decay=0.0, batch_size=4)
    train(config, objective, merged.out / "run", stop_at=6)
    codebook = objective.model.tokenizer.codebook
    assert torch.equal(codebook[:-FREE], before[:-FREE])
    assert not unused_codes(codebook)[-FREE:].all()


def test_features_of_scenes_are_held(merged: Resources) -> None:
    """With the anchor the features of scenes stay near where they were; without it the same run moves them."""
    moved = []
    for weight in (100.0, 0.0):
        objective = tokenizer_objective(merged, anchor_weight=weight)
        optim = OptimConfig(lr=3e-3, weight_decay=0.0)
        config = tiny_config(
            "tokenizer", objective=objective.config, ema_decay=0.0, batch_size=6, steps=12, optim=optim
        )
        train(config, objective, merged.out / f"run-{weight}")
        batch = objective.batch(Draw(seed=9, step=0, size=6))
        moved.append(float(objective.loss(batch, torch.Generator().manual_seed(0))[1]["anchor"]))
    assert moved[0] < moved[1] / 4


def test_a_full_codebook_is_refused(place: Resources) -> None:
    with pytest.raises(ConfigError, match="every code of the tokenizer is in use"):
        tokenizer_objective(place)


@pytest.mark.parametrize("stage", ["vae", "decoder", "tokenizer"])
def test_stopped_and_resumed_is_the_same_run(stage: str, place: Resources, merged: Resources, tmp_path: Path) -> None:
    here = merged if stage == "tokenizer" else place
    runs = []
    for name, stops in (("whole", (6,)), ("parts", (2, 4, 6))):
        for stop in stops:
            objective = tokenizer_objective(here) if stage == "tokenizer" else _objective(stage, here).build(here, 0)
            config = tiny_config(stage, objective=objective.config, ema_decay=0.0, batch_size=4)
            train(config, objective, tmp_path / name, stop_at=stop)
        runs.append(objective.model.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def _objective(stage: str, place: Resources) -> Any:
    if stage == "vae":
        return VaeObjectiveConfig(
            vae=AUTOENCODER, crop_px=32, full_share=0.4, grids=SQUARE, eval_pictures=16, pictures="cache:own",
            held_out="cache:own", warm="out",
        )  # fmt: skip
    data = dataclasses.replace(FLOW, pictures="cache:own", held_out="cache:own")
    return DecoderObjectiveConfig(
        decoder=DECODER, embedder=SemanticEmbedderConfig(num_codes=NUM_CODES, width=8), data=data, eval_pictures=2,
        eval_steps=2, warm="out", renew=True,
    )  # fmt: skip


@pytest.mark.parametrize("progress", [0.0, 0.99])
@pytest.mark.parametrize("stage", ["vae", "decoder"])
def test_batches_hold_both_kinds_and_follow_their_address(stage: str, progress: float, place: Resources) -> None:
    objective = _objective(stage, place).build(place, 0)
    name = "images" if stage == "vae" else "latents"
    for step in range(6):
        draw = Draw(seed=1, step=step, size=6, progress=progress)
        one, two = objective.batch(draw), objective.batch(draw)
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert one[name].isfinite().all()
        if progress == 0.0:
            assert len(one[name]) == 6


def test_evaluation_tells_of_held_out_pictures(place: Resources) -> None:
    for stage, expected in (("vae", {"psnr_pictures"}), ("decoder", {"psnr_pictures", "psnr_pictures_ceiling"})):
        objective = _objective(stage, place).build(place, 0)
        assert expected <= set(objective.evaluate(0))
        assert objective.samples(0, 2).shape == (2, 2, 128, 128, 3)


def test_windows_of_the_pool_are_parts_of_its_pictures(place: Resources, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pictures = load_pictures(place.find("cache:own"))
    pool = PicturePool(pictures, ImageTokenizer(TOKENIZER).eval(), VAE(AUTOENCODER).eval(), tmp_path)
    assert len(pool) == 2 * len(pictures), "mirror images too"
    latents, codes, _ = pool.whole(np.random.default_rng(0), 500)
    windows, parts, origins = pool.crops(np.random.default_rng(1), 5, 4)
    factor = latents.shape[2] // codes.shape[1]
    for window, part, (row, column) in zip(windows, parts, origins.tolist(), strict=True):
        cut = codes[:, row : row + 4, column : column + 4]
        rows, columns = (slice(start * factor, (start + 4) * factor) for start in (row, column))
        same = (cut == part).flatten(1).all(1) & (latents[:, :, rows, columns] == window).flatten(1).all(1)
        assert same.any()


def test_the_pool_is_kept_and_made_again_for_other_pictures(place: Resources, tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts = (ImageTokenizer(TOKENIZER).eval(), VAE(AUTOENCODER).eval(), tmp_path)
    pictures = load_pictures(place.find("cache:own"))
    PicturePool(pictures, *parts)
    stamp = (tmp_path / "pictures.npz").stat().st_mtime_ns
    PicturePool(pictures, *parts)
    assert (tmp_path / "pictures.npz").stat().st_mtime_ns == stamp
    other = RecordPictures(images=255 - pictures.images, words=pictures.words, digest="other")
    PicturePool(other, *parts)
    assert (tmp_path / "pictures.npz").stat().st_mtime_ns != stamp


def test_names_of_folders(tmp_path: Path) -> None:
    resources = Resources(out=tmp_path / "o", cache=tmp_path / "c")
    assert resources.find("cache:emoji/train") == tmp_path / "c" / "emoji" / "train"
    assert resources.find("out") == tmp_path / "o"
    assert resources.find(str(tmp_path / "x")) == tmp_path / "x"
