"""Models divided among processes: the same steps, and states that any number of processes can go on from."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from group_runs import check_equal, furthest, in_group, shared, trained
from processes import in_processes
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from llada_uni.errors import CheckpointError, ConfigError, ResourceError
from llada_uni.layers.moe import Experts, MoE, Router
from llada_uni.training import divided_state
from llada_uni.training.config import KeepConfig, OptimConfig, ParallelConfig
from llada_uni.training.divided_state import read_weights
from llada_uni.training.experts import divide_experts
from llada_uni.training.keeping import newest_state
from llada_uni.training.objective import Resources
from llada_uni.training.run import RunOptions, run_recipe
from llada_uni.training.train import Run

DIVISIONS = {
    "shard": (2, ParallelConfig(shard=2)),
    "expert": (2, ParallelConfig(expert=2)),
    "shard and expert": (2, ParallelConfig(shard=2, expert=2)),
    "data, shard": (4, ParallelConfig(data=2, shard=2)),
    "data, shard and expert": (4, ParallelConfig(data=2, shard=2, expert=2)),
}


def test_a_divided_model_equals_a_whole_one(tiny_resources: Resources, tmp_path: Path) -> None:
    count, degrees = DIVISIONS["shard and expert"]
    config = shared(dtype="float64")
    one = trained(config, tmp_path / "one", tiny_resources)
    divided = dataclasses.replace(config, parallel=degrees)
    check_equal(one, in_group(count, divided, tmp_path / "several", tiny_resources), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("division", "kind"),
    [("shard", "adamw"), ("expert", "adamw"), ("data, shard", "adamw"), ("data, shard and expert", "muon")],
)
def test_a_divided_model_equals_a_whole_one_after_twenty_steps(
    division: str, kind: Any, tiny_resources: Resources, tmp_path: Path
) -> None:
    count, degrees = DIVISIONS[division]
    config = shared(dtype="float64", steps=20, optim=OptimConfig(kind=kind, lr=1e-3))
    one = trained(config, tmp_path / "one", tiny_resources)
    divided = dataclasses.replace(config, parallel=degrees)
    check_equal(one, in_group(count, divided, tmp_path / "several", tiny_resources), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["decoder", "turbo"])
def test_decoders_are_sharded(stage: str, tiny_resources: Resources, tmp_path: Path) -> None:
    config = shared(stage, steps=20, optim=OptimConfig(lr=1e-3, eps=1e-3))
    one = trained(config, tmp_path / "one", tiny_resources)
    divided = dataclasses.replace(config, parallel=ParallelConfig(shard=2))
    several = in_group(2, divided, tmp_path / "two", tiny_resources)
    assert several[0]["losses"] == pytest.approx(one["losses"], rel=1e-5, abs=1e-5)
    assert furthest(several[0]["weights"], one["weights"]) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [ParallelConfig(shard=2), ParallelConfig(expert=2)], ids=["shard", "expert"])
def test_losses_agree_in_float32(degrees: ParallelConfig, tiny_resources: Resources, tmp_path: Path) -> None:
    config = shared(steps=20, optim=OptimConfig(lr=1e-3, eps=1e-3))
    one = trained(config, tmp_path / "one", tiny_resources)
    several = in_group(2, dataclasses.replace(config, parallel=degrees), tmp_path / "two", tiny_resources)
    assert several[0]["losses"] == pytest.approx(one["losses"], rel=1e-5, abs=1e-5)


def _layer(dtype: torch.dtype) -> MoE:
    generator = torch.Generator().manual_seed(0)
    layer = MoE(Router(8, 4, top_k=2), Experts(8, 16, 4), None)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    return layer.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_divided_experts_are_the_experts_also_when_one_process_gets_no_token(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    whole = _layer(dtype)
    whole.gate.expert_bias.copy_(torch.tensor([9.0, 9.0, 0.0, 0.0]))  # both choices fall on the first process
    inputs = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1), dtype=dtype)

    def work(rank: int) -> dict[str, Tensor]:
        layer = copy.deepcopy(whole)
        divide_experts(layer, init_device_mesh("cpu", (1, 2), mesh_dim_names=("replica", "expert")))
        x = inputs[rank].clone().requires_grad_()
        y, _ = layer(x)
        y.square().sum().backward()
        grad = layer.experts.gate_proj.grad.full_tensor()
        return {"y": y.detach(), "x": x.grad, "gate": layer.gate.weight.grad, "expert": grad}

    found = in_processes(2, tmp_path, work)
    gradients = []
    for rank in range(2):
        layer, x = copy.deepcopy(whole), inputs[rank].clone().requires_grad_()
        y, _ = layer(x)
        y.square().sum().backward()
        torch.testing.assert_close(found[rank]["y"], y.detach())
        torch.testing.assert_close(found[rank]["x"], x.grad)
        torch.testing.assert_close(found[rank]["gate"], layer.gate.weight.grad)
        gradients.append(layer.experts.gate_proj.grad)
    torch.testing.assert_close(found[0]["expert"], gradients[0] + gradients[1])


def test_models_that_cannot_be_divided_are_refused(tiny_resources: Resources, tmp_path: Path) -> None:
    def work(rank: int) -> list[str]:
        told = []
        for stage, degrees in (("vae", ParallelConfig(shard=2)), ("decoder", ParallelConfig(expert=2))):
            with pytest.raises(ConfigError) as error:
                trained(shared(stage, parallel=degrees), tmp_path / "run", tiny_resources)
            told.append(str(error.value))
        return told

    shard, expert = in_processes(2, tmp_path / "group", work)[0]
    assert shard == "VaeObjective has no blocks, which parallel.shard works on; leave parallel.shard off"
    assert expert == "parallel.expert is 2 and Conditioned has no experts; set it to 1"


# --- states ----------------------------------------------------------------------------------------------------------

BOTH = ParallelConfig(shard=2, expert=2)


@pytest.mark.slow
def test_a_divided_run_goes_on_divided_whole_and_divided_again(tiny_resources: Resources, tmp_path: Path) -> None:
    config = shared(dtype="float64", steps=5, optim=OptimConfig(kind="muon", lr=1e-2))
    divided = dataclasses.replace(config, parallel=BOTH)
    one = trained(config, tmp_path / "one", tiny_resources)
    run = tmp_path / "two"
    in_group(2, divided, run, tiny_resources, stop_at=1)
    assert newest_state(run / "run") == run / "run" / "state-00000001"
    (run / "run" / ".state-00000002.partial").mkdir()  # left by a run that was killed while it wrote
    in_group(2, divided, run, tiny_resources, stop_at=2)
    trained(config, run / "run", tiny_resources, stop_at=3)
    assert sorted(path.name for path in (run / "run").glob("*state*")) == ["state.pt"]
    last = in_group(2, divided, run, tiny_resources)
    assert [path.name for path in (run / "run").glob("*state*")] == ["state-00000005"]
    assert furthest(one["weights"], last[0]["weights"]) < 1e-9
    assert last[0]["losses"] == pytest.approx(one["losses"], abs=1.1e-6)


def test_a_divided_run_resumed_is_the_run_that_was_not_stopped(tiny_resources: Resources, tmp_path: Path) -> None:
    config = shared(steps=4, parallel=BOTH)
    whole = in_group(2, config, tmp_path / "whole", tiny_resources)
    in_group(2, config, tmp_path / "parts", tiny_resources, stop_at=2)
    parts = in_group(2, config, tmp_path / "parts", tiny_resources)
    assert furthest(whole[0]["weights"], parts[0]["weights"]) == 0
    states = [read_weights(newest_state(tmp_path / name / "run")) for name in ("whole", "parts")]
    assert furthest(states[0].ema["average"], states[1].ema["average"]) == 0
    assert states[0].ema["num_updates"] == states[1].ema["num_updates"] == 4


@pytest.mark.slow
def test_a_divided_state_is_exported_in_the_released_layout(tiny_resources: Resources, tmp_path: Path) -> None:
    config = shared(steps=2, parallel=BOTH, ema_decay=0.5)
    where = Resources(out=tmp_path / "out", cache=tmp_path / "cache")
    for mine, source in ((where.out, tiny_resources.out), (where.cache, tiny_resources.cache)):
        shutil.copytree(source, mine)
    options = RunOptions(out=where.out, cache=where.cache)
    numbers = in_processes(2, tmp_path / "group", lambda rank: run_recipe(config, options))
    assert numbers[0] == numbers[1]
    assert numbers[0][0]["step"] == 2
    first = (where.out / "model.safetensors").read_bytes()
    (where.out / "model.safetensors").unlink()
    run_recipe(config, dataclasses.replace(options, export_only=True))  # one process, from the folder
    assert (where.out / "model.safetensors").read_bytes() == first
    one = trained(dataclasses.replace(config, parallel=ParallelConfig()), tmp_path / "one", where)
    state = read_weights(newest_state(where.cache / config.name))
    assert furthest(state.model, one["weights"]) < 1e-4


@pytest.mark.slow
def test_the_newest_and_the_best_divided_states_stay(tiny_resources: Resources, tmp_path: Path) -> None:
    config = shared(steps=6, parallel=ParallelConfig(expert=2), checkpoint_seconds=0.0)
    config = dataclasses.replace(config, keep=KeepConfig(last=2, best="tokens"))
    in_group(2, config, tmp_path, tiny_resources)
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    kept = sorted(path.name for path in (tmp_path / "run").glob("state*"))
    assert kept == sorted({f"state-{step:08d}" for step in (5, 6, best["step"])})


def test_a_folder_that_cannot_be_written_or_read_is_one_clear_error(
    tiny_resources: Resources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shared(steps=3, parallel=ParallelConfig(expert=2))
    in_group(2, config, tmp_path, tiny_resources, stop_at=1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def work(rank: int) -> str:
        monkeypatch.setattr(divided_state, "save", full)
        with pytest.raises(ResourceError, match="free disk space") as error:
            trained(config, tmp_path / "run", tiny_resources, stop_at=2)
        return str(error.value)

    assert "No space left" in in_processes(2, tmp_path / "again", work)[0]
    newest = newest_state(tmp_path / "run")
    assert newest == tmp_path / "run" / "state-00000001"
    facts = json.loads((newest / "facts.json").read_text())
    for part in newest.glob("*.distcp"):
        part.write_bytes(part.read_bytes()[:10])
    with pytest.raises(CheckpointError, match="cannot read the training state"):
        read_weights(newest)
    (newest / "facts.json").unlink()
    with pytest.raises(CheckpointError, match=r"facts\.json"):
        read_weights(newest)
    (newest / "facts.json").write_text(json.dumps(facts))
    other = shared(steps=3, objective=dataclasses.replace(config.objective, backbone=_wider(config)))
    run = Run.start(other, other.objective.build(tiny_resources, 0))
    with pytest.raises(CheckpointError, match="objective"):
        run.restore_from(newest)


def _wider(config: Any) -> Any:
    return dataclasses.replace(config.objective.backbone, moe_intermediate_size=24)
