"""Prompts to requests of the block sampler, within the context that the backbone has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llada_uni import prompts
from llada_uni.errors import BudgetError
from llada_uni.grid import TokenGrid
from llada_uni.pipeline.results import EncodedImage
from llada_uni.pipeline.settings import AnswerSettings, ImageSettings
from llada_uni.protocols import Guidance, Request
from llada_uni.sampling.id_sets import image_ids, text_ids

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["answer_request", "answer_room", "check_budget", "image_request", "image_tail", "question_ids"]


def image_request(networks: Networks, prompt: str, seed: int, grid: TokenGrid, settings: ImageSettings) -> Request:
    """Exactly ``grid.num_tokens`` image ids after the text-to-image prompt.

    Raises:
        BudgetError: prompt and picture exceed the context.
    """
    vocab = networks.vocab
    rows = prompts.t2i(vocab, networks.tokenizer, prompt, grid)
    assert rows.uncond is not None
    check_budget(networks, len(rows.cond), grid.num_tokens, "the picture")
    return Request(
        prompts=(rows.cond, rows.uncond),
        num_tokens=grid.num_tokens,
        mask_id=vocab.special.mask,
        allowed=image_ids(vocab),
        guidance=Guidance(kind="simple", scale=settings.guidance_scale, rescale=settings.guidance_rescale),
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


def question_ids(networks: Networks, question: str, images: list[EncodedImage]) -> tuple[int, ...]:
    """Prompt ids of a question about pictures."""
    blocks = [prompts.ImageBlock(grid=image.grid, codes=image.codes) for image in images]
    return prompts.understand(networks.vocab, networks.tokenizer, question, blocks).cond


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
