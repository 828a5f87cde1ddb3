"""Any event becomes a state and a picture; a film is bounded, legible by its parts, and written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from full_disk import full_disk
from llada_uni.errors import CheckpointError, ConfigError, ImageError, ResourceError, SizeError
from llada_uni.grid import TokenGrid
from llada_uni.pipeline import EncodedImage, ImageDone, LladaUni
from llada_uni.pipeline.film import MAX_FRAMES, Film, film_kind, heat_map
from llada_uni.pipeline.preview import Canvas, Snapshot, checker
from llada_uni.protocols import BlockDone, Finished, FlowStep, LatentsDone, Started, StepDone, TextDelta
from llada_uni.testing.checkpoint import write_tiny_checkpoint

GRID = TokenGrid(4, 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LladaUni:
    return LladaUni.from_pretrained(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"), device="cpu")


@pytest.fixture(scope="module")
def events(model: LladaUni) -> list[Any]:
    return list(model.stream_image(["a", "two red apples"], seed=3))


@pytest.fixture(scope="module")
def edit(model: LladaUni) -> list[Any]:
    source = EncodedImage(codes=tuple(range(16)), grid=GRID, model="x")
    return list(model.stream_inpaint(source, "a", cells=[(1, 1), (2, 2), (3, 0)], seed=1))


def pixels(image: Image.Image | None) -> np.ndarray:
    assert image is not None
    return np.asarray(image, dtype=int)


# --- previews ---------------------------------------------------------------------------------------------------------


def test_all_codes_known_is_a_cheap_decode(model: LladaUni) -> None:
    codes = tuple(range(16))
    preview = model.preview_image(codes, GRID, seed=5)
    whole = model.decode_image(EncodedImage(codes=codes, grid=GRID, model="x"), seed=5, num_steps=2, decoder="turbo")
    assert preview.tobytes() == whole.image.tobytes()


def test_unknown_cells_are_a_checker_and_known_ones_are_not(model: LladaUni) -> None:
    codes = [None if position in (0, 5) else position for position in range(16)]
    preview, cover = pixels(model.preview_image(codes, GRID)), pixels(checker(GRID, 8))
    same = (preview == cover).all(axis=2).reshape(4, 8, 4, 8).all(axis=(1, 3))
    assert same.ravel().nonzero()[0].tolist() == [0, 5]


def test_nothing_known_needs_no_network(model: LladaUni) -> None:
    fresh = LladaUni.from_pretrained(model.name)
    assert (pixels(fresh.preview_image([None] * 16, GRID)) == pixels(checker(GRID, 8))).all()
    assert fresh.networks.modules() == {}


def test_the_checker_has_four_squares_to_a_cell() -> None:
    pattern = pixels(checker(TokenGrid(2, 3), 8))
    assert pattern.shape == (16, 24, 3)
    assert len(np.unique(pattern)) == 2
    assert pattern[0, 0, 0] == pattern[4, 4, 0] != pattern[0, 4, 0]


@pytest.mark.parametrize(
    ("codes", "grid", "options", "error", "message"),
    [
        ([1] * 15, GRID, {}, ConfigError, "expected 16 codes for a 4x4 grid, got 15"),
        ([1] * 9, TokenGrid(3, 3), {}, SizeError, "allowed"),
        ([24, *[None] * 15], GRID, {}, ImageError, r"0\.\.23"),
        ([1] * 16, GRID, {"num_steps": 0}, ConfigError, "num_steps"),
        ([1] * 16, GRID, {"decoder": "fast"}, ConfigError, "decoder"),
    ],
)
def test_wrong_previews(
    model: LladaUni, codes: Any, grid: TokenGrid, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.preview_image(codes, grid, **options)


def test_a_checkpoint_without_the_quick_decoder_says_so(model: LladaUni, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(model.name, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "decoder-turbo")
    partial = LladaUni.from_pretrained(tmp_path / "copy")
    with pytest.raises(CheckpointError, match="decoder"):
        partial.preview_image([1] * 16, GRID)
    assert partial.preview_image([1] * 16, GRID, decoder="normal").size == (32, 32)


# --- the canvas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [0, 1])
def test_the_canvas_ends_with_the_codes_of_its_row(model: LladaUni, events: list[Any], row: int) -> None:
    canvas = model.canvas(row)
    assert canvas.snapshot() is None
    assert canvas.picture() is None
    known = 0
    for event in events:
        before = canvas.snapshot()
        changed = canvas.feed(event)
        now = canvas.snapshot()
        if isinstance(event, StepDone | BlockDone):
            assert changed == (before != now)
        if now is not None:
            assert now.num_known >= known, "a code is never taken back"
            known = now.num_known
    result = next(event.result for event in events if isinstance(event, ImageDone) and event.row == row)
    assert tuple(canvas.codes) == result.codes
    assert all(value is not None and 0 < value <= 1 for value in canvas.confidence)
    assert canvas.picture() is result.image


def test_every_kind_of_event_gives_a_picture(model: LladaUni, events: list[Any]) -> None:
    canvas, seen = model.canvas(), {}
    for event in events:
        if canvas.feed(event) and type(event) not in seen:
            seen[type(event)] = pixels(canvas.picture())
    assert set(seen) == {Started, StepDone, FlowStep, ImageDone}
    assert all(picture.shape == (32, 32, 3) for picture in seen.values())
    assert (seen[Started] == pixels(checker(GRID, 8))).all()
    last = [event for event in events if isinstance(event, FlowStep) and event.row == 0][-1]
    canvas = model.canvas()
    for event in events[: events.index(last) + 1]:
        canvas.feed(event)
    result = next(event.result for event in events if isinstance(event, ImageDone))
    assert np.abs(pixels(canvas.picture()) - pixels(result.image)).max() <= 1, "the last estimate is the picture"


def test_coarse_events_are_enough_for_the_codes(model: LladaUni) -> None:
    canvas = model.canvas()
    done: Any = None
    for event in model.stream_image("a", seed=3, granularity="block"):
        canvas.feed(event)
        done = event
    assert tuple(canvas.codes) == done.result.codes
    assert set(canvas.confidence) == {None}


def test_given_codes_are_there_from_the_start(model: LladaUni, edit: list[Any]) -> None:
    canvas = model.canvas()
    canvas.feed(edit[0])
    assert [p for p, code in enumerate(canvas.codes) if code is None] == [5, 10, 12]
    for event in edit:
        canvas.feed(event)
    assert [p for p, value in enumerate(canvas.confidence) if value is not None] == [5, 10, 12]
    assert tuple(canvas.codes) == edit[-1].result.codes


def test_events_that_show_nothing_change_nothing(model: LladaUni, events: list[Any]) -> None:
    canvas = Canvas(model.networks)
    flow = next(event for event in events if isinstance(event, FlowStep))
    assert not canvas.feed(flow), "no picture has begun"
    canvas.feed(events[0])
    before = canvas.snapshot()
    quiet = [TextDelta(row=0, start=0, ids=(1,)), LatentsDone(row=0, latents=torch.zeros(1)), object(), None]
    quiet += [event for event in events if isinstance(event, Finished)]
    assert not any(canvas.feed(event) for event in quiet)
    assert canvas.snapshot() == before
    text = Started(row=0, grid=None, num_blocks=1, max_calls=1)
    assert not canvas.feed(text)
    assert canvas.snapshot() is None


# --- the film ---------------------------------------------------------------------------------------------------------


def filmed(model: LladaUni, events: list[Any]) -> Film:
    film = model.film()
    assert list(film.watch(events)) == events
    return film


def panels(frame: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The picture and the heat map of a frame of a 4x4 grid, 256 pixels each."""
    values = pixels(frame)
    return values[8:264, 8:264], values[8:264, 272:528]


