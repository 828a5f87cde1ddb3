"""``--film``: the events of a command watched, and an animated picture made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llada_uni.cli import output as out

if TYPE_CHECKING:
    from llada_uni.pipeline import LladaUni

__all__ = ["check_film_path", "follow_filmed"]


def check_film_path(name: str | None) -> Path | None:
    """The path of a film, checked before any work is done.

    Raises:
        ImageError: an ending no film is written with.
        ResourceError: the directory does not exist, or the name is a directory.
    """
    if name is None:
        return None
    from llada_uni.pipeline.film import film_kind

    path = out.checked_path(name, "--film")
    film_kind(path)
    return path


def follow_filmed(pipeline: LladaUni, events: Iterable[Any], film: Path | None) -> tuple[Any, Callable[[], None]]:
    """Run the events of one picture to the end with a progress bar.

    Returns the result, and what writes the film: to be called when the picture itself is safe.
    """
    from llada_uni.cli.progress import follow

    if film is None:
        return follow(events)[0], lambda: None
    recorder = pipeline.film()
    result = follow(recorder.watch(events))[0]

    def write() -> None:
        recorder.save(film)
        out.note(f"film {film}")

    return result, write
