"""From a record and the codes of its pictures to prompt and target ids, in the templates that inference uses.

A sample is compiled once into *variants*: the prompt itself and the prompts that guidance compares it with. Training
chooses one per epoch. Whatever a text says, no control id comes out of it (``prompts`` encodes it as user text).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from llada_uni.data.block_rows import Branch, Segment
from llada_uni.data.records import Record, Task
from llada_uni.errors import BudgetError, ConfigError
from llada_uni.prompts import (
    UNCONDITION,
    ImageBlock,
    Message,
    answer_image,
    answer_segments,
    answer_text,
    conversation,
    edit,
    interleaved_frame,
    interleaved_turn,
    t2i,
    thinking,
    thinking_image,
)
from llada_uni.vocab import TextTokenizer, Vocab

__all__ = ["DROPPED_WEIGHTS", "CompiledSample", "Compiler", "Variant", "reads_like_an_edit"]

DROPPED_WEIGHTS: Mapping[str, float] = {"uncond": 1.0, "no_text": 2.0, "no_image": 1.0}
"""How often each kind of prompt that guidance compares with is chosen among those that a sample has."""
_HEADER = 4
_Content = tuple[str | ImageBlock, ...]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to pose a sample. ``name`` is "cond" or a kind of ``DROPPED_WEIGHTS``; branches share what they can."""

    name: str
    branches: tuple[Branch, ...]


@dataclass(frozen=True, kw_only=True)
class CompiledSample:
    """A sample as ids; the first variant is "cond". Counts are those of the first variant, fill not included."""

    id: str
    task: Task
    variants: tuple[Variant, ...]
    source: str = ""
    weight: float = 1.0

    @property
    def num_tokens(self) -> int:
        """Prompt and target ids of the longest branch."""
        return max(len(branch.prompt) + len(branch.target) for branch in self.variants[0].branches)

    @property
    def num_target(self) -> int:
        """Target ids of all branches."""
        return sum(len(branch.target) for branch in self.variants[0].branches)


@dataclass(frozen=True, kw_only=True)
class _Said:
    role: str
    content: _Content
    supervised: bool

    @property
    def pictures(self) -> tuple[ImageBlock, ...]:
        return tuple(part for part in self.content if isinstance(part, ImageBlock))

    @property
    def words(self) -> str:
        return "\n".join(part for part in self.content if isinstance(part, str))