def test_a_film_shows_tokens_then_the_decoder_then_holds_the_picture(model: LladaUni, events: list[Any]) -> None:
    frames = filmed(model, events).frames()
    images = [image for image, _ in frames]
    assert {image.size for image in images} == {(536, 288)}
    assert {image.mode for image in images} == {"RGB"}
    steps = sum(isinstance(e, StepDone) and e.row == 0 and min(e.positions) < 16 for e in events)
    assert len(frames) == 1 + steps + 3 + 1
    cover = pixels(checker(GRID, 64))
    assert all((panel == cover).all() for panel in panels(images[0]))
    open_cells = [int((panels(image)[0] == cover).all(axis=2).sum()) // 64**2 for image in images[: 1 + steps]]
    assert open_cells[0] == 16
    assert open_cells[-1] == 0
    assert open_cells == sorted(open_cells, reverse=True)
    result = next(event.result.image for event in events if isinstance(event, ImageDone))
    assert (panels(images[-1])[0] == pixels(result.resize((256, 256), Image.Resampling.LANCZOS))).all()
    assert frames[-1][1] >= 2000
    assert (panels(images[-1])[1] == panels(images[steps])[1]).all(), "the confidences stay"


def test_confidences_become_brighter_colours() -> None:
    values = (0.05, 0.5, 0.99)
    snapshot = Snapshot(grid=TokenGrid(1, 5), codes=(1, 2, 3, 4, None), confidence=(*values, None, None))
    shown = pixels(heat_map(snapshot, 8))
    brightness = [shown[4, column * 8 + 4].sum() for column in range(4)]
    assert brightness[0] < brightness[1] < brightness[2]
    assert len(np.unique(shown[:, 32:])) == 2, "an open cell is a checker"
    assert len(np.unique(shown[:, 24:32].reshape(-1, 3), axis=0)) == 1


def test_a_film_of_an_edit_begins_with_what_is_kept(model: LladaUni, edit: list[Any]) -> None:
    first = panels(filmed(model, edit).frames()[0][0])
    cover = pixels(checker(GRID, 64))
    for panel in first:
        hidden = (panel == cover).all(axis=2).reshape(4, 64, 4, 64).all(axis=(1, 3))
        assert hidden.ravel().nonzero()[0].tolist() == [5, 10, 12]


@pytest.mark.parametrize(("name", "kind"), [("a.gif", "GIF"), ("a.WEBP", "WEBP")])
def test_a_film_is_one_animated_file(model: LladaUni, events: list[Any], tmp_path: Path, name: str, kind: str) -> None:
    path = filmed(model, events).save(tmp_path / name)
    with Image.open(path) as film:
        assert film.format == kind
        assert 3 <= film.n_frames <= MAX_FRAMES
        assert film.size == (536, 288)
        film.seek(film.n_frames - 1)
        film.load()
        assert film.info["duration"] >= 2000
    assert path.stat().st_size < 2**20
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_long_story_is_thinned(model: LladaUni) -> None:
    film = model.film()
    film.feed(Started(row=0, grid=GRID, num_blocks=1, max_calls=99))
    offset = model.networks.vocab.image_offset
    for step in range(16):
        film.feed(StepDone(row=0, block=0, step=step, positions=(step,), ids=(offset + step,), confidence=(0.5,)))
    tokens = list(film._tokens)
    film._tokens = tokens * 10
    for index in range(100):
        film.feed(FlowStep(row=0, index=index, num_steps=100, data_estimate=torch.zeros(4, 16, 16)))
    result = model.decode_image(EncodedImage(codes=tuple(range(16)), grid=GRID, model="x"), seed=1)
    film.feed(ImageDone(row=0, result=result))
    frames = film.frames()
    assert len(frames) == MAX_FRAMES
    assert (panels(frames[0][0])[0] == pixels(checker(GRID, 64))).all(), "the first moment stays"
    assert sum(milliseconds == frames[-2][1] for _, milliseconds in frames) == MAX_FRAMES // 3


def test_a_film_of_several_pictures_shows_the_last(model: LladaUni, events: list[Any], edit: list[Any]) -> None:
    both = filmed(model, [*events, *edit]).frames()
    alone = filmed(model, edit).frames()
    assert [image.tobytes() for image, _ in both] == [image.tobytes() for image, _ in alone]


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_films_of_other_shapes_fit(model: LladaUni, shape: tuple[int, int]) -> None:
    events = list(model.stream_image("a", seed=1, height=shape[0] * 8, width=shape[1] * 8))
    (size,) = {image.size for image, _ in filmed(model, events).frames()}
    assert max(size) <= 2 * 256 + 24
    assert filmed(model, events).frames()[-1][0].size == size


def test_a_film_of_nothing(model: LladaUni, events: list[Any], tmp_path: Path) -> None:
    for some in ([], events[:1], [event for event in events if isinstance(event, ImageDone)]):
        with pytest.raises(ConfigError, match="events of one finished picture"):
            filmed(model, some).save(tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a", "a.png", "a.mp4", "a.gif.txt"])
def test_unknown_endings(name: str) -> None:
    with pytest.raises(ImageError, match=r"expected the name of a film ending in \.gif or \.webp"):
        film_kind(Path(name))


def test_a_full_disk_leaves_the_old_film(model: LladaUni, events: list[Any], tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"old")
    with full_disk(4096), pytest.raises(ResourceError, match=r"cannot write .*a\.gif"):
        filmed(model, events).save(tmp_path / "a.gif")
    assert (tmp_path / "a.gif").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]


def test_a_missing_directory(model: LladaUni, events: list[Any], tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="No such file"):
        filmed(model, events).save(tmp_path / "no" / "a.gif")
