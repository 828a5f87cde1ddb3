"""Every stage learns: it memorises eight samples, and after a minute on scenes it beats chance on scenes never seen.

Chance is what the best single guess would get on the same scenes, or what a picture's neighbour gets in its place; the
difference is paired by picture (or by batch of pictures) and must be more than three standard errors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_stages import AUTOENCODER, BACKBONE, DECODER, NUM_TEXT, OBJECTIVES, SQUARE, TOKENIZER, tiny_config
from torch import Tensor

from llada_uni.data.block_rows import collate, lay_out
from llada_uni.data.code_pool import PoolConfig, encode_pictures
from llada_uni.data.scene_stream import draw_scenes, pictures, python_random, to_unit
from llada_uni.decoder.config import SemanticEmbedderConfig
from llada_uni.diffusion.masking import MaskRatioLaw
from llada_uni.testing.checkpoint import tiny_text_tokenizer
from llada_uni.training.config import OptimConfig, ScheduleConfig
from llada_uni.training.metrics import read_metrics
from llada_uni.training.objective import Draw, Resources
from llada_uni.training.objectives.backbone import masked_losses, noised
from llada_uni.training.objectives.decoder import FlowDataConfig, Sampler
from llada_uni.training.objectives.reader import ReaderConfig
from llada_uni.training.train import train
from llada_uni.weights.save import save_text_tokenizer

pytestmark = pytest.mark.slow

STAGES = ("vae", "tokenizer", "backbone", "decoder", "turbo")
NEEDS = {
    "vae": (),
    "tokenizer": (),
    "backbone": ("tokenizer",),
    "decoder": ("vae", "tokenizer"),
    "turbo": ("vae", "tokenizer", "decoder"),
}
CODES = 64
POOL = PoolConfig(num_shards=3, shard_size=32, seed=3, grids=SQUARE)
FLOW = FlowDataConfig(pool=POOL, num_shards=3, full_share=0.0)
LARGER = {
    "vae": {"vae": dataclasses.replace(AUTOENCODER, block_out_channels=(8, 8, 16))},
    "tokenizer": {
        "tokenizer": dataclasses.replace(
            TOKENIZER,
            vision_config=dataclasses.replace(TOKENIZER.vision_config, hidden_size=32, intermediate_size=64),
            vq_config=dataclasses.replace(TOKENIZER.vq_config, num_embeddings=CODES, latent_channels=32),
        ),
        "reader": ReaderConfig(width=32, depth=1, heads=2, text_vocab_size=NUM_TEXT),
        "init_batches": 2,
        "idle_limit": 50,
    },
    "backbone": {
        "backbone": dataclasses.replace(
            BACKBONE, vocab_size=NUM_TEXT + CODES, hidden_size=64, intermediate_size=128, moe_intermediate_size=32
        ),
        "pool": POOL,
    },
    "decoder": {
        "decoder": dataclasses.replace(DECODER, dim=48, n_heads=3, time_hidden_dim=32, cap_feat_dim=16),
        "embedder": SemanticEmbedderConfig(num_codes=CODES, width=16),
        "data": FLOW,
    },
    "turbo": {"data": FLOW},
}
STEPS = {"vae": 120, "tokenizer": 250, "backbone": 120, "decoder": 200, "turbo": 120}
RATES = {"vae": 1e-2, "tokenizer": 5e-3, "backbone": 5e-3, "decoder": 5e-3, "turbo": 2e-3}
SHRINKS = {"vae": 4.0, "tokenizer": 8.0, "backbone": 5.0, "decoder": 20.0, "turbo": 4.0}
"""By how much the loss on eight samples falls, at least."""


class FewBatches:
    """A stage that sees the same ``count`` batches in turn; ``same_noise`` draws the same noise for one each time."""

    def __init__(self, objective: Any, count: int, size: int, *, same_noise: bool) -> None:
        self.objective, self.model, self._same_noise = objective, objective.model, same_noise
        self._batches = [objective.batch(Draw(seed=0, step=step, size=size, progress=0.3)) for step in range(count)]
        self.weight, self.after_step = objective.weight, objective.after_step

    def batch(self, draw: Draw) -> Any:
        return self._batches[draw.step % len(self._batches)]

    def loss(self, batch: Any, generator: torch.Generator) -> Any:
        return self.objective.loss(batch, torch.Generator().manual_seed(0) if self._same_noise else generator)


def stage_of(stage: str) -> Any:
    """The tiny stage with networks large enough to learn something."""
    return dataclasses.replace(OBJECTIVES[stage], **LARGER[stage])


@torch.enable_grad()
def learn(stage: str, where: Resources, directory: Path, *, count: int, size: int, same_noise: bool) -> Any:
    """The objective after its steps, and the losses of its run."""
    objective = stage_of(stage).build(where, 0)
    config = tiny_config(
        stage, steps=STEPS[stage], batch_size=size, log_every=1, optim=OptimConfig(lr=RATES[stage]), prefetch=0,
        ema_decay=0.0, schedule=ScheduleConfig(warmup_steps=5), checkpoint_seconds=1e9,
    )  # fmt: skip
    train(config, FewBatches(objective, count, size, same_noise=same_noise), directory)
    objective.conclude(0)
    objective.model.eval()
    return objective, [record["loss"] for record in read_metrics(directory)]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Resources]]:
    """Stages trained on scenes one after the other, each on what the earlier ones exported; made when first asked."""
    where = Resources(out=tmp_path_factory.mktemp("chain"), cache=tmp_path_factory.mktemp("cache"))
    save_text_tokenizer(where.out, tiny_text_tokenizer())
    made: dict[str, Any] = {}

    def ask(stage: str) -> tuple[Any, Resources]:
        for name in (*NEEDS[stage], stage):
            if name not in made:
                made[name], _ = learn(name, where, where.cache / name, count=16, size=12, same_noise=False)
                made[name].export(where.out)
        return made[stage], where

    return ask


def beats_chance(differences: Any) -> float:
    """Standard errors that the mean of paired differences lies above zero."""
    values = np.asarray(differences, dtype=np.float64)
    return float(values.mean() / (values.std(ddof=1) / len(values) ** 0.5))


def fresh(count: int, purpose: str) -> tuple[list[Any], np.ndarray]:
    """Scenes of no training pool, held-out combinations among them, and their pictures."""
    rng = Draw(seed=99, step=0, size=count).numpy(purpose)
    graphs = draw_scenes(rng, count, (8, 8), held_out=None)
    return graphs, pictures(graphs)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    """A checkpoint directory of fresh networks of the sizes used here."""
    where = Resources(out=tmp_path_factory.mktemp("untrained"), cache=tmp_path_factory.mktemp("cache"))
    save_text_tokenizer(where.out, tiny_text_tokenizer())
    for stage in NEEDS["turbo"]:
        stage_of(stage).build(where, 0).export(where.out)
    return where


@pytest.mark.parametrize("stage", STAGES)
def test_eight_samples_are_memorised(stage: str, untrained: Resources, tmp_path: Path) -> None:
    _, losses = learn(stage, untrained, tmp_path, count=1, size=8, same_noise=True)
    assert max(losses[-5:]) < losses[0] / SHRINKS[stage]


@torch.no_grad()
def test_reconstructions_beat_a_single_colour(chain: Callable) -> None:
    vae = chain("vae")[0].model
    images = to_unit(fresh(48, "vae")[1])
    output = vae.decode(vae.encode(images)[0])
    single = images.mean((2, 3), keepdim=True)
    guessed, made = ((guess - images).square().flatten(1).mean(1) for guess in (single, output))
    assert beats_chance(guessed - made) > 3


@torch.no_grad()
def test_codes_say_more_than_the_commonest_answer(chain: Callable) -> None:
    objective = chain("tokenizer")[0]
    found: dict[str, list[float]] = {"background": [], "colour": []}
    for step in range(16):
        batch = objective.batch(Draw(seed=99, step=step, size=6))
        _, accuracies = objective._evaluate_batch(batch)
        for name, values in found.items():
            known = batch["labels"][name][batch["labels"][name] >= 0]
            values.append(accuracies[f"acc_{name}"] - float(known.bincount().max() / len(known)))
    for name, values in found.items():
        assert beats_chance(values) > 3, name


@torch.no_grad()
def test_masked_tokens_are_told_better_than_by_the_commonest_token(chain: Callable) -> None:
    objective = chain("backbone")[0]
    graphs, images = fresh(40, "backbone")
    codes, source = encode_pictures(objective.tokenizer, images), python_random(np.random.default_rng(7))
    writer, special = objective.writer, objective.writer.vocab.special
    for write in (writer.picture, writer.reading):
        documents = [write(graph, own, source) for graph, own in zip(graphs, codes, strict=True)]
        rows = collate([lay_out(d, special.eos) for d in documents], objective.config.capacity, special.eos)
        ratio = 0.5 if write == writer.picture else 1.0
        law = MaskRatioLaw(low=ratio, high=ratio, full_share=0.0)
        batch = noised(rows, law, law, special.mask, torch.Generator().manual_seed(0))
        order = (batch["document"] >= 0).sum(1).argsort(stable=True)  # the one in which losses come
        batch = {name: values[order] for name, values in batch.items()}
        found = masked_losses(objective.model, batch)
        clean = batch["ids"][batch["masked"]]
        guessed = (clean == clean[~found.fill].bincount().argmax()).float()
        differences = per_sample(found.hits - guessed, found.sample, ~found.fill)
        assert beats_chance(differences) > 3, write.__name__


def per_sample(values: Tensor, sample: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values of every sample that has some."""
    return torch.stack([values[chosen & (sample == number)].mean() for number in sample[chosen].unique()])


@torch.no_grad()
@pytest.mark.parametrize("stage", ["decoder", "turbo"])
def test_pictures_are_nearer_to_their_own_codes_than_to_others(stage: str, chain: Callable) -> None:
    objective = chain(stage)[0]
    judge = objective._judge
    _, images = fresh(40, stage)
    codes = torch.from_numpy(encode_pictures(judge.tokenizer, images).astype("int64"))
    few = {"decoder": (8, 3.0, 0.0), "turbo": (4, 1.0, 1.0)}[stage]
    sampler = Sampler(model=objective.model, num_steps=few[0], shift=few[1], renoise_ratio=few[2])
    config = judge.vae.config
    output, target = (
        judge.vae.decode(judge.vae.from_model(sampler(codes, config.latent_channels, 4, 0))),
        to_unit(images),
    )
    own, *others = ((output - target.roll(n, 0)).square().flatten(1).mean(1) for n in range(6))
    assert beats_chance(torch.stack(others).mean(0) - own) > 3
