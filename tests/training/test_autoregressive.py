"""The causal baseline: its loss is the per-token loop, it never looks ahead, and it trains on the same documents."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stages import BACKBONE, OBJECTIVES, tiny_config
from torch.nn import functional as F

from llada_uni.backbone.causal import CausalRows
from llada_uni.data.block_rows import Branch, Document
from llada_uni.data.causal_rows import NOTHING, causal_allowed, lay_out_causal
from llada_uni.data.unified_stream import MixConfig
from llada_uni.errors import ConfigError
from llada_uni.training.costs import Shapes, meta_model, step_cost
from llada_uni.training.objective import Draw, Resources
from llada_uni.training.objectives.autoregressive import (
    FOLDER,
    AutoregressiveObjectiveConfig,
    next_token_losses,
)
from llada_uni.training.run import RunOptions, run_recipe
from llada_uni.training.train import train
from llada_uni.weights.load import load_backbone


def config(**changes: Any) -> AutoregressiveObjectiveConfig:
    return AutoregressiveObjectiveConfig(scenes=dataclasses.replace(OBJECTIVES["backbone"], **changes))


def aligned() -> Any:
    return dataclasses.replace(BACKBONE, picture_alignment=32, picture_start_id=0)


def built(resources: Resources, **changes: Any) -> Any:
    objective = config(**changes).build(resources, 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in objective.model.parameters():  # a fresh model predicts the same of everything
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(1 + 0.2 * noise if parameter.ndim == 1 else 0.3 * noise)
    objective.model.double()
    return objective


def naive(objective: Any, documents: list[Document], *, mtrs: bool) -> float:
    """Every target id by itself: the model sees the ids before it and nothing else."""
    model, total, weight = objective.model.eval(), 0.0, 0.0
    for document in documents:
        for branch in document.branches:
            ids = torch.tensor([*branch.prompt, *branch.target])
            losses = []
            for place in range(len(branch.prompt), len(ids)):
                seen = ids[:place]
                allowed = torch.ones(place, place, dtype=torch.bool).tril()[None, None]
                logits = model(seen[None], model.config.positions(seen)[None], allowed)[0, -1]
                losses.append(float(F.cross_entropy(logits[None], ids[place : place + 1]).detach()))
            scale = len(losses) ** 0.5 if mtrs else len(losses)
            total, weight = total + sum(losses) / len(losses) * scale, weight + scale
    return total / weight


@pytest.mark.parametrize("mtrs", [True, False])
@pytest.mark.parametrize("alignment", [False, True])
def test_the_loss_is_that_of_a_loop_over_single_ids(tiny_resources: Resources, mtrs: bool, alignment: bool) -> None:
    special = {} if not alignment else {"backbone": aligned()}
    objective = built(tiny_resources, mtrs=mtrs, capacity=400, num_buckets=2, **special)
    if alignment:
        start = objective.scenes.writer.vocab.special.boi
        objective.model.config = dataclasses.replace(objective.model.config, picture_start_id=start)
    writer, draw = objective.scenes.writer, Draw(seed=3, step=0, size=3)
    documents = writer.documents(draw.numpy("documents"), objective.scenes.pool, 3)
    assert {len(document.branches) for document in documents} == {1, 3}, "pictures, and questions that share a prefix"
    batch = objective.rows(documents)
    shared = sum(len(d.branches) * 50 for d in documents if len(d.branches) > 1)
    whole = sum(len(b.prompt) + len(b.target) - 1 for d in documents for b in d.branches)
    assert int((batch["document"] >= 0).sum()) < whole - shared, "a shared prefix stands once"
    loss, told = objective.loss(batch, torch.Generator())
    assert float(loss.detach()) == pytest.approx(naive(objective, documents, mtrs=mtrs), rel=1e-6)
    assert told["nll_image"] > 0 < told["nll_text"]


def test_a_later_id_never_changes_an_earlier_logit(tiny_resources: Resources) -> None:
    model = built(tiny_resources).model.eval()
    ids = torch.randint(0, model.config.vocab_size, (1, 24), generator=torch.Generator().manual_seed(0))
    facts = [torch.zeros(1, 24, dtype=torch.long), torch.zeros(1, 24, dtype=torch.long), torch.arange(24)[None]]
    allowed = causal_allowed(*facts)
    assert torch.equal(allowed[0], torch.ones(24, 24, dtype=torch.bool).tril())
    before = model(ids, facts[2], allowed[:, None])
    for place in (5, 23):
        changed = ids.clone()
        changed[0, place] = (changed[0, place] + 1) % model.config.vocab_size
        after = model(changed, facts[2], allowed[:, None])
        torch.testing.assert_close(after[0, :place], before[0, :place], rtol=1e-10, atol=1e-10)  # experts sum in groups
        assert not torch.allclose(after[0, place:], before[0, place:])


def test_branches_see_what_they_share_and_nothing_of_each_other() -> None:
    branches = (Branch(prompt=(1, 2, 3, 4), target=(7, 8)), Branch(prompt=(1, 2, 5), target=(9,), tag=3))
    row = lay_out_causal(Document(branches=branches, block_length=4))
    assert row.ids.tolist() == [1, 2, 3, 4, 7, 5]
    assert row.label.tolist() == [NOTHING, NOTHING, NOTHING, 7, 8, 9]
    assert row.position.tolist() == [0, 1, 2, 3, 4, 2]
    assert row.sample.tolist() == [-1, -1, 0, 0, 0, 1]
    assert row.tag.tolist() == [0, 0, 0, 0, 0, 3]
    zeros = torch.zeros(6, dtype=torch.long)
    seen = causal_allowed(zeros, torch.from_numpy(row.branch), torch.from_numpy(row.position))
    assert seen[5].tolist() == [True, True, False, False, False, True]
    assert seen[4].tolist() == [True] * 5 + [False]
    one = lay_out_causal(Document(branches=(Branch(prompt=(1, 2), target=(3, 4, 5)),)))
    assert (one.ids.tolist(), one.label.tolist()) == ([1, 2, 3, 4], [NOTHING, 3, 4, 5])
    alike = (Branch(prompt=(1, 2), target=(3,)), Branch(prompt=(1, 2), target=(4,)))
    assert lay_out_causal(Document(branches=alike)).ids.tolist() == [1, 2, 2], "the last id of a prompt asks"
    with pytest.raises(ConfigError, match="at least one id"):
        lay_out_causal(Document(branches=(Branch(prompt=(), target=(3,)),)))


def test_packing_changes_nothing(tiny_resources: Resources) -> None:
    objective = built(tiny_resources)
    documents = objective.scenes.writer.documents(Draw(seed=5, step=0, size=4).numpy("d"), objective.scenes.pool, 4)
    together = next_token_losses(objective.model, objective.rows(documents), 2)
    alone = [next_token_losses(objective.model, objective.rows([document])) for document in documents]
    apart = sum(float(one.losses.detach().sum()) for one in alone)
    assert float(together.losses.detach().sum()) == pytest.approx(apart, rel=1e-9)
    assert torch.equal(together.loads, torch.stack([one.loads for one in alone]).sum(0))


def test_it_sees_the_documents_of_block_diffusion_and_starts_where_it_starts(tiny_resources: Resources) -> None:
    mine, theirs = config().build(tiny_resources, 4), OBJECTIVES["backbone"].build(tiny_resources, 4)
    for (name, a), (_, b) in zip(mine.model.named_parameters(), theirs.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    draw = Draw(seed=1, step=5, size=3, progress=0.2)
    batch, other = mine.batch(draw), theirs.batch(draw)
    targets = sum(int((part["maskable"] & ~part["fill"]).sum()) for part in (other,))
    assert int((batch["label"] != NOTHING).sum()) == targets
    assert all(torch.equal(batch[name], value) for name, value in mine.batch(draw).items())


def test_it_learns_resumes_and_is_exported_beside_the_checkpoint(tiny_resources: Resources, tmp_path: Path) -> None:
    mix = MixConfig(block_lengths=((16, 1.0),))
    job = tiny_config("backbone", name="tiny-autoregressive", objective=config(mix=mix), steps=12)
    resources = Resources(out=tmp_path / "out", cache=tmp_path / "cache")
    shutil.copytree(tiny_resources.out, resources.out)
    first = job.objective.build(resources, 0)
    train(job, first, tmp_path / "once")
    again = job.objective.build(resources, 0)
    train(job, again, tmp_path / "twice", stop_at=5)
    train(job, again, tmp_path / "twice")
    for (name, a), (_, b) in zip(first.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    (told,) = run_recipe(job, RunOptions(out=resources.out, cache=resources.cache))
    assert told["nll_image"] > 0
    assert 0 <= told["answers"] <= 1
    model = load_backbone(resources.out / FOLDER)
    assert CausalRows(model).start([(1, 2, 3)]).shape == (1, BACKBONE.vocab_size)
    found = (resources.out / "config.json").exists()
    assert found == (tiny_resources.out / "config.json").exists(), "nobody mistakes it for a block-diffusion backbone"


@pytest.mark.parametrize("change", [{"logit_chunk": 8}, {"confidence_weight": 0.1}])
def test_what_it_cannot_do_is_refused(change: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        config(**change)


def test_its_plan_counts_what_it_sees(tiny_resources: Resources) -> None:
    job = tiny_config("backbone", objective=config(), batch_size=24)
    shapes = Shapes(patch_px=8, text=tiny_resources.out)
    cost = step_cost(job, meta_model(job, shapes), shapes)
    objective = job.objective.build(tiny_resources, 0)
    batches = [objective.batch(Draw(seed=1, step=step, size=24, progress=0.5)) for step in range(3)]
    assert cost.tokens == pytest.approx(sum(int((b["document"] >= 0).sum()) for b in batches) / 3, rel=0.15)
