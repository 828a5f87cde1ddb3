"""Prompts to requests of the block sampler, within the context that the backbone has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llada_uni import prompts
from llada_uni.errors import BudgetError
from llada_uni.grid import TokenGrid
from llada_uni.pipeline.results import EncodedImage
from llada_uni.pipeline.settings import (
    AnswerSettings,
    EditSettings,
    ImageSettings,
    PictureSettings,
    ThinkingSettings,
)
from llada_uni.pipeline.tasks import Turn
from llada_uni.protocols import Request
from llada_uni.sampling.id_sets import image_ids, text_ids
from llada_uni.sampling.seeds import stream

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = [
    "answer_request",
    "answer_room",
    "check_budget",
    "conversation_ids",
    "edit_request",
    "image_request",
    "image_tail",
    "picture_request",
    "planned_request",
    "question_ids",
    "thinking_request",
    "thinking_room",
]


# Pictures


def image_request(networks: Networks, prompt: str, seed: int, grid: TokenGrid, settings: ImageSettings) -> Request:
    """Exactly ``grid.num_tokens`` image ids after the text-to-image prompt.

    Raises:
        BudgetError: prompt and picture exceed the context.
    """
    rows = prompts.t2i(networks.vocab, networks.tokenizer, prompt, grid)
    return picture_request(networks, rows, seed, settings)


def edit_request(
    networks: Networks,
    instruction: str,
    images: Sequence[EncodedImage],
    seed: int,
    grid: TokenGrid,
    settings: EditSettings,
) -> Request:
    """Exactly ``grid.num_tokens`` image ids after pictures and an instruction.

    Raises:
        BudgetError: prompt and picture exceed the context.
    """
    rows = prompts.edit(networks.vocab, networks.tokenizer, instruction, _blocks(images), grid)
    return picture_request(networks, rows, seed, settings)


def picture_request(networks: Networks, rows: prompts.PromptRows, seed: int, settings: PictureSettings) -> Request:
    """The picture that ``rows`` announce; branches without weight are left out.

    Raises:
        BudgetError: a branch and the picture exceed the context.
    """
    vocab, grid, guidance = networks.vocab, rows.grid, settings.guidance()
    assert grid is not None
    twins = (rows.uncond,) if rows.no_text is None else (rows.no_text, rows.no_image)
    branches = (rows.cond, *(row for row in twins if row is not None))[: guidance.num_branches]
    check_budget(networks, max(len(row) for row in branches), grid.num_tokens, "the picture")
    return Request(
        prompts=branches,
        num_tokens=grid.num_tokens,
        mask_id=vocab.special.mask,
        allowed=image_ids(vocab),
        guidance=guidance,
        sampling=settings.sampling(),
        seed=seed,
        grid=grid,
        given=image_tail(networks, len(rows.cond), grid, settings.block_length),
    )


def image_tail(networks: Networks, prompt_length: int, grid: TokenGrid, block_length: int) -> dict[int, int]:
    """Ids at the output positions after the last code, for checkpoints trained on them: end of picture, end of text."""
    if not networks.package.presets.image_tail:
        return {}
    special, codes = networks.vocab.special, grid.num_tokens
    surplus = -(prompt_length + codes) % block_length
    return {codes + place: special.eoi if place == 0 else special.eos for place in range(surplus)}


# A plan, then its picture


def thinking_request(networks: Networks, prompt: str, seed: int, settings: ThinkingSettings) -> Request:
    """The plan: text until the header of a picture, the end of text, or the budget.

    Its words are drawn from a stream of their own, so that they and the picture's codes are independent.
    """
    special = networks.vocab.special
    return Request(
        prompts=(prompts.thinking(networks.tokenizer, prompt).cond,),
        num_tokens=settings.max_new_tokens,
        mask_id=special.mask,
        allowed=text_ids(networks.vocab, headers=True),
        sampling=settings.sampling(),
        seed=stream(seed, "plan").initial_seed(),
        stop_ids=frozenset((special.boi, special.eos)),
        header_grid=networks.vocab.header_grid,
    )


def thinking_room(
    networks: Networks, prompt: str, grid: TokenGrid, settings: ThinkingSettings, wanted: int | None
) -> ThinkingSettings:
    """``settings`` with as long a plan as was asked for; a preset (``wanted`` None) leaves room for the picture.

    Raises:
        BudgetError: prompt, plan and picture exceed the context.
        SizeError: the vocabulary cannot write the header of ``grid``.
    """
    before = len(prompts.thinking(networks.tokenizer, prompt).cond)
    picture = len(networks.vocab.header(grid)) + grid.num_tokens
    if wanted is None:
        room = max(1, networks.max_positions - before - picture)
        settings = replace(settings, max_new_tokens=min(settings.max_new_tokens, room))
    check_budget(networks, before, settings.max_new_tokens + picture, "the plan with its picture")
    return settings


def planned_request(
    networks: Networks,
    plan: Request,
    output_ids: Sequence[int],
    seed: int,
    grid: TokenGrid,
    settings: ImageSettings,
) -> tuple[str, Request]:
    """The plan's words, and the picture of ``grid`` that follows them, whatever header the model wrote.

    Raises:
        BudgetError: they exceed the context.
    """
    before = plan.prompts[0]
    rows = prompts.thinking_image(networks.vocab, networks.tokenizer, before, output_ids, grid)
    words = networks.tokenizer.decode(rows.cond[len(before) : -len(networks.vocab.header(grid))]).strip()
    return words, picture_request(networks, rows, seed, settings)


# Words


def question_ids(
    networks: Networks,
    question: str,
    images: Sequence[EncodedImage],
    *,
    raw: bool = False,
    system: str | None = None,
) -> tuple[int, ...]:
    """Prompt ids of a question about pictures; ``system`` replaces the usual system text."""
    if system is not None:
        turns = (Turn("system", system), Turn("user", question, images))
        return conversation_ids(networks, turns, images)
    return prompts.understand(networks.vocab, networks.tokenizer, question, _blocks(images), raw=raw).cond


def conversation_ids(networks: Networks, turns: Iterable[Turn], images: Sequence[EncodedImage]) -> tuple[int, ...]:
    """Prompt ids of a conversation; ``images`` are those of all its turns, in order.

    Raises:
        PromptError: a conversation that cannot be answered.
    """
    blocks = iter(_blocks(images))
    messages = [
        prompts.Message(role=turn.role, text=turn.text, images=tuple(next(blocks) for _ in turn.images))  # type: ignore[arg-type]
        for turn in turns
    ]
    return prompts.conversation(networks.vocab, networks.tokenizer, messages).cond


def answer_request(networks: Networks, prompt: tuple[int, ...], seed: int, settings: AnswerSettings) -> Request:
    """Text ids after ``prompt`` until the end of text."""
    special = networks.vocab.special
    return Request(
        prompts=(prompt,),
        num_tokens=settings.max_new_tokens,
        mask_id=special.mask,
        allowed=text_ids(networks.vocab),
        sampling=settings.sampling(),
        seed=seed,
        stop_ids=frozenset((special.eos,)),
    )


def answer_room(networks: Networks, prompt_tokens: int, settings: AnswerSettings, wanted: int | None) -> AnswerSettings:
    """``settings`` with as many new tokens as were asked for; a preset (``wanted`` None) gives way to the context.

    Raises:
        BudgetError: prompt and answer exceed the context.
    """
    if wanted is None:
        room = max(1, networks.max_positions - prompt_tokens)
        settings = replace(settings, max_new_tokens=min(settings.max_new_tokens, room))
    check_budget(networks, prompt_tokens, settings.max_new_tokens, "the answer")
    return settings


def check_budget(networks: Networks, prompt_tokens: int, new_tokens: int, what: str) -> None:
    """Refuse a prompt that leaves too little of the context for ``new_tokens``, described by ``what``.

    Raises:
        BudgetError: they exceed the context together.
    """
    if prompt_tokens + new_tokens > networks.max_positions:
        raise BudgetError(
            f"the prompt has {prompt_tokens} tokens and {what} up to {new_tokens}, together at most "
            f"{networks.max_positions} fit; shorten the prompt or ask for less"
        )


def _blocks(images: Sequence[EncodedImage]) -> list[prompts.ImageBlock]:
    return [prompts.ImageBlock(grid=image.grid, codes=image.codes) for image in images]
