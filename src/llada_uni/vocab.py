"""One id space for text and pictures: control ids, codebook indices <-> ids, and the text tokenizer.

Text ids come first, ``image_offset`` = ``text_vocab_size`` is the id of code 0. Which id a control string has is
decided by ``tokenizer.json`` alone; numbers in other files must agree.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast, overload

import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor

from llada_uni.errors import CheckpointError, ImageError, PromptError, SizeError
from llada_uni.grid import TokenGrid

__all__ = [
    "BOI",
    "CONTROL_STRINGS",
    "EOI",
    "EOS",
    "MASK",
    "NUM_RESERVED",
    "ROLE_CLOSE",
    "ROLE_END",
    "ROLE_OPEN",
    "SOI",
    "SpecialIds",
    "TextTokenizer",
    "Vocab",
    "reserved_string",
]

EOS = "<|endoftext|>"
MASK = "<|mask|>"
SOI = "<|image|>"
EOI = "<|/image|>"
BOI = "<boi>"
ROLE_OPEN = "<role>"
ROLE_CLOSE = "</role>"
ROLE_END = "<|role_end|>"
NUM_RESERVED = 64
"""How many ``<|reserved_token_N|>`` strings a tokenizer trained here has (N = 1 .. 64)."""

_RESERVED = re.compile(r"<\|reserved_token_([1-9][0-9]*)\|>")


def reserved_string(number: int) -> str:
    """Control string that carries a grid side."""
    return f"<|reserved_token_{number}|>"


CONTROL_STRINGS = (
    EOS,
    MASK,
    SOI,
    EOI,
    BOI,
    ROLE_OPEN,
    ROLE_CLOSE,
    ROLE_END,
    *(reserved_string(n) for n in range(1, NUM_RESERVED + 1)),
)
"""Control strings of a tokenizer trained here, in id order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecialIds:
    """Ids of the control strings.

    ``eos`` also pads. ``reserved`` maps N to the id of ``<|reserved_token_N|>``, only for strings that the tokenizer
    has: the released one gave the slots of some small N to other control strings. ``role_open`` and ``role_close`` are
    ``None`` when the tokenizer splits these tags.
    """

    eos: int
    mask: int
    soi: int
    eoi: int
    boi: int
    role_open: int | None
    role_close: int | None
    reserved: Mapping[int, int] = field(hash=False)


@dataclass(frozen=True, kw_only=True)
class Vocab:
    """The unified vocabulary: ``text_vocab_size`` text ids, then ``num_codes`` image ids."""

    text_vocab_size: int
    num_codes: int
    special: SpecialIds

    def __post_init__(self) -> None:
        if self.text_vocab_size < 1 or self.num_codes < 1:
            raise CheckpointError(
                f"expected text ids and codes, got {self.text_vocab_size} text ids and {self.num_codes} codes"
            )

    @property
    def image_offset(self) -> int:
        """Id of code 0."""
        return self.text_vocab_size

    @property
    def vocab_size(self) -> int:
        return self.text_vocab_size + self.num_codes

    @overload
    def to_ids(self, codes: Tensor) -> Tensor: ...
    @overload
    def to_ids(self, codes: Sequence[int]) -> list[int]: ...
    def to_ids(self, codes: Tensor | Sequence[int]) -> Tensor | list[int]:
        """Unified ids of codebook indices; a tensor for a tensor, a list for a list.

        Raises:
            ImageError: an index outside the codebook.
        """
        self._check(codes, 0, self.num_codes, "codebook indices")
        return _shift(codes, self.image_offset)

    @overload
    def to_codes(self, ids: Tensor) -> Tensor: ...
    @overload
    def to_codes(self, ids: Sequence[int]) -> list[int]: ...
    def to_codes(self, ids: Tensor | Sequence[int]) -> Tensor | list[int]:
        """Codebook indices of image ids; a tensor for a tensor, a list for a list.

        Raises:
            ImageError: an id that is not an image id.
        """
        self._check(ids, self.image_offset, self.vocab_size, "image ids")
        return _shift(ids, -self.image_offset)

    def is_image(self, ids: Tensor) -> Tensor:
        """Bool mask of the shape of ``ids``: True where the id stands for a code."""
        return (ids >= self.image_offset) & (ids < self.vocab_size)

    def header(self, grid: TokenGrid) -> tuple[int, int, int, int]:
        """The four ids before the first code: start of image, height, width, begin of codes.

        Raises:
            SizeError: the vocabulary has no usable id for a side.
        """
        return self.special.soi, self._side(grid.grid_h), self._side(grid.grid_w), self.special.boi

    def header_grid(self, ids: Sequence[int]) -> TokenGrid | None:
        """Grid announced by ``ids`` if they end with a complete header, else ``None``."""
        if len(ids) < 4 or ids[-4] != self.special.soi or ids[-1] != self.special.boi:
            return None
        sides = self._numbers
        if ids[-3] not in sides or ids[-2] not in sides:
            return None
        return TokenGrid(sides[ids[-3]], sides[ids[-2]])

    def block(self, grid: TokenGrid, codes: Sequence[int] | Tensor) -> tuple[int, ...]:
        """Header, image ids and end of image: a picture inside a prompt. ``codes``: row-major, any shape.

        Raises:
            SizeError: the number of codes is not that of the grid, or a side has no id.
            ImageError: an index outside the codebook.
        """
        flat = _flat(codes)
        if len(flat) != grid.num_tokens:
            raise SizeError(f"expected {grid.num_tokens} codes for a {grid.grid_h}x{grid.grid_w} grid, got {len(flat)}")
        return (*self.header(grid), *self.to_ids(flat), self.special.eoi)

    def _side(self, side: int) -> int:
        try:
            return self.special.reserved[side]
        except KeyError:
            known = sorted(self.special.reserved)
            raise SizeError(
                f"this checkpoint cannot write a grid side of {side} cells; possible: {_ranges(known)}"
            ) from None

    @cached_property
    def _numbers(self) -> Mapping[int, int]:
        return {number: side for side, number in self.special.reserved.items()}

    def _check(self, values: Tensor | Sequence[int], low: int, high: int, what: str) -> None:
        if isinstance(values, Tensor):
            if values.is_floating_point() or values.dtype == torch.bool:
                raise ImageError(f"expected whole-number {what}, got a tensor of {values.dtype}")
            if values.numel() == 0:
                return
            least, most = int(values.min()), int(values.max())
        else:
            if not values:
                return
            least, most = min(values), max(values)
        if least < low or most >= high:
            raise ImageError(f"expected {what} in {low}..{high - 1}, got {least}..{most}")


