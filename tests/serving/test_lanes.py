"""Who gets room, who takes part in a step, whose turn it is."""

from __future__ import annotations

from collections import Counter

import pytest

from llada_uni.errors import ConfigError
from llada_uni.grid import TokenGrid
from llada_uni.protocols import Guidance, IdSet, Request
from llada_uni.sampling.rows import Row, open_row
from llada_uni.serving.lanes import LANES, Balance, EngineSettings, Lane, compose, has_room

SETTINGS = EngineSettings(max_branches=16, reserved_branches=4)


def row(number: int, *, picture: bool, branches: int = 1) -> Row:
    kind = {1: "none", 2: "simple", 3: "editing"}[branches]
    guidance = Guidance(kind=kind, scale=2.0, text=2.0, image=1.0)  # type: ignore[arg-type]
    grid = TokenGrid(2, 2) if picture else None
    return open_row(
        Request(
            prompts=((5,),) * branches, num_tokens=4, mask_id=1, allowed=IdSet(start=0, stop=9), guidance=guidance,
            grid=grid,
        ),
        number,
    )  # fmt: skip


def numbers(rows: list[Row], beside: int) -> list[int]:
    return [one.number for one in compose(rows, EngineSettings(step_branches=6, beside_words=beside))]


def test_without_words_the_oldest_pictures_take_part() -> None:
    assert numbers([row(n, picture=True, branches=2) for n in range(9)], 4) == [0, 1, 2]
    assert numbers([row(n, picture=False) for n in range(9)], 4) == list(range(9))
    assert numbers([], 4) == []


def test_with_words_the_oldest_pictures_join_them() -> None:
    rows = [row(n, picture=n != 3, branches=1 if n == 3 else 2) for n in range(6)]
    assert numbers(rows, 4) == [0, 1, 3]
    assert numbers(rows, 1) == [0, 3], "at least one picture goes on"
    assert numbers([row(0, picture=True, branches=3), row(1, picture=True), row(2, picture=False)], 4) == [0, 1, 2]


def test_no_lane_can_take_the_room_of_another() -> None:
    for greedy in LANES:
        used: Counter[Lane] = Counter()
        while has_room(greedy, 2, used, SETTINGS):
            used[greedy] += 2
        assert used[greedy] == 8
        assert all(has_room(other, 3, used, SETTINGS) for other in LANES if other != greedy)
    assert has_room("short", 3, Counter({"long": 8, "pictures": 4}), SETTINGS)
    assert not has_room("long", 1, Counter({"long": 8, "pictures": 4}), SETTINGS)


@pytest.mark.parametrize(("words", "share"), [(True, 0.75), (False, 0.5)])
def test_time_is_shared(words: bool, share: float) -> None:
    balance, spent = Balance(0.75), Counter[str]()
    for _ in range(400):
        what = balance.pick(backbone=True, pixels=True)
        assert what is not None
        cost = 0.01 if what == "backbone" else 0.07
        balance.spend(what, cost, words=words)
        spent[what] += cost  # type: ignore[assignment]
    assert spent["backbone"] / spent.total() == pytest.approx(share, abs=0.05)


def test_nobody_saves_up_time() -> None:
    balance = Balance(0.75)
    for _ in range(100):
        assert balance.pick(backbone=True, pixels=False) == "backbone"
        balance.spend("backbone", 1.0, words=True)
    balance.pick(backbone=False, pixels=True)
    assert balance.pick(backbone=True, pixels=True) == "backbone"
    assert balance.pick(backbone=False, pixels=False) is None


@pytest.mark.parametrize(
    "change", [{"max_requests": 0}, {"reserved_branches": 2}, {"max_branches": 11}, {"words_share": 1.0}]
)
def test_settings_are_checked(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"expected|max_requests"):
        EngineSettings(**change)  # type: ignore[arg-type]
