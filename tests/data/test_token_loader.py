"""The loader: each sample once per epoch, noise that follows the sample, packing that changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llada_uni.data.block_rows import Branch, Document, Segment, lay_out, pack
from llada_uni.data.compile_rows import CompiledSample, Variant
from llada_uni.data.packing import pack_report
from llada_uni.data.records import Skipped
from llada_uni.data.token_loader import PoseRules, TokenData, TokenLoader, is_held_out_id, sample_generator
from llada_uni.data.token_shards import Manifest, Shard, write_manifest, write_shard
from llada_uni.diffusion.masking import IMAGE_LAW, MaskRatioLaw
from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.testing.tiny import tiny_backbone, tiny_vocab
from llada_uni.training.objectives.backbone import masked_losses
from llada_uni.training.objectives.records import _branch_weights, noised_rows

VOCAB = tiny_vocab()
SPECIAL = VOCAB.special
TEXT = MaskRatioLaw(full_share=0.3)


def sample(number: int) -> CompiledSample:
    """Some branches of random ids; every third sample is words and a picture in one target."""
    rng = np.random.default_rng(number)

    def ids(count: int) -> list[int]:
        return rng.integers(0, 16, count).tolist()

    if number % 3 == 0:
        words, codes = ids(5), (rng.integers(0, 24, 6) + VOCAB.image_offset).tolist()
        parts = (Segment(length=5, is_image=False), Segment(length=6, is_image=True))
        branches = (Branch(prompt=ids(7), target=words + codes, segments=parts),)
    else:
        prompt = ids(9)
        branches = tuple(Branch(prompt=[*prompt, *ids(k + 1)], target=ids(4 + k)) for k in range(1 + number % 2))
    others = (Variant(name="uncond", branches=(Branch(prompt=ids(3), target=branches[0].target, is_image=True),)),)
    return CompiledSample(
        id=f"s{number}", task="vqa", variants=(Variant(name="cond", branches=branches), *others), weight=1.0 + number
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven samples in three shards."""
    shards = []
    for index, numbers in enumerate((range(4), range(4, 8), range(8, 11))):
        path = tmp_path / f"tokens-{index:06d}.safetensors"
        write_shard(path, [sample(number) for number in numbers], [Skipped(id=f"x{index}", reason="bad")], f"m{index}")
        shards.append(Shard(path).entry())
    write_manifest(tmp_path, Manifest(checkpoint_mark="c", shard_size=4, shards=tuple(shards)))
    return tmp_path


def test_samples_come_back_as_they_were(folder: Path) -> None:
    data = TokenData(folder, verify=True)
    assert len(data) == 11
    for number in range(11):
        found, wanted = data[number], sample(number)
        assert (found.id, found.task, found.weight) == (wanted.id, wanted.task, wanted.weight)
        assert found.variants == wanted.variants
    assert [facts["n_target"] for facts in data.facts()] == [sample(number).num_target for number in range(11)]
    with pytest.raises(IndexError):
        data[11]


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "s", [], [], "m")
    shard = Shard(tmp_path / "s")
    shard.verify()
    assert (len(shard), shard.entry().tokens) == (0, 0)


def ids_of(loader: TokenLoader, batches: int) -> list[tuple[int, str]]:
    return [(one.epoch, one.sample.id) for _ in range(batches) for one in next(loader)]


def test_every_epoch_holds_each_sample_once_in_another_order(folder: Path) -> None:
    loader = TokenLoader(TokenData(folder), batch_size=4, seed=3)
    seen = ids_of(loader, 11)  # 44 samples, four epochs, batches across their ends
    orders = [[name for epoch, name in seen if epoch == wanted] for wanted in range(4)]
    for order in orders:
        assert sorted(order) == sorted(f"s{number}" for number in range(11))
    assert len({tuple(order) for order in orders}) == 4
    assert ids_of(TokenLoader(TokenData(folder), batch_size=4, seed=3), 11) == seen
    assert ids_of(TokenLoader(TokenData(folder), batch_size=11, seed=3), 4) == seen
    assert ids_of(TokenLoader(TokenData(folder), batch_size=4, seed=4), 11) != seen


def test_a_loader_goes_on_from_its_state(folder: Path) -> None:
    one = TokenLoader(TokenData(folder), batch_size=3, seed=5)
    ids_of(one, 6)
    state, after = one.state_dict(), ids_of(one, 7)
    other = TokenLoader(TokenData(folder), batch_size=3, seed=5)
    other.load_state_dict(state)
    assert ids_of(other, 7) == after
    assert [(c.epoch, c.sample.id) for c in one.at(6)] == after[:3]
    for wrong in ({"seed": 6}, {"batch_size": 4}, {"indices": [1, 2, 3]}):
        with pytest.raises(ConfigError, match="the loader's state has"):
            TokenLoader(TokenData(folder), **({"batch_size": 3, "seed": 5} | wrong)).load_state_dict(state)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 1, "indices": []}])
def test_a_loader_without_work_is_one_clear_error(options: Any, folder: Path) -> None:
    with pytest.raises(ConfigError, match="expected samples and a batch size"):
        TokenLoader(TokenData(folder), **options)


def test_a_manifest_of_other_shards_is_refused(folder: Path) -> None:
    write_shard(folder / "tokens-000001.safetensors", [sample(1)], [], "m1")
    with pytest.raises(CheckpointError, match="not the shard that the manifest tells of"):
        TokenData(folder)


# --- how a sample is posed ------------------------------------------------------------------------------------------


