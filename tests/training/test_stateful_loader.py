"""The torchdata loader gives the batches of the objective, and resumes exactly."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from llada_uni.data.import_files import SourceOptions
from llada_uni.data.importing import import_records, open_source
from llada_uni.data.preextract import extract_tokens
from llada_uni.data.token_loader import PoseRules, TokenData
from llada_uni.errors import ConfigError
from llada_uni.testing.checkpoint import write_tiny_checkpoint
from llada_uni.training.objectives.records import RecordRows, RecordsObjectiveConfig
from llada_uni.training.stateful_loader import stateful_loader
from llada_uni.weights.load import load_vocab
from own_data import draw_folder

SIZE = 3


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RecordsObjectiveConfig:
    root = tmp_path_factory.mktemp("stateful")
    checkpoint = write_tiny_checkpoint(root / "tiny")
    draw_folder(root / "pictures", 7)
    drafts = open_source(str(root / "pictures"), "folder", SourceOptions(tasks=("t2i", "cap")))
    import_records(drafts, root / "records")
    extract_tokens(root / "records", checkpoint, root / "tokens")
    pose = PoseRules(block_lengths=((16, 1.0),))
    return RecordsObjectiveConfig(data=str(root / "tokens"), warm=str(checkpoint), pose=pose, capacity=160)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_batches_are_those_of_the_objective(config: RecordsObjectiveConfig) -> None:
    pytest.importorskip("torchdata")
    rows = RecordRows(config, TokenData(Path(str(config.data))), load_vocab(Path(config.warm)).special, 5)
    wanted = [rows.batch(number, SIZE) for number in range(6)]
    loader = iter(stateful_loader(config, batch_size=SIZE, seed=5))
    assert all(equal(next(loader), batch) for batch in wanted)
    ranks = [iter(stateful_loader(config, batch_size=SIZE, seed=5, rank=rank, world=2)) for rank in range(2)]
    assert all(equal(next(ranks[number % 2]), batch) for number, batch in enumerate(wanted))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loaded_state_goes_on_with_the_next_batch(workers: int, config: RecordsObjectiveConfig) -> None:
    pytest.importorskip("torchdata")
    whole = iter(stateful_loader(config, batch_size=SIZE))
    wanted = [next(whole) for _ in range(7)]
    first = stateful_loader(config, batch_size=SIZE, workers=workers)
    running = iter(first)
    assert all(equal(next(running), batch) for batch in wanted[:3])
    state = first.state_dict()
    second = stateful_loader(config, batch_size=SIZE, workers=workers)
    second.load_state_dict(state)
    resumed = iter(second)
    assert all(equal(next(resumed), batch) for batch in wanted[3:])


def test_a_state_of_something_else_is_refused(config: RecordsObjectiveConfig) -> None:
    pytest.importorskip("torchdata")
    first = stateful_loader(config, batch_size=SIZE, seed=1)
    next(iter(first))
    other = stateful_loader(config, batch_size=SIZE, seed=2)
    other.load_state_dict(first.state_dict())
    with pytest.raises(ConfigError, match="seed 1, this loader 2"):
        iter(other)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"workers": -1}, {"rank": 2, "world": 2}])
def test_wrong_numbers_are_refused(wrong: dict[str, int], config: RecordsObjectiveConfig) -> None:
    pytest.importorskip("torchdata")
    with pytest.raises(ConfigError, match="expected a batch size of at least 1"):
        stateful_loader(config, **({"batch_size": SIZE} | wrong))
    with pytest.raises(ConfigError, match="name the folder"):
        stateful_loader(dataclasses.replace(config, data=None), batch_size=SIZE)


def test_without_torchdata_the_extra_is_named(config: RecordsObjectiveConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdata", None)
    with pytest.raises(ConfigError, match=r"pip install 'llada-uni\[train\]'"):
        stateful_loader(config, batch_size=SIZE)
