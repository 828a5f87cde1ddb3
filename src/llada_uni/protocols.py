"""The words that the samplers, the networks and everything above them share: requests, rows, steps and events.

A *request* asks for ids after a prompt. It becomes one *row*: the state of its generation. A row has one or more
*branches*, the sequences the backbone sees: the condition and, for guidance, its unconditional twins; all of them share
the generated ids. ``plan(rows)`` turns rows into a :class:`StepBatch`, a :class:`Denoiser` turns that into logits, and
``advance(rows, logits)`` turns these into new rows and events. Only the denoiser has state (its prefix cache).

Blocks are counted on one grid for all branches of a row: with a condition prompt of P tokens and a branch prompt of U,
position j of the branch lies in block ``(j + P - U) // block_length``. So a branch needs no padding, and its generated
blocks coincide with those of the condition for shorter and for longer branch prompts alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from llada_uni.diffusion.sprint import Sprint
from llada_uni.errors import ConfigError, PromptError
from llada_uni.grid import TokenGrid

__all__ = [
    "BlockDone",
    "BranchKey",
    "BranchStep",
    "CommitOrder",
    "Denoiser",
    "Event",
    "FinishReason",
    "Finished",
    "FlowStep",
    "Guidance",
    "HeaderSeen",
    "IdSet",
    "LatentsDone",
    "Prefix",
    "PrunableDenoiser",
    "Request",
    "Sampling",
    "Started",
    "StepBatch",
    "StepDone",
    "TextDelta",
    "Timings",
    "Usage",
    "Velocity",
]

FinishReason = Literal["stop", "header", "length", "image"]
"""stop: an end id was written; header: a picture header was written; length: all tokens; image: all codes."""


@dataclass(frozen=True, kw_only=True)
class IdSet:
    """Ids a row may write: ``start <= id < stop`` without ``forbidden``."""

    start: int
    stop: int
    forbidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ConfigError(f"expected a non-empty range of ids, got {self.start}..{self.stop - 1}")


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How the branches of a row are combined. A scale of 1 is off.

    ``kind`` "none": the condition alone. "simple": condition and one twin, ``scale``. "editing": full prompt, prompt
    without the instruction, prompt without the picture; scales ``text`` and ``image`` (0 is neutral for the latter).

    ``rescale`` moves the spread of the guided logits towards that of the condition; it changes confidences, never the
    best id. ``rescale_over`` is what the spread is measured on: "vocabulary" as released, or "allowed", only the ids
    the row may write, for which the network computes a fraction of the logits.

    Source: released ``generate_bd_image``; LLaDA2.0-Uni paper §2.3 is silent on the rescaling.
    """

    kind: Literal["none", "simple", "editing"] = "none"
    scale: float = 1.0
    text: float = 1.0
    image: float = 0.0
    rescale: float = 0.7
    rescale_over: Literal["vocabulary", "allowed"] = "vocabulary"

    @property
    def num_branches(self) -> int:
        """How many branches have weight; the others need not be computed."""
        if self.kind == "simple":
            return 1 if self.scale == 1 else 2
        if self.kind == "editing":
            return 3 if self.image != 0 else (1 if self.text == 1 else 2)
        return 1

    @property
    def needs_vocabulary(self) -> bool:
        """Whether logits of ids that the row may not write are needed."""
        return self.num_branches > 1 and self.rescale != 0 and self.rescale_over == "vocabulary"


