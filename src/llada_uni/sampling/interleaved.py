"""A story of text and pictures as a state machine: which request comes next, and what follows from its result.

    text   --header of a usable grid-->  image  --all codes, then a forced end of image-->  text
    text   --end of text, budget, a mistake of the model-->  done

Where the caller chose the size, the first id of a header is enough.

Everything here is pure. :mod:`llada_uni.sampling.stories` drives many stories through one block sampler.

Source: the serving implementation of interleaved generation (the released model code has none). It leaves
``<|/image|>`` to the model and raises an error where it is misplaced, or where a header is unreadable or too large;
here it is written by us, as is the header where the caller chose the size, and a mistake of the model ends the story
with a reason and loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, Protocol

from llada_uni.errors import BudgetError, ConfigError, PromptError
from llada_uni.grid import Geometry, TokenGrid
from llada_uni.protocols import Finished, Guidance, Request, Sampling
from llada_uni.sampling.id_sets import image_ids, text_ids
from llada_uni.sampling.seeds import phase_seed
from llada_uni.sampling.story_state import Segment, StoryEnd, StoryState
from llada_uni.vocab import Vocab

__all__ = ["FrameRows", "OnBadGrid", "StoryRules", "accept", "begin", "go_on", "next_request"]

OnBadGrid = Literal["nearest", "stop"]
"""A header with a grid that cannot be drawn: draw the nearest one that can, or end the story."""

_HEADER = 4


class FrameRows(Protocol):
    """Prompt ids of one picture and of its guidance branches, as ``prompts.interleaved_frame`` builds them."""

    @property
    def cond(self) -> tuple[int, ...]: ...
    @property
    def uncond(self) -> tuple[int, ...] | None: ...
    @property
    def no_text(self) -> tuple[int, ...] | None: ...
    @property
    def no_image(self) -> tuple[int, ...] | None: ...


@dataclass(frozen=True, kw_only=True)
class StoryRules:
    """What all stories of a batch have in common.

    Args:
        vocab, geometry: of the checkpoint.
        frame_rows: ids that end with a header -> rows of that picture.
        text, picture: how ids are chosen in the two phases. With one ``block_length`` the prefix cache is kept.
        first: "simple" guidance, of the story's first picture. later: "editing" guidance, of the others.
        max_positions: the backbone's context.
        max_frames: pictures of one call. max_new_tokens: of one text block, header included. max_image_tokens: codes of
            one picture.
        grid: every picture has this grid: the first id of a header announces it and the header is written by us, so
            that a header the model would have spoilt ends no story. None leaves headers and grids to the model.
        on_bad_grid: what to do about a grid that cannot be drawn.
        known_tail: the end of image is given behind the last code while the codes are written, as some checkpoints are
            trained; otherwise it is written afterwards.

    Raises:
        ConfigError: a budget below 1. SizeError: the vocabulary cannot write ``grid``. BudgetError: it is too large.
    """

    vocab: Vocab
    geometry: Geometry
    frame_rows: Callable[[Sequence[int]], FrameRows]
    text: Sampling
    picture: Sampling
    first: Guidance
    later: Guidance
    max_positions: int
    max_frames: int = 10
    max_new_tokens: int = 2048
    max_image_tokens: int = 4096
    grid: TokenGrid | None = None
    on_bad_grid: OnBadGrid = "nearest"
    known_tail: bool = False

    def __post_init__(self) -> None:
        for name in ("max_frames", "max_new_tokens", "max_image_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected a whole number from 1, got {getattr(self, name)}")
        if self.grid is not None and self.grid.num_tokens > self.max_image_tokens:
            raise BudgetError(
                f"pictures of this size have {self.grid.num_tokens} codes, max_image_tokens allows "
                f"{self.max_image_tokens}; ask for smaller pictures or raise it"
            )
        if self.grid is not None:
            self.vocab.header(self.grid)

    @property
    def announcing(self) -> frozenset[int]:
        """Ids of which the first one ends a text because a picture is announced."""
        special = self.vocab.special
        return frozenset((special.boi,)) if self.grid is None else _header_ids(self.vocab)

    def announced(self, ids: Sequence[int]) -> TokenGrid | None:
        """Grid of the picture that is announced at the end of ``ids``; None where no header can be read."""
        if self.grid is None:
            return self.vocab.header_grid(ids)
        return self.grid if ids and ids[-1] in self.announcing else None

    @property
    def least_room(self) -> int:
        """Tokens that the smallest picture takes: header, codes, end of image."""
        grids = (self.grid,) if self.grid is not None else self.geometry.trained_grids or (TokenGrid(1, 1),)
        return _HEADER + min(grid.num_tokens for grid in grids) + 1


def begin(prompt_ids: Sequence[int], seed: int, rules: StoryRules) -> StoryState:
    """A new story after these prompt ids.

    Raises:
        BudgetError: the context has no room for a single picture behind them.
    """
    return _with_room(StoryState(ids=tuple(prompt_ids), seed=seed), rules)


def go_on(state: StoryState, rules: StoryRules, turn_ids: Sequence[int] | None = None) -> StoryState:
    """The story goes on where it ended, with fresh budgets.

    Args:
        state: an ended story, or one that was interrupted between two phases.
        rules: of the new call.
        turn_ids: ``state.history`` and the user's next turn behind it; None lets the model write on.

    Raises:
        PromptError: the model ended the story itself and there is no next turn.
        BudgetError: the context has no room for another picture.
    """
    if turn_ids is None and state.reason == "stop":
        raise PromptError("the model ended this story itself; say in a prompt how it should go on")
    ids = state.ids if turn_ids is None else tuple(turn_ids)
    drawing = state.phase == "image" and turn_ids is None
    opened = replace(state, ids=ids, phase="image" if drawing else "text", reason=None, first_frame=state.frame_index)
    return opened if drawing else _with_room(opened, rules)


def next_request(state: StoryState, rules: StoryRules) -> Request:
    """What the block sampler has to write next; only for a story that is not done."""
    assert state.phase != "done", "a story that is done asks for nothing"
    return _text_request(state, rules) if state.phase == "text" else _frame_request(state, rules)


def accept(state: StoryState, finished: Finished, rules: StoryRules) -> StoryState:
    """The story after the request of :func:`next_request` has ``finished``.

    Raises:
        ConfigError: a picture does not have exactly its codes, which no block sampler of ours returns.
    """
    after = _accept_text if state.phase == "text" else _accept_frame
    return replace(after(state, finished.output_ids, rules), num_phases=state.num_phases + 1)


def _text_request(state: StoryState, rules: StoryRules) -> Request:
    special = rules.vocab.special
    return Request(
        prompts=(state.ids,),
        num_tokens=min(rules.max_new_tokens, rules.max_positions - len(state.ids)),
        mask_id=special.mask,
        allowed=text_ids(rules.vocab, headers=True),
        sampling=rules.text,
        seed=phase_seed(state.seed, state.num_phases),
        stop_ids=rules.announcing | {special.eos},
        header_grid=rules.announced,
    )


def _frame_request(state: StoryState, rules: StoryRules) -> Request:
    special, grid = rules.vocab.special, rules.vocab.header_grid(state.ids)
    assert grid is not None, "a picture follows its header"
    guidance, prompts = _branches(state, rules)
    surplus = -(len(state.ids) + grid.num_tokens) % rules.picture.block_length
    return Request(
        prompts=prompts,
        num_tokens=grid.num_tokens,
        mask_id=special.mask,
        allowed=image_ids(rules.vocab),
        guidance=guidance,
        sampling=rules.picture,
        seed=phase_seed(state.seed, state.num_phases),
        grid=grid,
        given={grid.num_tokens: special.eoi} if rules.known_tail and surplus else {},
    )


def _branches(state: StoryState, rules: StoryRules) -> tuple[Guidance, tuple[tuple[int, ...], ...]]:
    """Guidance of the picture whose header ends the ids: simple for the story's first one, editing for later ones."""
    rows = rules.frame_rows(state.ids)
    if state.frame_index > 0 and rows.no_text is not None and rows.no_image is not None:
        return rules.later, (rows.cond, rows.no_text, rows.no_image)
    assert rows.uncond is not None, "every picture has an unconditional row"
    return rules.first, (rows.cond, rows.uncond)


