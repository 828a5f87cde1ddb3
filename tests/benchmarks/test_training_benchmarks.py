"""The training benchmarks: both sides of the throughput do the same work, the ablations resume and compare."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from llada_uni.data.block_rows import Branch, Document
from llada_uni.data.code_pool import PoolConfig
from llada_uni.data.unified_stream import MixConfig, Writer
from llada_uni.testing.tiny import tiny_backbone, tiny_vocab
from llada_uni.training.objectives.backbone import BackboneObjective, BackboneObjectiveConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NANO = BENCHMARKS.parent / "src" / "llada_uni" / "nano"
VOCAB = tiny_vocab()
SMALL = [
    f"--set=objective.backbone.{field}"
    for field in ("hidden_size=32", "num_hidden_layers=2", "intermediate_size=32", "moe_intermediate_size=16")
]


@pytest.fixture(autouse=True)
def _beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", *arguments])
    runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")


def documents() -> list[Document]:
    """Four pictures with prompts of several lengths, one of them a single block, and two documents of questions."""
    rng = np.random.default_rng(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(int(i) for i in rng.integers(0, 16, count))

    made = []
    for prompt, target, block_length in ((5, 12, 4), (11, 12, 8), (7, 9, 16), (3, 12, 15)):
        branch = Branch(prompt=ids(prompt), target=ids(target), is_image=True)
        made.append(Document(branches=(branch,), block_length=block_length))
    for _ in range(2):
        shared = ids(13)
        asked = (Branch(prompt=(*shared, *ids(n)), target=ids(n + 1)) for n in (2, 5, 1))
        made.append(Document(branches=tuple(asked), block_length=4))
    return made


@pytest.mark.parametrize("mtrs", [True, False])
def test_the_straightforward_loss_and_gradients_are_ours(mtrs: bool) -> None:
    import training_throughput as script

    model = tiny_backbone(dtype=torch.float64, scale=0.3).requires_grad_(True)
    config = BackboneObjectiveConfig(
        backbone=model.config, pool=PoolConfig(), capacity=70, num_buckets=2, fill_weight=0.1, mtrs=mtrs
    )
    writer = Writer(vocab=VOCAB, tokenizer=None, mix=MixConfig())  # type: ignore[arg-type]
    objective = BackboneObjective(config, model, writer, None)  # type: ignore[arg-type]
    made = documents()
    batch = objective.rows(made, torch.Generator().manual_seed(0))
    assert batch["ids"].shape[0] > 2, "several packed rows"
    rows = script.plain_rows(made, batch, config.capacity, VOCAB.special.eos)
    assert len(rows) == 10
    assert sum(int(row.masked.sum()) for row in rows) == int(batch["masked"].sum())
    plain = script.PlainSide(objective, rows, 4)
    ours = script.OurSide(objective, batch)
    assert plain.backward() == pytest.approx(ours.backward(), rel=1e-12)
    assert script.plain_normaliser(rows, config) == objective.weight(batch)
    pairs = zip(plain.model.named_parameters(), ours.model.named_parameters(), strict=True)
    for (name, other), (_, own) in pairs:
        torch.testing.assert_close(other.grad, own.grad, rtol=1e-9, atol=1e-12, msg=name)
    assert plain.computed > ours.computed >= int((batch["document"] >= 0).sum())


@pytest.mark.skipif(not NANO.is_dir(), reason="the embedded model is not built yet")
def test_throughput_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.json"
    run("training_throughput", monkeypatch, "--model", str(NANO), "--batch-size", "4", "--pictures", "4",
        "--progress", "0.5", "0.9", "--repeats", "2", *SMALL, "--out", str(out))  # fmt: skip
    numbers = json.loads(out.read_text())["numbers"]
    whole, blocks = numbers["points"]
    assert (whole["progress"], blocks["progress"]) == (0.5, 0.9)
    for point in numbers["points"]:
        found: dict[str, Any] = point["times_faster"]
        assert 0 < found["least"] <= found["median"] <= found["most"]
        assert point["loss"]["ours"] == pytest.approx(point["loss"]["plain"], rel=1e-4)
        assert point["samples"] == 3 + 3
        assert point["computed_positions"]["plain"] > point["computed_positions"]["ours"]
        assert numbers["all_points"]["tokens_per_s"]["plain"] > 0


def test_points_are_added_up_repeat_by_repeat() -> None:
    import training_throughput as script

    clocks = ({"ours": [1.0, 2.0], "plain": [3.0, 3.0]}, {"ours": [1.0, 1.0], "plain": [3.0, 9.0]})
    points = [{"tokens": 10, "seconds": clock, "processor_seconds": clock} for clock in clocks]
    told = script.together(points)
    assert told["times_faster"] == {"median": 3.5, "least": 3.0, "most": 4.0}
    assert told["tokens_per_s"] == {"ours": 20 / 2.5, "plain": 20 / 9.0}


def test_every_arm_changes_one_rule_of_the_recipe() -> None:
    import ablations as script
    from llada_uni.config import to_mapping

    options = script.parser().parse_args(["--model", "m", "--cache", "c", "--steps", "2"])

    def objective(arm: str) -> dict[str, Any]:
        job = script.job_of("recipes.nano:backbone", "x", 3, options, script.ARMS[arm])
        assert (job.steps, job.minutes, job.seed) == (2, None, 3)
        mapping = to_mapping(job.objective)
        mix = mapping.pop("mix")
        return {**mapping, **{f"mix.{name}": value for name, value in mix.items()}}

    recipe = objective("recipe")
    wanted = {
        "token mean": {"mtrs": False},
        "complementary": {"mix.complementary": True},
        "no balancing": {"balance_rate": 0.0},
        "no point mass": {name: {**recipe[name], "full_share": 0.0} for name in ("image_law", "text_law")},
        "no hidden regions": {"mix.region_share": 0.0},
    }
    assert recipe["image_law"]["full_share"] > 0 < recipe["text_law"]["full_share"]
    for arm, changes in wanted.items():
        assert {name: value for name, value in objective(arm).items() if value != recipe[name]} == changes, arm
    assert set(script.ARMS) == {"recipe", *wanted}


def test_summaries_are_paired() -> None:
    import ablations as script

    told = script.summary({"recipe": {0: {"a": 1.0}, 1: {"a": 3.0}}, "other": {0: {"a": 2.0}, 1: {"a": 3.5}}})
    assert told["recipe"] == {"a": {"mean": 2.0}}
    assert told["other"] == {"a": {"mean": 2.75, "minus_recipe": [1.0, 0.5]}}
    found = script.compared_groups([{"psnr": 2.0}, {"psnr": 6.0}], [{"psnr": 1.0}, {"psnr": 3.0}])
    assert found["psnr"]["mean"] == 4.0
    assert found["psnr"]["minus_plain_8"] == {"mean": 2.0, "standard_error": pytest.approx(1.0)}


@pytest.mark.slow
@pytest.mark.skipif(not NANO.is_dir(), reason="the embedded model is not built yet")
def test_ablations_end_to_end_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps of two arms and of the distillation; the second command trains nothing and tells the same."""
    out, cache = tmp_path / "out.json", tmp_path / "cache"
    tiny = (
        "batch_size=2",
        "objective.pool.num_shards=1",
        "objective.pool.shard_size=4",
        "log_every=1",
        "objective.eval_documents=4",
    )
    decoder = (
        *("objective.data.pool.num_shards=1", "objective.data.pool.shard_size=4", "objective.data.num_shards=1"),
        *("batch_size=2", "objective.eval_pictures=1"),
    )
    arguments = [
        *("--model", str(NANO), "--cache", str(cache), "--out", str(out), "--steps", "2", "--seeds", "5"),
        *("--pictures", "2", "--arms", "recipe", "no balancing", *SMALL),
        *(f"--set={one}" for one in tiny),
        *(f"--set-decoder={one}" for one in decoder),
    ]
    run("ablations", monkeypatch, *arguments)
    numbers = json.loads(out.read_text())["numbers"]
    arms = numbers["backbone"]["arms"]
    assert set(arms) == {"recipe", "no balancing"}
    for arm in arms.values():
        assert arm["seeds"]["5"]["steps"] == 2
        assert arm["seeds"]["5"]["curve"]["step"] == [1, 2]
        assert {"nll_image_half", "nll_hidden_region", "answers", "max_violation"} <= set(arm["seeds"]["5"]["metrics"])
    assert "minus_recipe" in numbers["backbone"]["summary"]["no balancing"]["max_violation"]
    samplers = numbers["decoder"]["samplers"]
    assert set(samplers) == {"plain, 8 steps", "plain, 20 steps", "distilled, 8 steps, seed 5"}
    assert samplers["plain, 8 steps"]["psnr"]["minus_plain_8"]["mean"] == 0.0
    assert samplers["plain, 20 steps"]["psnr"]["mean"] > 15, "the shipped decoder draws"
    states = {path: path.stat().st_mtime_ns for path in cache.glob("*/state.pt")}
    assert len(states) == 3
    monkeypatch.setattr("llada_uni.training.train.train", None)
    run("ablations", monkeypatch, *arguments)
    assert json.loads(out.read_text())["numbers"] == numbers
    with pytest.raises(SystemExit, match="other settings"):
        run("ablations", monkeypatch, *arguments, "--set=optim.lr=0.5", "--parts", "backbone")
    capsys.readouterr()


