"""Documents for the backbone from scenes with codes: text to image, and questions about a picture."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llada_uni.data.block_rows import Branch, Document
from llada_uni.data.code_pool import CodePool
from llada_uni.data.scene_stream import python_random
from llada_uni.data.windows import window
from llada_uni.errors import ConfigError
from llada_uni.grid import TokenGrid
from llada_uni.prompts import ImageBlock, answer_image, answer_text, t2i, understand
from llada_uni.scenes.captions import caption_for_training
from llada_uni.scenes.graph import SceneGraph
from llada_uni.scenes.questions import FAMILIES, Question, sample_question
from llada_uni.vocab import TextTokenizer, Vocab

__all__ = ["MixConfig", "Writer", "balanced_questions", "image_block", "things"]


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """What a batch is made of. Shares are of pictures; a picture with questions carries ``questions`` of them.

    Until ``whole_until`` of the run a picture and its prompt are one block: no clean copies are needed, so a picture
    costs half as much, and every cell sees all others; block by block is learnt in the rest of the run. Until
    ``windows_until`` documents are about windows of pictures (``data.windows``).
    ``families`` gives question families a weight other than 1; a family that cannot be asked is replaced by another.

    The shares of further tasks (``data.task_stream``) are of all documents and come first; ``image_share`` divides what
    they leave. ``edit_no_text_share`` and ``edit_no_image_share`` of the edits drop the instruction, or the pictures.

    Raises:
        ConfigError: shares of tasks below 0, or more than 1 together.
    """

    image_share: float = 0.65
    questions: int = 3
    unconditional_share: float = 0.1
    block_lengths: tuple[tuple[int, float], ...] = ((32, 0.7), (16, 0.1), (64, 0.2))
    whole_until: float = 0.0
    windows_until: float = 0.0
    complementary: bool = False
    families: tuple[tuple[str, float], ...] = (
        ("relation", 1.5),
        ("reading", 1.5),
        ("coordinates", 1.5),
        ("background", 0.5),
        ("style", 0.5),
        ("describe", 0.7),
    )
    thinking_share: float = 0.0
    riddle_share: float = 0.0
    thinking_riddle_share: float = 0.0
    edit_share: float = 0.0
    story_share: float = 0.0
    comparison_share: float = 0.0
    fact_share: float = 0.0
    edit_no_text_share: float = 0.05
    edit_no_image_share: float = 0.05

    def __post_init__(self) -> None:
        shares = self.task_shares
        if min(shares.values()) < 0 or sum(shares.values()) > 1 + 1e-9:
            told = ", ".join(f"{name} {share:g}" for name, share in shares.items() if share)
            raise ConfigError(f"shares of tasks: expected none below 0 and at most 1 together, got {told}")

    @property
    def task_shares(self) -> dict[str, float]:
        """Share of every further task, by name."""
        return {
            "thinking": self.thinking_share,
            "riddle": self.riddle_share,
            "thinking_riddle": self.thinking_riddle_share,
            "edit": self.edit_share,
            "story": self.story_share,
            "comparison": self.comparison_share,
            "fact": self.fact_share,
        }


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Turns scenes and their codes into documents with the prompts that inference uses."""

    vocab: Vocab
    tokenizer: TextTokenizer
    mix: MixConfig

    def documents(
        self, rng: np.random.Generator, pool: CodePool, count: int, *, progress: float = 1.0
    ) -> list[Document]:
        """``count`` documents, a fixed number of each task, about random pictures of the pool.

        ``progress`` is the share of the run that is over.
        """
        source = python_random(rng)
        num_images = round(count * self.mix.image_share)
        whole = progress < self.mix.whole_until
        picked = [pool[int(index)] for index in rng.integers(0, len(pool), count)]
        if progress < self.mix.windows_until:
            picked = [window(graph, codes, source) for graph, codes in picked]
        return [
            self.picture(graph, codes, source, whole=whole)
            if place < num_images
            else self.reading(graph, codes, source)
            for place, (graph, codes) in enumerate(picked)
        ]

    def picture(self, graph: SceneGraph, codes: np.ndarray, source: random.Random, *, whole: bool = False) -> Document:
        """Text to image; now and then with the unconditional prompt. ``whole``: one block for prompt and picture."""
        image = image_block(codes)
        rows = t2i(self.vocab, self.tokenizer, caption_for_training(graph, source), image.grid)
        prompt = rows.uncond if source.random() < self.mix.unconditional_share else rows.cond
        target = answer_image(self.vocab, image)
        branch = Branch(prompt=prompt or (), target=target, is_image=True, tag=-1, things=things(graph, len(target)))
        length = len(branch.prompt) + len(branch.target) if whole else self.block_length(source)
        return Document(branches=(branch,), block_length=length, views=2 if self.mix.complementary else 1)

    def reading(self, graph: SceneGraph, codes: np.ndarray, source: random.Random) -> Document:
        """Several questions about one picture, which stands once in the row."""
        weights = dict(self.mix.families)
        questions = balanced_questions(graph, source, self.mix.questions, weights)
        return self.asked(codes, questions, self.block_length(source))

    def asked(self, codes: np.ndarray, questions: Sequence[Question], block_length: int) -> Document:
        """A document with one branch per question; the tag is the number of the question's family."""
        image = image_block(codes)
        branches = tuple(
            Branch(
                prompt=understand(self.vocab, self.tokenizer, question.text, [image]).cond,
                target=answer_text(self.vocab, self.tokenizer, question.answer),
                tag=FAMILIES.index(question.family),
            )
            for question in questions
        )
        return Document(branches=branches, block_length=block_length, views=2 if self.mix.complementary else 1)

    def block_length(self, source: random.Random) -> int:
        """A block length drawn by the shares of the mix."""
        lengths, weights = zip(*self.mix.block_lengths, strict=True)
        return source.choices(lengths, weights)[0]


def balanced_questions(
    graph: SceneGraph, source: random.Random, count: int, weights: dict[str, float]
) -> list[Question]:
    """Questions of families drawn by weight, not by how often a scene allows them."""
    chances = [weights.get(family, 1.0) for family in FAMILIES]
    wanted = source.choices(FAMILIES, chances, k=count)
    return [_question(graph, source, family) for family in wanted]


def _question(graph: SceneGraph, source: random.Random, family: str) -> Question:
    try:
        return sample_question(graph, source, family)
    except ConfigError:  # this scene does not allow the family
        return sample_question(graph, source)


def image_block(codes: np.ndarray) -> ImageBlock:
    """Codes [h, w] as prompts take them."""
    return ImageBlock(grid=TokenGrid(*codes.shape), codes=[int(code) for code in codes.flat])


def things(graph: SceneGraph, length: int) -> tuple[int, ...]:
    """The number, from 1, of the object that each code of a picture shows (0 = none), filled with 0 to ``length``.

    All 0 where codes are coarser than the scene's cells, as those of 16-pixel patches are.
    """
    if graph.grid_h * graph.grid_w > length:
        return (0,) * length
    cells = np.zeros((graph.grid_h, graph.grid_w), dtype=np.int64)
    for number, item in enumerate(graph.objects, start=1):
        height, width = item.cells
        cells[item.row : item.row + height, item.column : item.column + width] = number
    return (*cells.flatten().tolist(), *[0] * (length - cells.size))