class TextTokenizer:
    """Byte-level text tokenizer in two instances: one that knows our control strings and one that does not.

    ``encode_control`` is for our own templates. ``encode_text`` is for everything a user writes: whatever the text is,
    no id of an added token can come out of it, flagged special or not, not even where the added token is also an entry
    of the base vocabulary.
    """

    def __init__(self, specification: str, *, source: str = "tokenizer.json") -> None:
        """``specification``: contents of a ``tokenizer.json``; ``source`` names it in messages.

        Raises:
            CheckpointError: not a tokenizer, or not one whose added tokens can be taken out.
        """
        self.source = source
        parsed = _parse(specification, source)
        self.added: Mapping[str, int] = MappingProxyType({t["content"]: t["id"] for t in parsed["added_tokens"]})
        self._hidden = frozenset(t["id"] for t in parsed["added_tokens"] if _is_hidden(t))
        self._specification = specification
        without_added = _without_added(parsed, source)
        self._control = _build(specification, source)
        _check_ids(self._control, self.added, source)
        self._text = _build(json.dumps(without_added), source)
        self._num_ids = 1 + max((*self._control.get_vocab(with_added_tokens=True).values(), -1))

    @classmethod
    def from_file(cls, path: Path | str) -> TextTokenizer:
        """Tokenizer stored in a ``tokenizer.json``.

        Raises:
            CheckpointError: the file is missing, unreadable or no tokenizer.
        """
        try:
            return cls(Path(path).read_text(encoding="utf-8"), source=str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"cannot read the tokenizer {path}: {error}") from error

    @property
    def specification(self) -> str:
        """Contents of the ``tokenizer.json`` this was built from."""
        return self._specification

    @property
    def num_ids(self) -> int:
        """One more than the largest id the file defines."""
        return self._num_ids

    def encode_control(self, text: str) -> list[int]:
        """Ids of one of our own templates; control strings become their ids."""
        return list(self._control.encode(text, add_special_tokens=False).ids)

    def encode_text(self, text: str) -> list[int]:
        """Ids of user text; never the id of an added token.

        Raises:
            PromptError: not text, or text that cannot be written as UTF-8.
        """
        _check_text(text)
        return list(self._text.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of ``ids``; control ids are left out with ``skip_special``, ids beyond the file always."""
        inside = (int(i) for i in ids if 0 <= int(i) < self._num_ids)
        kept = [i for i in inside if not (skip_special and i in self._hidden)]
        return self._control.decode(kept, skip_special_tokens=False)

    def id_of(self, string: str) -> int:
        """The single id of a control string.

        Raises:
            CheckpointError: the string is not exactly one id.
        """
        found = self._single(string)
        if found is None:
            raise CheckpointError(
                f"{self.source}: expected {string!r} to be one token, got {self.encode_control(string)}"
            )
        return found

    def special_ids(self) -> SpecialIds:
        """Ids of all control strings.

        Raises:
            CheckpointError: one of the strings the protocol needs is not a single id.
        """
        named = {name: self.id_of(name) for name in (EOS, MASK, SOI, EOI, BOI)}
        roles = {name: self._single(name) for name in (ROLE_OPEN, ROLE_CLOSE)}
        if None in roles.values():
            warnings.warn(f"{self.source}: {ROLE_OPEN} and {ROLE_CLOSE} are not single tokens", stacklevel=2)
        return SpecialIds(
            eos=named[EOS],
            mask=named[MASK],
            soi=named[SOI],
            eoi=named[EOI],
            boi=named[BOI],
            role_open=roles[ROLE_OPEN],
            role_close=roles[ROLE_CLOSE],
            reserved=MappingProxyType(self._reserved()),
        )

    def vocab(
        self,
        *,
        text_vocab_size: int,
        num_codes: int,
        pad_token_id: int | None = None,
        picture_start_id: int | None = None,
    ) -> Vocab:
        """Unified vocabulary of a backbone with these sizes.

        Raises:
            CheckpointError: the tokenizer has ids beyond the text vocabulary, or disagrees about the pad id or the id
                that ends a header.
        """
        special = self.special_ids()
        if self.num_ids > text_vocab_size:
            raise CheckpointError(
                f"{self.source}: has ids up to {self.num_ids - 1}, the text vocabulary ends at {text_vocab_size - 1}"
            )
        if pad_token_id is not None and pad_token_id != special.eos:
            raise CheckpointError(
                f"{self.source}: {EOS} is id {special.eos}, but the configuration pads with {pad_token_id}"
            )
        if picture_start_id is not None and picture_start_id != special.boi:
            raise CheckpointError(
                f"{self.source}: {BOI} is id {special.boi}, but the configuration has picture_start_id "
                f"{picture_start_id}"
            )
        return Vocab(text_vocab_size=text_vocab_size, num_codes=num_codes, special=special)

    def _single(self, string: str) -> int | None:
        ids = self.encode_control(string)
        return ids[0] if len(ids) == 1 and self.added.get(string) == ids[0] else None

    def _reserved(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for string in self.added:
            match = _RESERVED.fullmatch(string)
            number = self._single(string) if match else None
            if match and number is not None:
                found[int(match[1])] = number
        return dict(sorted(found.items()))


def _parse(specification: str, source: str) -> dict[str, Any]:
    try:
        parsed: Any = json.loads(specification)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{source} is not valid JSON (line {error.lineno}: {error.msg})") from error
    if not isinstance(parsed, dict) or not isinstance(parsed.get("model"), dict):  # pyright: ignore[reportUnknownMemberType]
        raise CheckpointError(f"{source}: expected a tokenizer.json with a model, got something else")
    tokenizer = cast(dict[str, Any], parsed)
    tokenizer["added_tokens"] = tokenizer.get("added_tokens") or []
    return tokenizer


def _build(specification: str, source: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(specification)
    except Exception as error:  # the library raises plain Exception for every malformed file
        raise CheckpointError(f"{source}: not a usable tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _check_ids(tokenizer: Tokenizer, added: Mapping[str, int], source: str) -> None:
    """The library renumbers added tokens whose ids leave a gap; such a file means something else than it says."""
    for string, number in added.items():
        if tokenizer.token_to_id(string) != number:
            found = tokenizer.token_to_id(string)
            raise CheckpointError(
                f"{source}: says {string!r} is id {number}, but it loads as {found}; fill the gap in ids"
            )


def _is_hidden(added: Mapping[str, Any]) -> bool:
    return bool(added.get("special", False)) or added["content"] in CONTROL_STRINGS


def _without_added(parsed: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The same tokenizer with every added token gone, also from the base vocabulary and its merges."""
    model: dict[str, Any] = dict(parsed["model"])
    added = frozenset(int(t["id"]) for t in parsed["added_tokens"])
    if model.get("type", "BPE") != "BPE":
        raise CheckpointError(f"{source}: expected a BPE tokenizer, got {model.get('type')!r}")
    vocabulary: Mapping[str, int] = model.get("vocab", {})
    gone = {string for string, number in vocabulary.items() if number in added}
    single = sorted(gone.intersection(pre_tokenizers.ByteLevel.alphabet()))
    if single:
        raise CheckpointError(f"{source}: the added tokens {single} are single bytes of the base vocabulary")
    model["vocab"] = {string: number for string, number in vocabulary.items() if string not in gone}
    model["merges"] = [m for m in model.get("merges", []) if gone.isdisjoint(_pieces(m))]
    if model.get("unk_token") in gone or model.get("unk_token") in {t["content"] for t in parsed["added_tokens"]}:
        model["unk_token"] = None
    return {**parsed, "added_tokens": [], "post_processor": None, "model": model}


def _pieces(merge: str | Sequence[str]) -> tuple[str, str, str]:
    """Both halves of a merge and its result; older files write the halves as one string."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right, left + right


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise PromptError(f"expected text, got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the text has a lone surrogate at character {error.start}; expected valid Unicode"
        ) from error


def _flat(codes: Sequence[int] | Tensor) -> list[int]:
    if isinstance(codes, Tensor):
        return cast(list[int], codes.reshape(-1).tolist())  # pyright: ignore[reportUnknownMemberType]
    return list(codes)


def _shift(values: Tensor | Sequence[int], amount: int) -> Tensor | list[int]:
    if isinstance(values, Tensor):
        return values.to(torch.long) + amount
    return [int(v) + amount for v in values]


def _ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers as "1-5, 8, 10-64"."""
    parts: list[str] = []
    start = 0
    for i, number in enumerate(numbers):
        if i + 1 == len(numbers) or numbers[i + 1] != number + 1:
            parts.append(str(number) if numbers[start] == number else f"{numbers[start]}-{number}")
            start = i + 1
    return ", ".join(parts) or "none"