def test_outcomes_are_compared_item_by_item() -> None:
    import baselines as script

    first, second = ({"outcomes": {"generation": digits}} for digits in ("1100", "1010"))
    found = script.compared(first, second)["generation"]
    assert [found[name] for name in ("both", "only_first", "only_second", "neither")] == [1, 1, 1, 1]
    assert script._digits([True, False]) == "10"


def test_baseline_arms_differ_in_one_thing() -> None:
    import baselines as script
    from llada_uni.config import to_mapping

    options = script.parser().parse_args(["--model", "m", "--cache", "c", "--steps", "2", "--decoder-steps", "3"])
    jobs = {}
    for table, steps in ((script.ARMS, options.steps), (script.DECODERS, options.decoder_steps)):
        for arm, (recipe, name) in table.items():
            jobs[arm] = script._job(recipe, name, options, steps, [])
    plain, causal = jobs["block diffusion"], jobs["autoregressive"]
    assert causal.objective.scenes == plain.objective
    codes, classes = (to_mapping(jobs[arm].objective) for arm in ("codes", "classes"))
    assert {name for name in classes if classes[name] != codes[name]} == {"embedder"}
    for one, other in ((plain, causal), (jobs["codes"], jobs["classes"])):
        first, second = to_mapping(one), to_mapping(other)
        assert {name for name in first if first[name] != second[name]} == {"name", "objective"}
    assert plain.name == "recipe-0", "the state of that arm of the ablations can be taken over"


