"""Recipes that are not run here fit together: sizes of the stages agree, and their data can be written."""

from __future__ import annotations

import dataclasses
import importlib
import random

import numpy as np
import pytest
import torch

from llada_uni.backbone.model import Backbone
from llada_uni.data.unified_stream import Writer
from llada_uni.decoder.dit import Decoder
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.training.config import TrainConfig
from llada_uni.weights.load import load_text_tokenizer
from llada_uni_recipes import small, uni


@pytest.mark.parametrize("module", ["small", "uni"])
def test_every_recipe_builds_under_its_own_name(module: str) -> None:
    recipes = importlib.import_module(f"llada_uni_recipes.{module}")
    names = [getattr(recipes, name)().name for name in recipes.__all__ if name not in ("all", "stages")]
    assert len(set(names)) == len(names)
    assert all(name.startswith(f"{module}-") for name in names)


def test_stages_of_small_fit_together() -> None:
    objective, decoder = small.backbone().objective, small.decoder().objective
    shape = small.tokenizer().objective.tokenizer
    codes = shape.vq_config.num_embeddings
    assert objective.backbone.vocab_size - objective.backbone.image_token_offset == codes == decoder.embedder.num_codes
    assert decoder.decoder.in_channels == small.vae().objective.vae.latent_channels
    assert decoder.decoder.cap_feat_dim == decoder.embedder.width
    sides = [side for height, width in small.package().package.trained_grids for side in (height, width)]
    assert max(sides) * shape.vision_config.patch_size == shape.vision_config.image_size
    assert 2 * max(sides) <= decoder.decoder.absolute_positions
    assert small.vae().objective.vae.factor == shape.vision_config.patch_size // 2


def test_small_and_full_sizes_are_what_they_say() -> None:
    with torch.device("meta"):
        backbone = sum(p.numel() for p in Backbone(small.backbone().objective.backbone).parameters())
        tokenizer = sum(p.numel() for p in ImageTokenizer(small.tokenizer().objective.tokenizer).parameters())
        decoder = sum(p.numel() for p in Decoder(small.decoder().objective.decoder).parameters())
        full = sum(p.numel() for p in Backbone(uni.s1().objective.backbone).parameters())
    assert 120e6 < backbone < 150e6
    assert 14e6 < tokenizer < 17e6
    assert 20e6 < decoder < 35e6
    assert 16.2e9 < full < 16.4e9


def test_stages_of_uni_follow_the_paper() -> None:
    chain = uni.stages()
    assert [config.name for config in chain] == [
        "uni-s0-rows", "uni-s0-256", "uni-s0-512", "uni-s1", "uni-s2-8k", "uni-s2-16k",
    ]  # fmt: skip
    assert all(isinstance(config, TrainConfig) and config.objective.warm == "out" for config in chain)
    assert [config.objective.capacity for config in chain] == [8192] * 5 + [16384]
    assert chain[0].only == "image_rows"
    assert chain[0].optim.weight_decay == 0
    assert [config.objective.mtrs for config in chain] == [False] * 4 + [True] * 2
    assert [config.objective.mix.complementary for config in chain] == [False] * 4 + [True] * 2
    assert uni.lora().adapter is not None
    assert uni.full_8().adapter is None


@pytest.mark.parametrize("module", [small, uni])
def test_documents_can_be_written_for_their_grids(module: object) -> None:
    name = "tasks" if module is small else "s1"
    objective = getattr(module, name)().objective
    side = 1 if module is small else 2  # scene cells per code
    pool = dataclasses.replace(objective.pool, shard_size=1)
    text = load_text_tokenizer("nano")
    offset = objective.backbone.image_token_offset
    vocab = text.vocab(text_vocab_size=offset, num_codes=objective.backbone.vocab_size - offset)
    writer = Writer(vocab=vocab, tokenizer=text, mix=objective.mix)
    (graph,) = pool.scenes(0)
    codes = np.zeros((graph.grid_h // side, graph.grid_w // side), dtype=np.uint16)
    for document in (writer.picture(graph, codes, random.Random(0)), writer.reading(graph, codes, random.Random(0))):
        length = max(len(branch.prompt) + len(branch.target) for branch in document.branches)
        assert codes.size < length <= objective.backbone.max_position_embeddings
