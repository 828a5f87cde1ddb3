"""Plans against runs that were really built: parameters, bytes of the state, and a table for every recipe."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stages import BACKBONE, OBJECTIVES, TOKENIZER, tiny_config
from torch import Tensor

from llada_uni.backbone.model import Backbone
from llada_uni.errors import ConfigError
from llada_uni.layers.adapters import AdapterConfig
from llada_uni.training.adapters import narrowed
from llada_uni.training.config import OptimConfig, ParallelConfig, TrainConfig
from llada_uni.training.costs import Shapes, meta_model, step_cost
from llada_uni.training.objective import Draw, Resources
from llada_uni.training.objectives.backbone import masked_losses
from llada_uni.training.plan import make_plan, plan_jobs, table
from llada_uni.training.run import main
from llada_uni.training.train import Run
from llada_uni.weights.save import save_backbone
from llada_uni_recipes import nano, small, uni

SHAPES = Shapes(
    decoder=OBJECTIVES["decoder"].decoder,
    embedder=OBJECTIVES["decoder"].embedder,
    patch_px=TOKENIZER.vision_config.patch_size,
)
ADAPTER = AdapterConfig(kind="dora", rank=4, targets=("*attention.*", "*.experts.*"))
CHANGES = {"adamw": {}, "muon": {"optim": OptimConfig(kind="muon")}, "float64": {"dtype": "float64", "ema_decay": 0.0}}


@pytest.fixture(scope="module")
def trained(tiny_resources: Resources) -> Resources:
    torch.manual_seed(1)
    model = Backbone(BACKBONE)
    model.reset_parameters()
    save_backbone(tiny_resources.out, model)
    return tiny_resources


def built(config: TrainConfig, resources: Resources) -> Run:
    """A run whose optimiser has made its state."""
    run = Run.start(config, narrowed(config.objective.build(resources, 0), config))
    for parameter in run.objective.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    run.optimizer.step()
    return run


def num_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(num_bytes(item) for item in value.values())
    return sum(num_bytes(item) for item in value) if isinstance(value, list | tuple) else 0


@pytest.mark.parametrize("stage", OBJECTIVES)
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_plan_counts_what_a_run_holds(stage: str, changes: dict, trained: Resources) -> None:
    config = tiny_config(stage, **changes)
    if stage == "vae" and "optim" in changes:
        pytest.skip("the autoencoder has no matrices for Muon")
    run, plan = built(config, trained), make_plan(config, shapes=SHAPES, throughput=1e9)
    model = run.objective.model
    mine = [p for p in model.parameters() if p.requires_grad]
    assert plan.parameters == sum(p.numel() for p in model.parameters())
    assert plan.trained_parameters == sum(p.numel() for p in mine)
    assert plan.bytes.weights == sum(t.nbytes for t in (*model.parameters(), *model.buffers())) - _narrow(model, config)
    assert plan.bytes.gradients == sum(p.nbytes for p in mine)
    assert plan.bytes.optimizer == num_bytes(run.optimizer.state_dict())
    assert plan.bytes.averages == sum(t.nbytes for t in run.ema.average.values())


def _narrow(model: torch.nn.Module, config: TrainConfig) -> int:
    """Router biases stay float32 in a float64 run; the plan takes them for float64."""
    width = 8 if config.dtype == "float64" else 4
    return sum(b.nbytes - b.numel() * width for name, b in model.named_buffers() if name.endswith("expert_bias"))


@pytest.mark.parametrize("base_dtype", ["same", "bfloat16", "int8", "int4"])
def test_a_plan_counts_adapters(base_dtype: str, trained: Resources) -> None:
    objective = dataclasses.replace(OBJECTIVES["backbone"], warm="out")
    adapter = dataclasses.replace(ADAPTER, base_dtype=base_dtype)
    config = tiny_config("backbone", objective=objective, adapter=adapter)
    run, plan = built(config, trained), make_plan(config, shapes=SHAPES, throughput=1e9)
    number = sum(p.numel() for p in run.objective.model.parameters())
    assert plan.trained_parameters == number
    assert plan.bytes.optimizer == num_bytes(run.optimizer.state_dict())
    whole = make_plan(dataclasses.replace(config, adapter=None), shapes=SHAPES, throughput=1e9)
    assert plan.parameters == whole.parameters + number
    assert plan.flops_per_step < whole.flops_per_step
    if base_dtype in ("same", "bfloat16"):
        network = run.objective.inner.model
        held = sum(t.nbytes for t in (*network.parameters(), *network.buffers())) + 4 * number
        assert plan.bytes.weights == pytest.approx(held, rel=0.02)
    else:
        assert plan.bytes.weights < whole.bytes.weights + 4 * number


def test_nano_is_counted_as_it_is_shipped() -> None:
    from llada_uni.weights.load import load_backbone, load_decoder

    plans = {plan.name: plan for plan in plan_jobs(nano.all(), throughput=6e10)}
    assert plans["nano-backbone"].parameters == sum(p.numel() for p in load_backbone("nano").parameters())
    decoder = sum(p.numel() for p in load_decoder("nano").parameters())
    assert plans["nano-decoder"].parameters - decoder == 4096 * 96 + 2 * (96 * 96 + 96)
    assert plans["nano-backbone"].active_parameters < plans["nano-backbone"].parameters
    assert plans["nano-backbone"].seconds == 3600


def test_tokens_of_the_backbone_are_those_of_its_batches(trained: Resources) -> None:
    config, shapes = tiny_config("backbone", batch_size=24), dataclasses.replace(SHAPES, text=trained.out)
    cost = step_cost(config, meta_model(config, shapes), shapes)
    objective = config.objective.build(trained, 0)
    batches = [objective.batch(Draw(seed=1, step=step, size=24, progress=0.5)) for step in range(3)]
    tokens = sum(int((batch["document"] >= 0).sum()) for batch in batches) / 3
    assert cost.tokens == pytest.approx(tokens, rel=0.15)


def test_operations_of_the_backbone_are_those_that_torch_counts(trained: Resources) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    alone = dataclasses.replace(OBJECTIVES["backbone"], capacity=1, num_buckets=16)  # every document a row without pads
    config = tiny_config("backbone", batch_size=16, objective=alone)
    shapes = dataclasses.replace(SHAPES, text=trained.out)
    cost = step_cost(config, meta_model(config, shapes), shapes)
    objective = config.objective.build(trained, 0)
    for layer in objective.model.model.layers:
        layer.attention.backend = "reference"
        if hasattr(layer.mlp, "experts"):
            layer.mlp.experts.backend = "loop"
    batch = objective.batch(Draw(seed=1, step=0, size=16, progress=0.5))
    with FlopCounterMode(display=False) as counter:
        masked_losses(objective.model, batch, alone.num_buckets).losses.sum().backward()
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.25)


def test_ranks_share_the_work_and_as_parallel_says_the_state() -> None:
    config = tiny_config("backbone")
    divided = dataclasses.replace(config, parallel=ParallelConfig(shard=4))
    one, copies, four = (
        make_plan(settings, shapes=SHAPES, throughput=1e9, ranks=ranks)
        for settings, ranks in ((config, None), (config, 4), (divided, None))
    )
    state = one.bytes.per_rank(1) - one.bytes.activations
    assert (one.held, copies.held, four.held, four.ranks) == (1, 1, 0.25, 4)
    assert four.bytes.per_rank(four.held) == -(-state // 4) + one.bytes.activations
    assert one.seconds == pytest.approx(4 * copies.seconds) == pytest.approx(4 * four.seconds)
    assert one.steps == four.steps == 6
    experts = sum(p.numel() for name, p in meta_model(config, SHAPES).named_parameters() if ".experts." in name)
    both = dataclasses.replace(config, parallel=ParallelConfig(shard=4, expert=2))
    assert make_plan(both, shapes=SHAPES, throughput=1e9).held == pytest.approx(0.25 + 0.25 * experts / one.parameters)
    with pytest.raises(ConfigError, match="expected a multiple of 4 ranks for its parallel, got 6"):
        make_plan(divided, shapes=SHAPES, throughput=1e9, ranks=6)


def test_recomputing_and_chunks_cost_work_and_save_activations() -> None:
    config = tiny_config("backbone")
    plain = step_cost(config, meta_model(config, SHAPES), SHAPES)
    recomputed = step_cost(dataclasses.replace(config, recompute=True), meta_model(config, SHAPES), SHAPES)
    objective = dataclasses.replace(config.objective, logit_chunk=1)
    chunked = step_cost(dataclasses.replace(config, objective=objective), meta_model(config, SHAPES), SHAPES)
    assert recomputed.flops == pytest.approx(4 / 3 * plain.flops)
    assert plain.flops < chunked.flops < recomputed.flops
    assert recomputed.activation_bytes < plain.activation_bytes
    assert chunked.activation_bytes < plain.activation_bytes


def test_an_earlier_run_tells_the_speed(tmp_path: Path) -> None:
    lines = [{"step": step, "samples_per_s": rate} for step, rate in ((2, 8.0), (4, 10.0), (6, 30.0))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plan = make_plan(tiny_config("vae", steps=100), measured_in=tmp_path)
    assert plan.seconds == pytest.approx(100 * plan.samples_per_step / 10.0)
    assert "measured in an earlier run" in table([plan])


def test_full_size_plans_allocate_nothing() -> None:
    plans = plan_jobs([uni.lora(), uni.full_8()], throughput=2e14)
    assert plans[0].trained_parameters < 20e6 < 16e9 < plans[1].trained_parameters
    assert plans[0].bytes.per_rank(1) < 80e9
    assert [plan.ranks for plan in plans] == [1, 8]
    assert plans[1].bytes.per_rank(plans[1].held) < 80e9
    assert plans[1].bytes.optimizer == pytest.approx(8 * plans[1].trained_parameters, rel=1e-5)


def test_the_distilled_decoder_takes_its_shape_from_its_chain() -> None:
    (plan,) = plan_jobs([small.turbo()], recipes=[small.decoder()], throughput=1e14)
    assert plan.trained_parameters > 20e6
    with pytest.raises(ConfigError, match="give --out with a trained decoder"):
        plan_jobs([small.turbo()], throughput=1e14)


def test_the_command_line_prints_a_table(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    where = ["--out", str(tmp_path / "o"), "--cache", str(tmp_path / "c")]
    assert main(["recipes.nano:turbo", "--plan", "--ranks", "2", "--throughput", "0.05", *where]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("nano-turbo", "bytes per rank", "optimiser", "time", "stated"))
    arguments = ["recipes.nano:decoder", "--plan", "--json", "--steps", "10", "--set", "batch_size=2", *where]
    assert main(arguments) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert (plan["steps"], plan["samples_per_step"]) == (10, 2)
    assert plan["bytes_per_rank"] > 0
    assert not (tmp_path / "o").exists()
    assert main(["recipes.small:vae", "--plan", *where]) == 0
    assert "unknown, state it with --throughput" in capsys.readouterr().out
    for bad in (
        ["recipes.nano:text"],
        ["recipes.nano:vae", "--ranks", "0"],
        ["recipes.nano:vae", "--throughput", "-1"],
    ):
        assert main([*bad, "--plan", *where]) == 2
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
@pytest.mark.parametrize("module", [nano, small, uni])
def test_every_recipe_has_a_plan(module: Any) -> None:
    for name in module.__all__:
        recipe = getattr(module, name)()
        jobs = recipe if isinstance(recipe, tuple) else (recipe,)
        recipes = [getattr(module, other)() for other in ("tokenizer", "decoder") if other in module.__all__]
        for plan in plan_jobs(jobs, recipes=recipes, throughput=1e14):
            assert plan.flops_per_step > 0
            assert plan.bytes.activations > 0
            assert plan.steps
