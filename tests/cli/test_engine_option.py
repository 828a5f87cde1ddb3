"""``--engine``: the same files and words from another driver, and one line about a name that is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from llada_uni.cli.main import run
from llada_uni.sampling.captured import CapturedSampler
from llada_uni.testing.checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    generate = CapturedSampler.generate

    def watched(self, requests):
        found.append(len(requests))
        return generate(self, requests)

    monkeypatch.setattr(CapturedSampler, "generate", watched)
    return found


def test_commands_write_the_same_with_every_engine(
    checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    runs: list[int],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((60, 40), 80).convert("RGB").save("photo.png")
    told: dict[str, str] = {}
    for engine in ("usual", "captured"):
        common = ["--model", checkpoint, "--dtype", "float64", "--device", "cpu", "--seed", "1", "--engine", engine]
        assert run(["generate", "a", *common, "-o", f"{engine}.png"]) == 0
        assert run(["edit", "photo.png", "red", *common, "-o", f"{engine}-edit.png"]) == 0
        capsys.readouterr()
        assert run(["understand", "photo.png", "what?", *common, "--max-new-tokens", "20"]) == 0
        told[engine] = capsys.readouterr().out
    assert told["usual"] == told["captured"]
    for name in ("", "-edit"):
        with Image.open(f"usual{name}.png") as one, Image.open(f"captured{name}.png") as other:
            assert one.tobytes() == other.tobytes()
    assert runs == [1, 1, 1]


def test_a_film_needs_the_steps_of_the_usual_engine(checkpoint: str, tmp_path: Path, runs: list[int]) -> None:
    film = str(tmp_path / "made.gif")
    picture = str(tmp_path / "made.png")
    assert run(["generate", "a", "--model", checkpoint, "--engine", "captured", "-o", picture, "--film", film]) == 0
    assert runs == []


def test_a_plan_moves_weights(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "a", "--model", checkpoint, "--engine", "captured", "--memory", "64GB"]) == 2
    said = "error: the captured engine keeps weights where they are; leave memory and offload out\n"
    assert capsys.readouterr().err == said


def test_an_unknown_engine(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "a", "--model", checkpoint, "--engine", "fast"]) == 2
    assert capsys.readouterr().err == "error: engine: expected one of usual, captured, got 'fast'\n"
