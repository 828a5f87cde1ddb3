"""The recipe emoji: its stages fit together, can be planned, and (slow) make a checkpoint that draws."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from emoji_archives import svg_stand_in, write_archives
from llada_uni import LladaUni
from llada_uni.data.code_pool import PoolConfig, TaskPoolConfig
from llada_uni.errors import ConfigError
from llada_uni.training.config import TrainConfig
from llada_uni.training.objective import Resources
from llada_uni.training.objectives.material import StartJob
from llada_uni.training.objectives.mixture import MixtureObjectiveConfig
from llada_uni.training.plan import plan_jobs
from llada_uni.training.run import RunOptions, run_recipe
from llada_uni.weights.catalog import resolve
from llada_uni_recipes import emoji, nano

POOL = PoolConfig(num_shards=1, shard_size=8, seed=1, grids=((8, 8, 1.0),))
TASKS = TaskPoolConfig(num_shards=4, shard_size=4, seed=2, grids=((8, 8, 1.0),))


def test_names_tell_the_recipe_and_gpu_stages_are_the_same_stages() -> None:
    for name in emoji.__all__:
        if not name.startswith("all"):
            assert getattr(emoji, name)().name == f"emoji-{name.removesuffix('_gpu')}"
    assert [job.name for job in emoji.all()] == [job.name for job in emoji.all_gpu()]
    trained = [job for job in emoji.all_gpu() if isinstance(job, TrainConfig)]
    assert len(trained) == 5
    assert {job.device for job in trained} == {"cuda"}


def test_every_stage_goes_on_from_nano_and_has_its_shapes() -> None:
    assert emoji.backbone().objective.scenes.backbone == nano.backbone().objective.backbone
    assert emoji.decoder().objective.decoder == nano.decoder().objective.decoder
    assert emoji.vae().objective.vae == nano.vae().objective.vae
    warm = [emoji.vae().objective.warm, emoji.tokenizer().objective.warm, emoji.decoder().objective.warm]
    assert [*warm, emoji.backbone().objective.scenes.warm] == ["nano"] * 4
    assert emoji.codes().pool == emoji.backbone().objective.scenes.pool == emoji.decoder().objective.data.pool
    written = {tokens for _, tokens in emoji.tokens().folders}
    assert written == {emoji.backbone().objective.records.data, emoji.backbone().objective.held_out}


def test_the_chain_can_be_planned() -> None:
    plans = plan_jobs(emoji.all(), throughput=5e10)
    assert [plan.name for plan in plans] == [job.name for job in emoji.all() if isinstance(job, TrainConfig)]
    assert all(plan.flops_per_step > 0 and plan.parameters > 0 for plan in plans)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_mixture_has_two_parts(share: float) -> None:
    config = emoji.backbone().objective
    with pytest.raises(ConfigError, match="records_share"):
        MixtureObjectiveConfig(scenes=config.scenes, records=config.records, records_share=share)


def test_the_checkpoint_itself_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is the checkpoint 'nano' itself"):
        StartJob(name="start").run(Resources(out=resolve("nano"), cache=tmp_path))


@pytest.mark.slow
def test_the_chain_makes_a_checkpoint_that_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", svg_stand_in())
    write_archives(tmp_path / "state" / "emoji" / "packages")
    options = RunOptions(out=tmp_path / "out", cache=tmp_path / "state")
    found = {numbers["name"]: numbers for numbers in run_recipe(small(), options)}
    assert len(found) == len(emoji.all())
    assert found["emoji-data"]["held_out_records"] > 0
    assert found["emoji-tokenizer"]["scene_codes_kept"] > 0.9
    assert found["emoji-backbone"]["held_out_samples"] == found["emoji-data"]["held_out_records"]
    assert "psnr_pictures" in found["emoji-decoder"]
    model = LladaUni.from_pretrained(tmp_path / "out", device="cpu")
    picture = model.generate_image("a 3D rocket emoji", seed=0, steps_per_block=2).image
    assert picture.size == (128, 128)
    assert model.edit_image(picture, "make it a flat emoji", seed=0, steps_per_block=2).image.size == (128, 128)
    assert run_recipe(small(), options) == list(found.values()), "a second call repeats nothing"


def small() -> tuple[Any, ...]:
    """The chain with two steps a stage and little to evaluate."""
    data = {"options": dataclasses.replace(emoji.data().options, held_out_share=0.4)}
    pools: dict[str, Any] = {"pool": POOL, "tasks": TASKS}
    flow = dataclasses.replace(emoji.decoder().objective.data, pool=POOL, num_shards=1)
    mixture = emoji.backbone().objective
    scenes = dataclasses.replace(mixture.scenes, **pools, eval_documents=16)
    records = dataclasses.replace(mixture.records, eval_samples=4)
    objectives = {
        "emoji-vae": dataclasses.replace(emoji.vae().objective, eval_pictures=16),
        "emoji-tokenizer": dataclasses.replace(emoji.tokenizer().objective, init_batches=1, eval_pictures=8),
        "emoji-decoder": dataclasses.replace(emoji.decoder().objective, data=flow, eval_pictures=2, eval_steps=2),
        "emoji-backbone": dataclasses.replace(mixture, scenes=scenes, records=records),
        "emoji-turbo": dataclasses.replace(emoji.turbo().objective, data=flow, eval_pictures=2, num_steps=2),
    }
    jobs = []
    for job in emoji.all():
        if isinstance(job, TrainConfig):
            job = dataclasses.replace(job, objective=objectives[job.name], steps=2, minutes=None, batch_size=4)
        elif job.name == "emoji-data":
            job = dataclasses.replace(job, **data)
        elif job.name == "emoji-codes":
            job = dataclasses.replace(job, **pools)
        jobs.append(job)
    return tuple(jobs)
