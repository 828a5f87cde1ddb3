"""A model without a network: it looks up the nearest caption or question among those of training scenes.

Asked for a picture it shows the render of the scene whose caption is nearest to the prompt. Asked a question it does
not look at the picture at all: it says what was answered most often to the nearest questions. What a model scores above
this, it has not looked up.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from llada_uni.errors import ConfigError
from llada_uni.evaluation.baselines.results import Drawn, Told
from llada_uni.scenes.bench import Bench, load_bench
from llada_uni.scenes.captions import caption_for_training
from llada_uni.scenes.graph import SceneGraph
from llada_uni.scenes.questions import Question, sample_question
from llada_uni.scenes.render import render

__all__ = ["Retrieval", "WordIndex"]

_NEIGHBOURS = 25


class WordIndex:
    """Nearest text by words and pairs of neighbouring words: cosine of tf-idf vectors.

    A term that stands in n of N texts weighs ln((1 + N) / (1 + n)) + 1 times its count; vectors have length 1.
    Source: the smoothed tf-idf that is common in text retrieval.

    Raises:
        ConfigError: no texts.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        if not texts:
            raise ConfigError("expected at least one text to search in, got none")
        counts = [_terms(text) for text in texts]
        spread = Counter(term for found in counts for term in found)
        self._weight = {term: math.log((1 + len(texts)) / (1 + number)) + 1 for term, number in spread.items()}
        self._size = len(texts)
        places: dict[str, list[int]] = {term: [] for term in spread}
        values: dict[str, list[float]] = {term: [] for term in spread}
        for place, found in enumerate(counts):
            vector = self._vector(found)
            for term, value in vector.items():
                places[term].append(place)
                values[term].append(value)
        self._postings = {term: (np.array(places[term]), np.array(values[term])) for term in spread}

    def scores(self, text: str) -> np.ndarray:
        """Cosine float64 [N] with every text; 0 everywhere for a text of unknown words."""
        found = np.zeros(self._size)
        for term, value in self._vector(_terms(text)).items():
            places, values = self._postings[term]
            found[places] += value * values
        return found

    def nearest(self, text: str, count: int = 1) -> list[int]:
        """Places of the ``count`` nearest texts, nearest first; of equally near ones the first."""
        return np.argsort(-self.scores(text), kind="stable")[:count].tolist()

    def _vector(self, found: Counter[str]) -> dict[str, float]:
        known = {term: number * self._weight[term] for term, number in found.items() if term in self._weight}
        length = math.sqrt(sum(value * value for value in known.values()))
        return {term: value / length for term, value in known.items()}


class Retrieval:
    """Looks up prompts among captions and questions among questions of ``scenes``, one caption and ``questions`` each.

    Scenes of the benchmark are left out (``left_out`` of them were among the given ones); ``size`` remain.

    Raises:
        ConfigError: no scene remains.
    """

    name = "retrieval"

    def __init__(
        self, scenes: Iterable[SceneGraph], *, seed: int = 0, questions: int = 2, bench: Bench | None = None
    ) -> None:
        given = list(scenes)
        asked = {item.graph for item in (bench or load_bench()).understanding}
        self._scenes = [scene for scene in given if scene not in asked]
        self.left_out, self.size = len(given) - len(self._scenes), len(self._scenes)
        if not self._scenes:
            raise ConfigError(f"expected training scenes to search in, got {len(given)}, none outside the benchmark")
        rng = random.Random(seed)
        self._captions = WordIndex([caption_for_training(scene, rng) for scene in self._scenes])
        self._questions = [sample_question(scene, rng) for scene in self._scenes for _ in range(questions)]
        self._asked = WordIndex([question.text for question in self._questions]) if self._questions else None

    @property
    def num_questions(self) -> int:
        """Questions to search in."""
        return len(self._questions)

    def nearest_scene(self, prompt: str) -> SceneGraph:
        """The scene whose caption is nearest to ``prompt``."""
        return self._scenes[self._captions.nearest(prompt)[0]]

    def nearest_questions(self, question: str, count: int = _NEIGHBOURS) -> list[Question]:
        """The nearest training questions with their answers.

        Raises:
            ConfigError: built without questions.
        """
        if self._asked is None:
            raise ConfigError("this index holds no questions; give questions of at least 1")
        return [self._questions[place] for place in self._asked.nearest(question, count)]

    def common_answer(self, family: str) -> str:
        """The most frequent training answer to questions of ``family``; "" when there is none."""
        return _most_common([q.answer for q in self._questions if q.family == family])

    def generate_image(self, prompt: Sequence[str], /, **_: Any) -> list[Drawn]:
        """The nearest scene's render for each prompt; seeds and settings change nothing."""
        return [Drawn(image=render(self.nearest_scene(one))) for one in prompt]

    def understand_image(self, image: Sequence[Any], question: Sequence[str], /, **_: Any) -> list[Told]:
        """The most frequent answer to the nearest questions; the pictures are not looked at."""
        return [Told(text=_most_common([q.answer for q in self.nearest_questions(one)])) for one in question]


def _terms(text: str) -> Counter[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return Counter(words) + Counter(f"{a} {b}" for a, b in pairwise(words))


def _most_common(answers: Sequence[str]) -> str:
    """The most frequent one; of equally frequent ones the first."""
    return Counter(answers).most_common(1)[0][0] if answers else ""
