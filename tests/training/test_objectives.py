"""What each stage computes: reweighting, balancing, merging, the average-velocity target, exports that load again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny_stages import OBJECTIVES, SQUARE, tiny_config
from torch import Tensor
from torch.nn import functional as F

from llada_uni.backbone.model import Backbone
from llada_uni.data.code_pool import PoolConfig, TaskPoolConfig
from llada_uni.data.task_stream import TASKS, tag_of
from llada_uni.data.unified_stream import MixConfig
from llada_uni.diffusion.balance import max_violation
from llada_uni.errors import ConfigError
from llada_uni.training.export import frozen
from llada_uni.training.objective import Draw, Resources
from llada_uni.training.objectives.backbone import set_start, start_from_meanings
from llada_uni.training.objectives.codebook import CodebookTrainer, kmeans_plus_plus, merge_codes
from llada_uni.training.objectives.decoder import Judge, Sampler
from llada_uni.training.objectives.tokenizer import within_group_variance
from llada_uni.training.objectives.turbo import average_velocity_target
from llada_uni.training.objectives.vae import edge_l1, psnr, quiet_latents
from llada_uni.weights.load import load_backbone


def built(stage: str, resources: Resources, **changes: object):
    config = tiny_config(stage, **changes)
    return config.objective.build(resources, config.seed)


@pytest.mark.parametrize("stage", sorted(OBJECTIVES))
def test_a_batch_is_a_function_of_its_address(stage: str, tiny_resources: Resources) -> None:
    objective = built(stage, tiny_resources)
    draw = Draw(seed=1, step=5, size=3, progress=0.2)
    assert same(objective.batch(draw), built(stage, tiny_resources).batch(draw))
    assert not same(objective.batch(draw), objective.batch(Draw(seed=1, step=6, size=3, progress=0.2)))
    assert objective.weight(objective.batch(draw)) > 0


@pytest.mark.parametrize("stage", sorted(OBJECTIVES))
def test_every_trained_parameter_gets_a_gradient(stage: str, tiny_resources: Resources) -> None:
    objective = built(stage, tiny_resources)
    for parameter in objective.model.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)  # zero-initialised gates would hide what is behind them
    for step in range(3):
        batch = objective.batch(Draw(seed=0, step=step, size=8))
        objective.loss(batch, torch.Generator().manual_seed(step))[0].backward()
    missing = [
        name
        for name, parameter in objective.model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    allowed = ("x_pad_token", "cap_pad_token", "experts", "reader.place_embedding")
    assert [name for name in missing if not any(part in name for part in allowed)] == []


def test_the_backbone_trains_on_a_mix_of_all_tasks(tiny_resources: Resources) -> None:
    mix = MixConfig(
        thinking_share=0.1, riddle_share=0.1, thinking_riddle_share=0.1, edit_share=0.2, story_share=0.1,
        comparison_share=0.1, fact_share=0.1,
    )  # fmt: skip
    groups = TaskPoolConfig(num_shards=3, shard_size=2, grids=SQUARE, turns=("edit", "story", "comparison"))
    config = dataclasses.replace(OBJECTIVES["backbone"], mix=mix, tasks=groups, pool=LARGER_POOL)
    objective = built("backbone", tiny_resources, objective=config)
    draw = Draw(seed=1, step=5, size=10)
    batch = objective.batch(draw)
    assert {tag_of(name) for name in TASKS} <= set(batch["tag"].unique().tolist())
    assert same(batch, built("backbone", tiny_resources, objective=config).batch(draw))
    loss, metrics = objective.loss(batch, torch.Generator())
    loss.backward()
    assert torch.isfinite(loss)
    assert metrics["nll_text"] > 0 < metrics["nll_image"]
    without = dataclasses.replace(config, tasks=None)
    with pytest.raises(ConfigError, match="give the objective a task pool"):
        built("backbone", tiny_resources, objective=without).batch(draw)


LARGER_POOL = PoolConfig(num_shards=1, shard_size=30, seed=4, grids=SQUARE)


def test_the_backbone_loss_does_not_depend_on_sharding(tiny_resources: Resources) -> None:
    """Two halves of a batch, weighted by their normalisers, give the loss of the whole (float64)."""
    objective = built("backbone", tiny_resources)
    objective.model.double()
    draw = Draw(seed=0, step=0, size=4)
    documents = objective.writer.documents(draw.numpy("documents"), objective.pool, 4)
    whole = objective.rows(documents, torch.Generator().manual_seed(0))
    rows = whole["ids"].shape[0]
    value = float(objective.loss(whole, torch.Generator())[0].detach())
    parts = [{k: v[i : i + 1] for k, v in whole.items()} for i in range(rows)]
    weights = [objective.weight(part) for part in parts]
    losses = [float(objective.loss(part, torch.Generator())[0].detach()) for part in parts]
    assert rows > 1
    mean = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert mean == pytest.approx(value, rel=1e-6)
    assert objective.weight(whole) == pytest.approx(sum(weights), rel=1e-6)


def test_balancing_moves_the_bias_against_the_load(tiny_resources: Resources) -> None:
    config = dataclasses.replace(OBJECTIVES["backbone"], balance_rate=0.05)
    objective = built("backbone", tiny_resources, objective=config)
    router = objective.model.routers()[0]
    torch.nn.init.normal_(router.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    router.expert_bias.copy_(torch.tensor([0.5, 0.0, 0.0, -0.5]))
    batch = objective.batch(Draw(seed=0, step=0, size=2))
    violations = []
    for step in range(15):
        objective.loss(batch, torch.Generator())
        violations.append(float(max_violation(objective._loads[0])))
        objective.after_step(step + 1, 1000)
    assert violations[-1] < violations[0] - 0.3
    kept = router.expert_bias.clone()
    objective.loss(batch, torch.Generator())
    objective.after_step(999, 1000)
    assert torch.equal(kept, router.expert_bias)  # the last part of a run leaves the bias alone


def test_padding_is_not_counted_as_load(tiny_resources: Resources) -> None:
    objective = built("backbone", tiny_resources)
    batch = objective.batch(Draw(seed=0, step=0, size=4))
    objective.loss(batch, torch.Generator())
    real, masked = int((batch["document"] >= 0).sum()), int(batch["masked"].sum())
    assert real < batch["document"].numel()
    assert objective._loads.sum(-1).tolist() == [2 * real, 2 * masked]  # the last layer works on masked positions only


def test_codes_of_one_meaning_start_side_by_side() -> None:
    """Three meanings, two codes each: rows of one meaning are close, of different meanings nearly orthogonal."""
    meanings = torch.eye(3).repeat_interleave(2, dim=0)
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randn(6, 4, generator=generator)
    model = Backbone(tiny_config("backbone").objective.backbone)
    start_from_meanings(model, meanings, codebook, model.config.vocab_size - 6, generator)
    for table, share in ((model.lm_head.weight, 1.875), (model.model.word_embeddings.weight, 1.0)):
        rows = table.detach()[-6:]
        cosines = F.normalize(rows, dim=-1) @ F.normalize(rows, dim=-1).T
        same = (meanings @ meanings.T).bool()
        assert cosines[same].min() > 0.8
        assert cosines[~same].max() < 0.2
        assert cosines.fill_diagonal_(0).max() < 0.999  # synonyms can still be told apart
        words = table.detach()[:-6].norm(dim=-1).mean()
        torch.testing.assert_close(rows.norm(dim=-1), (words * share).expand(6))


def test_a_quiet_start_is_the_two_tables_alone() -> None:
    config = tiny_config("backbone").objective.backbone
    model = Backbone(config)
    model.reset_parameters(torch.Generator().manual_seed(0))
    set_start(model, 0.3, 0.05)
    inside, head = model.model.word_embeddings.weight.detach(), model.lm_head.weight.detach()
    assert float(inside.square().mean().sqrt()) == pytest.approx(0.3, rel=0.05)
    assert float(head.square().mean().sqrt()) == pytest.approx(0.05, rel=0.05)
    ids = torch.arange(4)[None]
    alone = F.rms_norm(inside[ids], (config.hidden_size,), eps=config.rms_norm_eps) @ head.T
    torch.testing.assert_close(model(ids, ids), alone)
    model.reset_parameters(torch.Generator().manual_seed(0))
    set_start(model, 0.3, 0.05, quiet_outputs=False)
    assert (model(ids, ids) - alone).abs().max() > 1e-3


def test_a_code_never_seen_starts_from_its_vector_alone() -> None:
    meanings = torch.eye(3).repeat_interleave(2, dim=0)
    meanings[5] = 0
    generator = torch.Generator().manual_seed(0)
    model = Backbone(tiny_config("backbone").objective.backbone)
    start_from_meanings(model, meanings, torch.randn(6, 4, generator=generator), model.config.vocab_size - 6, generator)
    rows = F.normalize(model.lm_head.weight.detach()[-6:], dim=-1)
    assert (rows[5] @ rows[:5].T).abs().max() < 0.5


def test_seeding_finds_separate_groups_and_merging_undoes_a_split() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(6, 8, generator=generator), dim=-1)
    groups = torch.arange(6).repeat_interleave(50)
    points = F.normalize(centres[groups] + 0.02 * torch.randn(300, 8, generator=generator), dim=-1)
    found = kmeans_plus_plus(points, 6, generator)
    assert sorted((points @ found.T).argmax(-1).unique().tolist()) == list(range(6))
    assert (centres @ found.T).max(-1).values.min() > 0.99

    split = torch.cat([centres, centres + 0.02 * torch.randn(6, 8, generator=generator)])
    before, after = merge_codes(split, points, torch.arange(6).repeat(2))
    owner = (points @ F.normalize(split, dim=-1).T).argmax(-1)
    assert (before, after) == (12, 6)
    for group in range(6):
        assert len(owner[groups == group].unique()) == 1


def test_used_codes_follow_their_cells_and_idle_ones_restart() -> None:
    trainer = CodebookTrainer(3, 2, decay=0.5, idle_limit=1)
    codebook = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    trainer.start(codebook, codebook.clone())
    features = F.normalize(torch.tensor([[1.0, 0.2], [1.0, 0.2], [0.0, -1.0]]), dim=-1)
    codes = torch.tensor([0, 0, 0])
    trainer.update(codebook, features, codes)
    assert float(codebook[0, 1]) != 0.0
    assert torch.equal(codebook[1], torch.tensor([0.0, 1.0]))
    restarts = trainer.update(codebook, features, codes)
    assert restarts >= 1
    assert any(torch.equal(codebook[i], features[2]) for i in (1, 2))  # the worst fitting cell
    trainer.adopt(codebook)
    assert trainer.update(codebook, features, codes) == trainer.update(codebook, features, codes) == 0


def test_spread_is_zero_for_equal_features_of_one_meaning() -> None:
    unit = F.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    repeated = unit.repeat_interleave(3, 0)
    meaning = torch.arange(4).repeat_interleave(3)
    assert float(within_group_variance(repeated, meaning)) == pytest.approx(0.0, abs=1e-6)
    assert float(within_group_variance(repeated, torch.zeros(12, dtype=torch.int64))) > 0.01


def test_average_velocity_target_is_exact_on_a_known_flow() -> None:
    """dx/dt = x: the average velocity from t to 1 is x (e^(1-t) - 1) / (1 - t); it must be its own target."""

    def average(x: Tensor, t: Tensor) -> Tensor:
        rest = (1 - t)[:, None]
        return x * (torch.exp(rest) - 1) / rest

    state = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    time = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    target = average_velocity_target(average, state, time, state, epsilon=1e-3, clip=None)
    torch.testing.assert_close(target, average(state, time), rtol=1e-6, atol=1e-6)
    coarse = average_velocity_target(average, state, time, state, epsilon=2e-2, clip=None) - average(state, time)
    fine = average_velocity_target(average, state, time, state, epsilon=1e-2, clip=None) - average(state, time)
    assert float(coarse.norm() / fine.norm()) == pytest.approx(4, rel=0.05)


def test_pixel_measures() -> None:
    picture = torch.zeros(1, 3, 4, 4)
    assert float(edge_l1(picture + 0.5, picture)) == 0.0
    assert float(psnr(torch.tensor(4.0))) == 0.0
    assert float(psnr(torch.tensor(0.04))) == pytest.approx(20.0)


def test_latent_noise_starts_small(tiny_resources: Resources) -> None:
    vae = built("vae", tiny_resources).model
    quiet_latents(vae, logvar=-5.0)
    _, logvar = vae.encode(torch.randn(1, 3, 32, 32))
    torch.testing.assert_close(logvar, torch.full_like(logvar, -5.0))


@pytest.mark.parametrize("stage", sorted(OBJECTIVES))
def test_stages_finish_with_numbers_and_an_export_that_loads(
    stage: str, tiny_resources: Resources, tmp_path: Path
) -> None:
    objective = built(stage, tiny_resources)
    batch = objective.batch(Draw(seed=0, step=0, size=2))
    objective.loss(batch, torch.Generator().manual_seed(0))
    numbers = {**objective.conclude(0), **objective.evaluate(1)}
    assert numbers
    assert all(isinstance(value, float) for value in numbers.values())
    objective.export(tmp_path)
    if stage == "backbone":
        stored, live = load_backbone(tmp_path).state_dict(), objective.model.state_dict()
    else:
        names = {"vae": "vae", "tokenizer": "image_tokenizer", "decoder": "decoder", "turbo": "decoder-turbo"}
        stored = frozen(tmp_path, names[stage]).state_dict()
        live = (
            {"vae": objective.model}.get(stage)
            or getattr(objective.model, "decoder", None)
            or objective.model.tokenizer
        )
        live = live.state_dict()
    assert stored.keys() == live.keys()
    for name, value in live.items():
        torch.testing.assert_close(stored[name].float(), value.to(torch.bfloat16).float(), rtol=0, atol=1e-6)


def test_scores_of_a_perfect_decoder_reach_the_ceiling(tiny_resources: Resources) -> None:
    objective = built("decoder", tiny_resources)
    judge: Judge = objective._judge
    sampler = Sampler(model=objective.model, num_steps=2, shift=1.0, renoise_ratio=1.0)
    numbers = judge.score(sampler, 0, 2)
    assert set(numbers) == {"psnr", "psnr_ceiling", "verified", "verified_ceiling"}


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b