def reads_like_an_edit(record: Record, index: int) -> bool:
    """Whether picture segment ``index`` is brought to size as inference does for edits and targets.

    Otherwise as pictures that are read. Source: released smart_img_process.py, utils.py.
    """
    return record.segments[index].role == "assistant" or record.task in ("edit", "multiref")


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """Writes ids; a sample may have ``max_tokens`` per branch, fill of the last block included."""

    vocab: Vocab
    tokenizer: TextTokenizer
    max_tokens: int
    block_length: int = 32

    def compile(self, record: Record, pictures: Sequence[ImageBlock]) -> CompiledSample:
        """The sample; ``pictures`` are those of the record's picture segments, in order.

        Raises:
            ConfigError: the turns do not fit the task. PromptError: an empty text. BudgetError: too long.
            SizeError, ImageError: a picture that the vocabulary cannot write.
        """
        system, turns = _turns(record, pictures)
        write: Callable[..., Iterator[Variant]] = {
            "t2i": self._picture,
            "edit": self._edit,
            "multiref": self._edit,
            "t2i_think": self._thought,
            "interleave": self._story,
        }.get(record.task, self._answers)
        if record.task == "reason" and any(turn.role == "assistant" and turn.pictures for turn in turns):
            write = self._story
        if system and write != self._answers:
            raise ConfigError(f"task {record.task} has a system text of its own; leave yours out")
        arguments = (system, turns) if write == self._answers else (turns,)
        variants = tuple(write(*arguments))
        for variant in variants:
            self._check_length(variant)
        return CompiledSample(
            id=record.id, task=record.task, variants=variants, source=record.source, weight=record.weight
        )

    def _check_length(self, variant: Variant) -> None:
        for branch in variant.branches:
            length = len(branch.prompt) + len(branch.target)
            whole = length + -length % self.block_length
            if whole > self.max_tokens:
                raise BudgetError(
                    f"{whole:,} tokens, at most {self.max_tokens:,} fit; shorten it or use fewer pictures"
                )

    def _picture(self, turns: Sequence[_Said]) -> Iterator[Variant]:
        asked, told = _exchange(turns)
        image = _only_picture(told)
        if asked.pictures:
            raise ConfigError("t2i: pictures in the request; use the task edit or multiref")
        rows = t2i(self.vocab, self.tokenizer, asked.words, image.grid)
        for name, prompt in (("cond", rows.cond), ("uncond", rows.uncond)):
            yield self._drawn(name, prompt, image)

    def _edit(self, turns: Sequence[_Said]) -> Iterator[Variant]:
        asked, told = _exchange(turns)
        image = _only_picture(told)
        if not asked.pictures:
            raise ConfigError("edit: no picture in the request; use the task t2i")
        rows = edit(self.vocab, self.tokenizer, asked.words, asked.pictures, image.grid)
        nothing = edit(self.vocab, self.tokenizer, UNCONDITION, asked.pictures, image.grid).no_image
        named = (("cond", rows.cond), ("no_text", rows.no_text), ("no_image", rows.no_image), ("uncond", nothing))
        for name, prompt in named:
            yield self._drawn(name, prompt, image)

    def _thought(self, turns: Sequence[_Said]) -> Iterator[Variant]:
        asked, told = _exchange(turns)
        if asked.pictures or not told.content or not isinstance(told.content[-1], ImageBlock):
            raise ConfigError("t2i_think: expected words, then the assistant's thought and its picture")
        image, plan = _only_picture(told, alone=False), told.words
        prompt = thinking(self.tokenizer, asked.words).cond
        target = answer_segments(self.vocab, self.tokenizer, [plan, image])
        words = len(self.tokenizer.encode_text(plan)) + _HEADER
        parts = (Segment(length=words, is_image=False), Segment(length=len(target) - words, is_image=True))
        yield Variant(name="cond", branches=(Branch(prompt=prompt, target=target, segments=parts),))
        rows = thinking_image(self.vocab, self.tokenizer, prompt, (), image.grid)
        yield self._drawn("uncond", rows.uncond, image)

    def _story(self, turns: Sequence[_Said]) -> Iterator[Variant]:
        asked, told = _exchange(turns)
        vocab, tokenizer = self.vocab, self.tokenizer
        prompt = interleaved_turn(vocab, tokenizer, asked.words, asked.pictures).cond
        target = answer_segments(vocab, tokenizer, told.content)
        branch = Branch(prompt=prompt, target=target, segments=tuple(self._segments(told.content)))
        yield Variant(name="cond", branches=(branch,))
        for index, image in enumerate(told.content):
            if not isinstance(image, ImageBlock):
                continue
            before = answer_segments(vocab, tokenizer, told.content[:index])[:-1] if index else ()
            rows = interleaved_frame(vocab, tokenizer, (*prompt, *before, *vocab.header(image.grid)))
            for name, row in (("uncond", rows.uncond), ("no_text", rows.no_text), ("no_image", rows.no_image)):
                if row is not None:
                    yield self._drawn(name, row, image)

    def _segments(self, content: _Content) -> Iterator[Segment]:
        """A header belongs to the words before it, the end of text is words."""
        words = 0
        for part in content:
            if isinstance(part, str):
                words += len(self.tokenizer.encode_text(part))
                continue
            yield Segment(length=words + _HEADER, is_image=False)
            yield Segment(length=part.grid.num_tokens + 1, is_image=True)
            words = 0
        yield Segment(length=words + 1, is_image=False)

    def _answers(self, system: str | None, turns: Sequence[_Said]) -> Iterator[Variant]:
        """One branch for every answer that is learnt, after all that was said before it."""
        before = [] if system is None else [Message(role="system", text=system)]
        branches = []
        for index, turn in enumerate(turns):
            if turn.supervised:
                if turn.pictures:
                    raise ConfigError("pictures among the answers; use the task t2i, edit, interleave or reason")
                prompt = conversation(self.vocab, self.tokenizer, before).cond if index else ()
                branches.append(Branch(prompt=prompt, target=answer_text(self.vocab, self.tokenizer, turn.words)))
            role = "assistant" if turn.role == "assistant" else "user"
            before.append(Message(role=role, text=turn.words, images=turn.pictures))
        yield Variant(name="cond", branches=tuple(branches))

    def _drawn(self, name: str, prompt: Sequence[int] | None, image: ImageBlock) -> Variant:
        assert prompt is not None
        target = answer_image(self.vocab, image)
        return Variant(name=name, branches=(Branch(prompt=prompt, target=target, is_image=True),))


def _turns(record: Record, pictures: Sequence[ImageBlock]) -> tuple[str | None, list[_Said]]:
    """The system text, and the turns of user and assistant; neighbouring segments of one side are one turn."""
    waiting, turns = iter(pictures), list[_Said]()
    for role, group in groupby(record.segments, key=lambda part: part.role):
        parts = list(group)
        content = tuple(next(waiting) if part.kind == "image" else part.text or "" for part in parts)
        learnt = {part.supervised for part in parts}
        if len(learnt) > 1:
            raise ConfigError("a turn of the assistant is learnt as a whole or not at all")
        turns.append(_Said(role=role, content=content, supervised=learnt.pop()))
    system = turns.pop(0) if turns[0].role == "system" else None
    if system is not None and system.pictures:
        raise ConfigError("a system text cannot hold pictures")
    for index, turn in enumerate(turns):
        if turn.role == "system":
            raise ConfigError("expected at most one system text, at the start")
        if turn.role == "assistant" and index == 0 and len(turns) > 1:
            raise ConfigError("expected a user turn first")
    return None if system is None else system.words, turns


def _exchange(turns: Sequence[_Said]) -> tuple[_Said, _Said]:
    if [turn.role for turn in turns] != ["user", "assistant"]:
        raise ConfigError(f"expected one request and one answer, got {len(turns)} turns")
    return turns[0], turns[1]


def _only_picture(turn: _Said, *, alone: bool = True) -> ImageBlock:
    if len(turn.pictures) != 1 or (alone and turn.words.strip()):
        raise ConfigError(f"expected one picture as the answer, got {len(turn.pictures)} and {len(turn.words)} letters")
    return turn.pictures[0]