def test_prompts_are_dropped_at_their_rate() -> None:
    rules = PoseRules(block_lengths=((4, 0.5), (8, 0.5)), drop_share=0.2)
    one, dropped, short = sample(1), 0, 0
    for epoch in range(2000):
        document = rules.document(one, sample_generator(0, epoch, one.id, "pose"))
        dropped += document.branches != one.variants[0].branches
        short += document.block_length == 4
    assert abs(dropped / 2000 - 0.2) < 0.03
    assert abs(short / 2000 - 0.5) < 0.04
    alone = CompiledSample(id="a", task="text", variants=one.variants[:1])
    documents = [rules.document(alone, sample_generator(0, e, "a", "pose")) for e in range(50)]
    assert all(document.branches == alone.variants[0].branches for document in documents)


def test_edits_lose_their_words_twice_as_often_as_their_pictures() -> None:
    kinds = ("cond", "no_text", "no_image", "uncond")
    edit = CompiledSample(id="e", task="edit", variants=tuple(
        Variant(name=name, branches=(Branch(prompt=[number], target=[2]),)) for number, name in enumerate(kinds)
    ))  # fmt: skip
    counts = dict.fromkeys(kinds, 0)
    for epoch in range(4000):
        document = PoseRules(drop_share=0.4).document(edit, sample_generator(1, epoch, "e", "pose"))
        counts[kinds[document.branches[0].prompt[0]]] += 1
    for name, share in zip(kinds, (0.6, 0.2, 0.1, 0.1), strict=True):
        assert abs(counts[name] / 4000 - share) < 0.025


def test_held_out_ids_are_a_share_and_always_the_same() -> None:
    chosen = [is_held_out_id(f"s{number}", 0.1) for number in range(5000)]
    assert abs(np.mean(chosen) - 0.1) < 0.015
    assert not any(is_held_out_id(f"s{number}", 0.0) for number in range(100))
    assert all(is_held_out_id(f"s{number}", 1.0) for number in range(100))
    assert all(is_held_out_id(f"s{n}", 0.3) for n in range(5000) if chosen[n])


@pytest.mark.parametrize("fields", [{"block_lengths": ()}, {"block_lengths": ((0, 1.0),)}, {"drop_share": 1.5}])
def test_wrong_rules_are_one_clear_error(fields: Any) -> None:
    with pytest.raises(ConfigError, match="expected"):
        PoseRules(**fields)


# --- noise ----------------------------------------------------------------------------------------------------------


def noisy(numbers: list[int], capacity: int, epoch: int = 0) -> dict[tuple[str, int, int, int], tuple[int, bool]]:
    """(clean id, masked) of every noisy token, by sample, branch, block and position."""
    layouts = [lay_out(Document(branches=sample(n).variants[0].branches, block_length=4), SPECIAL.eos) for n in numbers]
    generators = [sample_generator(7, epoch, f"s{n}", "noise") for n in numbers]
    rows = noised_rows(layouts, capacity, IMAGE_LAW, TEXT, SPECIAL, generators)
    packed = pack([len(layout) for layout in layouts], capacity)
    found, names = {}, ("branch", "position", "ids", "masked", "noisy_ids")
    for row, members in enumerate(packed):
        for place, member in enumerate(members):
            chosen = (rows["document"][row] == place) & (rows["stream"][row] > 0)
            facts = zip(*(rows[k][row][chosen].tolist() for k in names), strict=True)
            for branch, position, clean, masked, seen in facts:
                assert seen == (SPECIAL.mask if masked else clean)
                found[f"s{numbers[member]}", branch, position, 0] = (clean, masked)
    assert not rows["masked"][rows["stream"] == 0].any()
    return found


def test_noise_does_not_depend_on_the_batch_or_the_packing() -> None:
    together = noisy([0, 1, 2, 3, 4], capacity=200)
    assert noisy([3, 0, 4, 1, 2], capacity=40) == together
    apart: dict = {}
    for number in range(5):
        apart |= noisy([number], capacity=1)
    assert apart == together
    assert noisy([0, 1, 2, 3, 4], capacity=200, epoch=1) != together
    assert 0.2 < np.mean([masked for _, masked in together.values()]) < 0.95


def test_packed_losses_are_those_of_samples_alone() -> None:
    numbers = [0, 1, 2, 4]
    layouts = [lay_out(Document(branches=sample(n).variants[0].branches, block_length=4), SPECIAL.eos) for n in numbers]
    model = tiny_backbone(vocab=VOCAB, dtype=torch.float64)

    def total(chosen: list[int], capacity: int) -> float:
        parts = [layouts[index] for index in chosen]
        generators = [sample_generator(7, 0, f"s{numbers[index]}", "noise") for index in chosen]
        rows = noised_rows(parts, capacity, IMAGE_LAW, TEXT, SPECIAL, generators)
        weights = _branch_weights(parts, capacity, [1.0 + numbers[index] for index in chosen])
        found = masked_losses(model, rows)
        return float((found.losses * weights[found.sample]).sum())

    apart = sum(total([index], 1) for index in range(4))
    assert total([0, 1, 2, 3], 10**6) == pytest.approx(apart, rel=1e-9)
    assert total([2, 0, 3, 1], 60) == pytest.approx(apart, rel=1e-9)


# --- packing --------------------------------------------------------------------------------------------------------


def test_the_fill_rate_counts_whole_rows() -> None:
    report = pack_report([6, 4, 5, 5, 3], 10)
    assert (report.rows, report.tokens, report.most) == (3, 23, 2)
    assert report.fill_ratio == pytest.approx(23 / 30)
    assert pack_report([14, 6], 10).fill_ratio == pytest.approx(20 / 24)  # an oversized one fills a row of its own
    assert pack_report([], 10).fill_ratio == 0
