"""Who goes next: which requests get room, which rows take part in a backbone step, when the pixel decoder has its turn.

Everything here is a rule without state of its own but :class:`Balance`, which remembers who is owed how many seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llada_uni.errors import ConfigError

if TYPE_CHECKING:
    from llada_uni.sampling.rows import Row

__all__ = ["LANES", "Balance", "EngineSettings", "Lane", "compose", "has_room"]

Lane = Literal["short", "long", "pictures"]
"""Kind of a request: a short text, a longer one, or something with pictures to write."""

LANES: tuple[Lane, ...] = ("short", "long", "pictures")
_MOST_BRANCHES = 3
_MOST_OWED_S = 1.0


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How much the engine does at once.

    Args:
        max_requests: requests under way or waiting; more are refused.
        max_branches: branches (rows times guidance branches) whose prefix is held at once.
        reserved_branches: of these, how many each lane can always have, so that none starves.
        step_branches: branches of pictures in a step without words, the oldest ones: how long arriving words may wait.
        beside_words: branches of pictures that join a step in which words are written; the oldest ones.
        words_share: share of the time that the backbone has while words are written and pixels are drawn.
        short_tokens: texts of at most this many tokens are short.
        admit_at_once: requests whose prompts are read between two steps.
        deadline_s: seconds a request may take, waiting included.

    Raises:
        ConfigError: a value out of range, or too few branches for the reserves.
    """

    max_requests: int = 64
    max_branches: int = 32
    reserved_branches: int = 4
    step_branches: int = 16
    beside_words: int = 4
    words_share: float = 0.75
    short_tokens: int = 256
    admit_at_once: int = 4
    deadline_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("max_requests", "step_branches", "beside_words", "short_tokens", "admit_at_once"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected a whole number from 1, got {getattr(self, name)}")
        if self.reserved_branches < _MOST_BRANCHES or self.max_branches < len(LANES) * self.reserved_branches:
            raise ConfigError(
                f"expected reserved_branches >= {_MOST_BRANCHES} and max_branches >= {len(LANES)} times that, got "
                f"{self.reserved_branches} and {self.max_branches}"
            )
        if not 0 < self.words_share < 1 or not self.deadline_s > 0:
            raise ConfigError(
                f"expected words_share between 0 and 1 and deadline_s > 0, got {self.words_share} and {self.deadline_s}"
            )

    @classmethod
    def on(cls, device_type: str, **changes: object) -> EngineSettings:
        """Settings for ``"cpu"``, where arithmetic is the limit, or anything else, where reading weights is."""
        usual = {} if device_type == "cpu" else {"max_branches": 128, "step_branches": 128, "beside_words": 64}
        return cls(**(usual | changes))  # type: ignore[arg-type]


def has_room(lane: Lane, num_branches: int, used: Mapping[Lane, int], settings: EngineSettings) -> bool:
    """Whether a request of ``lane`` may begin beside what is ``used``, with the other lanes' reserves kept free."""
    kept = sum(max(0, settings.reserved_branches - used.get(other, 0)) for other in LANES if other != lane)
    return sum(used.values()) + num_branches + kept <= settings.max_branches


def compose(rows: Sequence[Row], settings: EngineSettings) -> list[Row]:
    """The rows of the next step, in their order: all words, and as many of the first pictures as there is room for.

    At least one picture takes part.
    """
    chosen: list[Row] = []
    words = any(row.request.grid is None for row in rows)
    room, pictures = settings.beside_words if words else settings.step_branches, 0
    for row in rows:
        if row.request.grid is not None:
            if pictures and len(row.prompts) > room:
                continue
            room, pictures = room - len(row.prompts), pictures + 1
        chosen.append(row)
    return chosen


class Balance:
    """Shares the time between the backbone and the pixels: evenly, or by ``words_share`` while words are written.

    Nobody saves up time while there is nothing to do, and nobody is owed more than a second.
    """

    def __init__(self, words_share: float) -> None:
        self._words_share = words_share
        self._owed_to_pixels = 0.0

    def pick(self, *, backbone: bool, pixels: bool) -> Literal["backbone", "pixels"] | None:
        """Who works next, given who has something to do."""
        if backbone and pixels:
            return "pixels" if self._owed_to_pixels > 0 else "backbone"
        self._owed_to_pixels = 0.0
        return "backbone" if backbone else "pixels" if pixels else None

    def spend(self, what: Literal["backbone", "pixels"], seconds: float, *, words: bool) -> None:
        """Enter the time that a piece of work took; ``words``: whether words were being written."""
        share = self._words_share if words else 0.5
        change = seconds * (1 - share) if what == "backbone" else -seconds * share
        self._owed_to_pixels = max(-_MOST_OWED_S, min(_MOST_OWED_S, self._owed_to_pixels + change))
