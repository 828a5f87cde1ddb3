"""Several processes make the steps of one: batches, gradients, router loads, codebooks, decisions, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from group_runs import check_equal, furthest, in_group, shared, trained
from processes import in_processes
from torch import Tensor, nn

from llada_uni.errors import ConfigError, ResourceError
from llada_uni.training import group, parallel
from llada_uni.training.checkpoint import load_state
from llada_uni.training.config import OptimConfig, ParallelConfig
from llada_uni.training.group import gathered, joined, lost_partner, summed
from llada_uni.training.metrics import mean_metrics
from llada_uni.training.objective import Resources
from llada_uni.training.parallel import World
from llada_uni.training.run import main
from llada_uni.training.train import train


def test_two_processes_equal_one(tiny_resources: Resources, tmp_path: Path) -> None:
    config = shared(dtype="float64")
    one = trained(config, tmp_path / "one", tiny_resources)
    check_equal(one, in_group(2, config, tmp_path / "two", tiny_resources), 1e-9)
    moved = one["weights"]["model.layers.1.mlp.gate.expert_bias"]
    assert moved.abs().max() > 0.01  # loads of all processes move the bias


@pytest.mark.slow
@pytest.mark.parametrize(("count", "accumulation"), [(2, 4), (4, 4), (2, 8)])
def test_processes_equal_one_after_twenty_steps(
    count: int, accumulation: int, tiny_resources: Resources, tmp_path: Path
) -> None:
    config = shared(dtype="float64", steps=20, accumulation=accumulation)
    one = trained(config, tmp_path / "one", tiny_resources)
    check_equal(one, in_group(count, config, tmp_path / "several", tiny_resources), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["backbone", "vae", "tokenizer", "decoder", "turbo"])
def test_every_stage_is_shared_in_float32(stage: str, tiny_resources: Resources, tmp_path: Path) -> None:
    """Losses to 1e-5; plain gradient steps, since Adam's first steps turn rounding of tiny gradients into signs."""
    config = shared(stage, steps=20, optim=OptimConfig(lr=1e-3, eps=1e-3))
    one = trained(config, tmp_path / "one", tiny_resources)
    several = in_group(2, config, tmp_path / "two", tiny_resources)
    assert several[0]["losses"] == pytest.approx(one["losses"], rel=1e-5, abs=1e-5)
    assert furthest(several[0]["weights"], several[1]["weights"]) == 0


def test_a_run_goes_on_with_another_number_of_processes(tiny_resources: Resources, tmp_path: Path) -> None:
    config = shared(dtype="float64", steps=4)
    one = trained(config, tmp_path / "one", tiny_resources)
    in_group(2, config, tmp_path / "two", tiny_resources, stop_at=2)
    assert load_state(tmp_path / "two" / "run").step == 2
    rest = trained(config, tmp_path / "two" / "run", tiny_resources)
    assert furthest(one["weights"], rest["weights"]) < 1e-9
    assert rest["losses"] == pytest.approx(one["losses"], abs=1.1e-6)


def test_a_signal_to_one_process_stops_all(tiny_resources: Resources, tmp_path: Path) -> None:
    def work(rank: int) -> int:
        config = shared()
        objective = config.objective.build(tiny_resources, 0)
        calls = iter([False, False, rank == 1])
        return train(config, objective, tmp_path / "run", stop=lambda: next(calls)).step

    assert in_processes(2, tmp_path / "group", work) == [2, 2]


class _Sometimes(nn.Module):
    """Two vectors; micro-batches use the first only."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Parameter(torch.ones(3))
        self.unused = nn.Parameter(torch.ones(2))


def test_gradients_that_some_processes_lack_and_gradients_that_all_lack() -> None:
    def work(rank: int) -> list[Any]:
        model = _Sometimes()
        if rank == 1:
            model.used.grad = torch.full((3,), 5.0)
        World(rank=rank, size=2).sum_gradients(list(model.parameters()))
        return [model.used.grad, model.unused.grad]

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for used, unused in in_processes(2, Path(folder), work):
            assert torch.equal(used, torch.full((3,), 5.0))
            assert unused is None


def test_large_and_mixed_gradients_are_added_in_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_BUCKET_NUMBERS", 7)
    shapes = [((2, 2), torch.float32), ((9,), torch.float32), ((1,), torch.float64), ((3,), torch.float32)]

    def work(rank: int) -> list[Tensor]:
        parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape, dtype in shapes]
        for number, parameter in enumerate(parameters):
            parameter.grad = torch.full_like(parameter, 10.0**number * (rank + 1))
        World(rank=rank, size=2).sum_gradients(parameters)
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    for gradients in in_processes(2, tmp_path, work):
        for number, ((shape, dtype), gradient) in enumerate(zip(shapes, gradients, strict=True)):
            assert torch.equal(gradient, torch.full(shape, 3 * 10.0**number, dtype=dtype))


def test_what_micro_batches_found_comes_in_their_order(tmp_path: Path) -> None:
    def work(rank: int) -> tuple[list[int], Tensor]:
        return gathered([torch.tensor(10 * index + rank) for index in range(2)]), summed(torch.tensor([rank + 1]))

    for order, total in in_processes(2, tmp_path, work):
        assert [int(value) for value in order] == [0, 1, 10, 11]
        assert total.tolist() == [3]


def test_alone_everything_is_the_identity() -> None:
    values = torch.arange(3)
    assert summed(values) is values
    assert gathered([1, 2]) == [1, 2]
    assert group.fewest(3) == 3
    assert group.everywhere("x") == "x"
    assert World().total([1.0, 2.0]) == 3.0
    assert list(World().micros(3)) == [0, 1, 2]
    assert not lost_partner(RuntimeError("gloo: connection closed by peer"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulation": 3}, "accumulation=2"),
        ({"parallel": ParallelConfig(shard=3)}, "must divide the number of processes, which is 2"),
        ({"parallel": ParallelConfig(expert=4)}, "must divide the number of processes, which is 2"),
        ({"parallel": ParallelConfig(data=2, shard=2)}, "leave data at 0"),
    ],
)
def test_a_division_that_does_not_fit_is_refused(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "several", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match=message):
        World.of(shared(**changes))


def test_one_process_cannot_divide() -> None:
    with pytest.raises(ConfigError, match="start with torchrun"):
        World.of(shared(parallel=ParallelConfig(shard=2)))
    with pytest.raises(ConfigError, match=r"parallel\.shard must be at least 1"):
        ParallelConfig(shard=0)


def test_incomplete_variables_of_torchrun_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert main(["recipes.nano:vae"]) == 2
    assert "start with torchrun" in caplog.text
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "0")
    monkeypatch.setattr(group, "rendezvous", _nobody)
    with pytest.raises(ResourceError, match="do not find each other"), joined():
        pass


def _nobody(*_: object, **__: object) -> Any:
    raise torch.distributed.DistNetworkError("timed out")


def test_means_of_micro_batches_are_weighted_and_skip_what_is_not_a_number() -> None:
    nan = float("nan")
    found = [(0.75, {"loss": 1.0, "a": nan, "c": nan}), (0.25, {"loss": 3.0, "a": 2.0, "b": 5.0})]
    means = mean_metrics(found)
    assert (means["loss"], means["a"], means["b"]) == (1.5, 2.0, 5.0)
    assert means["c"] != means["c"]
