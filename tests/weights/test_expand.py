"""Vocabulary expansion: text rows keep their bits, new rows start as stated, the result is a unified checkpoint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from llada_uni.backbone.model import Backbone
from llada_uni.cli.main import run as command_line
from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.testing.checkpoint import tiny_text_tokenizer, write_tiny_checkpoint
from llada_uni.testing.tiny import tiny_backbone_config
from llada_uni.vocab import BOI, SOI, TextTokenizer
from llada_uni.weights.expand import NewRows, expand_vocabulary, expanded_backbone, image_rows, with_control_strings
from llada_uni.weights.load import (
    check_checkpoint,
    load_backbone,
    load_image_tokenizer,
    load_text_tokenizer,
    load_vocab,
)
from llada_uni.weights.save import Components, save_checkpoint

TABLES = ("model.word_embeddings.weight", "lm_head.weight")
NUM_TEXT = 400


def text_only(*, tied: bool = False, size: int = NUM_TEXT) -> Backbone:
    changes = {"vocab_size": size, "image_token_offset": None, "pad_token_id": None, "tie_word_embeddings": tied}
    model = Backbone(dataclasses.replace(tiny_backbone_config(), **changes))
    model.reset_parameters(torch.Generator().manual_seed(2))
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = Components(backbone=text_only(), text_tokenizer=tiny_text_tokenizer())
    return save_checkpoint(tmp_path_factory.mktemp("text") / "model", parts)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


def test_text_rows_keep_their_bits_and_so_does_everything_else(source: Path, tmp_path: Path) -> None:
    old = load_backbone(source, dtype=torch.bfloat16).state_dict()
    new = load_backbone(expand_vocabulary(source, tmp_path / "out", num_codes=24), dtype=torch.bfloat16)
    for key, tensor in new.state_dict().items():
        kept = tensor[:NUM_TEXT] if key in TABLES else tensor
        assert torch.equal(kept, old[key]), key
        assert len(tensor) == NUM_TEXT + 24 or key not in TABLES
    assert (new.config.vocab_size, new.config.image_token_offset) == (NUM_TEXT + 24, NUM_TEXT)
    vocab = load_vocab(tmp_path / "out")
    assert (vocab.num_codes, vocab.image_offset) == (24, NUM_TEXT)
    ids = torch.arange(10).view(1, 10)
    before = load_backbone(source)(ids, ids)
    assert torch.equal(load_backbone(tmp_path / "out")(ids, ids)[..., :NUM_TEXT], before)


def test_new_rows_start_as_stated() -> None:
    model = text_only()
    with torch.no_grad():
        model.model.word_embeddings.weight.mul_(torch.rand(NUM_TEXT, 1) + 0.5)
    text = model.model.word_embeddings.weight
    sigma = float(text.square().mean(1).sqrt().mean())
    plain = expanded_backbone(model, 2000)
    rows = plain.model.word_embeddings.weight[NUM_TEXT:]
    assert float(rows.std()) == pytest.approx(sigma, rel=0.02)
    assert float(rows.mean()) == pytest.approx(0, abs=0.05 * sigma)
    assert not plain.lm_head.weight[NUM_TEXT:].any()
    small = expanded_backbone(model, 2000, NewRows(head="small"))
    head_sigma = float(model.lm_head.weight.square().mean(1).sqrt().mean())
    assert float(small.lm_head.weight[NUM_TEXT:].std()) == pytest.approx(0.1 * head_sigma, rel=0.02)
    assert torch.equal(small.model.word_embeddings.weight, plain.model.word_embeddings.weight)
    other = expanded_backbone(model, 2000, NewRows(seed=1))
    assert not torch.equal(other.model.word_embeddings.weight, plain.model.word_embeddings.weight)


@pytest.mark.parametrize("width", [4, 40])
def test_rows_from_the_codebook_keep_its_geometry(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randn(12, width, generator=generator)
    codebook[1] = codebook[0] + 0.01
    text = torch.randn(50, 16, generator=generator)
    rows = image_rows(text, 12, generator, codebook=codebook)
    lengths = rows.square().mean(1).sqrt()
    torch.testing.assert_close(lengths, torch.full((12,), float(text.square().mean(1).sqrt().mean())))
    likeness = torch.nn.functional.cosine_similarity(rows[:1], rows[1:])
    assert int(likeness.argmax()) == 0
    assert float(likeness[0]) > 0.9
    with pytest.raises(ConfigError, match="expected a codebook of 13 vectors, got 12"):
        image_rows(text, 13, generator, codebook=codebook)


def test_tied_tables_stay_tied() -> None:
    wide = expanded_backbone(text_only(tied=True), 8)
    assert wide.lm_head.weight is wide.model.word_embeddings.weight
    assert len(wide.lm_head.weight) == NUM_TEXT + 8


def test_the_other_networks_are_taken_over(source: Path, tiny: Path, tmp_path: Path) -> None:
    out = expand_vocabulary(source, tmp_path / "out", components=tiny, rows=NewRows(embedding="codebook", head="small"))
    check_checkpoint(out)
    assert load_vocab(out).num_codes == len(load_image_tokenizer(tiny).codebook)
    with pytest.raises(ConfigError, match="as the image tokenizer has, got 25"):
        expand_vocabulary(source, tmp_path / "x", components=tiny, num_codes=25)


@pytest.mark.filterwarnings("ignore:bare")
def test_missing_control_strings_get_unused_ids(source: Path, tmp_path: Path) -> None:
    full = tiny_text_tokenizer()
    parsed = json.loads(full.specification)
    first = min(token["id"] for token in parsed["added_tokens"] if token["content"] in (SOI, BOI))
    parsed["added_tokens"] = [token for token in parsed["added_tokens"] if token["id"] < first]
    bare = TextTokenizer(json.dumps(parsed), source="bare")
    assert SOI not in bare.added
    found = with_control_strings(bare, 500)
    assert found.special_ids().soi == bare.num_ids
    assert found.encode_text("two red apples") == bare.encode_text("two red apples")
    assert found.encode_control("<boi>") == [found.added[BOI]]
    assert with_control_strings(full, 500) is full
    with pytest.raises(CheckpointError, match="has no room for them"):
        with_control_strings(bare, bare.num_ids + 1)


def test_what_cannot_be_expanded_is_refused(source: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has image codes from id"):
        expand_vocabulary(tiny, tmp_path / "x")
    with pytest.raises(ConfigError, match="the text-only checkpoint itself"):
        expand_vocabulary(source, source)
    with pytest.raises(ConfigError, match="rows from the codebook need"):
        expand_vocabulary(source, tmp_path / "x", rows=NewRows(embedding="codebook"))
    with pytest.raises(ConfigError, match="at least one code"):
        expand_vocabulary(source, tmp_path / "x", num_codes=0)
    assert not (tmp_path / "x").exists()


def test_the_command_line_expands(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["expand", str(source), "--output", str(tmp_path / "out"), "--codes", "24", "--json"]
    assert command_line(arguments) == 0
    assert json.loads(capsys.readouterr().out)["vocab_size"] == NUM_TEXT + 24
    assert load_text_tokenizer(tmp_path / "out").num_ids <= NUM_TEXT
    assert command_line([*arguments, "--head", "big"]) == 2
    assert "expected --rows random or codebook" in capsys.readouterr().err
