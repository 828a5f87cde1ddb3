"""A story is trained as it is written: the state machine's steps see what training rows of the same story see."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from llada_uni import prompts
from llada_uni.backbone.denoiser import CachedDenoiser
from llada_uni.backbone.model import Backbone
from llada_uni.data.block_rows import Branch, collate, lay_out
from llada_uni.data.task_stream import TaskWriter
from llada_uni.data.unified_stream import MixConfig, Writer
from llada_uni.diffusion.masking import training_allowed
from llada_uni.grid import Geometry
from llada_uni.protocols import Guidance, Request, Sampling
from llada_uni.sampling.block_sampler import plan, prefill, start
from llada_uni.sampling.interleaved import StoryRules, next_request
from llada_uni.sampling.story_state import StoryState
from llada_uni.scenes.stories import sample_story
from llada_uni.testing.checkpoint import tiny_text_tokenizer
from llada_uni.testing.tiny import tiny_backbone
from llada_uni.training.objectives.backbone import row_positions

TEXT = tiny_text_tokenizer()
VOCAB = TEXT.vocab(text_vocab_size=TEXT.num_ids, num_codes=20)
SPECIAL = VOCAB.special


def a_story(seed: int, block_length: int) -> tuple[Branch, dict[str, Tensor]]:
    """A training document of a story with random codes, and its row."""
    source = random.Random(seed)
    mix = MixConfig(unconditional_share=0.0, block_lengths=((block_length, 1.0),))
    group = sample_story(source, "motion" if seed % 2 else "counting")
    codes = [np.random.default_rng((seed, n)).integers(0, 20, (8, 8)) for n in range(len(group.frames))]
    document = TaskWriter(writer=Writer(vocab=VOCAB, tokenizer=TEXT, mix=mix)).story(group, codes, source)
    assert document.block_length == block_length
    return document.branches[0], collate([lay_out(document, SPECIAL.eos)], 4096, SPECIAL.eos)


def rules(block_length: int) -> StoryRules:
    sampling = Sampling(block_length=block_length, steps_per_block=4)
    return StoryRules(
        vocab=VOCAB,
        geometry=Geometry(),
        frame_rows=lambda ids: prompts.interleaved_frame(VOCAB, TEXT, ids),
        text=sampling,
        picture=sampling,
        first=Guidance(kind="simple", scale=2.0),
        later=Guidance(kind="editing", text=2.0, image=1.5),
        max_positions=4096,
        known_tail=True,
    )


def written(request: Request, model: Backbone) -> Tensor:
    """Logits of the sampler's first step, of the condition's block, over the whole vocabulary."""
    rows, _ = start([request])
    denoiser = CachedDenoiser(model)
    rows = prefill(rows, denoiser)
    return denoiser.step(replace(plan(rows), wanted=None, id_range=None))[0]


def trained(table: dict[str, Tensor], model: Backbone, first: int, shown: int | None) -> tuple[Tensor, Tensor]:
    """Logits of a row in which everything from position ``first`` on is masked but for ``shown``, and positions."""
    masked = table["maskable"] & (table["position"] >= first) & (table["position"] != (-1 if shown is None else shown))
    batch = table | {"noisy_ids": table["ids"].masked_fill(masked, SPECIAL.mask)}
    allowed = training_allowed(*(table[name] for name in ("document", "branch", "block", "stream")))
    hidden = model.hidden(batch["noisy_ids"], row_positions(model.config, batch, allowed), allowed.unsqueeze(1))
    return model.logits(hidden)[0], (table["stream"][0] == 1) & (table["position"][0] >= first)


@pytest.mark.parametrize("alignment", [0, 128])
@pytest.mark.parametrize(("seed", "block_length"), [(0, 32), (1, 32), (2, 16)])
def test_every_phase_sees_what_its_training_row_sees(seed: int, block_length: int, alignment: int) -> None:
    model = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64, picture_alignment=alignment)
    branch, table = a_story(seed, block_length)
    row, first, by = (*branch.prompt, *branch.target), len(branch.prompt), rules(block_length)
    for segment in branch.parts:
        phase = "image" if segment.is_image else "text"
        request = next_request(StoryState(ids=row[:first], seed=0, phase=phase), by)
        given = [first + place for place in request.given]
        expected, here = trained(table, model, first, given[0] if given else None)
        end = (first // block_length + 1) * block_length
        here = here & (table["position"][0] < end)
        found = written(request, model)[-(end - first) :]
        torch.testing.assert_close(found, expected[here], rtol=1e-4, atol=1e-4)
        first += segment.length
    assert first == len(row)
    assert len(branch.parts) >= 5