@pytest.mark.slow
@pytest.mark.skipif(not NANO.is_dir(), reason="the embedded model is not built yet")
def test_baselines_end_to_end_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps of all four arms; the second command trains nothing and tells the same."""
    out, cache = tmp_path / "out.json", tmp_path / "cache"
    pool = ("pool.num_shards=1", "pool.shard_size=4")
    backbone = ["batch_size=2", "log_every=1", "objective.eval_documents=4", *(f"objective.{one}" for one in pool)]
    decoder = ["batch_size=2", "objective.eval_pictures=1", "objective.data.num_shards=1",
               *(f"objective.data.{one}" for one in pool)]  # fmt: skip
    arguments = [
        *("--model", str(NANO), "--cache", str(cache), "--out", str(out), "--steps", "2", "--decoder-steps", "2"),
        *("--limit", "2", "--parts", "backbones", "decoders", *SMALL),
        *(f"--set={one}" for one in backbone),
        *(f"--set-decoder={one}" for one in decoder),
    ]
    run("baselines", monkeypatch, *arguments)
    numbers = json.loads(out.read_text())["numbers"]
    assert set(numbers["backbones"]["arms"]) == {"block diffusion", "autoregressive"}
    for arm in numbers["backbones"]["arms"].values():
        assert arm["steps"] == 2
        assert sum(one["total"] for one in arm["generation"]["categories"].values()) <= 2
        assert arm["metrics"]["answers"] >= 0
        assert arm["step_cpu_seconds"] > 0
        assert len(arm["outcomes"]["generation"]) == 2
    assert numbers["backbones"]["autoregressive_minus_block_diffusion"]["understanding"]["total"] == 2
    for arm in numbers["decoders"]["arms"].values():
        assert arm["pictures"]["total"] == 2
    monkeypatch.setattr("llada_uni.training.train.train", None)
    run("baselines", monkeypatch, *arguments)
    assert json.loads(out.read_text())["numbers"] == numbers
    capsys.readouterr()


def test_retrieval_counts_nearest_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    emoji = SimpleNamespace(**runpy.run_path(str(BENCHMARKS / "emoji.py")))
    references = np.arange(8, dtype=np.float32)[:, None] * np.ones((1, 3), dtype=np.float32)
    right = emoji.retrieval(references + 0.1, references, range(8))
    assert right == {"nearest": 1.0, "among_five": 1.0, "rank": 0.0}
    far = emoji.retrieval(np.full((8, 3), -5.0, dtype=np.float32), references, range(8))
    assert far == {"nearest": 1 / 8, "among_five": 5 / 8, "rank": 0.5}
    told = emoji.named(["a 3D fox emoji", "a flat red fox emoji"], ["fox", "fox"], ["a 3D fox emoji"] * 2, "3d")
    assert told == {"exact": 0.5, "concept": 0.5, "style": 0.5}
