"""From a recipe's name to a finished component: names, overrides, chains, budgets, stopping."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
from tiny_stages import tiny_config

from llada_uni.config import to_mapping
from llada_uni.errors import ConfigError
from llada_uni.training.config import TrainConfig, describe
from llada_uni.training.metrics import read_metrics
from llada_uni.training.objective import Resources
from llada_uni.training.run import RunOptions, _fitted, _stop_on_signals, main, resolve_recipe, run_recipe
from llada_uni_recipes import nano


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoteJob:
    """A stage that only writes a file."""

    name: str
    text: str = "x"

    def run(self, resources: Resources) -> dict:
        resources.out.mkdir(parents=True, exist_ok=True)
        (resources.out / self.name).write_text(self.text)
        return {"name": self.name}


def options(resources: Resources, **changes: object) -> RunOptions:
    return RunOptions(**({"out": resources.out, "cache": resources.cache} | changes))


@pytest.mark.parametrize("name", nano.__all__)
def test_every_recipe_builds_and_describes_itself(name: str) -> None:
    recipe = resolve_recipe(f"recipes.nano:{name}")
    jobs = recipe if isinstance(recipe, tuple) else (recipe,)
    for job in jobs:
        assert job.name.startswith("nano-")
        assert json.loads(json.dumps(to_mapping(job)))
        if isinstance(job, TrainConfig):
            assert describe(job)["objective_type"].endswith("Config")


def test_stages_of_nano_fit_together_and_into_the_budget() -> None:
    backbone, decoder = nano.backbone().objective, nano.decoder().objective
    codes = nano.tokenizer().objective.tokenizer.vq_config.num_embeddings
    assert backbone.backbone.vocab_size - backbone.backbone.image_token_offset == codes == decoder.embedder.num_codes
    assert decoder.decoder.in_channels == nano.vae().objective.vae.latent_channels
    assert decoder.decoder.cap_feat_dim == decoder.embedder.width
    import torch

    from llada_uni.backbone.model import Backbone
    from llada_uni.decoder.dit import Decoder
    from llada_uni.decoder.semantic import SemanticEmbedder
    from llada_uni.decoder.vae import VAE
    from llada_uni.image_tokenizer.model import ImageTokenizer

    with torch.device("meta"):
        parts = [
            Backbone(backbone.backbone), ImageTokenizer(nano.tokenizer().objective.tokenizer),
            VAE(nano.vae().objective.vae), SemanticEmbedder(decoder.embedder),
            Decoder(decoder.decoder), Decoder(decoder.decoder),
        ]  # fmt: skip
    numbers = sum(p.numel() for part in parts for p in part.parameters())
    assert 2 * numbers < 32 * 2**20


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nano", "expected a recipe such as"),
        ("recipes.none:vae", "no recipe module"),
        ("recipes.nano:vaee", "it has all, autoregressive, backbone"),
        ("recipes.nano:_FLOW", "no recipe"),
    ],
)
def test_unknown_recipes_are_one_clear_error(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_recipe(name)


def test_a_run_trains_evaluates_and_exports(tiny_resources: Resources, tmp_path: Path) -> None:
    where = Resources(out=tmp_path / "out", cache=tmp_path / "cache")
    lines: list = []
    (numbers,) = run_recipe(
        tiny_config("vae"), options(where, overrides=("optim.lr=0.005",), steps=4), report=lines.append
    )
    assert (numbers["step"], numbers["horizon"]) == (4, 4)
    assert numbers["psnr"] > 0
    assert (where.out / "vae" / "config.json").exists()
    stored = json.loads((where.cache / "tiny-vae" / "evaluation.json").read_text())
    assert stored == numbers
    assert [line["step"] for line in lines] == [2, 4] == [r["step"] for r in read_metrics(where.cache / "tiny-vae")]
    assert lines[0]["samples_per_s"] > 0
    (again,) = run_recipe(tiny_config("vae"), options(where, overrides=("optim.lr=0.005",), steps=4, export_only=True))
    assert again["psnr"] == numbers["psnr"]


def test_latents_of_the_exported_autoencoder_have_unit_variance(tmp_path: Path) -> None:
    where = Resources(out=tmp_path / "out", cache=tmp_path / "cache")
    run_recipe(tiny_config("vae"), options(where))
    from llada_uni.training.export import frozen

    vae = frozen(where.out, "vae")
    objective = tiny_config("vae").objective.build(where, 0)
    images = objective._held_out(1)[0]
    values = vae.to_model(vae.encode(images)[0])
    assert float(values.mean()) == pytest.approx(0, abs=0.1)
    assert float(values.std()) == pytest.approx(1, abs=0.1)


def test_a_chain_runs_in_order_skips_what_is_done_and_refuses_overrides(tmp_path: Path) -> None:
    where = Resources(out=tmp_path / "out", cache=tmp_path / "cache")
    chain = (NoteJob(name="a"), NoteJob(name="b"))
    assert [r["name"] for r in run_recipe(chain, options(where))] == ["a", "b"]
    (where.out / "a").write_text("kept")
    run_recipe(chain, options(where))
    assert (where.out / "a").read_text() == "kept"
    run_recipe(chain, options(where, force=True))
    assert (where.out / "a").read_text() == "x"
    with pytest.raises(ConfigError, match="one recipe"):
        run_recipe(chain, options(where, overrides=("text=y",)))


def test_a_budget_is_shared_by_the_stages_of_a_chain() -> None:
    fitted = _fitted(nano.all(), 10.0)
    minutes = [job.minutes for job in fitted if isinstance(job, TrainConfig)]
    assert sum(minutes) == pytest.approx(10.0)
    assert minutes[0] / minutes[1] == pytest.approx(nano.vae().minutes / nano.tokenizer().minutes)


def test_a_signal_asks_for_a_stop() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with _stop_on_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_command_line_reports_errors_in_one_line(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    arguments = ["recipes.nano:vae", "--cache", str(tmp_path), "--set", "optim.lrr=1"]
    assert main(arguments) == 2
    assert capsys.readouterr().out == ""


def test_missing_components_name_the_stage_to_run(tmp_path: Path) -> None:
    empty = Resources(out=tmp_path / "out", cache=tmp_path / "cache")
    with pytest.raises(Exception, match="missing"):
        run_recipe(tiny_config("tokenizer"), options(empty))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vae", "tokenizer", "backbone", "decoder", "turbo"])
def test_every_stage_learns(stage: str, tiny_resources: Resources, tmp_path: Path) -> None:
    config = tiny_config(stage, steps=120, batch_size=8, log_every=10)
    where = dataclasses.replace(tiny_resources, out=tiny_resources.out)
    objective = config.objective.build(where, 0)
    from llada_uni.training.train import train

    train(config, objective, tmp_path)
    losses = [record["loss"] for record in read_metrics(tmp_path)]
    assert min(losses[-3:]) < 0.9 * losses[0]
