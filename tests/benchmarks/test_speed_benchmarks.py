"""The speed benchmarks: the baselines write the same ids, the floors are right, and every script runs at toy size."""

from __future__ import annotations

import importlib
import json
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llada_uni.backbone.model import Backbone

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(name: str, monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> dict[str, Any]:
    line = [f"benchmarks/{name}.py", "--size", "tiny", "--rounds", "1", *arguments, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", line)
    runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    return json.loads(out.read_text(encoding="utf-8"))["numbers"]


def networks(dtype: torch.dtype = torch.float64) -> Any:
    import _sizes

    return _sizes.Networks(_sizes.shapes("tiny"), device=CPU, dtype=dtype)


def varied() -> Any:
    """Networks whose backbone predicts many ids."""
    made = networks()
    with torch.no_grad():
        for tensor in made.backbone.parameters():
            if tensor.ndim > 1:
                tensor.mul_(25)
    return made


# --- sides ------------------------------------------------------------------------------------------------------------


def test_every_side_writes_the_ids_of_the_literal_reference() -> None:
    import _released
    import _work
    from llada_uni.backbone.denoiser import ReferenceDenoiser

    made = varied()
    requests = [_work.picture_request(made.shapes, 6, steps=4, seed=1), _work.text_request(made.shapes, num_tokens=40)]
    for request in requests:
        expected = _released.written([request], ReferenceDenoiser(made.backbone))[0]
        for name in _released.LADDER:
            found = _released.written([request], _released.denoiser(name, made.backbone, mask_id=request.mask_id))[0]
            assert found.output_ids == expected.output_ids, name
            assert found.usage.num_steps == expected.usage.num_steps
        assert len(expected.output_ids) == request.num_tokens
        assert len(set(expected.output_ids)) > 3, "a network that writes one id proves nothing"


@pytest.mark.parametrize("longer_twin", [False, True])
def test_the_padded_window_gives_the_logits_of_the_literal_reference(longer_twin: bool) -> None:
    import _released
    from llada_uni.backbone.denoiser import ReferenceDenoiser
    from llada_uni.protocols import BranchKey, BranchStep, Prefix, StepBatch

    made, blank = varied(), torch.empty(0, dtype=torch.int64)
    lengths = (36, 28) if not longer_twin else (36, 44)
    batch, prefixes = [], []
    for branch, length in enumerate(lengths):
        key, ids = BranchKey(0, branch), torch.arange(length + 28) % 60
        prefixes.append(Prefix(key=key, ids=ids[: length - 4], shift=36 - length, block_length=32))
        batch.append(BranchStep(key=key, pending_ids=blank, active_ids=ids[length - 4 :], start=length - 4))
    sides = (ReferenceDenoiser(made.backbone), _released.denoiser("reference", made.backbone, mask_id=63))
    for side in sides:
        side.prefill(prefixes)
    expected, found = (side.step(StepBatch(branches=tuple(batch), id_range=(64, 96))) for side in sides)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_looped_experts_equal_grouped_ones_and_skip_those_without_tokens() -> None:
    import _released

    made = networks()
    moe = made.backbone.model.layers[1].mlp
    x = torch.randn(3, made.shapes.backbone.hidden_size, dtype=torch.float64)
    routing = moe.gate(x)
    assert routing.ids.unique().numel() < made.shapes.backbone.num_experts, "some expert has nothing to do"
    torch.testing.assert_close(_released.LoopedExperts(moe.experts)(x, routing), moe.experts(x, routing))


def test_the_twin_of_a_network_shares_its_weights() -> None:
    """Unless they are laid out in our way, which the released network does not know."""
    import _released
    import _sizes

    config = _sizes.shapes("tiny").backbone
    backbone = _sizes.filled(lambda: Backbone(config), device=CPU, dtype=torch.float32)
    assert _released.plain(backbone).lm_head.weight.data_ptr() == backbone.lm_head.weight.data_ptr()
    ours = networks().backbone
    twin = _released.plain(ours)
    assert not ours.lm_head.weight.is_contiguous()
    assert all(parameter.is_contiguous() for parameter in twin.parameters())
    assert torch.equal(twin.lm_head.weight, ours.lm_head.weight)


def test_the_pipeline_of_diffusers_writes_the_same_ids() -> None:
    pytest.importorskip("diffusers")
    import _diffusers_peers
    import _released
    import _work

    made = varied()
    request = _work.text_request(made.shapes, num_tokens=37, words=27, steps=8)
    ours = _released.written([request], _released.denoiser("ours", made.backbone, mask_id=request.mask_id))[0]
    assert _diffusers_peers.TextPeer(made.backbone)(request) == ours.output_ids


def test_a_missing_peer_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import _diffusers_peers

    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(SystemExit, match="--against reference"):
        _diffusers_peers.TextPeer(networks().backbone)


# --- sizes and floors -------------------------------------------------------------------------------------------------


def test_random_networks_are_finite_and_keep_router_biases_in_float32() -> None:
    made = networks(torch.bfloat16)
    for module in (made.backbone, made.image_tokenizer, made.semantic_embedder, made.decoder(), made.vae):
        tensors = [*module.parameters(), *module.buffers()]
        assert all(bool(tensor.isfinite().all()) for tensor in tensors)
        assert not any(tensor.is_meta for tensor in tensors)
    assert made.backbone.model.layers[1].mlp.gate.expert_bias.dtype == torch.float32
    assert made.backbone.lm_head.weight.dtype == torch.bfloat16
    assert 0.01 < float(made.decoder().final_layer.linear.weight.float().std()) < 0.03, (
        "even where training starts at 0"
    )


def test_the_released_shapes_have_the_known_number_of_parameters() -> None:
    import _floors
    import _sizes

    numbers = _floors.networks(_sizes.shapes("uni"))
    assert numbers["decoder"] == 6_160_808_512
    assert numbers["image tokenizer"] == 1_199_457_280
    assert numbers["VAE"] == 83_819_683
    assert round(numbers["backbone"] / 1e9, 2) == 16.32


@pytest.mark.parametrize(("branches", "floor_ms"), [(1, 4.9), (2, 6.5), (8, 7.5), (16, 7.5)])
def test_floors_of_the_released_backbone(branches: int, floor_ms: float) -> None:
    import _floors
    import _sizes
    import limits

    config = _sizes.shapes("uni").backbone
    cost = _floors.backbone_step(config, branches=branches, context=512)
    assert cost.bound(limits.H200) == "memory"
    assert round(1000 * cost.floor_s(limits.H200), 1) == floor_ms
    assert round(_floors.expected_experts(config, 32)) == 163


def test_a_step_reads_no_more_than_all_weights_and_multiplies_what_is_counted() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    import _floors
    import _released
    import _work

    made = networks(torch.float32)
    config = made.shapes.backbone
    step = _work.Step(made.shapes, _released.denoiser("ours", made.backbone, mask_id=63), branches=2, context=64)
    experts = _work.distinct_experts(made.backbone.routers(), step)
    assert config.num_experts_per_tok <= experts <= config.num_experts
    cost = _floors.backbone_step(config, branches=2, context=64, experts=config.num_experts, element=1)
    embedding = config.vocab_size * config.hidden_size
    norms = sum(p.numel() for name, p in made.backbone.named_parameters() if "norm" in name)
    keys = 2 * 64 * _floors.kv_bytes_per_token(config, 1)
    assert cost.bytes == _floors.num_parameters(made.backbone) - embedding - norms + 64 * config.hidden_size + keys
    twin = _released.plain(made.backbone)
    for layer in twin.model.layers:
        layer.attention.backend = "reference"  # products that the counter knows
    side = _released.ReleasedDenoiser(twin, mask_id=63)
    whole = _work.Step(made.shapes, side, branches=2, context=0)
    with FlopCounterMode(display=False) as counter:
        whole(0)
    assert counter.get_total_flops() == _floors.backbone_step(config, branches=2, context=0).flops


def test_sides_take_turns_and_ratios_are_taken_round_by_round() -> None:
    import _timing

    seen: list[tuple[str, int]] = []
    sides = {name: lambda turn, name=name: seen.append((name, turn)) for name in ("a", "b")}
    taken = _timing.take_turns(sides, 2, CPU, warm_up=0)
    assert seen == [("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert all(len(values) == 2 for values in taken.values())
    told = _timing.compared({"a": [1.0, 2.0, 1.0], "b": [3.0, 2.0, 5.0]}, "a")
    assert told["times_faster"] == {"b": {"median": 3.0, "least": 1.0, "most": 5.0}}


# --- the queue --------------------------------------------------------------------------------------------------------


def queued() -> list[list[str]]:
    text = (BENCHMARKS / "gpu" / "README.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("timeout 590 python benchmarks/")]
    assert len(lines) > 5
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("line", queued(), ids=lambda line: Path(line[-1]).stem)
def test_queued_commands_parse_and_name_files_of_their_own(line: list[str]) -> None:
    script = importlib.import_module(Path(line[3]).stem)
    options = script.parser().parse_args(line[4:])
    assert len(shlex.join(line)) <= 2000
    assert (options.size, options.device) == ("uni", "cuda")
    assert "diffusers" not in options.against
    assert sum(other[-1] == line[-1] for other in queued()) == 1


# --- scripts ----------------------------------------------------------------------------------------------------------


def test_backbone_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numbers = run("backbone_step", monkeypatch, tmp_path / "o.json", "--batches", "1", "2", "--contexts", "32",
                  "--experts", "4", "--context", "32", "--calls", "1", "--reference-up-to", "64")  # fmt: skip
    one, two = numbers["batch"]
    assert one["times_faster"]["reference"]["median"] > 0
    assert "reference" not in two["seconds"], "windows of more positions than allowed"
    assert numbers["experts"][0]["num_experts"] == 4


def test_image_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numbers = run("image_tokens", monkeypatch, tmp_path / "o.json", "--grids", "4", "--ours-only", "5", "--steps", "2",
                  "--batches", "1", "2", "--no-surplus", "--captured")  # fmt: skip
    row, other = numbers["grids"]
    assert set(row["same_ids"].values()) == {1.0}
    assert set(row["seconds"]) == {"reference", "reference, logits of the block", "reference, no expert loop", "ours",
                                   "captured"}  # fmt: skip
    assert set(other["seconds"]) == {"ours", "captured"}
    for name in ("batches", "batches_captured"):
        assert [one["batch"] for one in numbers[name]] == [1, 2]


def test_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numbers = run("text", monkeypatch, tmp_path / "o.json", "--grid", "4", "--steps", "2", "--batches", "1", "2",
                  "--against", "reference", "--captured")  # fmt: skip
    assert [one["num_tokens"] for one in numbers["cases"]] == [32, 32, 60, 32]
    assert all(one["same_ids"] == {"reference": 1.0, "captured": 1.0} for one in numbers["cases"])
    assert all((one["prompt_tokens"] + one["num_tokens"]) % 32 == 0 for one in numbers["cases"])


def test_decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    numbers = run("decoder", monkeypatch, tmp_path / "o.json", "--grids", "4", "--batches", "2", "--grid", "4",
                  "--steps", "2")  # fmt: skip
    for row in numbers["evaluations"]:
        assert max(row["difference"].values()) < 1e-5
    assert set(numbers["whole"]["seconds"]) == {"turbo", "normal", "VAE"}
    assert numbers["whole"]["reload"]["gb"] > 0


def test_end_to_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numbers = run("end_to_end", monkeypatch, tmp_path / "o.json", "--grid", "4", "--steps", "2", "--batches", "1", "2")
    assert set(numbers["first"]) == {"load", "tokens", "pixels"}
    for row in numbers["fixed"].values():
        assert set(row["stages"]) == {"ours", "reference"}


def test_a_task_of_memory_tells_its_peak(capsys: pytest.CaptureFixture[str]) -> None:
    import memory

    memory.main(["--size", "tiny", "--grid", "4", "--steps", "2", "--task", "everything"])
    assert 0.05 < json.loads(capsys.readouterr().out)["peak_gb"] < 50


def test_limits_of_nano() -> None:
    import _floors
    import limits

    machine = _floors.Machine(name="a machine", bytes_per_s=1e9, flops_per_s=1e6)
    told = limits.limits("nano", 8, machine, 4)
    assert {row["bound"] for row in told["calls"].values()} == {"products"}
    for row in told["calls"].values():
        assert row["floor_ms"] == pytest.approx(1e6 * row["gflop"])
    whole, codes = (told["calls"][f"backbone step, 1 x 32 ids{which}"]["gflop"] for which in ("", ", image ids"))
    assert whole > codes


@pytest.mark.slow
def test_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "o.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks/limits.py", "--out", str(out)])
    runpy.run_path(str(BENCHMARKS / "limits.py"), run_name="__main__")
    uni, nano = json.loads(out.read_text(encoding="utf-8"))["numbers"]
    assert uni["calls"]["decoder evaluation, batch 1"]["bound"] == "products"
    assert uni["calls"]["backbone step, 16 x 32 ids"]["bound"] == "memory"
    assert (uni["size"], nano["size"]) == ("uni", "nano")