CommitOrder = Literal["confidence", "random", "sequential"]
"""Which open positions are committed first; see :class:`Sampling`."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How ids are chosen and committed.

    Args:
        block_length: positions denoised together.
        steps_per_block: upper bound on the steps in one block; 1 step = 1 backbone call for all branches.
        confidence_threshold: every position whose chosen id is more probable than this is committed.
        temperature: 0 = the most likely id; otherwise ids are drawn, and ``top_k`` and ``top_p`` apply.
        commit_order: which open positions fill a step's quota: the most "confidence" (released) or "random" ones, an
            order drawn from the request's seed (with ids drawn at temperature 1 that samples the model's distribution),
            or the first ones from the left, "sequential": then surer ones further right wait for their turn, too.
        sprint: less work per step and quotas that adapt; None = every step sees the whole prefix.
    """

    block_length: int = 32
    steps_per_block: int = 32
    confidence_threshold: float = 0.95
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    commit_order: CommitOrder = "confidence"
    sprint: Sprint | None = None

    def __post_init__(self) -> None:
        if self.block_length < 1 or self.steps_per_block < 1:
            raise ConfigError(
                f"expected block_length and steps_per_block >= 1, got {self.block_length} and {self.steps_per_block}"
            )
        if self.temperature < 0 or (self.top_k is not None and self.top_k < 1):
            raise ConfigError(f"expected temperature >= 0 and top_k >= 1, got {self.temperature} and {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"expected top_p in (0, 1], got {self.top_p}")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One generation: prompts, how many ids to write after them, and by which rules.

    Args:
        prompts: ids of the condition, then of the guidance branches (see :class:`Guidance`); further ones are ignored.
        num_tokens: ids to write at most; with ``grid`` exactly ``grid.num_tokens``.
        mask_id: id that stands for a position not yet written; it is never written itself.
        allowed: ids that may be written.
        seed: randomness of this request alone; unused at temperature 0.
        grid: token grid of the picture being written, None for text.
        stop_ids: a position holding one of these ends the text once everything before it is final.
        header_grid: reads the grid off ids that end with a picture header; with it a stop at a header is announced.
        given: ids of output positions that are known from the start and never change: kept parts of a picture that is
            edited on its grid, or what follows its last code. Positions of the last block beyond ``num_tokens`` count.
    """

    prompts: tuple[tuple[int, ...], ...]
    num_tokens: int
    mask_id: int
    allowed: IdSet
    guidance: Guidance = field(default_factory=Guidance)
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    grid: TokenGrid | None = None
    stop_ids: frozenset[int] = frozenset()
    header_grid: Callable[[Sequence[int]], TokenGrid | None] | None = None
    given: Mapping[int, int] = field(default_factory=dict[int, int])

    def __post_init__(self) -> None:
        if len(self.prompts) < self.guidance.num_branches:
            raise ConfigError(
                f"{self.guidance.kind} guidance needs {self.guidance.num_branches} prompts, got {len(self.prompts)}"
            )
        if not self.prompts or not all(self.prompts):
            raise PromptError("expected at least one prompt id in every branch, got an empty prompt")
        if self.num_tokens < 1:
            raise ConfigError(f"expected num_tokens >= 1, got {self.num_tokens}")
        if self.grid is not None and self.grid.num_tokens != self.num_tokens:
            raise ConfigError(f"a grid of {self.grid.num_tokens} codes was asked for with num_tokens={self.num_tokens}")

    @property
    def sprint(self) -> Sprint | None:
        """The SPRINT rules in force; the released code ignores them where guidance is that of editing."""
        rules = self.sampling.sprint
        ignored = rules is not None and rules.variant == "released" and self.guidance.kind == "editing"
        return None if ignored else rules


class BranchKey(NamedTuple):
    """Name of one branch inside a denoiser: the row's number and the branch's, 0 = condition."""

    row: int
    branch: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """Everything final of one branch: ``ids`` int64 [T] at positions 0..T-1, blocks ``(j + shift) // block_length``.

    T ends at a block boundary. A denoiser that already holds a beginning of these ids for ``key`` on the same block
    grid only adds the rest, which is how a row goes on after a change of phase (text, then a picture, then text).

    ``scored``: the denoiser also keeps what :meth:`PrunableDenoiser.confidence` answers. ``pad_ids`` int64 [N]: what
    the released code puts before a shorter branch, at position 0 and unseen; it comes first in all that a
    :class:`PrunableDenoiser` says about the prefix, and is seen where ``prune`` keeps it.
    """

    key: BranchKey
    ids: Tensor
    shift: int
    block_length: int
    scored: bool = False
    pad_ids: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute."""
        return self.ids.numel() + self.pad_ids.numel() == 0


@dataclass(frozen=True, kw_only=True, eq=False)
class BranchStep:
    """One branch in one backbone call.

    ``pending_ids`` int64 [Q]: finished blocks that the prefix cache does not hold yet (Q may be 0). ``active_ids``
    int64 [A]: the block being denoised, masks included, right behind them. ``start``: position of the first of these
    Q + A ids, which is the length of the prefix. Who sees whom follows from the block grid of the branch's prefix.
    """

    key: BranchKey
    pending_ids: Tensor
    active_ids: Tensor
    start: int


@dataclass(frozen=True, kw_only=True, eq=False)
class StepBatch:
    """Work of one step: branches row by row, and the range of vocabulary ids whose logits are wanted (None = all).

    ``wanted`` bool [R, A] on the CPU, aligned like the logits: the positions whose logits are read (None = all); a
    denoiser need not compute the others.
    """

    branches: tuple[BranchStep, ...]
    id_range: tuple[int, int] | None = None
    wanted: Tensor | None = None


class Denoiser(Protocol):
    """The backbone as the block sampler sees it; owns the prefix cache."""

    def prefill(self, prefixes: Sequence[Prefix]) -> int:
        """Hold these prefixes from now on, empty ones too. Returns the number of backbone calls this took (0 or 1)."""
        ...

    def step(self, batch: StepBatch) -> Tensor:
        """Logits float32 [R, A, V'] of the active positions; every branch takes part in exactly one backbone call.

        Branches whose active block is shorter than A are aligned to the right; what is left of them is meaningless,
        and so are positions that are not wanted. Pending ids become part of the prefix.
        """
        ...

    def commit(self, batch: StepBatch) -> int:
        """Make pending ids part of the prefix without denoising. Returns the number of backbone calls (0 or 1)."""
        ...

    def release(self, keys: Sequence[BranchKey]) -> None:
        """Forget these branches; unknown ones are ignored."""
        ...


@runtime_checkable
class PrunableDenoiser(Denoiser, Protocol):
    """A denoiser whose prefix can be thinned out for the rest of a block."""

    def key_norms(self, key: BranchKey) -> Tensor:
        """Mean over heads of the length of the cached keys, float32 [layers, T]."""
        ...

    def confidence(self, key: BranchKey) -> Tensor:
        """Probability of the likeliest id of the whole vocabulary at every position of a scored prefix, float32 [T]."""
        ...

    def is_image(self, key: BranchKey) -> Tensor:
        """Which positions hold picture codes, bool [T] on the CPU."""
        ...

    def prune(self, key: BranchKey, keep: Tensor) -> None:
        """Attend only to the prefix positions ``keep`` int64 [layers, K] until the next block is committed."""
        ...


class Velocity(Protocol):
    """The decoder as the flow sampler sees it."""

    def __call__(self, latents: Tensor, time: Tensor, semantic_features: Tensor) -> Tensor:
        """Velocity [B, C, H, W] at ``latents`` [B, C, H, W], ``time`` [B] in [0, 1] (0 = noise), features [B, L, F]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a row consumed.

    ``num_steps`` denoising steps; ``num_calls`` backbone calls in which the row took part (steps and prefill).
    """

    prompt_tokens: int
    output_tokens: int
    num_blocks: int
    num_steps: int
    num_calls: int


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Wall-clock seconds in which the row took part, shared ones counted in full for every row of a batch."""

    prefill_s: float = 0.0
    denoise_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Started:
    """A row begins: at most ``num_blocks`` blocks and ``max_calls`` backbone calls will follow.

    ``given``: ids of output positions that are known from the start, as in :class:`Request`.
    """

    row: int
    grid: TokenGrid | None
    num_blocks: int
    max_calls: int
    given: Mapping[int, int] = field(default_factory=dict[int, int])


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """Positions committed in one step, at least one.

    ``block`` counts the row's own blocks from 0, ``step`` the steps inside it. ``positions`` are output positions;
    those at or beyond the row's ``num_tokens`` are surplus of the last block. ``confidence``: probability of each id.
    """

    row: int
    block: int
    step: int
    positions: tuple[int, ...]
    ids: tuple[int, ...]
    confidence: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class BlockDone:
    """A block is final: output ids from position ``start`` on, after ``num_steps`` steps (0 if all were given)."""

    row: int
    block: int
    start: int
    ids: tuple[int, ...]
    num_steps: int


@dataclass(frozen=True, kw_only=True)
class TextDelta:
    """Text ids from output position ``start`` on that are final and follow what was reported before without a gap."""

    row: int
    start: int
    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class HeaderSeen:
    """The row wrote the header of a picture with this grid and stops right behind it."""

    row: int
    grid_h: int
    grid_w: int


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A row is done. ``output_ids`` end with the stop id when one was written; for a picture exactly its image ids."""

    row: int
    reason: FinishReason
    output_ids: tuple[int, ...]
    usage: Usage
    timings: Timings


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowStep:
    """One velocity evaluation of the decoder; ``data_estimate`` [C, H, W] is what the latent would become from here."""

    row: int
    index: int
    num_steps: int
    data_estimate: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentsDone:
    """Final latents float32 [C, H, W] of a row, in the decoder's scale."""

    row: int
    latents: Tensor


Event = Started | StepDone | BlockDone | TextDelta | HeaderSeen | Finished | FlowStep | LatentsDone
