"""Groups of scenes that belong together: an edit, a story, or pictures to compare. What the task pools are made of."""

from __future__ import annotations

import random
from collections.abc import Callable

from llada_uni.errors import ConfigError
from llada_uni.scenes.comparisons import PictureSet, sample_pictures
from llada_uni.scenes.edits import Edit, sample_edit
from llada_uni.scenes.stories import Story, sample_story

__all__ = ["GROUP_TASKS", "TASKS_VERSION", "Group", "sample_group"]

TASKS_VERSION = "tasks-v1"
"""Changes whenever the same seed draws another group; stored codes depend on it."""

Group = Edit | Story | PictureSet
"""Has ``graphs``, its scenes in order, all on one grid."""

_SAMPLERS: dict[str, Callable[..., Group]] = {"edit": sample_edit, "story": sample_story, "comparison": sample_pictures}
GROUP_TASKS: tuple[str, ...] = tuple(_SAMPLERS)


def sample_group(
    rng: random.Random, task: str, *, grid_h: int = 8, grid_w: int = 8, held_out: bool | None = False
) -> Group:
    """Draw a group of one task; ``held_out`` as in ``sample_edit``. Raises ``ConfigError`` for an unknown task."""
    if task not in _SAMPLERS:
        raise ConfigError(f"expected one of {', '.join(GROUP_TASKS)}, got {task!r}; choose one of them")
    return _SAMPLERS[task](rng, grid_h=grid_h, grid_w=grid_w, held_out=held_out)
