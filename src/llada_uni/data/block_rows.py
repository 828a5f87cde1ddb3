"""Training rows for block diffusion: what is clean, what has a noisy copy, and who shares which prefix.

A *document* is one prefix with one or more *branches*, each a prompt followed by a target. Blocks of ``block_length``
positions are counted from the document's first token, prompt included, exactly as generation counts them. A row holds

- the clean tokens of blocks that lie wholly in the prefix common to all branches, once (branch 0),
- for every branch its other clean blocks, except the last, which nobody looks at,
- for every branch a noisy copy of each block that holds target tokens.

Only these tokens are needed: the logits of a noisy block are those of a generation step on the same block.

A target may hold words and pictures in turns (*segments*). A mask ratio belongs to one segment of one block, so that
its law follows the modality. Where a block holds several segments they also have an order: generation writes the words
while the picture after them is still hidden, and the picture when the words before it stand (``Layout.turn``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llada_uni.errors import ConfigError

__all__ = ["Branch", "Document", "Layout", "Segment", "collate", "lay_out", "pack"]

_PAD_DOCUMENT = -1


@dataclass(frozen=True, kw_only=True)
class Segment:
    """``length`` target ids in a row of one modality."""

    length: int
    is_image: bool


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A sample: prompt ids (never masked) and target ids (maskable); ``is_image`` picks the law of mask ratios.

    ``segments`` cut a target of words and pictures into parts of one modality each; without them the whole target is
    of the one that ``is_image`` tells. ``hidden`` marks target ids that are masked whatever the ratio; those between
    them take a smaller ratio (see ``training.objectives.backbone.noised``).
    """

    prompt: Sequence[int]
    target: Sequence[int]
    is_image: bool = False
    tag: int = 0
    segments: tuple[Segment, ...] = ()
    hidden: Sequence[bool] = ()

    def __post_init__(self) -> None:
        if len(self.hidden) not in (0, len(self.target)):
            raise ConfigError(f"hidden marks {len(self.hidden)} ids of a target of {len(self.target)}; give one per id")
        if self.segments and sum(part.length for part in self.segments) != len(self.target):
            raise ConfigError(
                f"segments of {sum(part.length for part in self.segments)} ids for a target of {len(self.target)}; "
                "they must cover it exactly"
            )

    @property
    def parts(self) -> tuple[Segment, ...]:
        """The segments; a single one when none are given."""
        return self.segments or (Segment(length=len(self.target), is_image=self.is_image),)


