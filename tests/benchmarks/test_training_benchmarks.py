"""The training benchmarks: both sides of the throughput do the same work, the ablations resume and compare."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
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
        "--repeats", "2", *SMALL, "--out", str(out))  # fmt: skip
    numbers = json.loads(out.read_text())["numbers"]
    whole, blocks = numbers["points"]
    assert (whole["progress"], blocks["progress"]) == (0.5, 0.9)
    for point in numbers["points"]:
        found: dict[str, Any] = point["times_faster"]
        assert 0 < found["least"] <= found["median"] <= found["most"]
        assert point["loss"]["ours"] == pytest.approx(point["loss"]["plain"], rel=1e-4)
        assert point["samples"] == 3 + 3
        assert point["computed_positions"]["plain"] > point["computed_positions"]["ours"]
