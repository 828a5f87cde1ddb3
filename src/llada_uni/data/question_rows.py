"""Several questions about one picture in one row, each of which sees the picture and itself only."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llada_uni.prompts import answer_text
from llada_uni.scenes.graph import SceneGraph
from llada_uni.scenes.questions import FAMILIES, sample_question
from llada_uni.vocab import TextTokenizer, Vocab

__all__ = ["QuestionRows", "question_rows"]


@dataclass(frozen=True, kw_only=True)
class QuestionRows:
    """Text part of the rows, [B, T] each: input ids, next ids, question index (-1 pad), place inside the question,
    whether the next id belongs to an answer, and the index of the question's family."""

    ids: Tensor
    targets: Tensor
    question: Tensor
    place: Tensor
    answered: Tensor
    family: Tensor

    def mapping(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return dict(vars(self))


def question_rows(
    graphs: Sequence[SceneGraph], rng: random.Random, tokenizer: TextTokenizer, vocab: Vocab, num_questions: int
) -> QuestionRows:
    """``num_questions`` random questions with answers about every scene, padded to the longest row."""
    rows = [_row(graph, rng, tokenizer, vocab, num_questions) for graph in graphs]
    length = max(len(row) for row in rows)
    table = np.full((len(rows), length, 6), 0, dtype=np.int64)
    table[:, :, 2] = -1
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    ids, targets, question, place, answered, family = torch.from_numpy(table).unbind(-1)
    return QuestionRows(
        ids=ids, targets=targets, question=question, place=place, answered=answered.bool(), family=family
    )


def _row(
    graph: SceneGraph, rng: random.Random, tokenizer: TextTokenizer, vocab: Vocab, num_questions: int
) -> list[tuple[int, ...]]:
    separator = vocab.special.boi
    row: list[tuple[int, ...]] = []
    for number in range(num_questions):
        question = sample_question(graph, rng)
        asked = (*tokenizer.encode_text(question.text), separator)
        whole = (*asked, *answer_text(vocab, tokenizer, question.answer))
        family = FAMILIES.index(question.family)
        row.extend((whole[i], whole[i + 1], number, i, int(i + 1 >= len(asked)), family) for i in range(len(whole) - 1))
    return row
