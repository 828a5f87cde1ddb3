"""One id space; and no user text can ever become a control id."""

from __future__ import annotations

import json
import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llada_uni.data.bpe import NUM_TEXT_ENTRIES, train_text_tokenizer
from llada_uni.errors import CheckpointError, ConfigError, ImageError, PromptError, SizeError
from llada_uni.grid import TokenGrid
from llada_uni.vocab import CONTROL_STRINGS, TextTokenizer, Vocab

ALPHABET = "a red green <boi> <role>HUMAN</role> <|mask|> reserved_token_7 |> <| image endoftext"
CORPUS = [f"{word} {i % 13} {word}{word[::-1]}" for i in range(40) for word in ALPHABET.split()]
SPECIFICATION = train_text_tokenizer(CORPUS, num_entries=400).to_str()
TOKENIZER = TextTokenizer(SPECIFICATION)
VOCAB = TOKENIZER.vocab(text_vocab_size=TOKENIZER.num_ids, num_codes=100)


def variant(**changes: object) -> dict:
    """The specification as a mapping, with top-level entries replaced."""
    return {**json.loads(SPECIFICATION), **changes}


def renamed(string: str) -> dict:
    """The specification with another string in the slot of ``string``."""
    parsed = variant()
    for token in parsed["added_tokens"]:
        token["content"] = "<|other|>" if token["content"] == string else token["content"]
    return parsed


def with_tokens_in_the_base_vocabulary() -> dict:
    """A file whose added tokens are also entries of the model, reachable through whole-word lookup and merges."""
    parsed = json.loads(SPECIFICATION)
    parsed["model"]["ignore_merges"] = True
    parsed["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    for token in parsed["added_tokens"]:
        parsed["model"]["vocab"][token["content"]] = token["id"]
        token["special"] = token["id"] % 2 == 0
    parsed["added_tokens"].append({**parsed["added_tokens"][0], "content": "plain", "id": 900, "special": False})
    parsed["model"]["vocab"]["plain"] = 900
    for left, right, number in (("<", "b", 901), ("o", "i", 902), ("oi", ">", 903), ("<b", "oi>", None)):
        if number is not None:
            parsed["model"]["vocab"].setdefault(left + right, number)
        parsed["model"]["merges"].insert(0 if number else 3, [left, right])
    return parsed


def files() -> dict[str, dict]:
    nfkc = variant(normalizer={"type": "NFKC"})
    for token in nfkc["added_tokens"]:
        token["normalized"] = True
    limited = variant(
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 8},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 400,
            "pad_type_id": 0,
            "pad_token": "<|endoftext|>",
        },
        post_processor={
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [400], "tokens": ["<|endoftext|>"]}},
        },
    )
    return {"own": variant(), "base": with_tokens_in_the_base_vocabulary(), "nfkc": nfkc, "limited": limited}


@pytest.fixture(scope="module", params=list(files()))
def tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    return TextTokenizer(json.dumps(files()[request.param]), source=request.param)


def attacks(string: str) -> Iterable[str]:
    yield from (string, f" {string} ", f"a{string}b", string * 3, f"{string[0]}{string}{string[1:]}")
    yield "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in string)  # full-width forms
    yield unicodedata.normalize("NFKD", string)
    yield string.replace("<", "﹤").replace(">", "﹥")
    yield "\u200b".join(string)
    yield string.upper()


def test_no_text_gives_an_added_id(tokenizer: TextTokenizer) -> None:
    added = set(tokenizer.added.values())
    assert len(added) >= len(CONTROL_STRINGS)
    for string in tokenizer.added:
        for text in attacks(string):
            assert added.isdisjoint(tokenizer.encode_text(text)), (string, text)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*CONTROL_STRINGS, "<", "|", ">", "boi", " ", "plain", "é", "\n", "7"]), max_size=6))
def test_no_mixture_gives_an_added_id(parts: list[str]) -> None:
    text = "".join(parts)
    ids = TOKENIZER.encode_text(text)
    assert set(TOKENIZER.added.values()).isdisjoint(ids)
    assert TOKENIZER.decode(ids, skip_special=False) == text


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_round_trips(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode_text(text)) == text


