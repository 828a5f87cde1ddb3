"""Documents of every task for the backbone: thoughts, riddles, edits, stories, comparisons and facts.

Prompts are those of inference. A thought and its picture, and a story, are one target of several segments: words and
the header belong to the model's text phase, codes and end of image to its picture phase.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llada_uni.data.block_rows import Branch, Document, Segment
from llada_uni.data.code_pool import CodePool, TaskPool
from llada_uni.data.scene_stream import python_random
from llada_uni.data.unified_stream import Writer, image_block
from llada_uni.errors import ConfigError
from llada_uni.prompts import (
    UNCONDITION,
    ImageBlock,
    Message,
    answer_image,
    answer_segments,
    answer_text,
    conversation,
    edit,
    interleaved,
    interleaved_frame,
    t2i,
    thinking,
    thinking_image,
    understand,
)
from llada_uni.scenes.captions import caption_for_training
from llada_uni.scenes.comparisons import COMPARISON_FAMILIES, Pictures, sample_comparison
from llada_uni.scenes.edits import Edit
from llada_uni.scenes.facts import sample_fact
from llada_uni.scenes.graph import SceneGraph
from llada_uni.scenes.questions import Question
from llada_uni.scenes.stories import Story
from llada_uni.scenes.thinking import Riddle, layout_plan, riddle_about

__all__ = ["TASKS", "TaskWriter", "tag_of"]

TASKS: tuple[str, ...] = ("thinking", "riddle", "thinking_riddle", "edit", "story", "comparison", "fact")
_GROUPED = ("edit", "story", "comparison")
_HEADER = 4
_RIDDLE_TRIES = 400


def tag_of(task: str) -> int:
    """Number that marks the branches of a task (below -1, the mark of plain pictures; questions have 0 and above)."""
    return -2 - TASKS.index(task)


@dataclass(frozen=True, kw_only=True)
class TaskWriter:
    """Turns scenes, groups of scenes and their codes into documents of all tasks."""

    writer: Writer

    def documents(
        self, rng: np.random.Generator, pool: CodePool, tasks: TaskPool | None, count: int, *, progress: float = 1.0
    ) -> list[Document]:
        """``count`` documents by the shares of the mix; the basic ones come first. ``progress``: as in ``Writer``.

        Without shares of tasks these are the documents of ``Writer.documents`` and nothing else is drawn. Otherwise the
        numbers of documents differ from their expectations by less than one and are right on average.

        Raises:
            ConfigError: a task needs groups of scenes and there is no task pool.
        """
        numbers = self._numbers(rng, count)
        missing = [name for name in _GROUPED if numbers.get(name) and tasks is None]
        if missing:
            raise ConfigError(f"the mix asks for {missing[0]} documents; give the objective a task pool")
        documents = self.writer.documents(rng, pool, count - sum(numbers.values()), progress=progress)
        if numbers:
            source = python_random(rng)
            order = [name for name, number in numbers.items() for _ in range(number)]
            documents += [self._one(name, pool, tasks, source) for name in order]
        return documents

    def _numbers(self, rng: np.random.Generator, count: int) -> dict[str, int]:
        """Documents per task by systematic sampling: one uniform number, whole parts of the cumulated shares."""
        shares = self.writer.mix.task_shares
        if not any(shares.values()):
            return {}
        ends = np.floor(np.cumsum(list(shares.values())) * count + rng.random() + 1e-9).astype(int)
        return dict(zip(shares, np.diff(ends, prepend=0).tolist(), strict=True))

    def _one(self, task: str, pool: CodePool, tasks: TaskPool | None, source: random.Random) -> Document:
        if task == "fact":
            return self.facts(source)
        if task not in _GROUPED:
            return self._from_scene(task, pool, source)
        assert tasks is not None
        group, codes = tasks.pick(task, source)
        if isinstance(group, Edit):
            return self.edit(group, codes, source)
        if isinstance(group, Story):
            return self.story(group, codes, source)
        return self.compared(group.graphs, codes, source)

    def _from_scene(self, task: str, pool: CodePool, source: random.Random) -> Document:
        if task == "thinking":
            graph, codes = pool[source.randrange(len(pool))]
            return self.thought(caption_for_training(graph, source), graph, codes, source)
        graph, codes, riddle = _some_riddle(pool, source)
        if task == "riddle":
            return self.riddle(riddle.prompt, codes, source)
        return self.thought(riddle.prompt, graph, codes, source, task)

    # --- one document each ------------------------------------------------------------------------------------------

    def riddle(self, prompt: str, codes: np.ndarray, source: random.Random) -> Document:
        """The picture of a riddle, without a thought; now and then with the unconditional prompt."""
        image = image_block(codes)
        rows = t2i(self.writer.vocab, self.writer.tokenizer, prompt, image.grid)
        assert rows.uncond is not None
        prompt_ids = rows.uncond if self._unconditional(source) else rows.cond
        return self._picture(prompt_ids, image, "riddle", source)

    def thought(
        self, prompt: str, graph: SceneGraph, codes: np.ndarray, source: random.Random, task: str = "thinking"
    ) -> Document:
        """Plan, header and codes as one target; now and then only the picture, after the unconditional prompt."""
        vocab, tokenizer = self.writer.vocab, self.writer.tokenizer
        image, asked = image_block(codes), thinking(tokenizer, prompt).cond
        if self._unconditional(source):
            rows = thinking_image(vocab, tokenizer, asked, (), image.grid)
            assert rows.uncond is not None
            return self._picture(rows.uncond, image, task, source)
        plan = layout_plan(graph)
        target = answer_segments(vocab, tokenizer, [plan, image])
        words = len(tokenizer.encode_text(plan)) + _HEADER
        parts = (Segment(length=words, is_image=False), Segment(length=len(target) - words, is_image=True))
        return self._segmented(asked, target, parts, [image], task, source)

    def edit(self, group: Edit, codes: Sequence[np.ndarray], source: random.Random) -> Document:
        """The edited picture after its sources and the instruction, or after one of the prompts guidance compares with.

        Without pictures the instruction stays (as guidance asks) or goes too, half of the times each.
        """
        mix, words = self.writer.mix, group.instruction
        *sources, target = [image_block(one) for one in codes]
        chance = source.random()
        blind = mix.edit_no_text_share <= chance < mix.edit_no_text_share + mix.edit_no_image_share
        if blind and source.random() < 0.5:
            words = UNCONDITION
        rows = edit(self.writer.vocab, self.writer.tokenizer, words, sources, target.grid)
        prompt = rows.no_image if blind else rows.no_text if chance < mix.edit_no_text_share else rows.cond
        assert prompt is not None
        return self._picture(prompt, target, "edit", source)

    def story(self, group: Story, codes: Sequence[np.ndarray], source: random.Random) -> Document:
        """All captions, headers and pictures (and the closing sentence) as one target.

        Now and then a single frame, after one of the prompts that guidance of that frame compares with.
        """
        vocab, tokenizer = self.writer.vocab, self.writer.tokenizer
        images = [image_block(one) for one in codes]
        asked = interleaved(tokenizer, group.prompt).cond
        told: list[str | ImageBlock] = []
        for frame, image in zip(group.frames, images, strict=True):
            told += [frame.caption, image]
        if self._unconditional(source):
            return self._frame(asked, told, source)
        told += [group.ending] if group.ending else []
        target = answer_segments(vocab, tokenizer, told)
        return self._segmented(asked, target, self._parts(told), images, "story", source)

    def compared(self, graphs: Pictures, codes: Sequence[np.ndarray], source: random.Random) -> Document:
        """Several questions about several pictures, which stand once in the row."""
        images = [image_block(one) for one in codes]
        questions = [_comparison(graphs, source) for _ in range(self.writer.mix.questions)]
        prompts = [
            understand(self.writer.vocab, self.writer.tokenizer, question.text, images).cond for question in questions
        ]
        return self._answered(prompts, questions, "comparison", source)

    def facts(self, source: random.Random) -> Document:
        """Several questions without a picture."""
        vocab, tokenizer = self.writer.vocab, self.writer.tokenizer
        questions = [sample_fact(source) for _ in range(self.writer.mix.questions)]
        prompts = [conversation(vocab, tokenizer, [Message(role="user", text=q.text)]).cond for q in questions]
        return self._answered(prompts, questions, "fact", source)

    # --- shared parts -----------------------------------------------------------------------------------------------

    def _unconditional(self, source: random.Random) -> bool:
        return source.random() < self.writer.mix.unconditional_share

    def _picture(self, prompt: Sequence[int], image: ImageBlock, task: str, source: random.Random) -> Document:
        target = answer_image(self.writer.vocab, image)
        hidden = self.writer.hidden(image, len(target), source)
        branch = Branch(prompt=prompt, target=target, is_image=True, tag=tag_of(task), hidden=hidden)
        return self._document([branch], source)

    def _segmented(
        self,
        prompt: Sequence[int],
        target: Sequence[int],
        parts: tuple[Segment, ...],
        images: Sequence[ImageBlock],
        task: str,
        source: random.Random,
    ) -> Document:
        shown, hidden = iter(images), list[bool]()
        for part in parts:
            length = part.length
            hidden += self.writer.hidden(next(shown), length, source) if part.is_image else [False] * length
        branch = Branch(prompt=prompt, target=target, tag=tag_of(task), segments=parts, hidden=hidden)
        return Document(branches=(branch,), block_length=self.writer.block_length(source))

    def _answered(
        self, prompts: Sequence[Sequence[int]], questions: Sequence[Question], task: str, source: random.Random
    ) -> Document:
        vocab, tokenizer = self.writer.vocab, self.writer.tokenizer
        branches = [
            Branch(prompt=prompt, target=answer_text(vocab, tokenizer, question.answer), tag=tag_of(task))
            for prompt, question in zip(prompts, questions, strict=True)
        ]
        return self._document(branches, source)

    def _document(self, branches: Sequence[Branch], source: random.Random) -> Document:
        views = 2 if self.writer.mix.complementary else 1
        return Document(branches=tuple(branches), block_length=self.writer.block_length(source), views=views)

    def _parts(self, told: Sequence[str | ImageBlock]) -> tuple[Segment, ...]:
        """Segments of ``answer_segments(told)``: a header belongs to the words before it, the end of text is words."""
        parts: list[Segment] = []
        words = 0
        for part in told:
            if isinstance(part, str):
                words += len(self.writer.tokenizer.encode_text(part))
                continue
            parts.append(Segment(length=words + _HEADER, is_image=False))
            parts.append(Segment(length=part.grid.num_tokens + 1, is_image=True))
            words = 0
        return *parts, Segment(length=words + 1, is_image=False)

    def _frame(self, asked: Sequence[int], told: Sequence[str | ImageBlock], source: random.Random) -> Document:
        vocab, tokenizer = self.writer.vocab, self.writer.tokenizer
        number = source.randrange(len(told) // 2)
        image = told[2 * number + 1]
        assert isinstance(image, ImageBlock)
        before = answer_segments(vocab, tokenizer, told[: 2 * number + 1])[:-1]
        rows = interleaved_frame(vocab, tokenizer, (*asked, *before, *vocab.header(image.grid)))
        options = [row for row in (rows.no_text, rows.no_image) if row is not None] or [rows.uncond or ()]
        return self._picture(source.choice(options), image, "story", source)


def _some_riddle(pool: CodePool, source: random.Random) -> tuple[SceneGraph, np.ndarray, Riddle]:
    for _ in range(_RIDDLE_TRIES):
        graph, codes = pool[source.randrange(len(pool))]
        riddle = riddle_about(graph, source)
        if riddle is not None:
            return graph, codes, riddle
    raise ConfigError("the pool of codes holds no scene that a riddle can describe; make it larger")


def _comparison(graphs: Pictures, source: random.Random) -> Question:
    try:
        return sample_comparison(graphs, source, source.choice(COMPARISON_FAMILIES))
    except ConfigError:  # these pictures do not allow the family
        return sample_comparison(graphs, source)
