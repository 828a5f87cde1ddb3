"""The suites by name."""

from __future__ import annotations

from llada_uni.errors import ConfigError
from llada_uni.evaluation.items import Suite
from llada_uni.evaluation.suites.drawing import DRAWING_SUITES
from llada_uni.evaluation.suites.editing import EDITING_SUITES
from llada_uni.evaluation.suites.scenes import SCENE_SUITES
from llada_uni.evaluation.suites.understanding import UNDERSTANDING_SUITES

__all__ = ["SUITES", "find_suite"]

SUITES: dict[str, Suite] = {
    suite.name: suite for suite in (*SCENE_SUITES, *DRAWING_SUITES, *EDITING_SUITES, *UNDERSTANDING_SUITES)
}


def find_suite(name: str) -> Suite:
    """The suite called ``name``.

    Raises:
        ConfigError: there is none.
    """
    if name not in SUITES:
        raise ConfigError(f"no suite {name!r}; expected one of {', '.join(SUITES)}")
    return SUITES[name]