def test_the_base_vocabulary_trap_is_real() -> None:
    """Without the removal the same files do produce control ids, so the tests above can fail."""
    from tokenizers import Tokenizer

    parsed = {**with_tokens_in_the_base_vocabulary(), "added_tokens": []}
    assert Tokenizer.from_str(json.dumps(parsed)).encode("<boi>").ids == [TOKENIZER.id_of("<boi>")]


def test_limits_and_post_processing_of_a_file_do_not_apply() -> None:
    plain, limited = TOKENIZER, TextTokenizer(json.dumps(files()["limited"]))
    for text in ("a", "a red red red red red red green"):
        assert limited.encode_text(text) == plain.encode_text(text)
        assert limited.encode_control(f"<boi>{text}") == plain.encode_control(f"<boi>{text}")


def test_control_text_and_decoding() -> None:
    ids = TOKENIZER.encode_control("<role>HUMAN</role>a red<|mask|>")
    assert ids[0] == VOCAB.special.role_open
    assert ids[-1] == VOCAB.special.mask
    assert TOKENIZER.decode(ids) == "HUMANa red"
    assert TOKENIZER.decode(ids, skip_special=False) == "<role>HUMAN</role>a red<|mask|>"
    assert TOKENIZER.decode([*ids, VOCAB.image_offset, 10**6, -1]) == "HUMANa red"


def test_digits_are_single_tokens() -> None:
    assert len(TOKENIZER.encode_text("2024")) == 4


@pytest.mark.parametrize("text", [None, 5, b"a", ["a"], "a\ud800b"])
def test_what_is_not_text_raises(text: object) -> None:
    with pytest.raises(PromptError):
        TOKENIZER.encode_text(text)  # type: ignore[arg-type]


def test_control_ids_are_one_range_in_a_fixed_order() -> None:
    assert [TOKENIZER.id_of(string) for string in CONTROL_STRINGS] == list(range(400, 400 + len(CONTROL_STRINGS)))
    special = VOCAB.special
    assert (special.eos, special.mask, special.soi, special.eoi, special.boi) == (400, 401, 402, 403, 404)
    assert (special.role_open, special.role_close) == (405, 406)
    assert dict(special.reserved) == {n: 407 + n for n in range(1, 65)}
    assert NUM_TEXT_ENTRIES + len(CONTROL_STRINGS) == 1536


def test_training_a_tokenizer_is_reproducible_and_checked() -> None:
    assert train_text_tokenizer(CORPUS, num_entries=400).to_str() == SPECIFICATION
    with pytest.raises(ConfigError, match=r"yields only \d+ text entries, expected 5000"):
        train_text_tokenizer(CORPUS, num_entries=5000)
    with pytest.raises(ConfigError, match=r"at least 256"):
        train_text_tokenizer(CORPUS, num_entries=100)


def test_reused_reserved_slots_are_unusable() -> None:
    """As in the released file, where some slots were given to other control strings."""
    parsed = renamed("<|reserved_token_7|>")
    special = TextTokenizer(json.dumps(parsed)).special_ids()
    assert sorted(set(range(1, 65)) - set(special.reserved)) == [7]
    vocab = Vocab(text_vocab_size=500, num_codes=10, special=special)
    with pytest.raises(SizeError, match=r"cannot write a grid side of 7 cells; possible: 1-6, 8-64"):
        vocab.header(TokenGrid(8, 7))


@pytest.mark.parametrize("string", ["<|mask|>", "<boi>", "<|/image|>"])
def test_a_missing_control_string_raises(string: str) -> None:
    parsed = renamed(string)
    with pytest.raises(CheckpointError, match=r"to be one token"):
        TextTokenizer(json.dumps(parsed)).special_ids()


def test_split_role_tags_warn() -> None:
    parsed = renamed("<role>")
    with pytest.warns(UserWarning, match="not single tokens"):
        special = TextTokenizer(json.dumps(parsed)).special_ids()
    assert special.role_open is None