def _accept_text(state: StoryState, written: tuple[int, ...], rules: StoryRules) -> StoryState:
    special, allowed = rules.vocab.special, text_ids(rules.vocab, headers=True)
    for place, number in enumerate(written):
        if not allowed.start <= number < allowed.stop or number in allowed.forbidden:
            return _ended(_with_text(state, _without_header(written[:place], rules)), "bad_ids")
    if written and written[-1] in rules.announcing:
        return _accept_header(state, written, rules)
    text = _without_header(tuple(number for number in written if number != special.eos), rules)
    if written[-1:] == (special.eos,):
        return _ended(_with_text(state, text), "stop")
    return _ended(_with_text(state, text), "length" if len(written) >= rules.max_new_tokens else "context")


def _accept_header(state: StoryState, written: tuple[int, ...], rules: StoryRules) -> StoryState:
    """A picture is announced: its header is rewritten where its grid is replaced, or taken back where none fits."""
    announced = rules.announced(written)
    if announced is None:
        return _ended(_with_text(state, _without_header(written, rules)), "bad_header")
    told = _with_text(state, written[:-_HEADER] if rules.grid is None else _without_header(written, rules))
    grid = _drawable(announced, rules)
    if grid is None:
        return _ended(told, "bad_grid")
    due = replace(told, ids=(*told.ids, *rules.vocab.header(grid)), phase="image")
    guidance, prompts = _branches(due, rules)
    longest = max(len(prompt) for prompt in prompts[: guidance.num_branches])
    return _ended(told, "context") if longest + grid.num_tokens + 1 > rules.max_positions else due


