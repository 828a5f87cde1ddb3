"""Training rows for a causal model on the documents that block diffusion trains on: no noise, no copies, no filling.

A row holds what all branches of a document have in common once, then the rest of every branch. A token sees the tokens
before it in its own branch. What it is asked for is the next id, where that is one of the target's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llada_uni.data.block_rows import Branch, Document, pack
from llada_uni.errors import ConfigError

__all__ = ["NOTHING", "CausalLayout", "causal_allowed", "collate_causal", "lay_out_causal"]

NOTHING = -1
"""Label of a token that is asked for nothing."""


@dataclass(frozen=True, kw_only=True)
class CausalLayout:
    """Tokens of one document in a training row, int64 [T] each.

    ``label`` is the id that follows, :data:`NOTHING` where that belongs to a prompt; ``branch`` is 0 for what all
    branches share; ``sample`` is the branch index, -1 in the shared part; ``tag`` is the branch's.
    """

    ids: np.ndarray
    label: np.ndarray
    position: np.ndarray
    branch: np.ndarray
    sample: np.ndarray
    tag: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def lay_out_causal(document: Document) -> CausalLayout:
    """Tokens of a document. Block lengths, views and hidden regions have no meaning here and are not looked at.

    Raises:
        ConfigError: a prompt without an id: nothing would predict the first id of its target.
    """
    branches = document.branches
    if any(not branch.prompt for branch in branches):
        raise ConfigError("a causal model needs a prompt of at least one id before every target, got an empty one")
    shared = _shared(branches)
    parts = [_piece(branches[0], -1, 0, shared, branch=0)] if shared else []
    for index, branch in enumerate(branches):
        end = len(branch.prompt) + len(branch.target) - 1  # the last id is predicted and never read
        parts.append(_piece(branch, index, shared, end, branch=index + 1 if len(branches) > 1 else 0))
    return CausalLayout(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def collate_causal(layouts: Sequence[CausalLayout], capacity: int, eos: int) -> dict[str, Tensor]:
    """Packs documents into rows padded to the longest: int64 [B, T] named as in :class:`CausalLayout`.

    ``document`` is the document's place in its row (-1 = padding); ``sample`` counts over the batch.
    """
    rows = pack([len(layout) for layout in layouts], capacity)
    longest = max(sum(len(layouts[i]) for i in row) for row in rows)
    blank = {"ids": eos, "label": NOTHING, "sample": -1, "document": -1}
    names = (*vars(layouts[0]), "document")
    table = {name: np.full((len(rows), longest), blank.get(name, 0), dtype=np.int64) for name in names}
    samples = 0
    for index, row in enumerate(rows):
        start = 0
        for place, number in enumerate(row):
            layout = layouts[number]
            where = (index, slice(start, start + len(layout)))
            for name, values in vars(layout).items():
                table[name][where] = values
            table["document"][where] = place
            table["sample"][where] = np.where(layout.sample >= 0, layout.sample + samples, -1)
            start += len(layout)
            samples += int(layout.sample.max()) + 1
    return {name: torch.from_numpy(values) for name, values in table.items()}


def causal_allowed(document: Tensor, branch: Tensor, position: Tensor) -> Tensor:
    """Visibility bool [..., T, T] of packed causal rows from integer vectors [..., T]; padding sees itself alone.

    A query sees keys of its document that are shared or of its branch and stand no later than itself.
    """
    same = (document[..., :, None] == document[..., None, :]) & (document >= 0)[..., :, None]
    mine = (branch[..., None, :] == 0) | (branch[..., None, :] == branch[..., :, None])
    earlier = position[..., None, :] <= position[..., :, None]
    return (same & mine & earlier) | torch.eye(document.shape[-1], dtype=torch.bool, device=document.device)


def _shared(branches: Sequence[Branch]) -> int:
    """Ids at the start that the prompts of several branches have in common; the last of each prompt asks, so not it."""
    if len(branches) == 1:
        return 0
    count = 0
    for ids in zip(*(branch.prompt[:-1] for branch in branches), strict=False):
        if len(set(ids)) > 1:
            break
        count += 1
    return count


def _piece(source: Branch, sample: int, start: int, end: int, *, branch: int) -> dict[str, np.ndarray]:
    row = np.array([*source.prompt, *source.target], dtype=np.int64)
    prompt, size = len(source.prompt), end - start
    asked = np.arange(start + 1, end + 1) >= prompt
    return {
        "ids": row[start:end],
        "label": np.where(asked, row[start + 1 : end + 1], NOTHING),
        "position": np.arange(start, end, dtype=np.int64),
        "branch": np.full(size, branch, dtype=np.int64),
        "sample": np.full(size, sample, dtype=np.int64),
        "tag": np.full(size, source.tag, dtype=np.int64),
    }