@dataclass(frozen=True, kw_only=True)
class Document:
    """Branches about the same prefix. With one branch this is an ordinary sample.

    Segmented targets take one view: the complement of a block would show a picture before the words it follows.
    """

    branches: tuple[Branch, ...]
    block_length: int = 32
    views: int = 1

    def __post_init__(self) -> None:
        if self.views > 1 and any(len(branch.parts) > 1 for branch in self.branches):
            raise ConfigError(f"a target of several segments takes one view, got {self.views}; use views=1")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Tokens of one document in a training row, int64 [T] each unless said otherwise.

    ``ids`` are clean everywhere; ``maskable`` (bool) marks target tokens in noisy copies; ``fill`` (bool) those among
    them that only fill the last block; ``sample`` is the branch index; ``noise`` numbers the (branch, block, segment)
    triples that share a mask ratio, in order, -1 outside noisy copies; ``turn`` is the place of the segment among those
    of its block; ``image`` (bool) tells the law of the ratio; ``hidden`` (bool) marks ids that are
    masked whatever the ratio; ``tag`` is the branch's.
    """

    ids: np.ndarray
    position: np.ndarray
    branch: np.ndarray
    block: np.ndarray
    stream: np.ndarray
    maskable: np.ndarray
    fill: np.ndarray
    sample: np.ndarray
    noise: np.ndarray
    turn: np.ndarray
    image: np.ndarray
    hidden: np.ndarray
    tag: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_noises(self) -> int:
        """Number of mask ratios to draw."""
        return int(self.noise.max()) + 1 if len(self.noise) else 0


def lay_out(document: Document, eos: int) -> Layout:
    """Tokens of a document; targets are filled with ``eos`` to the end of their last block."""
    length = document.block_length
    rows = [_filled(branch, length, eos) for branch in document.branches]
    shared = _shared_blocks(document, rows)
    parts = [_piece(rows[0], 0, shared * length, branch=0, stream=0, length=length)] if shared else []
    noises = 0
    for index, (branch, row) in enumerate(zip(document.branches, rows, strict=True)):
        mine = index + 1 if len(rows) > 1 else 0
        end, first = len(row) // length, len(branch.prompt) // length
        drawn = 0
        if end - 1 > shared:
            parts.append(_piece(row, shared * length, (end - 1) * length, branch=mine, stream=0, length=length))
        for view in range(document.views):
            noisy = _piece(row, first * length, end * length, branch=mine, stream=view + 1, length=length)
            parts.append(_with_target(noisy, branch, index, noises))
            drawn = int(noisy["noise"].max()) + 1 - noises
        noises += drawn
    return Layout(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of item indices by best-fit decreasing. None is split; one longer than ``capacity`` has a row of its own."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    rows: list[list[int]] = []
    room: list[int] = []
    for index in order:
        fitting = [r for r in range(len(rows)) if room[r] >= lengths[index]]
        if fitting:
            best = min(fitting, key=lambda r: (room[r], r))
            rows[best].append(index)
            room[best] -= lengths[index]
        else:
            rows.append([index])
            room.append(capacity - lengths[index])
    return rows


def collate(layouts: Sequence[Layout], capacity: int, eos: int) -> dict[str, Tensor]:
    """Packs documents into rows padded to the longest: int64 or bool tensors [B, T] named as in :class:`Layout`.

    ``document`` is the document's place in its row (-1 = padding); ``sample`` and ``noise`` count over the batch.
    """
    rows = pack([len(layout) for layout in layouts], capacity)
    longest = max(sum(len(layouts[i]) for i in row) for row in rows)
    table = {name: np.zeros((len(rows), longest), dtype=_dtype(name)) for name in (*vars(layouts[0]), "document")}
    for name, empty in (("document", _PAD_DOCUMENT), ("noise", -1), ("sample", -1), ("ids", eos)):
        table[name][:] = empty
    samples = noises = 0
    for index, row in enumerate(rows):
        start = 0
        for place, number in enumerate(row):
            layout = layouts[number]
            _write(table, (index, slice(start, start + len(layout))), layout, place, samples, noises)
            start += len(layout)
            samples += int(layout.sample.max()) + 1
            noises += layout.num_noises
    return {name: torch.from_numpy(values) for name, values in table.items()}


def _write(
    table: dict[str, np.ndarray], where: tuple[int, slice], layout: Layout, place: int, samples: int, noises: int
) -> None:
    for name, values in vars(layout).items():
        table[name][where] = values
    table["document"][where] = place
    table["sample"][where] = np.where(layout.sample >= 0, layout.sample + samples, -1)
    table["noise"][where] = np.where(layout.noise >= 0, layout.noise + noises, -1)


def _dtype(name: str) -> type:
    return np.bool_ if name in ("maskable", "fill", "image", "hidden") else np.int64


def _filled(branch: Branch, length: int, eos: int) -> np.ndarray:
    row = [*branch.prompt, *branch.target]
    missing = -len(row) % length
    return np.array(row + [eos] * missing, dtype=np.int64)


def _shared_blocks(document: Document, rows: Sequence[np.ndarray]) -> int:
    """Blocks at the start that all branches have in common and that hold no target."""
    if len(rows) == 1:
        return 0
    limit = min(len(branch.prompt) // document.block_length for branch in document.branches)
    common = min(_common_prefix(rows[0], row) for row in rows[1:])
    return min(limit, common // document.block_length)


def _common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    size = min(len(a), len(b))
    different = np.nonzero(a[:size] != b[:size])[0]
    return int(different[0]) if len(different) else size


def _piece(row: np.ndarray, start: int, end: int, *, branch: int, stream: int, length: int) -> dict[str, np.ndarray]:
    size = end - start
    position = np.arange(start, end, dtype=np.int64)
    return {
        "ids": row[start:end],
        "position": position,
        "branch": np.full(size, branch, dtype=np.int64),
        "block": position // length,
        "stream": np.full(size, stream, dtype=np.int64),
        "maskable": np.zeros(size, dtype=bool),
        "fill": np.zeros(size, dtype=bool),
        "sample": np.full(size, -1, dtype=np.int64),
        "noise": np.full(size, -1, dtype=np.int64),
        "turn": np.zeros(size, dtype=np.int64),
        "image": np.zeros(size, dtype=bool),
        "hidden": np.zeros(size, dtype=bool),
        "tag": np.zeros(size, dtype=np.int64),
    }


def _with_target(piece: dict[str, np.ndarray], branch: Branch, index: int, noises: int) -> dict[str, np.ndarray]:
    prompt, whole = len(branch.prompt), len(branch.prompt) + len(branch.target)
    segment = _segment_of(piece["position"] - prompt, branch)
    piece["maskable"] = piece["position"] >= prompt
    piece["fill"] = piece["position"] >= whole
    piece["sample"][:] = index
    piece["noise"] = noises + _runs(piece["block"], segment)
    piece["turn"] = piece["noise"] - piece["noise"][np.searchsorted(piece["block"], piece["block"])]
    piece["image"] = np.array([part.is_image for part in branch.parts])[segment]
    piece["tag"][:] = branch.tag
    if branch.hidden:
        inside = piece["maskable"] & ~piece["fill"]
        piece["hidden"][inside] = np.asarray(branch.hidden)[piece["position"][inside] - prompt]
    return piece


def _segment_of(place: np.ndarray, branch: Branch) -> np.ndarray:
    """Segment of each place in the target; the prompt before it counts as the first, the fill after it as the last."""
    ends = np.cumsum([part.length for part in branch.parts])
    return np.minimum(np.searchsorted(ends, place, side="right"), len(ends) - 1)


def _runs(block: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Number, from 0, of the run of equal (block, segment) pairs that each position lies in."""
    new = (np.diff(block) != 0) | (np.diff(segment) != 0)
    return np.concatenate([[0], np.cumsum(new)])