def _accept_frame(state: StoryState, written: tuple[int, ...], rules: StoryRules) -> StoryState:
    grid, allowed = rules.vocab.header_grid(state.ids), image_ids(rules.vocab)
    assert grid is not None, "a picture follows its header"
    if len(written) != grid.num_tokens or not all(allowed.start <= number < allowed.stop for number in written):
        raise ConfigError(f"expected the {grid.num_tokens} image ids of a picture, got {len(written)} ids")
    start = len(state.ids)
    frame = Segment(start=start, stop=start + len(written), grid=grid, seed=phase_seed(state.seed, state.num_phases))
    drawn = replace(
        state,
        ids=(*state.ids, *written, rules.vocab.special.eoi),
        phase="text",
        segments=(*state.segments, frame),
        frame_index=state.frame_index + 1,
    )
    if drawn.frame_index - drawn.first_frame >= rules.max_frames:
        return _ended(drawn, "max_frames")
    return _ended(drawn, "context") if len(drawn.ids) >= rules.max_positions else drawn


def _with_text(state: StoryState, text: tuple[int, ...]) -> StoryState:
    if not text:
        return state
    start = len(state.ids)
    segment = Segment(start=start, stop=start + len(text))
    return replace(state, ids=(*state.ids, *text), segments=(*state.segments, segment))


def _without_header(text: tuple[int, ...], rules: StoryRules) -> tuple[int, ...]:
    """Text without the header it breaks off in, so that nothing written later can complete it."""
    header, end = _header_ids(rules.vocab), len(text)
    while end and text[end - 1] in header:
        end -= 1
    return text[:end]


def _header_ids(vocab: Vocab) -> frozenset[int]:
    special = vocab.special
    return frozenset((special.soi, special.boi, *special.reserved.values()))


def _ended(state: StoryState, reason: StoryEnd) -> StoryState:
    return replace(state, phase="done", reason=reason)


def _with_room(state: StoryState, rules: StoryRules) -> StoryState:
    if len(state.ids) + rules.least_room > rules.max_positions:
        raise BudgetError(
            f"the story has {len(state.ids)} tokens before its next text and a picture needs {rules.least_room}, "
            f"together at most {rules.max_positions} fit; shorten the prompt or begin a new story"
        )
    return state


def _drawable(announced: TokenGrid, rules: StoryRules) -> TokenGrid | None:
    """The grid to draw instead of the announced one, itself where that is possible; None where none is."""
    if rules.grid is not None:
        return rules.grid
    trained = rules.geometry.trained_grids
    if (trained is None or announced in trained) and announced.num_tokens <= rules.max_image_tokens:
        return announced
    return _nearest(announced, rules) if rules.on_bad_grid == "nearest" else None


def _nearest(announced: TokenGrid, rules: StoryRules) -> TokenGrid | None:
    sides = rules.vocab.special.reserved
    grids = rules.geometry.trained_grids or tuple(TokenGrid(h, w) for h, w in product(sides, sides))
    fitting = tuple(
        grid
        for grid in grids
        if grid.num_tokens <= rules.max_image_tokens and grid.grid_h in sides and grid.grid_w in sides
    )
    if not fitting:
        return None
    return replace(rules.geometry, trained_grids=fitting).nearest_grid(*rules.geometry.output_px(announced))