def test_other_files_must_agree() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError, match=r"<\|endoftext\|> is id 400, but the configuration pads with 3"):
            TOKENIZER.vocab(text_vocab_size=472, num_codes=9, pad_token_id=3)
        with pytest.raises(CheckpointError, match=r"<boi> is id \d+, but the configuration has picture_start_id 3"):
            TOKENIZER.vocab(text_vocab_size=472, num_codes=9, picture_start_id=3)
        with pytest.raises(CheckpointError, match=r"ids up to 471, the text vocabulary ends at 470"):
            TOKENIZER.vocab(text_vocab_size=471, num_codes=9)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a tokenizer.json"),
        ('{"model": {"type": "BPE"}}', "not a usable tokenizer"),
        (json.dumps(variant(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"})), "expected a BPE"),
    ],
)
def test_unusable_files_raise(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=words):
        TextTokenizer.from_file(path)
    with pytest.raises(CheckpointError, match=r"cannot read the tokenizer"):
        TextTokenizer.from_file(tmp_path / "absent.json")


def test_an_added_token_that_is_a_byte_cannot_be_taken_out() -> None:
    parsed = variant()
    parsed["added_tokens"].append({**parsed["added_tokens"][0], "content": "!", "id": 0})
    with pytest.raises(CheckpointError, match=r"single bytes"):
        TextTokenizer(json.dumps(parsed))


def test_ids_with_a_gap_raise() -> None:
    parsed = variant()
    del parsed["added_tokens"][20]
    with pytest.raises(CheckpointError, match=r"but it loads as"):
        TextTokenizer(json.dumps(parsed))


# --- codes and ids ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 99)))
def test_codes_to_ids_and_back(codes: list[int]) -> None:
    assert VOCAB.to_codes(VOCAB.to_ids(codes)) == codes
    tensor = torch.tensor(codes, dtype=torch.int32)
    ids = VOCAB.to_ids(tensor)
    assert ids.dtype == torch.long
    assert VOCAB.to_codes(ids).tolist() == codes
    assert bool(VOCAB.is_image(ids).all())


def test_ranges_are_disjoint() -> None:
    ids = torch.arange(-3, VOCAB.vocab_size + 3)
    assert ids[VOCAB.is_image(ids)].tolist() == list(range(472, 572))
    assert VOCAB.image_offset == VOCAB.text_vocab_size == 472
    assert max(TOKENIZER.added.values()) < VOCAB.image_offset


@pytest.mark.parametrize("values", [[-1], [100], [5, 100, 3], torch.tensor([[0, 100]]), torch.tensor([0.5])])
def test_codes_outside_the_codebook_raise(values: object) -> None:
    with pytest.raises(ImageError):
        VOCAB.to_ids(values)  # type: ignore[call-overload]


@pytest.mark.parametrize("values", [[471], [572], torch.tensor([471, 472])])
def test_ids_that_are_no_codes_raise(values: object) -> None:
    with pytest.raises(ImageError, match=r"image ids in 472..571"):
        VOCAB.to_codes(values)  # type: ignore[call-overload]


def test_header_and_block() -> None:
    grid = TokenGrid(2, 3)
    header = VOCAB.header(grid)
    assert header == (402, 409, 410, 404)
    assert VOCAB.block(grid, [0, 1, 2, 3, 4, 99]) == (*header, 472, 473, 474, 475, 476, 571, 403)
    assert VOCAB.block(grid, torch.arange(6).reshape(2, 3)) == VOCAB.block(grid, range(6))
    with pytest.raises(SizeError, match=r"expected 6 codes for a 2x3 grid, got 5"):
        VOCAB.block(grid, range(5))
    with pytest.raises(SizeError, match=r"grid side of 65 cells; possible: 1-64"):
        VOCAB.header(TokenGrid(65, 2))


@given(st.integers(1, 64), st.integers(1, 64))
def test_headers_can_be_read_back(grid_h: int, grid_w: int) -> None:
    header = VOCAB.header(TokenGrid(grid_h, grid_w))
    assert VOCAB.header_grid([1, 2, *header]) == TokenGrid(grid_h, grid_w)
    assert VOCAB.header_grid(header[:-1]) is None
    assert VOCAB.header_grid([*header, 5]) is None
    assert VOCAB.header_grid([header[0], header[0], header[2], header[3]]) is None
