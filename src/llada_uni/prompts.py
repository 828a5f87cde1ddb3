"""The released prompt protocol: templates, picture headers, and the twins that guidance compares with.

A prompt is a concatenation of separately tokenised pieces, as in the released code: the system and role frame (control
strings), what the user wrote (never a control id), pictures as id blocks, the assistant tag, and for picture generation
the header of the picture to come. Inference and training data build their prompts here and nowhere else; the
``answer_*`` functions give what a training sample puts after the prompt.

Source: released modeling_llada2uni_moe.py (``_build_chat``, ``generate_image``, ``edit_image``, ``understand_image``).
Several turns, several references and interleaving have no released model code; their form follows the serving
implementation and is documented with each function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from llada_uni.errors import PromptError
from llada_uni.grid import TokenGrid
from llada_uni.vocab import ROLE_CLOSE, ROLE_OPEN, TextTokenizer, Vocab

__all__ = [
    "ROLE_NAMES",
    "SYSTEM_EDIT",
    "SYSTEM_INTERLEAVED",
    "SYSTEM_PROMPTS",
    "SYSTEM_T2I",
    "SYSTEM_THINKING",
    "SYSTEM_UNDERSTAND",
    "UNCONDITION",
    "ImageBlock",
    "Message",
    "PromptRows",
    "answer_image",
    "answer_segments",
    "answer_text",
    "conversation",
    "edit",
    "interleaved",
    "interleaved_frame",
    "interleaved_turn",
    "t2i",
    "thinking",
    "thinking_image",
    "understand",
]

SYSTEM_T2I = "You are a text-to-image generation assistant."
SYSTEM_THINKING = "You are a text-to-image generation assistant with a thinking process."
SYSTEM_EDIT = "You are an image editing assistant."
SYSTEM_UNDERSTAND = "You are a multimodal understanding assistant."
SYSTEM_INTERLEAVED = "You are a interleaved generation assistant."  # the released wording
UNCONDITION = "<uncondition>"
"""Text that stands in for the prompt in an unconditional twin; ordinary text, not a control string."""
SYSTEM_PROMPTS = (SYSTEM_T2I, SYSTEM_THINKING, SYSTEM_EDIT, SYSTEM_UNDERSTAND, SYSTEM_INTERLEAVED)

ROLE_NAMES = {"system": "SYSTEM", "user": "HUMAN", "assistant": "ASSISTANT"}
"""The word between the role tags for each role of a conversation."""


@dataclass(frozen=True, kw_only=True)
class ImageBlock:
    """A tokenised picture: its grid and its ``grid.num_tokens`` codebook indices, row-major."""

    grid: TokenGrid
    codes: Sequence[int] | Tensor


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation; its pictures stand before its text."""

    role: Literal["system", "user", "assistant"]
    text: str = ""
    images: tuple[ImageBlock, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PromptRows:
    """Prompt ids of a request and of its guidance branches; a branch the task does not have is ``None``.

    ``uncond``: nothing of the request. ``no_text``: pictures without words. ``no_image``: words without pictures.
    ``grid``: the picture announced by the header at the end of every row, or ``None`` when text comes next.
    """

    cond: tuple[int, ...]
    uncond: tuple[int, ...] | None = None
    no_text: tuple[int, ...] | None = None
    no_image: tuple[int, ...] | None = None
    grid: TokenGrid | None = None


def t2i(
    vocab: Vocab, tokenizer: TextTokenizer, prompt: str, grid: TokenGrid, *, max_tokens: int | None = None
) -> PromptRows:
    """Text to image: the picture's codes follow directly.

    Raises:
        PromptError: empty, not text, or the row exceeds ``max_tokens``.
        SizeError: the vocabulary cannot write the header of ``grid``.
    """
    header = vocab.header(grid)
    cond = (*_chat(tokenizer, SYSTEM_T2I, _user(tokenizer, prompt)), *header)
    uncond = (*_chat(tokenizer, SYSTEM_T2I, _uncondition(tokenizer)), *header)
    return PromptRows(cond=_fitting(cond, max_tokens), uncond=uncond, grid=grid)


def thinking(tokenizer: TextTokenizer, prompt: str, *, max_tokens: int | None = None) -> PromptRows:
    """Text to image with a written plan, first part: the model writes its plan, then a header.

    Raises:
        PromptError: empty, not text, or the row exceeds ``max_tokens``.
    """
    return PromptRows(cond=_fitting(_chat(tokenizer, SYSTEM_THINKING, _user(tokenizer, prompt)), max_tokens))


def thinking_image(
    vocab: Vocab,
    tokenizer: TextTokenizer,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    grid: TokenGrid,
    *,
    max_tokens: int | None = None,
) -> PromptRows:
    """Second part: the picture of ``grid`` after the plan ``output_ids`` the model wrote on ``prompt_ids``.

    The plan ends before the first start of image, end of text or mask among ``output_ids``; the header is always that
    of ``grid`` in both rows (the released code pairs the header the model wrote with the requested one).

    Raises:
        PromptError: the row exceeds ``max_tokens``.
        SizeError: the vocabulary cannot write the header of ``grid``.
    """
    special = vocab.special
    stops = (special.soi, special.boi, special.eos, special.mask)
    end = next((i for i, number in enumerate(output_ids) if number in stops), len(output_ids))
    header = vocab.header(grid)
    cond = (*prompt_ids, *output_ids[:end], *header)
    uncond = (*_chat(tokenizer, SYSTEM_THINKING, _uncondition(tokenizer)), *header)
    return PromptRows(cond=_fitting(cond, max_tokens), uncond=uncond, grid=grid)


def edit(
    vocab: Vocab,
    tokenizer: TextTokenizer,
    instruction: str,
    images: Sequence[ImageBlock],
    grid: TokenGrid | None = None,
    *,
    max_tokens: int | None = None,
) -> PromptRows:
    """Image editing: the new picture of ``grid`` (that of the first picture by default) follows.

    Several references stand one after the other before the instruction, and the branch without pictures keeps a single
    lone start of image; with one picture this is the released protocol, with more it is our convention.

    Raises:
        PromptError: no picture; the instruction is empty or not text; the row exceeds ``max_tokens``.
        SizeError: the vocabulary cannot write a header, or codes do not fill their grid.
    """
    if not images:
        raise PromptError("expected at least one picture to edit, got none")
    grid = grid or images[0].grid
    header = vocab.header(grid)
    text = _user(tokenizer, instruction)
    pictures = _blocks(vocab, images)
    frame = (SYSTEM_EDIT, header)
    return PromptRows(
        cond=_fitting(_edit_row(tokenizer, frame, (*pictures, *text)), max_tokens),
        no_text=_edit_row(tokenizer, frame, (*pictures, *_uncondition(tokenizer))),
        no_image=_edit_row(tokenizer, frame, (vocab.special.soi, *text)),
        grid=grid,
    )


def understand(
    vocab: Vocab,
    tokenizer: TextTokenizer,
    question: str,
    images: Sequence[ImageBlock],
    *,
    raw: bool = False,
    max_tokens: int | None = None,
) -> PromptRows:
    """A question about pictures; the answer follows.

    ``raw``: the form of the first released model file, pictures and question without any role.

    Raises:
        PromptError: no picture; the question is empty or not text; the row exceeds ``max_tokens``.
        SizeError: the vocabulary cannot write a header, or codes do not fill their grid.
    """
    if not images:
        raise PromptError("expected at least one picture to ask about, got none")
    content = (*_blocks(vocab, images), *_user(tokenizer, question))
    row = content if raw else _chat(tokenizer, SYSTEM_UNDERSTAND, content)
    return PromptRows(cond=_fitting(row, max_tokens))


def conversation(
    vocab: Vocab, tokenizer: TextTokenizer, messages: Sequence[Message], *, max_tokens: int | None = None
) -> PromptRows:
    """Several turns, with or without pictures; the assistant's next turn follows.

    A system message at the start replaces the default system text (its words are user text: no control id comes out of
    it). Turns follow each other without separators; pictures may stand without words, and so may an assistant that had
    nothing to say. One user turn gives the same ids as :func:`understand`.

    Raises:
        PromptError: no user turn at the end, a system message elsewhere, an empty turn, or more than ``max_tokens``.
        SizeError: the vocabulary cannot write a header, or codes do not fill their grid.
    """
    system, turns = _split_system(messages)
    if not turns or turns[-1].role != "user":
        raise PromptError("expected a conversation that ends with a user turn")
    row = _system(tokenizer, SYSTEM_UNDERSTAND) if system is None else _own_system(tokenizer, system)
    for message in turns:
        row = (*row, *_tag(tokenizer, message.role), *_turn(vocab, tokenizer, message))
    return PromptRows(cond=_fitting((*row, *_tag(tokenizer, "assistant")), max_tokens))


def interleaved(tokenizer: TextTokenizer, prompt: str, *, max_tokens: int | None = None) -> PromptRows:
    """A story of text and pictures; the assistant's text follows, pictures begin with a header the model writes.

    ``uncond`` is the root of every later unconditional row (see :func:`interleaved_frame`). The conditional form is by
    analogy with the other tasks; the released model code has no such method.

    Raises:
        PromptError: empty, not text, or the row exceeds ``max_tokens``.
    """
    cond = _chat(tokenizer, SYSTEM_INTERLEAVED, _user(tokenizer, prompt))
    return PromptRows(
        cond=_fitting(cond, max_tokens), uncond=_chat(tokenizer, SYSTEM_INTERLEAVED, _uncondition(tokenizer))
    )


def interleaved_turn(
    vocab: Vocab,
    tokenizer: TextTokenizer,
    prompt: str,
    images: Sequence[ImageBlock] = (),
    *,
    history: Sequence[int] = (),
    max_tokens: int | None = None,
) -> PromptRows:
    """A user turn of a story, its pictures before its words; without pictures and history :func:`interleaved`.

    ``history``: all ids of the turns before, answers included; the turn follows without a separator, as in
    :func:`conversation`. Pictures in a story's prompt have no code anywhere; the form is that of understanding.

    Raises:
        PromptError: empty, not text, or the row exceeds ``max_tokens``.
        SizeError: the vocabulary cannot write a header, or codes do not fill their grid.
    """
    before = tuple(history) or _system(tokenizer, SYSTEM_INTERLEAVED)
    content = (*_blocks(vocab, images), *_user(tokenizer, prompt))
    cond = (*before, *_tag(tokenizer, "user"), *content, *_tag(tokenizer, "assistant"))
    return PromptRows(
        cond=_fitting(cond, max_tokens), uncond=_chat(tokenizer, SYSTEM_INTERLEAVED, _uncondition(tokenizer))
    )


def interleaved_frame(
    vocab: Vocab, tokenizer: TextTokenizer, full_ids: Sequence[int], *, max_tokens: int | None = None
) -> PromptRows:
    """Rows for the picture announced by the header at the end of ``full_ids`` (prompt and everything written so far).

    First picture: only ``uncond``. Later ones also have ``no_text`` (all up to the last picture, then the unconditional
    text) and ``no_image`` (the text since the last picture, alone).

    Raises:
        PromptError: ``full_ids`` does not end with a header, or exceeds ``max_tokens``.
    """
    grid = vocab.header_grid(full_ids)
    if grid is None:
        raise PromptError("expected ids that end with a picture header")
    cond = _fitting(tuple(full_ids), max_tokens)
    header = cond[-4:]
    root = _chat(tokenizer, SYSTEM_INTERLEAVED, _uncondition(tokenizer))
    uncond = (*root, *header)
    last = max((i for i, number in enumerate(cond[:-4]) if number == vocab.special.eoi), default=None)
    if last is None:
        return PromptRows(cond=cond, uncond=uncond, grid=grid)
    history, current = cond[: last + 1], cond[last + 1 : -4]
    return PromptRows(
        cond=cond,
        uncond=uncond,
        no_text=(*history, *_uncondition(tokenizer), *header),
        no_image=(*root, *current, *header),
        grid=grid,
    )


def answer_text(vocab: Vocab, tokenizer: TextTokenizer, text: str) -> tuple[int, ...]:
    """What a training sample has after a prompt that asks for text: the text and the end of text.

    Raises:
        PromptError: empty or not text.
    """
    return (*_user(tokenizer, text), vocab.special.eos)


def answer_image(vocab: Vocab, image: ImageBlock) -> tuple[int, ...]:
    """What a training sample has after a prompt that ends with its header: codes, end of image, end of text.

    Raises:
        SizeError: the codes do not fill the grid.
    """
    return (*vocab.block(image.grid, image.codes)[4:], vocab.special.eos)


def answer_segments(vocab: Vocab, tokenizer: TextTokenizer, segments: Sequence[str | ImageBlock]) -> tuple[int, ...]:
    """Texts and pictures in order, pictures with header and end of image, then the end of text.

    The target of interleaved samples, and of thinking samples (the plan, then the picture).

    Raises:
        PromptError: nothing to write, or an empty text.
        SizeError: the vocabulary cannot write a header, or codes do not fill their grid.
    """
    if not segments:
        raise PromptError("expected at least one text or picture, got none")
    ids: tuple[int, ...] = ()
    for segment in segments:
        part = _blocks(vocab, [segment]) if isinstance(segment, ImageBlock) else _user(tokenizer, segment)
        ids = (*ids, *part)
    return (*ids, vocab.special.eos)


def _chat(tokenizer: TextTokenizer, system: str, content: Sequence[int]) -> tuple[int, ...]:
    return (*_system(tokenizer, system), *_tag(tokenizer, "user"), *content, *_tag(tokenizer, "assistant"))


def _system(tokenizer: TextTokenizer, system: str) -> tuple[int, ...]:
    """One of our own system texts; one space on each side of it."""
    return tuple(tokenizer.encode_control(f"{ROLE_OPEN}SYSTEM{ROLE_CLOSE} {system} "))


def _own_system(tokenizer: TextTokenizer, system: str) -> tuple[int, ...]:
    _require_words(system)
    return (*_tag(tokenizer, "system"), *tokenizer.encode_text(f" {system} "))


def _tag(tokenizer: TextTokenizer, role: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode_control(f"{ROLE_OPEN}{ROLE_NAMES[role]}{ROLE_CLOSE}"))


def _turn(vocab: Vocab, tokenizer: TextTokenizer, message: Message) -> tuple[int, ...]:
    pictures = _blocks(vocab, message.images)
    if message.text == "" and (pictures or message.role == "assistant"):
        return pictures
    return (*pictures, *_user(tokenizer, message.text))


def _split_system(messages: Sequence[Message]) -> tuple[str | None, Sequence[Message]]:
    for message in messages:
        if message.role not in ROLE_NAMES:
            raise PromptError(f"expected the role system, user or assistant, got {message.role!r}")
    if any(message.role == "system" for message in messages[1:]):
        raise PromptError("expected at most one system message, at the start of the conversation")
    if messages and messages[0].role == "system":
        if messages[0].images:
            raise PromptError("a system message cannot hold pictures")
        return messages[0].text, messages[1:]
    return None, messages


def _edit_row(tokenizer: TextTokenizer, frame: tuple[str, tuple[int, ...]], content: Sequence[int]) -> tuple[int, ...]:
    return (*_chat(tokenizer, frame[0], content), *frame[1])


def _blocks(vocab: Vocab, images: Sequence[ImageBlock]) -> tuple[int, ...]:
    return tuple(number for image in images for number in vocab.block(image.grid, image.codes))


def _user(tokenizer: TextTokenizer, text: str) -> tuple[int, ...]:
    _require_words(text)
    return tuple(tokenizer.encode_text(text))


def _uncondition(tokenizer: TextTokenizer) -> tuple[int, ...]:
    return tuple(tokenizer.encode_text(UNCONDITION))


def _require_words(text: object) -> None:
    if not isinstance(text, str):
        raise PromptError(f"expected text, got {type(text).__name__}")
    if not text.strip():
        raise PromptError("the text is empty; write what you want")


def _fitting(row: tuple[int, ...], max_tokens: int | None) -> tuple[int, ...]:
    if max_tokens is not None and len(row) > max_tokens:
        raise PromptError(f"the prompt has {len(row)} tokens, at most {max_tokens} fit; shorten it")
    return row
